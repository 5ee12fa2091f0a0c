"""The endpoints of the native protocol: ``/v1/stream``, and ``/v1/stream/{session_id}/events`` for those who follow."""

from __future__ import annotations

import asyncio
import logging

from starlette.websockets import WebSocket

from ray_whisper_streaming.core.events import Committed, Partial
from ray_whisper_streaming.errors import AudioError, ConfigurationError, ProtocolError, StreamClosed
from ray_whisper_streaming.server.access import Principal, choose_subprotocol
from ray_whisper_streaming.server.codecs import audio_format, framed
from ray_whisper_streaming.server.event_log import EventLog, Missed
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.peer import Peer, PeerGone, side_by_side
from ray_whisper_streaming.server.refusal import POLICY_VIOLATION, SERVICE_RESTART, Refusal, refuse_websocket
from ray_whisper_streaming.server.session import (
    ENDINGS,
    AudioRejected,
    Draining,
    Ending,
    Lagging,
    Progress,
    Session,
    SessionEvent,
)
from ray_whisper_streaming.wire import native, native_messages
from ray_whisper_streaming.wire.native import ServerSide, encode, error_message
from ray_whisper_streaming.wire.native_messages import Options, Resume

__all__ = ["SUBPROTOCOL", "events", "stream"]

logger = logging.getLogger(__name__)

PROTOCOL = "native"
SUBPROTOCOL = "ray-whisper"

OPTIONS_S = 10.0
"""How long a client may take to say what it wants."""

BAD_AUDIO = "bad_audio"

NORMAL, INTERNAL_ERROR = 1000, 1011
CLOSE_CODES = {"client": NORMAL, "draining": SERVICE_RESTART, "stream_failed": INTERNAL_ERROR}
"""Of the WebSocket, by why the session ended; others are the client's own limits."""


async def stream(websocket: WebSocket) -> None:
    """A session: audio in, events out."""
    gateway: Gateway = websocket.app.state.gateway
    try:
        principal = gateway.authenticate(websocket)
        if principal.session_id is not None:
            raise Refusal("forbidden", "this token is for following a session")
    except Refusal as refusal:
        await refuse_websocket(websocket, refusal, encode(_refusal_message(refusal)).decode())
        return
    await websocket.accept(choose_subprotocol(websocket, SUBPROTOCOL))
    peer = Peer(websocket, gateway.config.send_timeout_s)
    try:
        conversation, after = await _begin(gateway, principal, peer)
        await conversation.attend(peer, after)
    except PeerGone:
        pass
    except Refusal as refusal:
        await _dismiss(peer, _refusal_message(refusal), refusal.close_code)
    except ConfigurationError as error:
        gateway.metrics.error(error)
        await _dismiss(peer, error_message("bad_option", str(error)), POLICY_VIOLATION)
    except ProtocolError as error:
        gateway.metrics.error(error)
        await _dismiss(peer, error_message(error.code, str(error)), POLICY_VIOLATION)
    except Missed as error:
        await _dismiss(peer, error_message("too_slow", str(error)), POLICY_VIOLATION)


async def events(websocket: WebSocket) -> None:
    """Follow a session of the same key, or the one that the token is for: all its events, from the first one kept."""
    gateway: Gateway = websocket.app.state.gateway
    session_id: str = websocket.path_params["session_id"]
    try:
        principal = gateway.authenticate(websocket)
        conversation = _find(gateway, principal, session_id, following=True)
    except Refusal as refusal:
        gateway.metrics.refused(refusal)
        await refuse_websocket(websocket, refusal, encode(_refusal_message(refusal)).decode())
        return
    await websocket.accept(choose_subprotocol(websocket, SUBPROTOCOL))
    peer = Peer(websocket, gateway.config.send_timeout_s)
    try:
        await side_by_side(
            _wait_until_gone(peer), _send_all(peer, conversation.log, conversation.log.first_kept - 1)
        )
        await peer.close()
    except PeerGone:
        pass
    except Missed as error:
        await _dismiss(peer, error_message("too_slow", str(error)), POLICY_VIOLATION)


class Conversation:
    """A session with its events and what was understood of its client's messages; outlives a lost connection."""

    def __init__(self, gateway: Gateway, session: Session, options: Options, machine: ServerSide) -> None:
        self.session = session
        self.log = EventLog()
        self._gateway = gateway
        self._options = options
        self._machine = machine
        self._reason = "client"
        self._words = 0
        self._peer: Peer | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._closing: asyncio.Future[None] | None = None
        session.owner = self
        self._recording = asyncio.create_task(self._record())

    async def attend(self, peer: Peer, after: int | None = None) -> None:
        """Serve a connection until the session or the connection is over.

        Args:
            peer: the client.
            after: it goes on with the session and has the events up to this one; None: the session is new.

        Raises:
            PeerGone: the session waits for a while, unless the client said good-bye.
            ProtocolError, Missed: the session is over.
        """
        self._stop_waiting()
        previous, self._peer = self._peer, peer
        if previous is not None:
            # Not waited for: it may be dead, which is why the client came back.
            self._closing = asyncio.ensure_future(previous.close(POLICY_VIOLATION, "resumed_elsewhere"))
        try:
            await peer.send(encode(self._ready(resumed=after is not None)))
            await side_by_side(self._read(peer), _send_all(peer, self.log, -1 if after is None else after))
            await peer.close(CLOSE_CODES.get(self._reason, POLICY_VIOLATION), self._reason)
        except PeerGone as gone:
            if self._peer is peer:
                await self._part(gone)
            raise
        except BaseException:
            if self._peer is peer:
                await self.session.aclose()
            raise

    def _ready(self, resumed: bool) -> native_messages.Ready:
        config = self._gateway.config
        return native_messages.Ready(
            session_id=self.session.session_id,
            model=self.session.model,
            next_audio=self._machine.next_audio,
            streams=len(self.session.streams),
            resumed=resumed,
            closing=self._machine.state == "closing",
            limits=native_messages.Limits(
                message_bytes=config.max_message_bytes,
                idle=config.idle_s,
                session=config.session_s,
                resume=config.resume_s,
            ),
        )

    async def _read(self, peer: Peer) -> None:
        while True:
            command = self._machine.receive(await peer.receive())
            try:
                await self._obey(command)
            except StreamClosed:
                pass  # the session has ended, which the client can't know yet: its last events say so

    async def _obey(self, command: native.Command | None) -> None:
        session = self.session
        match command:
            case native.Audio():
                opus = self._options.encoding == "opus"
                await session.push(framed(command.data) if opus else command.data)
            case native_messages.Flush():
                session.flush(command.id)
            case native_messages.Close():
                session.finish()
            case _:
                session.touch()

    async def _record(self) -> None:
        """Write the session's events into the log, until the last one."""
        try:
            async for channel, event in self.session:
                self._append(channel, event)
            if self.session.audio.is_coded:
                self._append_progress(
                    self.session.progress()
                )  # all that it took: the rest is for the next session
            self._append_message(
                native_messages.Closed(
                    reason=self._reason, audio=round(self.session.received_s, 3), words=self._words
                )
            )
        finally:
            self.log.end()
            if not self.session.closed:
                self._gateway.keep(self.session)  # nobody knows whether the client hears the end
                await self.session.aclose()

    def _append(self, channel: int, event: SessionEvent) -> None:
        match event:
            case AudioRejected():
                self._reject_audio(event.error)
            case Draining():
                self._append_message(native_messages.Draining(within=event.within_s))
            case Ending():
                if self._machine.state != "closing":  # otherwise all is there, and the end the client's own
                    self._tell_end(event.reason)
            case Progress():
                self._append_progress(event)
            case Lagging():
                reason = "recovered" if event.over else "overload"
                self._append_message(native_messages.Slowed(reason=reason, lag=round(event.lag_s, 3)))
            case _:
                if isinstance(event, Committed):
                    self._words += len(event.words)
                message = native.event_message(event, channel, self._options, self.session.lag_s)
                if isinstance(message, native_messages.Error):
                    self._reason = "stream_failed"
                if isinstance(event, Partial):
                    self.log.append_partial(encode(native.numbered(message, self.log.next_number)), channel)
                else:
                    self._append_message(message)

    def _tell_end(self, reason: str) -> None:
        if reason in ENDINGS and reason != self._reason:
            self._append_message(error_message(reason, ENDINGS[reason], fatal=False))
        self._reason = reason

    def _append_progress(self, progress: Progress) -> None:
        self._append_message(
            native_messages.Acknowledged(
                sample=int(progress.until_s * self.session.audio.sample_rate),
                at=round(progress.until_s, 3),
                next_audio=progress.pushes,
            )
        )

    def _reject_audio(self, error: AudioError) -> None:
        if self._reason == BAD_AUDIO:
            return  # told before
        self._gateway.metrics.error(error)
        self._append_message(error_message(BAD_AUDIO, str(error), fatal=False))
        if self._options.encoding == "container":
            # Samples and packets may be good again; of a container that is broken nothing more can be read.
            self._reason = BAD_AUDIO
            self.session.end(BAD_AUDIO)

    def _append_message(self, message: native_messages.EventMessage) -> None:
        self.log.append(encode(native.numbered(message, self.log.next_number)))

    async def _part(self, gone: PeerGone) -> None:
        """The connection was lost: wait for the client to come back, if it may."""
        self._peer = None
        wait_s = self._gateway.config.resume_s
        if gone.closed or not wait_s or self.session.closed:
            await self.session.aclose()
            return
        logger.info("connection lost", extra={"session": self.session.session_id})
        self._grace = asyncio.get_running_loop().call_later(wait_s, self._give_up)

    def _give_up(self) -> None:
        self.session.end("abandoned")
        self._tell_end("abandoned")  # its rest is dropped, whoever ended it before
        # Ends `_record`, which closes the rest.
        self._closing = asyncio.ensure_future(self.session.aclose())

    def _stop_waiting(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None


async def _begin(gateway: Gateway, principal: Principal, peer: Peer) -> tuple[Conversation, int | None]:
    """Read the first message, and open a session or find the one to go on with."""
    machine = ServerSide()
    try:
        first = await asyncio.wait_for(peer.receive(), OPTIONS_S)
    except asyncio.TimeoutError:
        raise ProtocolError(f"no options came within {OPTIONS_S:g} s", code="options_late") from None
    command = machine.receive(first)
    if isinstance(command, Resume):
        conversation = _find(gateway, principal, command.session_id)
        conversation.log.read(command.after)  # Missed, before anything is taken from anybody
        return conversation, command.after
    assert isinstance(command, Options)
    audio = audio_format(
        command.encoding,
        sample_rate=command.sample_rate,
        channels=command.channels,
        split=command.split_channels,
    )
    options = command.stream_options()
    session = await gateway.open_session(principal, options, audio, protocol=PROTOCOL, notes=True)
    return Conversation(gateway, session, command, machine), None


def _find(
    gateway: Gateway, principal: Principal, session_id: str, *, following: bool = False
) -> Conversation:
    """The session of this id, if it is the principal's."""
    session = gateway.sessions.get(session_id) or gateway.kept.get(session_id)
    owner = None if session is None else session.owner
    if session is None or not isinstance(owner, Conversation):
        raise Refusal("not_found", "there is no such session")
    if principal.session_id is not None:
        allowed = following and principal.session_id == session_id
    else:
        allowed = principal.tenant == session.lease.principal.tenant
    if not allowed:
        raise Refusal("not_found", "there is no such session")  # others need not learn that there is
    return owner


async def _send_all(peer: Peer, log: EventLog, after: int) -> None:
    async for batch in log.follow(after):
        for message in batch:
            await peer.send(message)


async def _wait_until_gone(peer: Peer) -> None:
    while True:
        await peer.receive()  # whatever it says, it is only here to listen


def _refusal_message(refusal: Refusal) -> native_messages.Error:
    return error_message(refusal.code, str(refusal), retry_after=refusal.retry_after_s)


async def _dismiss(peer: Peer, error: native_messages.Error, close_code: int) -> None:
    try:
        await peer.send(encode(error))
        await peer.close(close_code, error.code)
    except PeerGone:
        pass
