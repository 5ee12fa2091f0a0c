"""The ASGI app: which path is served by what.

Every protocol is a module of its own in `wire` (messages, no sockets) and one in `server` (the endpoint), with a line
in `routes`. What an endpoint does, in this order::

    async def talk(websocket: WebSocket) -> None:
        gateway = gateway_of(websocket)
        try:
            principal = gateway.authenticate(websocket)     # key or token, and the page's origin
            gateway.check_room(principal)                   # refuse at the door, before anything is read
        except Refusal as refusal:
            return await refuse_websocket(websocket, refusal, my_error_message(refusal))
        await websocket.accept()
        peer = Peer(websocket, gateway.config.send_timeout_s)
        ...                                                 # read the options of the protocol
        session = await gateway.open_session(               # Refusal again, or ConfigurationError: to be told to
            principal,                                      # the client as the protocol has it
            StreamOptions(language="en"),
            AudioFormat(encoding="mulaw", sample_rate=8000),
            protocol="mine",
        )
        async with session:                                 # gives everything back, whatever happens
            await side_by_side(read(peer, session), write(peer, session))

    # read:
    await session.push(data)                # bytes, cut anywhere; waits when the pool is behind
    session.flush("id")                     # Flushed("id") follows once all before is committed
    session.finish()                        # end of input; the last words follow
    session.touch()                         # keep-alives, so that it doesn't count as idle
    # write:
    async for channel, event in session:    # core events, and three notices of the session:
        ...                                 # AudioRejected, Draining, Ending

The iteration ends after ``Final(end_of_stream=True)`` (or `StreamFailed`) of every channel; the endpoint then says so
and closes. Admission, limits, fairness, metrics, idle and length limits, and draining happen inside. HTTP endpoints do
the same with a `Request`, answer a `Refusal` with ``refusal.response()``, and pass ``live=False`` for recordings.
Errors that a client is told of are counted with ``gateway.metrics.error(error)``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from ray_whisper_streaming.server import deepgram, health, minting, native, openai_realtime, rest
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.pages import page_routes
from ray_whisper_streaming.server.refusal import Refusal
from ray_whisper_streaming.server.strays import nothing_here, websocket_wanted

__all__ = ["create_app", "gateway_of", "routes"]

CLIENT_GONE = 499
"""No status of HTTP: nobody gets it."""


def routes() -> list[BaseRoute]:
    """All paths. A new protocol adds its line here."""
    return [
        Route("/healthz", health.healthz),
        Route("/readyz", health.readyz),
        Route("/metrics", health.metrics),
        Route("/status.json", health.status),
        Route("/v1/tokens", minting.mint, methods=["POST"]),
        *_websocket("/v1/stream", native.stream),
        *_websocket("/v1/stream/{session_id}/events", native.events),
        *_websocket("/v1/realtime", openai_realtime.realtime),
        Route("/v1/realtime/client_secrets", openai_realtime.client_secrets, methods=["POST"]),
        *_websocket("/v1/listen", deepgram.listen),
        Route("/v1/audio/transcriptions", rest.transcriptions, methods=["POST"]),
        Route("/v1/audio/translations", rest.translations, methods=["POST"]),
        Route("/v1/models", rest.models),
        Route("/v1/models/{model:path}", rest.model),
        *page_routes(),
        WebSocketRoute("/{path:path}", nothing_here),
    ]


def _websocket(path: str, endpoint: Callable[[WebSocket], Awaitable[None]]) -> list[BaseRoute]:
    return [
        WebSocketRoute(path, endpoint),
        Route(path, websocket_wanted, methods=["GET", "POST"]),
    ]


def create_app(gateway: Gateway, extra_routes: Sequence[BaseRoute] = ()) -> Starlette:
    """The app around a gateway. Its lifespan starts and closes the gateway.

    Args:
        gateway: not started yet, or started elsewhere.
        extra_routes: of programs that build on this one; they come before `routes`.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        await gateway.start()
        try:
            yield
        finally:
            await gateway.aclose()

    app = Starlette(
        routes=[*extra_routes, *routes()],
        middleware=_cross_origin(gateway.config.allowed_origins),
        lifespan=lifespan,
        exception_handlers={Refusal: _answer_refusal, ClientDisconnect: _answer_nobody},
    )
    app.state.gateway = gateway
    return app


def _cross_origin(origins: Sequence[str]) -> list[Middleware]:
    """Browsers let pages of other origins read an HTTP answer only where it says so; WebSockets have no such rule."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=[origin.rstrip("/").lower() for origin in origins],
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    ]


def gateway_of(connection: HTTPConnection) -> Gateway:
    """The gateway behind a request or WebSocket."""
    return connection.app.state.gateway


def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


def _answer_nobody(_request: Request, _error: Exception) -> Response:
    """The rest of the body will not come: nothing to log as an error."""
    return Response(status_code=CLIENT_GONE)
