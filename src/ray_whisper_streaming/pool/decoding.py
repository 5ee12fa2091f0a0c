"""What the workers of every pool do with a batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from ray_whisper_streaming.core.jobs import Failure, Job, Outcome, Result, Timings
from ray_whisper_streaming.core.scheduling import SchedulerStats
from ray_whisper_streaming.engines.base import Engine, EngineFactory
from ray_whisper_streaming.errors import (
    DeviceLost,
    EngineError,
    PoolError,
    RayWhisperError,
    TranscriptionError,
)
from ray_whisper_streaming.pool.base import PoolStats

__all__ = ["decode_batch", "load_engine", "pool_stats", "with_timings"]

_log = logging.getLogger(__name__)


def load_engine(factory: EngineFactory) -> Engine:
    """Make an engine and warm it up.

    Raises:
        RayWhisperError: as the engine raised it (`ModelNotFound`, `DeviceLost`).
        PoolError: the engine raised anything else, or can't decode.
    """
    try:
        engine = factory()
        engine.warm_up()
    except TranscriptionError as error:  # of what it decoded to be warm: no job of anybody's
        raise PoolError(f"the engine could not be loaded: {error}") from error
    except RayWhisperError:
        raise
    except Exception as error:
        raise PoolError(f"the engine could not be loaded: {type(error).__name__}: {error}") from error
    return engine


def decode_batch(engine: Engine, jobs: Sequence[Job]) -> list[Outcome]:
    """Decode. What the engine leaves without an answer becomes a `Failure`.

    Raises:
        DeviceLost: the worker can't go on with this engine.
    """
    answers: Sequence[Outcome | None]
    try:
        answers, problem = engine.transcribe(jobs), "the engine gave no answer for this job"
    except DeviceLost:
        raise
    except Exception as error:
        # The text of the error stays here: it might quote what was heard.
        _log.warning("the engine raised %s on a batch of %d", type(error).__name__, len(jobs))
        answers, problem = [], f"the engine raised {type(error).__name__}"
    return [
        answer
        if answer is not None and answer.job_id == job.job_id
        else Failure(job_id=job.job_id, error=EngineError(problem, job_id=job.job_id))
        for job, answer in zip_longest(jobs, answers[: len(jobs)])
    ]


def with_timings(
    outcomes: Sequence[Outcome], queue_waits_s: Sequence[float], inference_s: float
) -> list[Outcome]:
    """The outcomes of one engine call, each result told where its time went."""
    return [
        replace(
            outcome, timings=Timings(queue_wait_s=wait_s, inference_s=inference_s, batch_size=len(outcomes))
        )
        if isinstance(outcome, Result)
        else outcome
        for outcome, wait_s in zip(outcomes, queue_waits_s, strict=True)
    ]


def pool_stats(stats: SchedulerStats, workers: int) -> PoolStats:
    """A pool's snapshot from its scheduler's."""
    return PoolStats(
        workers=workers,
        queued=stats.queued,
        in_flight=stats.in_flight,
        jobs_done=stats.jobs_done,
        jobs_failed=stats.jobs_failed,
        jobs_retried=stats.jobs_retried,
        batches=stats.batches,
        batch_size_mean=stats.batched_jobs / max(1, stats.batches),
        queue_wait_s=stats.queue_wait_sum_s / max(1, stats.batched_jobs),
        inference_s=stats.inference_sum_s / max(1, stats.batches),
        audio_s=stats.audio_s,
        workers_by_id=stats.workers_by_id,
    )
