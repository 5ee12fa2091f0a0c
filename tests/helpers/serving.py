"""A server with a scripted engine on loopback, and a client for it, for tests."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import websockets
from tests.support.world import World, say

from ray_whisper_streaming.api import AsyncPool
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.transcript import Word, join_text
from ray_whisper_streaming.engines.scripted import ScriptedEngine
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.serving import Server
from ray_whisper_streaming.server.tcp import LineServer
from ray_whisper_streaming.wire.native import encode_audio

WORDS = say("the quick brown fox jumps over the lazy dog again and again")
WORLD = World(WORDS, 7.0)
TEXT = join_text(WORDS)
PCM = WORLD.audio().tobytes()

PLAIN: dict[str, Any] = {"language": "en", "voice_activity": False}
"""The audio of a `World` is no voice."""


@dataclass
class Served:
    """A running server."""

    server: Server
    gateway: Gateway
    running: asyncio.Task[None]

    @property
    def http(self) -> str:
        return self.server.url

    @property
    def ws(self) -> str:
        return self.server.url.replace("http", "ws", 1)


@asynccontextmanager
async def served(
    engine: Any = None,
    words: Sequence[Word] = WORDS,
    latency_s: float = 0.0,
    pools: Sequence[AsyncPool] | None = None,
    **config: Any,
) -> AsyncGenerator[Served]:
    """A server of its own, started and, at the end, stopped; no task and no session may be left.

    Its models are those of ``pools``; else it has one, ``tiny.en``, of the engine.
    """
    factory = engine or partial(ScriptedEngine, {}, words, latency_s=latency_s)
    pools = pools or [AsyncPool(backend="local", engine_factory=factory)]
    settings: dict[str, Any] = {"port": 0, "drain_s": 1.0, "resume_s": 0.0, **config}
    gateway = Gateway(pools, ServerConfig(**settings))
    server = Server(gateway)
    ready = asyncio.Event()
    running = asyncio.create_task(server.run(ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        waiting.cancel()
        running.result()
    try:
        yield Served(server, gateway, running)
    finally:
        if not running.done():
            server.stop()
        await running
    assert gateway.sessions == {}
    assert gateway.admission.streams == 0


@asynccontextmanager
async def lines(gateway: Gateway, **options: Any) -> AsyncGenerator[LineServer]:
    """The raw TCP protocol, for the audio of a `World`."""
    server = LineServer(gateway, "127.0.0.1", 0, StreamOptions(**PLAIN, **options))
    await server.start()
    try:
        yield server
    finally:
        await server.aclose()


class Client:
    """A client of the native protocol, on the package `websockets`."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.sent = 0

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def send(self, audio: bytes, packet: int = 6_400) -> None:
        for start in range(0, len(audio), packet):
            await self.socket.send(encode_audio(self.sent, audio[start : start + packet]))
            self.sent += 1

    async def hear(self) -> dict[str, Any]:
        return json.loads(await asyncio.wait_for(self.socket.recv(), 20))

    async def hear_until(self, kind: str) -> list[dict[str, Any]]:
        """All events up to the first of this kind."""
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] != kind:
            events.append(await self.hear())
        return events

    async def hear_all(self) -> list[dict[str, Any]]:
        """All events until the server closes."""
        events: list[dict[str, Any]] = []
        try:
            while True:
                events.append(await self.hear())
        except websockets.ConnectionClosed:
            return events

    @property
    def closing(self) -> tuple[int | None, str | None]:
        return self.socket.close_code, self.socket.close_reason


@asynccontextmanager
async def connected(url: str, path: str = "/v1/stream", **settings: Any) -> AsyncGenerator[Client]:
    """A connection; nothing was said yet."""
    async with websockets.connect(url + path, compression=None, **settings) as socket:
        yield Client(socket)


@asynccontextmanager
async def session(url: str, settings: dict[str, Any] | None = None, **options: Any) -> AsyncGenerator[Client]:
    """A session for the audio of a `World`, its `ready` heard."""
    async with connected(url, **(settings or {})) as client:
        await client.say("options", **{**PLAIN, **options})
        ready = await client.hear()
        assert ready["type"] == "ready", ready
        yield client


async def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until it holds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while not condition():
        assert loop.time() < until, "it never came to that"
        await asyncio.sleep(0.01)


def text_of(events: Sequence[dict[str, Any]], channel: int = 0) -> str:
    """What was committed."""
    committed = [event for event in events if event["type"] == "committed"]
    return "".join(event["text"] for event in committed if event.get("channel", 0) == channel).strip()


def of_kind(events: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


@dataclass
class Answer:
    """Of an HTTP request."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def fetch(url: str, body: bytes | None = None, **headers: str) -> Answer:
    """A GET, or a POST where there is a body; underscores in names of headers stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data=body, headers=named)

    def ask() -> Answer:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return Answer(answer.status, dict(answer.headers.items()), answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers.items()), error.read())

    return await asyncio.to_thread(ask)
