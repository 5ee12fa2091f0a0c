"""The actor that holds an engine."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray as untyped_ray
from ray.exceptions import RayActorError, RayError

from ray_whisper_streaming.core.jobs import Failure, Job
from ray_whisper_streaming.engines.base import Engine, EngineFactory
from ray_whisper_streaming.errors import DeviceLost, EngineError, RayWhisperError
from ray_whisper_streaming.pool.decoding import decode_batch, load_engine, with_timings
from ray_whisper_streaming.pool.ray_messages import DecodeOrder, JobRef, Ready, Report, pack_answer

__all__ = ["Worker"]

ray: Any = untyped_ray


class Worker:
    """Fetches batches from the dispatcher, one at a time, and decodes them.

    Fetching, decoding and reporting happen in one thread; the actor's event loop stays free, so that Ray can see
    that it lives.

    Args:
        engine_factory: makes the engine, when the dispatcher calls first.
    """

    def __init__(self, engine_factory: EngineFactory) -> None:
        # Ray tells OpenMP to use one thread in actors that reserve no whole CPU; how many is the engine's
        # choice.
        os.environ.pop("OMP_NUM_THREADS", None)
        self._engine_factory = engine_factory
        self._engine: Engine | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    async def serve(self, dispatcher: Any, worker_id: str, attendance: int) -> RayWhisperError | None:
        """Load the engine if it is not there, then decode batch after batch while the dispatcher has any.

        The call lasts as long as both actors live: its failure tells the dispatcher that this worker died. A
        second call (of a dispatcher that took the place of a dead one) begins when the first has noticed.

        Args:
            dispatcher: its actor handle.
            worker_id: what the dispatcher calls this worker.
            attendance: counts the dispatcher's calls to this worker: told with each request.

        Returns:
            The error, if the engine can't be loaded or its device was lost. After `DeviceLost` nothing can be decoded
            in this process any more.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._serve, dispatcher, worker_id, attendance)

    def _serve(self, dispatcher: Any, worker_id: str, attendance: int) -> RayWhisperError | None:
        try:
            engine = self._engine = self._engine or load_engine(self._engine_factory)
        except RayWhisperError as error:
            return error
        message: Ready | Report = Ready(engine.capabilities.max_batch_size, engine.capabilities.ragged)
        while True:
            try:
                order: DecodeOrder | None = ray.get(
                    dispatcher.exchange.remote(worker_id, attendance, message)
                )
            except RayActorError:
                return None  # its successor will call
            if order is None:
                return None
            try:
                message = _decode(engine, order)
            except DeviceLost as error:
                self._engine = None
                return error


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
