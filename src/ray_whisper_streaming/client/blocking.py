"""Clients of a server, for programs without asyncio: the asynchronous ones on an event loop of their own.

with Client("ws://127.0.0.1:8000") as client, client.stream(language="en") as stream:
    for samples in microphone():
        stream.push(samples)
        for event in stream.waiting():
            print(event)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

import numpy.typing as npt

from ray_whisper_streaming.client.client import AsyncClient
from ray_whisper_streaming.client.events import ClientEvent
from ray_whisper_streaming.client.files import AudioFile
from ray_whisper_streaming.client.stream import AsyncRemoteStream
from ray_whisper_streaming.loop_thread import LoopThread
from ray_whisper_streaming.waiting import within

__all__ = ["Client", "RemoteStream"]

T = TypeVar("T")


class RemoteStream:
    """`AsyncRemoteStream` for programs without asyncio. Made by `Client.stream`; usable from several threads."""

    def __init__(self, client: Client, inner: AsyncRemoteStream) -> None:
        self._client = client
        self._inner = inner

    @property
    def session_id(self) -> str:
        """See `AsyncRemoteStream.session_id`."""
        return self._inner.session_id

    @property
    def sent_s(self) -> float:
        """Seconds of audio pushed so far."""
        return self._inner.sent_s

    @property
    def acknowledged_s(self) -> float:
        """See `AsyncRemoteStream.acknowledged_s`."""
        return self._inner.acknowledged_s

    def start(self) -> None:
        """See `AsyncRemoteStream.start`."""
        self._client.run(self._inner.start())

    def push(self, samples: npt.ArrayLike | bytes) -> None:
        """See `AsyncRemoteStream.push`; blocks where that waits."""
        self._client.run(self._inner.push(samples))

    def flush(self, flush_id: str | None = None) -> str:
        """See `AsyncRemoteStream.flush`."""
        return self._client.run(self._inner.flush(flush_id))

    def finish(self) -> None:
        """See `AsyncRemoteStream.finish`."""
        self._client.run(self._inner.finish())

    def next_event(self, timeout_s: float | None = None) -> ClientEvent | None:
        """The next event; None after the last one, or when none came within ``timeout_s`` seconds.

        Raises:
            Unreachable, Refused, ProtocolError: see `AsyncRemoteStream.next_event`.
        """
        try:
            return self._client.run(within(timeout_s, self._inner.next_event))
        except asyncio.TimeoutError:
            return None

    def waiting(self) -> Iterator[ClientEvent]:
        """The events that are there now, without waiting."""
        while (event := self.next_event(0.0)) is not None:
            yield event

    def __iter__(self) -> Iterator[ClientEvent]:
        """All events, until the last one; waits for each. Push from another thread, or `finish` before."""
        while (event := self.next_event()) is not None:
            yield event

    def close(self) -> None:
        """See `AsyncRemoteStream.aclose`."""
        if self._client.running:
            self._client.run(self._inner.aclose())

    def __enter__(self) -> RemoteStream:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Client:
    """`AsyncClient` for programs without asyncio; the same arguments. Use it as a context manager."""

    def __init__(self, url: str, **settings: Any) -> None:
        self._inner = AsyncClient(url, **settings)
        self._thread = LoopThread("the client", "ray-whisper-client")

    @property
    def running(self) -> bool:
        """Whether it was started and not closed."""
        return self._thread.running

    def start(self) -> None:
        """Start the thread that the connections live on. Safe to call twice."""
        self._thread.start()

    def stream(self, **options: Any) -> RemoteStream:
        """See `AsyncClient.stream`."""

        async def make() -> AsyncRemoteStream:
            return self._inner.stream(**options)

        return RemoteStream(self, self.run(make()))

    def transcribe(self, file: AudioFile, *, realtime: bool = False, **options: Any) -> Iterator[ClientEvent]:
        """See `AsyncClient.transcribe`."""
        return self._each(self._inner.transcribe(file, realtime=realtime, **options))

    def follow(self, session_id: str) -> Iterator[ClientEvent]:
        """See `AsyncClient.follow`."""
        return self._each(self._inner.follow(session_id))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the connections live, and wait for it.

        Raises:
            NotReady: the client was not started, or is closed.
        """
        return self._thread.run(work)

    def close(self) -> None:
        """See `AsyncClient.aclose`."""
        self._thread.stop(self._inner.aclose())

    def _each(self, events: AsyncGenerator[ClientEvent]) -> Iterator[ClientEvent]:
        async def following() -> ClientEvent | None:
            return await anext(events, None)

        try:
            while (event := self.run(following())) is not None:
                yield event
        finally:
            if self.running:
                self.run(events.aclose())

    def __enter__(self) -> Client:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
