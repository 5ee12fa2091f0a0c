"""The library's front door: a pool of workers, and any number of live streams that share it.

    from ray_whisper_streaming import Pool

    with Pool("tiny.en") as pool, pool.stream() as stream:
        for samples in microphone():          # int16 or float arrays
            stream.push(samples)
            for event in stream.waiting():
                print(event)

`AsyncPool` has the same verbs for asyncio. A `Pool` runs an event loop of its own in a thread and forwards to it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy.typing as npt

from ray_whisper_streaming.core.events import Event
from ray_whisper_streaming.core.options import StreamOptions, check_choice
from ray_whisper_streaming.driver import DrivenStream, StreamDriver
from ray_whisper_streaming.engines.base import EngineFactory
from ray_whisper_streaming.engines.factory import EngineName, engine_factory_for
from ray_whisper_streaming.errors import ConfigurationError, NotReady, RayWhisperError, StreamClosed
from ray_whisper_streaming.loop_thread import LoopThread
from ray_whisper_streaming.pool.base import PoolStats, Recognizer
from ray_whisper_streaming.waiting import within

if TYPE_CHECKING:
    from ray_whisper_streaming.media import AudioConverter

__all__ = ["AsyncLiveStream", "AsyncPool", "Backend", "LiveStream", "Pool", "make_recognizer"]

Backend: TypeAlias = Literal["auto", "local", "ray", "shared"]
Samples: TypeAlias = npt.ArrayLike | bytes | bytearray | memoryview
T = TypeVar("T")

CLOSE_WAIT_S = 1.0
"""How long calls of other threads may take to notice that the pool is closed."""


def make_recognizer(
    model: str = "tiny.en",
    *,
    backend: Backend = "auto",
    device: str = "auto",
    compute_type: str = "auto",
    engine: EngineName = "auto",
    workers: int | None = None,
    max_worker_count: int | None = None,
    gpu_share: float = 1.0,
    name: str | None = None,
    engine_factory: EngineFactory | None = None,
    job_timeout_s: float = 60.0,
) -> Recognizer:
    """A pool of workers as the options say; not started yet.

    Args:
        model: name (``tiny.en`` and ``base`` come with the extra ``models``), path or hub id.
        backend: ``"local"``: threads of this process. ``"ray"``: actors of a Ray cluster, one per GPU. ``"auto"``:
            Ray where Ray is initialised already, else local. ``"shared"``: those that another process keeps in the
            Ray cluster (``ray-whisper pool``, or a pool with a ``name``); of the options below only ``name`` counts.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: CUDA where the worker has it.
        compute_type: CTranslate2's name for the numbers computed with; ``"auto"``: int8 on a CPU, float16 on CUDA.
        engine: ``"ctranslate2"``; ``"onnxruntime"``: on CPUs, in less time; ``"torch"``: on GPUs, with the extra
            ``torch``; ``"auto"``: what fits the worker's device.
        workers: how many; None: one per GPU, or one using all cores.
        max_worker_count: at most so many.
        gpu_share: the part of a Ray cluster's GPUs that this pool may take, where it has others beside it.
        name: of a Ray pool, for others to share it; of the shared one, which is the model's if None.
        engine_factory: makes an engine of your own.
        job_timeout_s: a job that takes longer fails, and its worker is replaced.

    Raises:
        ConfigurationError: an unknown backend or engine, a number of workers that can't be, or a device the engine
            can't use. (What only a worker's machine knows, such as whether it has a GPU, is told at the start.)
    """
    check_choice("backend", backend, ("auto", "local", "ray", "shared"))
    if backend == "shared":
        from ray_whisper_streaming.pool.ray_shared import SharedPool

        return SharedPool(name or model)
    if engine_factory is None:
        engine_factory = engine_factory_for(engine, model=model, device=device, compute_type=compute_type)
    if backend == "ray" or (backend == "auto" and _ray_is_running()):
        from ray_whisper_streaming.pool.ray_pool import RayPool
        from ray_whisper_streaming.pool.ray_session import NAMESPACE

        return RayPool(
            engine_factory,
            name=name,
            namespace=NAMESPACE if name else None,
            workers=workers,
            max_worker_count=max_worker_count,
            gpu_share=gpu_share,
            num_gpus_per_worker=0 if device == "cpu" or engine == "onnxruntime" else None,
            job_timeout_s=job_timeout_s,
        )
    from ray_whisper_streaming.pool.local import LocalPool

    if max_worker_count is not None and max_worker_count < 1:
        raise ConfigurationError("max_worker_count", max_worker_count, "1 or more, or None")
    count = 1 if workers is None else workers
    return LocalPool(
        engine_factory, workers=min(count, max_worker_count or count), job_timeout_s=job_timeout_s
    )


def _ray_is_running() -> bool:
    import sys

    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized())


class AsyncLiveStream:
    """One live stream of an `AsyncPool`. Push audio, iterate its events; both at the same time, as a rule."""

    def __init__(self, driven: DrivenStream, converter: AudioConverter) -> None:
        self._driven = driven
        self._converter = converter

    @property
    def stream_id(self) -> str:
        """The stream's name."""
        return self._driven.machine.stream_id

    async def push(self, samples: Samples) -> None:
        """Give the next samples, of the rate and channels the stream was opened with.

        Waits while ``max_buffer_s`` of audio are waiting for the pool.

        Args:
            samples: int16, or floats of -1 to 1, shape (frames,) or (frames, channels); or bytes of int16.

        Raises:
            AudioError: samples that are no audio; the stream goes on without them.
            StreamClosed: after `finish`, `close` or the terminal event.
        """
        await self._driven.push(self._converter.convert(samples))

    def push_nowait(self, samples: Samples) -> None:
        """`push`, but refusing instead of waiting.

        Raises:
            Overloaded: too much audio or too many events are waiting; nothing was taken, though a resampler has
                seen the samples: use it on streams of 16 kHz mono int16, which need none.
            AudioError, StreamClosed: see `push`.
        """
        self._driven.push_nowait(self._converter.convert(samples))

    def flush_nowait(self, flush_id: str) -> None:
        """`flush` for callers that can't await."""
        self._driven.flush(flush_id)

    def finish_nowait(self) -> None:
        """`finish` for callers that can't await; only for streams that resample nothing (see `push_nowait`)."""
        self._driven.finish()

    @property
    def received_s(self) -> float:
        """Seconds of audio received so far."""
        return self._driven.machine.received_s

    @property
    def lag_s(self) -> float:
        """Seconds of audio received that no pass has seen, known silence aside."""
        return self._driven.machine.lag_s

    @property
    def kept_from_s(self) -> float:
        """Everything before this second is decoded and its words are committed: nobody need keep its audio."""
        return self._driven.machine.kept_from_s

    async def flush(self, flush_id: str | None = None) -> str:
        """Have everything pushed so far decoded and committed. A `Flushed` event with the id returned follows."""
        flush_id = flush_id or f"flush-{next(_flush_numbers)}"
        self._driven.flush(flush_id)
        return flush_id

    async def finish(self) -> None:
        """No more audio will come; the events go on until the terminal one. Safe to call twice."""
        if not self._driven.machine.over and not self._driven.closed:
            tail = self._converter.flush()
            if len(tail) and not self._driven.machine.ended:
                await self._driven.push(tail)
        self._driven.finish()

    async def next_event(self) -> Event | None:
        """The next event; None after the terminal one."""
        return await self._driven.next_event()

    def next_event_nowait(self) -> Event | None:
        """The next event if one is there; None otherwise."""
        return self._driven.next_event_nowait()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """All events, until the terminal one (`Final` with ``end_of_stream``, or `StreamFailed`)."""
        while (event := await self._driven.next_event()) is not None:
            yield event

    async def aclose(self) -> None:
        """Give the stream up; without `finish`, undecoded audio is dropped. Safe to call twice."""
        self._driven.close()

    async def __aenter__(self) -> AsyncLiveStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


class AsyncPool:
    """A pool of Whisper workers for asyncio.

    Args:
        model: name, path or hub id; streams may name another only where ``recognizer``, or an ``engine_factory``, knows
            it.
        recognizer: a pool made elsewhere, instead of one made from ``options``; it is not closed here.
        options: see `make_recognizer`.
    """

    def __init__(
        self,
        model: str = "tiny.en",
        *,
        recognizer: Recognizer | None = None,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        self.model = model
        self.recognizer: Recognizer = recognizer or make_recognizer(model, **options)
        self._owned = recognizer is None
        self._options = options
        self._clock = clock
        self._driver: StreamDriver | None = None
        self._closed = False

    def unstarted_copy(self) -> AsyncPool:
        """A pool of the same options, for when this one is closed: it can't be started again."""
        recognizer = None if self._owned else self.recognizer
        return AsyncPool(self.model, recognizer=recognizer, clock=self._clock, **self._options)

    async def start(self, timeout_s: float = 300.0) -> None:
        """Start the workers and wait until they are warm. Safe to call twice.

        Raises:
            StartupTimeout: they were not in time.
            ModelNotFound: the model is not on this machine.
            ConfigurationError: the engine can't use the device or the compute type there.
        """
        if self._closed:
            raise StreamClosed("the pool is closed")
        if self._owned:
            await asyncio.get_running_loop().run_in_executor(None, self.recognizer.start, timeout_s)
        if self._driver is None:
            self._driver = StreamDriver(self.recognizer, self.model, self._clock)

    def stream(
        self,
        options: StreamOptions | None = None,
        *,
        stream_id: str | None = None,
        sample_rate: int = 16_000,
        channels: int = 1,
        **changes: Any,
    ) -> AsyncLiveStream:
        """Open a stream.

        Args:
            options: how it is to be transcribed.
            stream_id: its name in jobs and logs; must be unique in the pool.
            sample_rate: of the samples that will be pushed, per second.
            channels: of the samples that will be pushed; they are mixed down.
            changes: fields of `StreamOptions`, over ``options``.

        Raises:
            ConfigurationError: an option has a value it can't have.
            NotReady: before `start`.
        """
        options = replace(options or StreamOptions(), **changes)
        if not self._knows(options.model):
            raise ConfigurationError("model", options.model, f"{self.model!r}, which this pool has, or None")
        if self._driver is None:
            raise StreamClosed("the pool is closed") if self._closed else NotReady("start the pool first")
        from ray_whisper_streaming.media import AudioConverter

        converter = AudioConverter(sample_rate, channels)
        driven = self._driver.open(stream_id or f"stream-{next(_stream_numbers)}", options)
        return AsyncLiveStream(driven, converter)

    def _knows(self, model: str | None) -> bool:
        """Whether streams may name this model. What engines of the caller's own know, they know."""
        return model in (None, self.model) or not self._owned or "engine_factory" in self._options

    async def stats(self) -> PoolStats:
        """What the pool did so far."""
        return await self.recognizer.stats()

    async def aclose(self) -> None:
        """Close all streams, and stop the workers. Safe to call twice; leaves no process."""
        self._closed = True
        driver, self._driver = self._driver, None
        if driver is not None:
            await driver.aclose()
        if self._owned:
            await self.recognizer.aclose()

    async def __aenter__(self) -> AsyncPool:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


_stream_numbers = itertools.count(1)
_flush_numbers = itertools.count(1)


class LiveStream:
    """One live stream of a `Pool`: `AsyncLiveStream` for programs without asyncio. Usable from several threads."""

    def __init__(self, pool: Pool, inner: AsyncLiveStream) -> None:
        self._pool = pool
        self._inner = inner

    @property
    def stream_id(self) -> str:
        """The stream's name."""
        return self._inner.stream_id

    def push(self, samples: Samples) -> None:
        """See `AsyncLiveStream.push`."""
        self._pool.run(self._inner.push(samples))

    def flush(self, flush_id: str | None = None) -> str:
        """See `AsyncLiveStream.flush`."""
        return self._pool.run(self._inner.flush(flush_id))

    def finish(self) -> None:
        """See `AsyncLiveStream.finish`."""
        self._pool.run(self._inner.finish())

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None after the terminal one, or when none came within ``timeout_s`` seconds."""
        try:
            return self._pool.run(within(timeout_s, self._inner.next_event))
        except asyncio.TimeoutError:
            return None

    def waiting(self) -> Iterator[Event]:
        """The events that are there now, without waiting."""
        while (event := self.next_event(0.0)) is not None:
            yield event

    def __iter__(self) -> Iterator[Event]:
        """All events, until the terminal one; waits for each. Push from another thread, or `finish` before."""
        while (event := self.next_event()) is not None:
            yield event

    def close(self) -> None:
        """See `AsyncLiveStream.aclose`."""
        if self._pool.running:
            self._pool.run(self._inner.aclose())

    def __enter__(self) -> LiveStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Pool:
    """A pool of Whisper workers for programs without asyncio; arguments as for `AsyncPool`."""

    def __init__(self, model: str = "tiny.en", **options: Any) -> None:
        self._inner = AsyncPool(model, **options)
        self._thread = LoopThread("the pool", "streams", grace_s=CLOSE_WAIT_S)

    @property
    def recognizer(self) -> Recognizer:
        """The workers behind the pool."""
        return self._inner.recognizer

    @property
    def running(self) -> bool:
        """Whether the pool was started and not closed."""
        return self._thread.running

    def start(self, timeout_s: float = 300.0) -> None:
        """See `AsyncPool.start`."""
        self._thread.start()
        try:
            self.run(self._inner.start(timeout_s))
        except RayWhisperError:
            self.close()
            raise

    def stream(self, options: StreamOptions | None = None, **settings: Any) -> LiveStream:
        """Open a stream; arguments as for `AsyncPool.stream`."""

        async def open_stream() -> AsyncLiveStream:
            return self._inner.stream(options, **settings)

        return LiveStream(self, self.run(open_stream()))

    def stats(self) -> PoolStats:
        """What the pool did so far."""
        return self.run(self._inner.stats())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the pool's event loop and wait for it.

        Raises:
            NotReady: the pool is not running.
        """
        return self._thread.run(work)

    def close(self) -> None:
        """See `AsyncPool.aclose`."""
        self._thread.stop(self._inner.aclose())

    def __enter__(self) -> Pool:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
