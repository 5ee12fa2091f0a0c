"""The models of a server: each has workers, a queue and a load of its own, so that none suffers for another.

A session belongs to one model from its beginning to its end: the one it names, or the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from ray_whisper_streaming.api import AsyncPool, Backend
from ray_whisper_streaming.core.options import AUTO, StreamOptions
from ray_whisper_streaming.engines.factory import EngineName
from ray_whisper_streaming.errors import ConfigurationError, PoolError, RayWhisperError
from ray_whisper_streaming.pool.base import PoolStats
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.load import Load, LoadMeter
from ray_whisper_streaming.server.room import Room

__all__ = ["Models", "ServedModel", "make_pools"]

ENGLISH_ONLY = ".en"
"""How the names of Whisper's models for English alone end."""

ANSWER_S = 5.0
"""A pool that was asked how it is and says nothing for so long can't be counted on: its last figures are too old. One
that answers does so within milliseconds."""

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

    Args:
        pool: of the model's workers; started and closed here.
        config: the limits.
        clock: monotonic seconds.
    """

    def __init__(self, pool: AsyncPool, config: ServerConfig, clock: Callable[[], float]) -> None:
        self.pool = pool
        self.room = Room(config, clock)
        self._meter = LoadMeter(clock)

    @property
    def name(self) -> str:
        """What sessions call it."""
        return self.pool.model

    async def look(self, lags_s: Sequence[float]) -> PoolStats:
        """Measure the load.

        Args:
            lags_s: of the model's live sessions, now.

        Raises:
            RayWhisperError: the pool can't be asked, or is silent; there is no room until it answers.
        """
        try:
            stats = await asyncio.wait_for(self.pool.stats(), ANSWER_S)
        except asyncio.TimeoutError:
            self.room.load = Load(ready=False)
            raise PoolError(f"no answer within {ANSWER_S:g} s") from None
        except RayWhisperError:
            self.room.load = Load(ready=False)
            raise
        self.room.load = self._meter.measure(stats, lags_s)
        return stats

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
        self._by_name = {pool.model: ServedModel(pool, config, clock) for pool in pools}

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
        """Start all pools at the same time; raises what `AsyncPool.start` raises."""
        await asyncio.gather(*(model.pool.start() for model in self))

    async def aclose(self) -> None:
        """Stop all workers. Safe to call twice."""
        await asyncio.gather(*(model.pool.aclose() for model in self))

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_name.values())
