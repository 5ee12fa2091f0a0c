"""The connections of one stream, one after the other, and the sessions behind them.

::

    connect, options, ready ──> talk ── closed ──> over
                                 │  ▲
                     connection  │  │ resume: the same session goes on
                     lost        ▼  │ not found: a new one takes over from what was not acknowledged
                           pause, connect again ── for longer than allowed ──> `Unreachable`

Audio that the server has not acknowledged is kept (`Outbox`), events are numbered (`Inbox`): so no word is lost and
none comes twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import websockets
from websockets.asyncio.client import ClientConnection

from ray_whisper_streaming.client.connecting import Address, check_closing, hear, open_socket
from ray_whisper_streaming.client.events import ClientEvent, Closed, Reconnected, StreamFailed
from ray_whisper_streaming.client.inbox import DRAINING, Inbox
from ray_whisper_streaming.client.options import CODED
from ray_whisper_streaming.client.outbox import Outbox
from ray_whisper_streaming.client.patience import Patience
from ray_whisper_streaming.errors import ProtocolError, RayWhisperError, Refused, Unauthorized, Unreachable
from ray_whisper_streaming.waiting import within
from ray_whisper_streaming.wire.native import encode
from ray_whisper_streaming.wire.native_messages import (
    Acknowledged,
    Flushed,
    KeepAlive,
    Options,
    Ready,
    Resume,
    ServerMessage,
)
from ray_whisper_streaming.wire.native_messages import Closed as ClosedMessage

__all__ = ["Conversation", "Listener"]

READY_S = 20.0
"""How long a server that took the connection may take to open the session."""

KEEP_ALIVES = 3
"""Signs of life within the time after which a session counts as idle."""

NOT_FOUND = "not_found"

MOST_FRUITLESS = 5
"""Sessions in a row that may be lost without having acknowledged anything."""


class Listener(Protocol):
    """Who is told of what happens."""

    def heard(self, event: ClientEvent) -> None:
        """An event came."""

    def changed(self) -> None:
        """Audio was acknowledged, or the conversation is over."""


class Conversation:
    """Sends what is in the outbox and hears what comes, until the stream is over.

    Attributes:
        over: nothing more will be sent or heard.
        error: what it ended by, if not in good order.
    """

    def __init__(
        self,
        address: Address,
        options: Options,
        patience: Patience,
        outbox: Outbox,
        bytes_per_s: int,
        listener: Listener,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.over = False
        self.error: RayWhisperError | None = None
        self._address = address
        self._options = options
        self._patience = patience
        self._outbox = outbox
        # What a new session gets of a container has no head: it could not read it.
        self._moves_on = options.encoding != "container"
        self._inbox = Inbox(moves_on=self._moves_on)
        self._coded = options.encoding in CODED
        self._coded_until_s = 0.0
        self._bytes_per_s = bytes_per_s
        self._listener = listener
        self._clock = clock
        self._to_send = asyncio.Event()
        self._ready: Ready | None = None
        self._lost_at: float | None = None
        self._tries = 0
        self._taken_over_at = -1
        self._fruitless = 0
        self._socket: ClientConnection | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def session_id(self) -> str:
        """Of the session that runs now; empty before `start`."""
        return self._ready.session_id if self._ready else ""

    @property
    def acknowledged_s(self) -> float:
        """Everything before this second of the stream is done with."""
        return self._coded_until_s if self._coded else self._outbox.released / self._bytes_per_s

    @property
    def started(self) -> bool:
        """Whether it began."""
        return self._running is not None

    async def start(self) -> None:
        """Open a session and begin to talk. Raises what there is to be said against it."""
        socket = await self._open()
        self._running = asyncio.create_task(self._run(socket))

    def wake(self) -> None:
        """There is something in the outbox."""
        self._to_send.set()

    async def aclose(self) -> None:
        """End it. Safe to call twice."""
        self._end()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._socket is not None:
            # With a code: the server need not wait for us.
            await self._socket.close()

    def _end(self) -> None:
        self.over = True
        self._to_send.set()
        self._listener.changed()

    async def _run(self, socket: ClientConnection) -> None:
        try:
            while True:
                try:
                    await self._talk(socket)
                except (websockets.ConnectionClosed, OSError) as lost:
                    if self.over:
                        return
                    check_closing(lost)
                    socket = await self._connect_again(lost, resume=True)
                else:
                    if self.over:
                        return
                    # It went down in good order. Somebody else may answer at this address by now.
                    await socket.close()
                    went_down = Unreachable("the server went down")
                    socket = await self._connect_again(went_down, resume=False)
        except RayWhisperError as error:
            self.error = error
        finally:
            self._end()

    async def _open(self, resume: bool = False) -> ClientConnection:
        """A connection with a session: the one that was lost, or a new one."""
        socket = await open_socket(self._address)
        first = Resume(session_id=self.session_id, after=self._inbox.after) if resume else self._options
        try:
            await socket.send(encode(first).decode())
            ready = await within(READY_S, lambda: hear(socket))
            if not isinstance(ready, Ready):
                raise ProtocolError("the server did not begin with ready", code="bad_message")
        except (websockets.ConnectionClosed, asyncio.TimeoutError) as error:
            socket.transport.abort()
            raise Unreachable(f"{self._address.url} did not open a session") from error
        except BaseException:
            socket.transport.abort()
            raise
        self._ready, self._socket = ready, socket
        self._outbox.limit_messages(ready.limits.message_bytes)
        if resume:
            self._outbox.resume(ready.next_audio, closing=ready.closing)
        return socket

    async def _connect_again(self, lost: Exception, *, resume: bool) -> ClientConnection:
        """A connection with the same session or, where that is gone, with a new one.

        Raises:
            Unreachable: none came in time.
            Unauthorized, ProtocolError, ConfigurationError: trying again is no use.
        """
        if self._lost_at is None:
            self._lost_at, self._tries = self._clock(), 0
        hint_s = 0.0
        while True:
            if not (resume or self._moves_on):
                raise Unreachable(
                    f"the session is gone, and no other can go on in the middle of a container ({lost})"
                )
            pause_s = max(self._patience.pause_s(self._tries), hint_s)
            if self._clock() - self._lost_at + pause_s >= self._patience.reconnect_s:
                raise Unreachable(
                    f"the connection to {self._address.url} is lost, and did not come back within "
                    f"{self._patience.reconnect_s:g} s ({lost})"
                ) from lost
            if not resume and self._fruitless >= MOST_FRUITLESS:
                # Whatever ends them is in this audio, or in the server: it would go on like this.
                raise Unreachable(f"{self._address.url} lost {self._fruitless} sessions one after another")
            await asyncio.sleep(pause_s)
            self._tries += 1
            try:
                return await (self._resume() if resume else self._take_over())
            except Unauthorized:
                raise
            except Refused as error:
                if error.code == NOT_FOUND and resume:
                    resume, self._tries = False, 0
                hint_s, lost = error.retry_after_s or 0.0, error
            except Unreachable as error:
                hint_s, lost = 0.0, error

    async def _resume(self) -> ClientConnection:
        """The session that was lost goes on."""
        socket = await self._open(resume=True)
        self._listener.heard(Reconnected(after_s=self._outage_s(), resumed=True))
        return socket

    async def _take_over(self) -> ClientConnection:
        """A new session, with the audio that no session has acknowledged."""
        socket = await self._open()
        fruitless = self._outbox.unacknowledged and self._outbox.released == self._taken_over_at
        self._fruitless = self._fruitless + 1 if fruitless else 0
        self._taken_over_at = self._outbox.restart()
        from_s = self.acknowledged_s
        self._inbox.restart(from_s)
        self._listener.heard(Reconnected(after_s=self._outage_s(), resumed=False, from_s=from_s))
        return socket

    def _outage_s(self) -> float:
        return 0.0 if self._lost_at is None else self._clock() - self._lost_at

    # ---------------------------------------------------------------- messages

    async def _talk(self, socket: ClientConnection) -> None:
        """Send and hear until the session is over. Raises `ConnectionClosed` when the connection is lost."""
        hearing = asyncio.create_task(self._hear_all(socket))
        sending = asyncio.create_task(self._send_all(socket))
        try:
            await asyncio.wait((hearing, sending), return_when=asyncio.FIRST_COMPLETED)
            if not hearing.done():
                # Sending failed: what the server said last may say why.
                await asyncio.wait((hearing,), timeout=READY_S)
            if hearing.done():
                hearing.result()
            else:
                sending.result()
        finally:
            for task in (hearing, sending):
                task.cancel()
            await asyncio.gather(hearing, sending, return_exceptions=True)

    async def _hear_all(self, socket: ClientConnection) -> None:
        while True:
            message = await hear(socket)
            self._lost_at = None
            if self._take(message):
                return

    def _take(self, message: ServerMessage) -> bool:
        """Deal with a message. True: the session is over."""
        if isinstance(message, Ready):
            raise ProtocolError("the server began twice", code="bad_message")
        if isinstance(message, Acknowledged):
            self._acknowledge(message)
            self._listener.changed()
        if isinstance(message, Flushed) and not self._outbox.answered(message.id):
            return False  # asked for once more after a lost connection
        event = self._inbox.receive(message)
        if isinstance(message, ClosedMessage) and self._inbox.ending == DRAINING:
            # All that it received is committed.
            if not self._coded:  # of what is coded it said so itself
                self._outbox.acknowledge(round(message.audio * self._options.sample_rate))
            if self._moves_on and self._has_more():
                return True
        if event is not None:
            self._listener.heard(event)
        if isinstance(event, (Closed, StreamFailed)):
            self.over = True
            return True
        return False

    def _acknowledge(self, message: Acknowledged) -> None:
        if message.next_audio is not None:
            self._outbox.acknowledge_messages(message.next_audio)
            self._coded_until_s = self._inbox.offset_s + message.at
        else:
            self._outbox.acknowledge(message.sample)

    async def _send_all(self, socket: ClientConnection) -> None:
        assert self._ready is not None
        idle_s = max(self._ready.limits.idle / KEEP_ALIVES, 0.1)
        loop = asyncio.get_running_loop()
        while not self.over:
            self._to_send.clear()
            sent = False
            while (message := self._outbox.take()) is not None:
                await socket.send(message)
                sent = True
            if not sent:
                await socket.send(encode(KeepAlive()).decode())
            # (`wait_for` can lose a cancellation that comes together with what it waits for.)
            alarm = loop.call_later(idle_s, self._to_send.set)
            try:
                await self._to_send.wait()
            finally:
                alarm.cancel()

    def _has_more(self) -> bool:
        """Whether another server is wanted, where this one goes down."""
        # How much it took of samples it says in milliseconds, rounded.
        unsaid = 0 if self._coded else self._bytes_per_s / 1000
        return not self._outbox.closing or self._outbox.unacknowledged > unsaid
