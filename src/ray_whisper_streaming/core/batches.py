"""What the scheduler is told and what it tells: its limits, records of jobs, batches, counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ray_whisper_streaming.core.jobs import BatchKey, Job
from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["Batch", "QueuedJob", "SchedulerConfig", "SchedulerStats", "WorkerStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Limits of the queue and of a batch.

    Attributes:
        max_queued: jobs that may wait; beyond it `Scheduler.add` raises `Overloaded`. At least 1.
        max_batch_size: jobs in a batch. At least 1; larger batches pay on a GPU up to about 64.
        max_batch_frames: mel frames (window seconds times 100) in a batch, but at least one job. Bounds
            memory.
        target_batch_s: a batch is kept so small that it takes about this many seconds, by the measured speed
            of the workers; None for no such limit. Short batches let urgent jobs in sooner, long ones do more
            per second: matters on CPUs.
        batch_wait_s: how long a job may be held back, while a worker is idle, in the hope of company. 0 never
            leaves a worker idle. Finals are never held.
        max_tries: how often a job is given to a worker before it fails with `WorkerDied`. At least 1.
    """

    max_queued: int = 4096
    max_batch_size: int = 64
    max_batch_frames: int = 128_000
    target_batch_s: float | None = 1.0
    batch_wait_s: float = 0.0
    max_tries: int = 3

    def __post_init__(self) -> None:
        for name in ("max_queued", "max_batch_size", "max_batch_frames", "max_tries"):
            if getattr(self, name) < 1:
                raise ConfigurationError(name, getattr(self, name), "1 or more")
        if self.target_batch_s is not None and not self.target_batch_s > 0:
            raise ConfigurationError("target_batch_s", self.target_batch_s, "more than 0 s, or None")
        if not 0 <= self.batch_wait_s < math.inf:
            raise ConfigurationError("batch_wait_s", self.batch_wait_s, "0 s or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedJob:
    """What the scheduler knows of a job.

    Attributes:
        job_id: unique.
        stream_id: whose job.
        batch_key: equal keys may share a batch.
        tenant: fairness is kept between tenants.
        deadline: second of the scheduler's clock by which the answer is wanted; 0 or past means at once.
        keeps_place: whether a deadline that has passed counts as it is: the job stands for one that waited.
        final: the last job of an utterance.
        audio_s: seconds of audio; what the tenant is charged.
    """

    job_id: str
    stream_id: str
    batch_key: BatchKey
    tenant: str = ""
    deadline: float = 0.0
    keeps_place: bool = False
    final: bool = False
    audio_s: float = 0.0

    @classmethod
    def of(cls, job: Job) -> QueuedJob:
        """The record of a job whose deadline stands on the scheduler's clock."""
        return cls(
            job_id=job.job_id,
            stream_id=job.stream_id,
            batch_key=job.batch_key,
            tenant=job.tenant,
            deadline=job.deadline,
            keeps_place=job.keeps_place,
            final=job.final,
            audio_s=job.audio_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Jobs of one key for one worker.

    Attributes:
        worker_id: who shall decode it.
        jobs: never empty, most urgent first.
        queue_waits_s: seconds each job waited, in the order of ``jobs``.
    """

    worker_id: str
    jobs: tuple[QueuedJob, ...]
    queue_waits_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """What one worker did.

    Attributes:
        jobs_done: jobs it answered with a result.
        batches: engine calls that gave one.
        inference_s: seconds they took.
        audio_s: seconds of audio it decoded.
    """

    jobs_done: int = 0
    batches: int = 0
    inference_s: float = 0.0
    audio_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStats:
    """Counts since the start; sums in seconds. See `PoolStats` for the meaning of each."""

    queued: int
    in_flight: int
    jobs_done: int
    jobs_failed: int
    jobs_retried: int
    batches: int
    batched_jobs: int
    queue_wait_sum_s: float
    inference_sum_s: float
    audio_s: float
    workers_by_id: Mapping[str, WorkerStats]
