"""The models of a server: each has workers, a queue and a load of its own, so that none suffers for another.

A session belongs to one model from its beginning to its end: the one it names, or the first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from ray_whisper_streaming.api import AsyncPool, Backend
from ray_whisper_streaming.core.options import AUTO, StreamOptions
from ray_whisper_streaming.engines.factory import EngineName
from ray_whisper_streaming.errors import ConfigurationError, PoolError, RayWhisperError
from ray_whisper_streaming.pool.base import PoolStats
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.freed_memory import give_back_memory
from ray_whisper_streaming.server.load import Load, LoadMeter
from ray_whisper_streaming.server.refusal import Refusal
from ray_whisper_streaming.server.room import Room

__all__ = ["Models", "ServedModel", "make_pools"]

logger = logging.getLogger(__name__)

ENGLISH_ONLY = ".en"
"""How the names of Whisper's models for English alone end."""

ANSWER_S = 5.0
"""A pool that was asked how it is and says nothing for so long can't be counted on: its last figures are too old. One
that answers does so within milliseconds."""

LOADING_S = 8.0
"""Who names a model that must be loaded waits for so long; many clients give a handshake 10 s."""

LOADING_RETRY_S, FAILED_RETRY_S = 5.0, 30.0
"""The hints where that was too short, and where the model can't be had."""

BACKENDS: dict[str, Backend] = {"local": "local", "ray": "ray", "shared": "shared"}
ENGINES: dict[str, EngineName] = {name: name for name in get_args(EngineName)}


def make_pools(config: ServerConfig, *, named: bool = False) -> list[AsyncPool]:
    """A pool for each model that is to be served, in their order; not started.

    Where numbers of workers are given, a Ray cluster's GPUs are divided by them; else evenly.

    Args:
        config: models, workers and where they run.
        named: other processes find the pools in Ray by their models' names (backend "shared").
    """
    counts: tuple[int | None, ...] = config.workers or (None,)
    counts = counts * len(config.model) if len(counts) == 1 else counts
    total = sum(count or 1 for count in counts)
    return [
        AsyncPool(
            model,
            backend=BACKENDS[config.backend],
            engine=ENGINES[config.engine],
            device=config.device,
            compute_type=config.compute_type,
            workers=count,
            gpu_share=(count or 1) / total,
            name=model if named else None,
        )
        for model, count in zip(config.model, counts, strict=True)
    ]


class ServedModel:
    """A model with its pool, and the room that there is in it.

    Where it may be unloaded, it is loaded when it is wanted. While it is not, its room counts as free: whoever names it
    waits for it at the door.

    Args:
        pool: of the model's workers; started and closed here.
        config: the limits.
        clock: monotonic seconds.
        unload_after_s: so long without a stream unloads it; None: it is there from the start to the end.
    """

    def __init__(
        self,
        pool: AsyncPool,
        config: ServerConfig,
        clock: Callable[[], float],
        unload_after_s: float | None = None,
    ) -> None:
        self.pool = pool
        self.room = Room(config, clock)
        self.is_loaded = False
        self._clock = clock
        self._meter = LoadMeter(clock)
        self._unload_after_s = unload_after_s
        self._loading: asyncio.Task[RayWhisperError | None] | None = None
        self._unloading: asyncio.Task[None] | None = None
        self._used_at = clock()

    @property
    def name(self) -> str:
        """What sessions call it."""
        return self.pool.model

    async def start(self) -> None:
        """Load it, unless that is done when it is wanted; raises what `AsyncPool.start` raises."""
        if self._unload_after_s is None and (error := await self._load()) is not None:
            raise error

    def open(self) -> None:
        """Sessions may come, though it may not be loaded yet."""
        self.room.load = Load()

    async def want(self) -> None:
        """Wait until it is loaded, but no longer than clients wait for an answer.

        Raises:
            Refusal: ``not_ready``: it takes longer, and goes on; or it can't be had.
        """
        self._used_at = self._clock()
        if self.is_loaded or self._unload_after_s is None:
            return
        try:
            error = await asyncio.wait_for(asyncio.shield(self._load()), LOADING_S)
        except asyncio.TimeoutError:
            raise Refusal("not_ready", "the model is being loaded", retry_after_s=LOADING_RETRY_S) from None
        if error is not None:
            raise Refusal("not_ready", "the model can't be loaded", retry_after_s=FAILED_RETRY_S)

    def unload_if_idle(self) -> None:
        """Unload it, if nobody wanted it for long enough. Call it now and then."""
        now = self._clock()
        if self.room.streams:
            self._used_at = now
        if self._unload_after_s is None or not self.is_loaded or now - self._used_at <= self._unload_after_s:
            return
        logger.info("model unloaded", extra={"model": self.name})
        self.is_loaded = False
        self._meter = LoadMeter(self._clock)
        self.open()
        self._unloading = asyncio.create_task(self._renew_pool())

    async def look(self, lags_s: Sequence[float]) -> PoolStats:
        """Measure the load.

        Args:
            lags_s: of the model's live sessions, now.

        Raises:
            RayWhisperError: the pool can't be asked, or is silent; there is no room until it answers.
        """
        if not self.is_loaded:
            return PoolStats()
        try:
            stats = await asyncio.wait_for(self.pool.stats(), ANSWER_S)
        except asyncio.TimeoutError:
            self.room.load = Load(ready=False)
            raise PoolError(f"no answer within {ANSWER_S:g} s") from None
        except RayWhisperError:
            self.room.load = Load(ready=False)
            raise
        if self.is_loaded:  # still
            self.room.load = self._meter.measure(stats, lags_s)
        return stats

    async def aclose(self) -> None:
        """Stop the workers. Safe to call twice."""
        if self._loading is not None:
            self._loading.cancel()
        await asyncio.gather(*filter(None, (self._loading, self._unloading)), return_exceptions=True)
        await self.pool.aclose()

    def _load(self) -> asyncio.Task[RayWhisperError | None]:
        if self._loading is None:
            self._loading = asyncio.create_task(self._start_pool())
        return self._loading

    async def _start_pool(self) -> RayWhisperError | None:
        """Nobody may be there any more to hear of an error: it is returned, and logged where the server goes on."""
        try:
            if self._unloading is not None:
                await self._unloading  # the old one's memory may be wanted
            await self.pool.start()
            self.is_loaded, self._used_at = True, self._clock()
            logger.info("model loaded", extra={"model": self.name})
            return None
        except RayWhisperError as error:
            if self._unload_after_s is not None:
                logger.error("the model %s can't be loaded: %s", self.name, error)
                await self._renew_pool()
            return error
        finally:
            self._loading = None

    async def _renew_pool(self) -> None:
        """A pool that was closed can't be started again."""
        old, self.pool = self.pool, self.pool.unstarted_copy()
        await old.aclose()
        del old
        await asyncio.to_thread(give_back_memory)

    def check(self, options: StreamOptions) -> None:
        """Say now what otherwise the first job would say.

        Raises:
            ConfigurationError: the model can't do what the options want.
        """
        if not self.name.endswith(ENGLISH_ONLY):
            return
        if options.language not in (AUTO, "en"):
            raise ConfigurationError(
                "language", options.language, f"en or auto, as {self.name} knows English alone"
            )
        if options.task == "translate":
            raise ConfigurationError("task", options.task, f"transcribe, as {self.name} knows English alone")


class Models:
    """All models of a server, by their names; iterated in their order.

    Args:
        pools: one per model, of different names; the first is the default.
        config: the limits.
        clock: monotonic seconds.
    """

    def __init__(self, pools: Sequence[AsyncPool], config: ServerConfig, clock: Callable[[], float]) -> None:
        first, *others = pools
        served = [ServedModel(first, config, clock)]
        served += [ServedModel(pool, config, clock, config.unload_after_s) for pool in others]
        self._by_name = {model.name: model for model in served}

    @property
    def names(self) -> tuple[str, ...]:
        """What sessions may name; the first is what they get if they name none."""
        return tuple(self._by_name)

    @property
    def rooms(self) -> list[Room]:
        """Of all models."""
        return [model.room for model in self]

    def choose(self, name: str | None = None) -> ServedModel:
        """The model of this name; None: the default.

        Raises:
            ConfigurationError: there is none; it tells which there are.
        """
        name = name or self.names[0]
        if name not in self._by_name:
            raise ConfigurationError("model", name, f"one that this server has: {', '.join(self.names)}")
        return self._by_name[name]

    async def start(self) -> None:
        """Start all that are not loaded on demand, at the same time; raises what `AsyncPool.start` raises."""
        await asyncio.gather(*(model.start() for model in self))
        for model in self:
            model.open()

    async def aclose(self) -> None:
        """Stop all workers. Safe to call twice."""
        await asyncio.gather(*(model.aclose() for model in self))

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_name.values())
