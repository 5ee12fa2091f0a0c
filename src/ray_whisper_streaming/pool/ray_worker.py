"""The actor that holds an engine."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray.exceptions import RayActorError

from ray_whisper_streaming.core.jobs import Failure, Job, Outcome
from ray_whisper_streaming.engines.base import Engine, EngineFactory
from ray_whisper_streaming.errors import EngineError, RayWhisperError
from ray_whisper_streaming.pool.decoding import decode_batch, load_engine, with_timings
from ray_whisper_streaming.pool.ray_messages import DecodeOrder, Ready, Report, pack_answer

__all__ = ["Worker"]


class Worker:
    """Fetches batches from the dispatcher, one at a time, and decodes them in a thread of its own.

    The actor's event loop stays free meanwhile, so that Ray can see that it lives.

    Args:
        engine_factory: makes the engine, when the dispatcher calls first.
    """

    def __init__(self, engine_factory: EngineFactory) -> None:
        # Ray tells OpenMP to use one thread in actors that reserve no whole CPU; how many is the engine's
        # choice.
        os.environ.pop("OMP_NUM_THREADS", None)
        self._engine_factory = engine_factory
        self._engine: Engine | None = None
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._serving = asyncio.Lock()

    async def serve(self, dispatcher: Any, worker_id: str, attendance: int) -> RayWhisperError | None:
        """Load the engine if it is not there, then decode batch after batch while the dispatcher has any.

        The call lasts as long as both actors live: its failure tells the dispatcher that this worker died.

        Args:
            dispatcher: its actor handle.
            worker_id: what the dispatcher calls this worker.
            attendance: counts the dispatcher's calls to this worker: told with each request.

        Returns:
            The error, if the engine can't be loaded.
        """
        async with self._serving:  # an earlier call, of a dispatcher that died since, may still decode
            try:
                engine = await self._loaded_engine()
            except RayWhisperError as error:
                return error
            message: Ready | Report = Ready(engine.capabilities.max_batch_size)
            while True:
                try:
                    order = await dispatcher.exchange.remote(worker_id, attendance, message)
                except RayActorError:
                    return None  # its successor will call
                if order is None:
                    return None
                message = await self._decode(engine, order)

    def process_id(self) -> int:
        """Of this actor."""
        return os.getpid()

    async def _loaded_engine(self) -> Engine:
        if self._engine is not None:
            return self._engine
        loop = asyncio.get_running_loop()
        engine = await loop.run_in_executor(self._engine_thread, load_engine, self._engine_factory)
        self._engine = engine
        return engine

    async def _decode(self, engine: Engine, order: DecodeOrder) -> Report:
        fetched: list[Job | BaseException] = await asyncio.gather(*order.jobs, return_exceptions=True)
        jobs = [job for job in fetched if isinstance(job, Job)]
        loop = asyncio.get_running_loop()
        outcomes, inference_s = await loop.run_in_executor(self._engine_thread, _timed_decode, engine, jobs)
        decoded = iter(outcomes)
        endings = [
            next(decoded) if isinstance(job, Job) else _lost(job_id)
            for job, job_id in zip(fetched, order.job_ids, strict=True)
        ]
        return Report(
            tuple(
                pack_answer(job_id, ending)
                for job_id, ending in zip(
                    order.job_ids, with_timings(endings, order.queue_waits_s, inference_s), strict=True
                )
            ),
            inference_s,
        )


def _timed_decode(engine: Engine, jobs: Sequence[Job]) -> tuple[list[Outcome], float]:
    started = time.monotonic()
    outcomes = decode_batch(engine, jobs) if jobs else []
    return outcomes, time.monotonic() - started


def _lost(job_id: str) -> Failure:
    """The process that owned the audio is gone, and most likely nobody waits for the answer."""
    return Failure(job_id=job_id, error=EngineError("the audio is gone from the object store", job_id=job_id))
