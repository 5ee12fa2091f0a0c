"""The endpoints of OpenAI's Realtime protocol: ``/v1/realtime`` and ``/v1/realtime/client_secrets``."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import Any, cast

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from ray_whisper_streaming.errors import ConfigurationError, ProtocolError, StreamClosed
from ray_whisper_streaming.server.access import Principal, choose_subprotocol, find_credential
from ray_whisper_streaming.server.admission import Lease
from ray_whisper_streaming.server.foreign import Batch, EventReader, session_audio
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.openai_errors import error_response, refusal_response
from ray_whisper_streaming.server.openai_secrets import join_secret, split_secret
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
)
from ray_whisper_streaming.server.tokens import TOKEN_PREFIX
from ray_whisper_streaming.wire.actions import FeedAudio, FlushStream, OpenStream
from ray_whisper_streaming.wire.openai_common import BadParameter, is_foreign_model
from ray_whisper_streaming.wire.openai_realtime import RealtimeProtocol, error_event
from ray_whisper_streaming.wire.openai_session import SessionConfig

__all__ = ["client_secrets", "realtime"]

PROTOCOL = "openai-realtime"
SUBPROTOCOL = "realtime"
"""What OpenAI's browser programs offer beside their secret."""

REOPEN_S = 30.0
"""A session that changes to another model waits for room there for so long."""

ID_BYTES = 12
MAX_BODY_BYTES = 64 * 1024

MIN_SECRET_S, MAX_SECRET_S, DEFAULT_SECRET_S = 10, 7200, 600
"""The life of a client secret: the protocol's own limits and default."""

INTERNAL_ERROR = 1011
ENDING_CODES = {
    "idle": ("idle_timeout", POLICY_VIOLATION),
    "session_limit": ("session_expired", POLICY_VIOLATION),
    "draining": ("server_draining", SERVICE_RESTART),
}
"""Error code and close code, by why the server ended the session."""


async def realtime(websocket: WebSocket) -> None:
    """A transcription session."""
    gateway: Gateway = websocket.app.state.gateway
    connection, given = split_secret(websocket)
    try:
        principal = gateway.authenticate(connection)
        gateway.check_room(principal)
        if principal.session_id is not None:
            raise Refusal("forbidden", "this token is for following a session")
    except Refusal as refusal:
        await _refuse(websocket, refusal)
        return
    await websocket.accept(choose_subprotocol(websocket, SUBPROTOCOL))
    peer = Peer(websocket, gateway.config.send_timeout_s)
    try:
        config = _first_config(gateway, websocket, given)
        conversation = _Conversation(gateway, principal, peer, config)
        try:
            await side_by_side(conversation.read(), conversation.write())
        finally:
            await conversation.aclose()
    except PeerGone:
        pass
    except BadParameter as error:
        gateway.metrics.error(error)
        await _dismiss(peer, error.code, str(error), POLICY_VIOLATION, param=error.param)
    except (ConfigurationError, ProtocolError) as error:
        gateway.metrics.error(error)
        await _dismiss(peer, "invalid_value", str(error), POLICY_VIOLATION)
    except Refusal as refusal:
        await _dismiss(peer, refusal.code, str(refusal), refusal.close_code, kind="server_error")


async def client_secrets(request: Request) -> Response:
    """Make a secret for a browser; only a key may, a secret may not."""
    gateway: Gateway = request.app.state.gateway
    try:
        principal = gateway.authenticate(request)
        config, session, life_s = await _wanted_secret(gateway, request)
        token, expires_at = _make_token(gateway, request, principal, life_s)
        value = join_secret(token, session)
    except Refusal as refusal:
        return refusal_response(refusal)
    except BadParameter as error:
        return error_response(400, str(error), param=error.param, code=error.code)
    except ValueError as error:
        return error_response(400, str(error), param="session")
    session_id = f"sess_{secrets.token_urlsafe(ID_BYTES)}"
    public = {**config.public(session_id), "expires_at": int(expires_at)}
    return JSONResponse({"value": value, "expires_at": int(expires_at), "session": public})


class _Conversation:
    """One connection: its streams follow one another, each a session of the gateway.

    The reading task opens a session and feeds it; the writing task tells its events until its last one. Then the next
    is opened, in the same place: a connection holds one, from its first audio to its end. A session that was finished
    for the next is closed only when that is open, so that a server that goes down sees one all the time.
    """

    def __init__(self, gateway: Gateway, principal: Principal, peer: Peer, config: SessionConfig) -> None:
        self._gateway = gateway
        self._principal = principal
        self._peer = peer
        self._protocol = RealtimeProtocol(f"sess_{secrets.token_urlsafe(ID_BYTES)}", config)
        self._reader = EventReader()
        self._session: Session | None = None
        self._finished: Session | None = None
        self._place: Lease | None = None
        self._free = asyncio.Event()
        self._free.set()
        self._ended: tuple[str, str, int] | None = None

    async def read(self) -> None:
        """Take the client's messages until it goes."""
        idle_s = self._gateway.config.idle_s
        while True:
            try:
                message = await asyncio.wait_for(self._peer.receive(), idle_s)
            except asyncio.TimeoutError:
                if self._session is not None:
                    continue  # the gateway watches over it
                self._ended = _ending("idle")
                self._reader.wake()
                return
            if self._session is not None:
                self._session.touch()
            self._protocol.receive_message(message)
            self._reader.wake()
            await self._reader.caught_up()
            await self._act()

    async def write(self) -> None:
        """Tell events and answers, until the server ends the session."""
        await self._tell()
        over: Session | None = None
        while self._ended is None:
            session = self._session
            if session is None or session is over:
                await self._reader.wait()
                await self._tell()
                continue
            async for batch in self._reader.batches(session):
                self._receive(batch)
                await self._tell()
            over = session
            if session is not self._finished:  # it failed, and nobody knows when audio for another one comes
                if not session.closed:
                    self._place = session.lease.pass_on(session.lease.room)
                self._session = None
                await session.aclose()
            self._free.set()
        code, message, close_code = self._ended
        self._protocol.say_error(message, code=code)
        await self._tell()
        await self._peer.close(close_code, code)

    async def aclose(self) -> None:
        """Give up what is open."""
        if self._session is not None:
            await self._session.aclose()
        if self._place is not None:
            self._place.release()

    async def _act(self) -> None:
        for action in self._protocol.actions():
            if isinstance(action, OpenStream):
                await self._free.wait()
                self._free.clear()
                before, self._session = self._session, await self._open(action)
                self._reader.wake()
                if before is not None:
                    await before.aclose()
                continue
            session = self._session
            if session is None:
                continue  # it failed meanwhile, and the client was told
            with contextlib.suppress(StreamClosed):
                if isinstance(action, FeedAudio):
                    await session.push(action.data)
                elif isinstance(action, FlushStream):
                    session.flush(action.flush_id)
                else:
                    self._finished = session
                    session.finish()

    async def _open(self, action: OpenStream) -> Session:
        until = self._gateway.clock() + REOPEN_S
        place = self._place if self._session is None else self._session.lease
        while True:
            try:
                return await self._gateway.open_session(
                    self._principal,
                    action.options,
                    session_audio(action.audio),
                    protocol=PROTOCOL,
                    place=place,
                )
            except Refusal as refusal:
                wait_s = refusal.retry_after_s
                if place is None or wait_s is None or self._gateway.clock() + wait_s > until:
                    raise
                await asyncio.sleep(wait_s or 0.0)

    def _receive(self, batch: Batch) -> None:
        for _, event in batch:
            match event:
                case AudioRejected():
                    self._gateway.metrics.error(event.error)
                    self._protocol.say_error(
                        str(event.error), code="invalid_value", kind="invalid_request_error", param="audio"
                    )
                case Ending():
                    self._ended = _ending(event.reason)
                case Draining() | Progress() | Lagging():
                    pass  # the protocol has no word for it
                case _:
                    self._protocol.receive_event(event)

    async def _tell(self) -> None:
        for message in self._protocol.messages():
            await self._peer.send(message)


def _ending(reason: str) -> tuple[str, str, int]:
    """Error code, message and close code."""
    code, close_code = ENDING_CODES.get(reason, (reason, POLICY_VIOLATION))
    return code, ENDINGS.get(reason, "the server ends the session"), close_code


def _first_config(gateway: Gateway, websocket: WebSocket, given: object) -> SessionConfig:
    """What holds at the beginning: the default, the address's model, and the secret's session.

    Raises:
        BadParameter: one of them can't be served.
    """
    config = SessionConfig.default(gateway.models.names)
    model = websocket.query_params.get("model")
    if model is not None and not is_foreign_model(model):
        transcription = {"input": {"transcription": {"model": model}}}
        config = config.updated({"type": "transcription", "audio": transcription})
    return config if given is None else config.updated(given)


async def _wanted_secret(gateway: Gateway, request: Request) -> tuple[SessionConfig, object, float]:
    """The body of a request for a secret: what will hold, the session object, and the secret's life in seconds."""
    body = await _read_json(request)
    session = body.get("session")
    config = SessionConfig.default(gateway.models.names)
    if session is not None:
        config = config.updated(session)
    after = body.get("expires_after", {})
    if not isinstance(after, dict):
        raise BadParameter("expires_after must be an object", param="expires_after")
    after = cast("dict[str, Any]", after)
    life_s = after.get("seconds", DEFAULT_SECRET_S)
    if after.get("anchor", "created_at") != "created_at":
        raise BadParameter("expires_after.anchor must be 'created_at'", param="expires_after.anchor")
    whole = isinstance(life_s, int) and not isinstance(life_s, bool)
    if not whole or not MIN_SECRET_S <= life_s <= MAX_SECRET_S:
        raise BadParameter(
            f"expires_after.seconds must be a whole number from {MIN_SECRET_S} to {MAX_SECRET_S}",
            param="expires_after.seconds",
        )
    return config, session, min(life_s, gateway.config.token_s)


async def _read_json(request: Request) -> dict[str, Any]:
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > MAX_BODY_BYTES:
            raise BadParameter("the body is too long", param=None)
    try:
        body: object = msgspec.json.decode(bytes(raw)) if raw else {}
    except (msgspec.DecodeError, RecursionError):
        raise BadParameter("the body is not JSON", param=None, code="invalid_json") from None
    if not isinstance(body, dict):
        raise BadParameter("the body is not a JSON object", param=None, code="invalid_json")
    return cast("dict[str, Any]", body)


def _make_token(
    gateway: Gateway, connection: HTTPConnection, principal: Principal, life_s: float
) -> tuple[str, float]:
    keyring = gateway.access.keyring
    if keyring is None:
        # Everyone is let in, so any text will do.
        return secrets.token_urlsafe(ID_BYTES), time.time() + life_s
    credential = find_credential(connection)
    if credential is None or credential.text.startswith(TOKEN_PREFIX):
        raise Refusal("forbidden", "only an API key may make client secrets")
    return keyring.make_token(principal.tenant, life_s)


async def _refuse(websocket: WebSocket, refusal: Refusal) -> None:
    message = error_event(str(refusal), code=refusal.code, kind="server_error").decode()
    await refuse_websocket(websocket, refusal, message)


async def _dismiss(
    peer: Peer,
    code: str,
    message: str,
    close_code: int,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
) -> None:
    try:
        await peer.send(error_event(message, code=code, kind=kind, param=param))
    except PeerGone:
        return
    await peer.close(close_code, code)
