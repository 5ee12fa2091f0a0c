"""Listening: HTTP and WebSocket by uvicorn, raw TCP beside it, and going down in good order."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.server.app import create_app
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.sockets import Http, WebSockets
from ray_whisper_streaming.server.tcp import LineServer
from ray_whisper_streaming.server.tls import check_certificate

__all__ = ["Server", "calm_collector", "check_exposure"]

logger = logging.getLogger(__name__)

PING_S = 20.0
"""How often WebSockets are pinged, and how long an answer may take: half-open connections are found within 40 s."""

BACKLOG = 512
"""Connections that wait to be accepted."""

CLOSING_S = 5
"""How long connections may take to close once the sessions have ended."""

COLLECT_AFTER = (5_000, 10, 5)
"""Of `gc.set_threshold`; the first is 700 by default, which 200 sessions make in 30 ms."""


def check_exposure(config: ServerConfig) -> None:
    """Refuse to serve whoever comes, unless told so in so many words.

    Raises:
        ConfigurationError: the address can be reached from elsewhere, and nothing asks who comes; or a file that is
            named is not there, or no certificate or key.
    """
    for name in ("tls_cert", "tls_key", "keys_file"):
        path: str | None = getattr(config, name)
        if path is not None and not Path(path).is_file():
            maker = "; 'ray-whisper keys create NAME' makes one" if name == "keys_file" else ""
            raise ConfigurationError(name, path, "a file that is there" + maker)
    if config.tls_cert is not None and config.tls_key is not None:
        check_certificate(config.tls_cert, config.tls_key)
    if config.allow_anonymous or is_loopback(config.host):
        return
    if config.keys_file is None:
        raise ConfigurationError(
            "host",
            config.host,
            "an address of loopback, or there must be keys (keys_file), or allow_anonymous",
        )
    if config.tcp_port is not None:
        raise ConfigurationError(
            "tcp_port",
            config.tcp_port,
            "left out beyond loopback, as it asks for no key, or allow_anonymous given",
        )


def calm_collector() -> None:
    """Have Python's cycle collector take less time: for a process that does nothing but serve, once it is ready.

    What was imported and loaded stays for good, so it is not looked at any more (a look takes 0.1 s).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server:
    """Serves a gateway until a signal, or `stop`.

    Args:
        gateway: not started.
        app: made by `create_app`, if there is more to it.

    SIGTERM and SIGINT drain; a second one ends at once.
    """

    def __init__(self, gateway: Gateway, app: Starlette | None = None) -> None:
        self._gateway = gateway
        self._app = app or create_app(gateway)
        self._uvicorn: _Uvicorn | None = None
        self._lines: LineServer | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.port = gateway.config.port

    @property
    def url(self) -> str:
        """The address of the server."""
        config = self._gateway.config
        scheme = "http" if config.tls_cert is None else "https"
        host = f"[{config.host}]" if ":" in config.host else config.host
        return f"{scheme}://{host}:{self.port}"

    @property
    def tcp_port(self) -> int | None:
        """The port of the raw TCP protocol, where it is served."""
        return None if self._lines is None else self._lines.port

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Listen, start the workers, and serve until told to stop.

        Args:
            on_ready: called once the workers are warm.

        Raises:
            ConfigurationError: see `check_exposure`.
            OSError: the address can't be had.
            PoolError, ModelNotFound: the workers could not be started.
        """
        config = self._gateway.config
        check_exposure(config)
        listening = _listen(config.host, config.port)
        self.port = listening.getsockname()[1]
        self._uvicorn = _Uvicorn(_uvicorn_config(self._app, config), self.stop)
        serving = asyncio.create_task(self._uvicorn.serve([listening]))
        getting_ready = asyncio.create_task(self._get_ready(on_ready))
        try:
            await asyncio.wait((serving, getting_ready), return_when=asyncio.FIRST_COMPLETED)
            if getting_ready.done() and self._stopping is None:  # told to stop, it was cut short: no failure
                getting_ready.result()
            await serving
        finally:
            getting_ready.cancel()
            if self._lines is not None:
                await self._lines.aclose()
            self._uvicorn.should_exit = True
            await asyncio.gather(serving, getting_ready, return_exceptions=True)
            if self._stopping is not None:
                await asyncio.gather(self._stopping, return_exceptions=True)
            listening.close()
            await self._gateway.aclose()

    def stop(self) -> None:
        """Drain and end; called again, end at once. From the event loop's thread."""
        assert self._uvicorn is not None, "run first"
        if self._stopping is not None:
            self._uvicorn.should_exit = self._uvicorn.force_exit = True
            self._stopping.cancel()
        else:
            self._stopping = asyncio.get_running_loop().create_task(self._drain())

    async def _get_ready(self, on_ready: Callable[[], None]) -> None:
        await self._gateway.start()
        await self._gateway.wait_ready()
        config = self._gateway.config
        if config.tcp_port is not None:
            self._lines = LineServer(self._gateway, config.host, config.tcp_port)
            await self._lines.start()
        on_ready()

    async def _drain(self) -> None:
        assert self._uvicorn is not None
        if self._gateway.ready.is_set():
            await self._gateway.drain()
        self._uvicorn.should_exit = True


class _Uvicorn(uvicorn.Server):
    """uvicorn, which leaves signals to us: it would close all connections at the first one."""

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_signal = on_signal
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came, in the middle of whatever the main thread does."""
        self._loop.call_soon_threadsafe(self._on_signal)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening


def _uvicorn_config(app: Starlette, config: ServerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Http,
        ws=WebSockets,
        ws_max_size=config.max_message_bytes,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,  # audio hardly shrinks, and it costs more than everything else here
        h11_max_incomplete_event_size=config.max_header_bytes,
        lifespan="on",
        log_config=None,
        log_level="warning",  # at "info" it writes addresses with their tokens
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=CLOSING_S,
        ssl_certfile=config.tls_cert,
        ssl_keyfile=config.tls_key,
    )
