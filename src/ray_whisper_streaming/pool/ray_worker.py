"""The actor that holds an engine."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import ray as untyped_ray
from ray.exceptions import RayActorError, RayError

from ray_whisper_streaming.core.jobs import Failure, Job
from ray_whisper_streaming.engines.base import Engine, EngineFactory
from ray_whisper_streaming.errors import EngineError, RayWhisperError
from ray_whisper_streaming.pool.decoding import decode_batch, load_engine, with_timings
from ray_whisper_streaming.pool.ray_messages import DecodeOrder, JobRef, Ready, Report, pack_answer

__all__ = ["Worker"]

P = ParamSpec("P")
T = TypeVar("T")

ray: Any = untyped_ray


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
                message = await self._in_engine_thread(_decode, engine, order)

    async def _loaded_engine(self) -> Engine:
        if self._engine is None:
            self._engine = await self._in_engine_thread(load_engine, self._engine_factory)
        return self._engine

    async def _in_engine_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._engine_thread, call)


def _decode(engine: Engine, order: DecodeOrder) -> Report:
    jobs = _fetch(order.jobs)
    present = [job for job in jobs if job is not None]
    started = time.monotonic()
    outcomes = iter(decode_batch(engine, present) if present else [])
    inference_s = time.monotonic() - started
    endings = [
        _lost(job_id) if job is None else next(outcomes)
        for job_id, job in zip(order.job_ids, jobs, strict=True)
    ]
    timed = with_timings(endings, order.queue_waits_s, inference_s)
    answers = tuple(map(pack_answer, order.job_ids, timed))
    return Report(answers, inference_s)


def _fetch(refs: Sequence[JobRef]) -> list[Job | None]:
    """The jobs behind the references; None for one that is gone."""
    try:
        return ray.get(list(refs))
    except RayError:
        return [_fetch_one(ref) for ref in refs]


def _fetch_one(ref: JobRef) -> Job | None:
    try:
        return ray.get(ref)
    except RayError:
        return None


def _lost(job_id: str) -> Failure:
    """The process that owned the audio has ended, and most likely nobody waits for the answer."""
    return Failure(job_id=job_id, error=EngineError("the audio is gone from the object store", job_id=job_id))
