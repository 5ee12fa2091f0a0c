"""One live stream through a server: it outlives its connections, and, where it must, its sessions.

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
import itertools
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy.typing as npt
import websockets
from websockets.asyncio.client import ClientConnection

from ray_whisper_streaming.client.connecting import Address, hear, open_socket
from ray_whisper_streaming.client.events import ClientEvent, Closed, Partial, Reconnected, StreamFailed
from ray_whisper_streaming.client.inbox import DRAINING, Inbox
from ray_whisper_streaming.client.options import SAMPLE_BYTES
from ray_whisper_streaming.client.outbox import Outbox
from ray_whisper_streaming.client.samples import as_bytes
from ray_whisper_streaming.errors import (
    Overloaded,
    ProtocolError,
    RayWhisperError,
    Refused,
    StreamClosed,
    Unauthorized,
    Unreachable,
)
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

__all__ = ["AsyncRemoteStream", "Patience"]

MAX_WAITING_EVENTS = 10_000
"""Events kept for a listener that doesn't fetch them (of partials only the latest is): hours of speech. Beyond it,
audio is refused."""

READY_S = 20.0
"""How long a server that took the connection may take to open the session."""

KEEP_ALIVES = 3
"""Signs of life within the time after which a session counts as idle."""

FATAL_CLOSINGS = {1002: "bad_message", 1007: "bad_message", 1009: "bad_audio_message"}
RESUMED_ELSEWHERE = "resumed_elsewhere"
"""Ends of connections that would come again."""


NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How a stream bears a lost connection.

    Attributes:
        reconnect_s: give up after so many seconds without a connection; 0: at once.
        first_pause_s: before the second try; the first is made at once. Doubles with each.
        longest_pause_s: between two tries.
        unacknowledged_s: audio kept, in seconds; more than that, and `push` waits. Less than half a minute could be
            less than the server takes for one pass.
    """

    reconnect_s: float = 60.0
    first_pause_s: float = 0.25
    longest_pause_s: float = 5.0
    unacknowledged_s: float = 60.0

    def pause_s(self, tries: int) -> float:
        """Before the next try, after so many; a part is left to chance, so that clients don't come all at once."""
        if not tries:
            return 0.0
        longest = min(self.longest_pause_s, self.first_pause_s * 2 ** min(tries - 1, 20))
        return longest * random.uniform(0.5, 1.0)


T = TypeVar("T")
_flush_numbers = itertools.count(1)


class AsyncRemoteStream:
    """Made by `AsyncClient.stream`. Push audio, iterate its events; both at the same time, as a rule.

    Use it as an async context manager, or with `start` and `aclose`.
    """

    def __init__(
        self,
        address: Address,
        options: Options,
        patience: Patience,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._options = options
        self._patience = patience
        self._clock = clock
        self._frame_bytes = SAMPLE_BYTES[options.encoding] * options.channels
        self._bytes_per_s = self._frame_bytes * options.sample_rate
        self._outbox = Outbox(self._frame_bytes)
        self._inbox = Inbox(moves_on=True)
        self._events: deque[ClientEvent] = deque()
        self._changed = asyncio.Event()
        self._to_send = asyncio.Event()
        self._room = asyncio.Event()
        self._over = False
        self._error: RayWhisperError | None = None
        self._ready: Ready | None = None
        self._lost_at: float | None = None
        self._tries = 0
        self._socket: ClientConnection | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def session_id(self) -> str:
        """Of the session that runs now: for `AsyncClient.follow`, and for the server's logs. Empty before `start`."""
        return self._ready.session_id if self._ready else ""

    @property
    def sent_s(self) -> float:
        """Seconds of audio pushed so far."""
        return self._outbox.end / self._bytes_per_s

    @property
    def acknowledged_s(self) -> float:
        """Everything before this second is committed, and no longer kept here."""
        return self._outbox.released / self._bytes_per_s

    @property
    def over(self) -> bool:
        """Whether nothing more will come than the events that are there."""
        return self._over

    async def start(self) -> None:
        """Connect and open the session.

        Raises:
            Unreachable, Refused, Unauthorized, ProtocolError: there is no session to be had.
            ConfigurationError: an option that this server doesn't take.
        """
        if self._running is not None or self._over:
            raise StreamClosed("a stream starts once")
        socket = await self._open()
        self._running = asyncio.create_task(self._run(socket))

    async def push(self, samples: npt.ArrayLike | bytes) -> None:
        """Give the next samples, of the rate, channels and encoding that the stream was opened with.

        Waits while too much audio is unacknowledged: the server is behind, or the connection is lost.

        Args:
            samples: bytes, cut anywhere; or int16, or floats of -1 to 1, shape (frames,) or (frames, channels).

        Raises:
            AudioError: samples that are no audio; nothing was taken.
            StreamClosed: after `finish` or `aclose`, or when the server ended the session.
            Overloaded: nobody fetches the events.
            Unreachable, Refused, ProtocolError: the stream is over because of this.
        """
        data = as_bytes(samples, self._options.encoding, self._options.channels)
        self._check_open()
        for start in range(0, len(data), self._bytes_per_s):
            await self._push_second(data[start : start + self._bytes_per_s])

    async def _push_second(self, data: bytes) -> None:
        self._check_open()
        while self._outbox.unacknowledged >= self._patience.unacknowledged_s * self._bytes_per_s:
            self._room.clear()
            await self._room.wait()
            self._check_open()
        waiting = len(self._events)
        if waiting >= MAX_WAITING_EVENTS:
            what = f"the queue of events of session {self.session_id}"
            raise Overloaded(what, limit=MAX_WAITING_EVENTS, current=waiting, retry_after_s=1.0)
        self._outbox.push(data)
        self._to_send.set()

    async def flush(self, flush_id: str | None = None) -> str:
        """Have everything pushed so far decoded and committed. A `Flushed` event with the id returned follows.

        Args:
            flush_id: to 128 characters, once only.
        """
        self._check_open()
        flush_id = flush_id or f"flush-{next(_flush_numbers)}"
        self._outbox.flush(flush_id)
        self._to_send.set()
        return flush_id

    async def finish(self) -> None:
        """No more audio will come; the events go on until `Closed`. Safe to call twice."""
        self._outbox.close()
        self._to_send.set()
        self._room.set()

    async def next_event(self) -> ClientEvent | None:
        """The next event; None after the last one.

        Raises:
            Unreachable, Refused, ProtocolError: the stream is over because of this. All events came before.
        """
        while not self._events:
            if self._over:
                if self._error is not None:
                    raise self._error
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()

    def next_event_nowait(self) -> ClientEvent | None:
        """The next event if one is there; None otherwise."""
        return self._events.popleft() if self._events else None

    async def __aiter__(self) -> AsyncIterator[ClientEvent]:
        """All events, until the last one: `Closed`, or `StreamFailed`. Raises as `next_event`."""
        while (event := await self.next_event()) is not None:
            yield event

    async def aclose(self) -> None:
        """Give the stream up; without `finish`, undecoded audio is dropped. Safe to call twice."""
        self._end()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._socket is not None:
            # With a code: the server need not wait for us.
            await self._socket.close()

    async def __aenter__(self) -> AsyncRemoteStream:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # ---------------------------------------------------------------- connections

    async def _run(self, socket: ClientConnection) -> None:
        try:
            while True:
                try:
                    await self._talk(socket)
                except (websockets.ConnectionClosed, OSError) as lost:
                    if self._over:
                        return
                    _check_closing(lost)
                    socket = await self._connect_again(lost, resume=True)
                else:
                    if self._over:
                        return
                    # It went down in good order. Somebody else may answer at this address by now.
                    await socket.close()
                    went_down = Unreachable("the server went down")
                    socket = await self._connect_again(went_down, resume=False)
        except RayWhisperError as error:
            self._error = error
        finally:
            self._end()

    async def _open(self, resume: bool = False) -> ClientConnection:
        """A connection with a session: the one that was lost, or a new one."""
        socket = await open_socket(self._address)
        first = Resume(session_id=self.session_id, after=self._inbox.after) if resume else self._options
        try:
            await socket.send(encode(first).decode())
            ready = await _within(READY_S, hear(socket))
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
            pause_s = max(self._patience.pause_s(self._tries), hint_s)
            if self._clock() - self._lost_at + pause_s >= self._patience.reconnect_s:
                raise Unreachable(
                    f"the connection to {self._address.url} is lost, and did not come back within "
                    f"{self._patience.reconnect_s:g} s ({lost})"
                ) from lost
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
        self._add(Reconnected(after_s=self._outage_s(), resumed=True))
        return socket

    async def _take_over(self) -> ClientConnection:
        """A new session, with the audio that no session has acknowledged."""
        socket = await self._open()
        from_s = self._outbox.restart() / self._bytes_per_s
        self._inbox.restart(from_s)
        self._add(Reconnected(after_s=self._outage_s(), resumed=False, from_s=from_s))
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
            self._outbox.acknowledge(message.sample)
            self._room.set()
        if isinstance(message, Flushed) and not self._outbox.answered(message.id):
            return False  # asked for once more after a lost connection
        event = self._inbox.receive(message)
        if isinstance(message, ClosedMessage) and self._inbox.ending == DRAINING:
            # All that it received is committed.
            self._outbox.acknowledge(round(message.audio * self._options.sample_rate))
            if self._has_more():
                return True
        if event is not None:
            self._add(event)
        if isinstance(event, (Closed, StreamFailed)):
            self._over = True
            return True
        return False

    async def _send_all(self, socket: ClientConnection) -> None:
        assert self._ready is not None
        idle_s = max(self._ready.limits.idle / KEEP_ALIVES, 0.1)
        loop = asyncio.get_running_loop()
        while not self._over:
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
        return not self._outbox.closing or self._outbox.unacknowledged >= self._frame_bytes

    def _add(self, event: ClientEvent) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(event, Partial) and isinstance(last, Partial) and last.channel == event.channel:
            self._events.pop()
        self._events.append(event)
        self._changed.set()

    def _end(self) -> None:
        self._over = True
        for signal in (self._changed, self._room, self._to_send):
            signal.set()

    def _check_open(self) -> None:
        if self._error is not None:
            raise self._error
        if self._running is None:
            raise StreamClosed("start the stream first")
        if self._over or self._outbox.closing:
            raise StreamClosed("the stream takes no more audio")


async def _within(timeout_s: float, work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.wait_for`, but never losing a cancellation."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait((task,), timeout=timeout_s)
        if not done:
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()


def _check_closing(lost: Exception) -> None:
    """Raise if the connection was closed for a reason that would come again."""
    received = lost.rcvd if isinstance(lost, websockets.ConnectionClosed) else None
    if received is None:
        return
    if received.reason == RESUMED_ELSEWHERE:
        raise ProtocolError("the session goes on in another connection", code=RESUMED_ELSEWHERE)
    if received.code in FATAL_CLOSINGS:
        raise ProtocolError(
            f"the server closed the connection: {received}", code=FATAL_CLOSINGS[received.code]
        )
