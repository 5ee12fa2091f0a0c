"""What a stream's shell asks of a pool."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ray_whisper_streaming.core.batches import WorkerStats
from ray_whisper_streaming.core.jobs import Job, Result

__all__ = ["PoolStats", "Recognizer", "WorkerStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """A snapshot of a pool, counted since its start.

    Attributes:
        workers: workers ready now.
        queued: jobs waiting for a worker.
        in_flight: jobs being decoded.
        jobs_done: jobs answered with a result.
        jobs_failed: jobs answered with an error.
        jobs_retried: jobs run again after their worker died.
        batches: engine calls.
        batch_size_mean: jobs per engine call.
        queue_wait_s: mean seconds a job waited.
        inference_s: mean seconds of an engine call.
        audio_s: seconds of audio decoded (a second decoded twice counts twice).
        workers_by_id: what each worker did.
    """

    workers: int = 0
    queued: int = 0
    in_flight: int = 0
    jobs_done: int = 0
    jobs_failed: int = 0
    jobs_retried: int = 0
    batches: int = 0
    batch_size_mean: float = 0.0
    queue_wait_s: float = 0.0
    inference_s: float = 0.0
    audio_s: float = 0.0
    workers_by_id: Mapping[str, WorkerStats] = field(default_factory=dict[str, WorkerStats])


@runtime_checkable
class Recognizer(Protocol):
    """A pool of workers behind one queue. Usable from any thread and any event loop."""

    def start(self, timeout_s: float = 300.0) -> None:
        """Start the workers and wait until each has loaded and warmed up. Safe to call twice.

        Raises:
            StartupTimeout: not ready within ``timeout_s`` seconds.
            ModelNotFound: the model is not there.
        """
        ...

    def submit_nowait(self, job: Job) -> Future[Result]:
        """Queue a job and return at once; the future ends with a result or a typed error.

        Cancelling the future withdraws a job that is not being decoded yet.

        Raises:
            NotReady: before `start`.
            StreamClosed: after `close`.
            Overloaded: the queue is full. (Where the queue is in another process, the future carries it.)
        """
        ...

    async def submit(self, job: Job) -> Result:
        """Queue a job and wait for its result. Raises `TranscriptionError`, `Overloaded`, `PoolError`."""
        ...

    async def withdraw(self, job_id: str) -> bool:
        """Take back a job that no worker has begun; its future is cancelled. False: it is too late for that."""
        ...

    async def stats(self) -> PoolStats:
        """What the pool did so far."""
        ...

    async def drain(self) -> None:
        """Wait until every job given so far is answered."""
        ...

    def close(self) -> None:
        """Stop the workers; unanswered jobs fail with `StreamClosed`. Safe to call twice; leaves no process."""
        ...

    async def aclose(self) -> None:
        """`close` without blocking the event loop."""
        ...
