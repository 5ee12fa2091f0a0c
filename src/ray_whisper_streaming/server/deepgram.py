"""The endpoint of Deepgram's protocol: ``/v1/listen``."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from ray_whisper_streaming.errors import ConfigurationError, ProtocolError, StreamClosed
from ray_whisper_streaming.server.access import choose_subprotocol
from ray_whisper_streaming.server.codecs import framed
from ray_whisper_streaming.server.foreign import Batch, EventReader, session_audio
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.peer import Peer, PeerGone, side_by_side
from ray_whisper_streaming.server.refusal import POLICY_VIOLATION, SERVICE_RESTART, Refusal, refuse_websocket
from ray_whisper_streaming.server.session import AudioRejected, Draining, Ending, Lagging, Progress, Session
from ray_whisper_streaming.wire.actions import FeedAudio, FlushStream
from ray_whisper_streaming.wire.deepgram import ListenProtocol, error_message, handshake_error
from ray_whisper_streaming.wire.deepgram_query import BadQuery, ListenQuery

__all__ = ["listen"]

PROTOCOL = "deepgram"

LOOK_S = 0.2
"""How often silence is looked at, where the client wants to know when an utterance is over."""

SETTLED_S = 0.1
"""A channel that lags less than this is silent or decoded: voice is scored in frames, and packets wait for a tick."""

BAD_REQUEST = 400
INTERNAL_ERROR = 1011
ENDINGS = {
    "idle": (INTERNAL_ERROR, "NET-0001"),
    "draining": (SERVICE_RESTART, "draining"),
}
"""Close code and reason, by why the server ended the session; the first is the protocol's own."""


async def listen(websocket: WebSocket) -> None:
    """A connection: audio and commands in, results out."""
    gateway: Gateway = websocket.app.state.gateway
    request_id = str(uuid.uuid4())
    try:
        principal = gateway.authenticate(websocket)
        query = ListenQuery.parse(websocket.query_params.multi_items(), gateway.models.names)
        session = await gateway.open_session(
            principal, query.options, session_audio(query.audio), protocol=PROTOCOL
        )
    except Refusal as refusal:
        await _refuse(websocket, request_id, refusal)
        return
    except (BadQuery, ConfigurationError) as error:
        gateway.metrics.error(error)
        await _deny(websocket, request_id, BAD_REQUEST, "INVALID_QUERY_PARAMETER", str(error))
        return
    async with session:
        await websocket.accept(
            choose_subprotocol(websocket), headers=[(b"dg-request-id", request_id.encode())]
        )
        peer = Peer(websocket, gateway.config.send_timeout_s)
        protocol = ListenProtocol(request_id, query, datetime.now(timezone.utc).isoformat())
        conversation = _Conversation(gateway, session, protocol, peer)
        try:
            await side_by_side(conversation.read(), conversation.write())
        except PeerGone:
            pass


class _Conversation:
    """Reads the client's messages and the session's events; writes alone, so that messages keep their order."""

    def __init__(self, gateway: Gateway, session: Session, protocol: ListenProtocol, peer: Peer) -> None:
        self._gateway = gateway
        self._session = session
        self._protocol = protocol
        self._peer = peer
        self._reader = EventReader()

    async def read(self) -> None:
        """Take the client's messages until it goes."""
        while True:
            message = await self._peer.receive()
            self._session.touch()
            self._protocol.receive_message(message)
            try:
                await self._act()
            except StreamClosed:
                pass  # the last events say why
            except ProtocolError as error:
                self._refuse_audio(error)
            self._reader.wake()
            await self._reader.caught_up()

    async def write(self) -> None:
        """Tell events and answers, until there is nothing more to come."""
        tick_s = LOOK_S if self._protocol.query.utterance_end_s is not None else None
        async for batch in self._reader.batches(self._session, tick_s):
            self._receive(batch)
            if tick_s is not None:
                self._look()
            if await self._tell():
                return
        if not await self._tell():
            # Every channel has ended, and the client knows of it: this can't be.
            await self._peer.close(INTERNAL_ERROR)

    async def _act(self) -> None:
        for action in self._protocol.actions():
            if isinstance(action, FeedAudio):
                opus = self._protocol.query.audio.encoding == "opus"
                await self._session.push(framed(action.data) if opus else action.data)
            elif isinstance(action, FlushStream):
                self._session.flush(action.flush_id)
            else:
                self._session.finish()

    def _receive(self, batch: Batch) -> None:
        for channel, event in batch:
            match event:
                case AudioRejected():
                    self._refuse_audio(event.error)
                case Ending():
                    code, reason = ENDINGS.get(event.reason, (POLICY_VIOLATION, event.reason))
                    self._protocol.receive_ending(code, reason)
                case Draining() | Progress() | Lagging():
                    pass  # the protocol has no word for it
                case _:
                    self._protocol.receive_event(channel, event)

    def _look(self) -> None:
        for channel, stream in enumerate(self._session.streams):
            self._protocol.receive_progress(channel, stream.received_s, settled=stream.lag_s < SETTLED_S)

    async def _tell(self) -> bool:
        """Send what is ready; return whether that was the end."""
        for stream in self._session.streams:
            self._protocol.receive_duration(stream.received_s)
        for message in self._protocol.messages():
            await self._peer.send(message)
        if self._protocol.close is None:
            return False
        await self._peer.close(*self._protocol.close)
        return True

    def _refuse_audio(self, error: Exception) -> None:
        self._gateway.metrics.error(error)
        self._protocol.receive_bad_audio(str(error))


async def _refuse(websocket: WebSocket, request_id: str, refusal: Refusal) -> None:
    """Turn a client away as the protocol does, with our code in its clothes."""
    if "origin" in Headers(scope=websocket.scope):
        await refuse_websocket(websocket, refusal, error_message("Refused", str(refusal)).decode())
        return
    await _deny(
        websocket, request_id, refusal.http_status, refusal.code.upper(), str(refusal), refusal.headers
    )


async def _deny(
    websocket: WebSocket,
    request_id: str,
    status: int,
    code: str,
    message: str,
    headers: dict[str, str] | None = None,
) -> None:
    """Answer the handshake with an HTTP error."""
    # Query values stand in the message, and in a header there may be Latin letters only.
    short = message.encode("ascii", "replace").decode().replace("\n", " ").replace("\r", " ")
    facts = {"dg-request-id": request_id, "dg-error": short, **(headers or {})}
    await websocket.send_denial_response(
        JSONResponse(handshake_error(request_id, code, message), status, facts)
    )
