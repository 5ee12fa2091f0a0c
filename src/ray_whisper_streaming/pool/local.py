"""A pool inside this process: worker threads, one engine each.

The engines release the GIL while they decode, so threads are enough. What threads can't do is die: a hung
engine call can't be stopped, only abandoned. Its thread is a daemon; when the call returns after all, the
thread notices that it was replaced, frees its engine and ends. And a GPU that was lost to the process stays lost to
all its threads: engines are loaded again, in vain, until somebody restarts the process; what is asked of the pool
meanwhile fails and says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from ray_whisper_streaming.core.jobs import Failure, Job, Outcome, Result
from ray_whisper_streaming.core.scheduling import Batch, QueuedJob, Scheduler, SchedulerConfig
from ray_whisper_streaming.engines.base import Engine, EngineCapabilities, EngineFactory
from ray_whisper_streaming.errors import (
    ConfigurationError,
    DeviceLost,
    EngineError,
    EngineTimeout,
    NotReady,
    RayWhisperError,
    StartupTimeout,
    StreamClosed,
)
from ray_whisper_streaming.pool.base import PoolStats
from ray_whisper_streaming.pool.decoding import decode_batch, load_engine, pool_stats, with_timings
from ray_whisper_streaming.pool.pending import PendingPool

__all__ = ["LocalPool"]

WATCHES_PER_TIMEOUT = 20
"""How often the watchdog looks, per job timeout: a timeout is noticed at most a twentieth late."""

RELOAD_TIMEOUT_S = 300.0
"""How long a replaced worker may take to load its engine."""

RELOAD_DELAY_S = 5.0
"""Pause before an engine that could not be loaded again, or lost its device, is given another try."""

CLOSE_WAIT_S = 5.0
"""How long `LocalPool.close` waits for a batch that is being decoded, before it leaves the thread behind."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Worker:
    worker_id: str
    expires_at: float
    """When what it does now (loading, decoding) has taken too long."""
    state: Literal["loading", "idle", "busy", "failed", "abandoned"] = "loading"
    batch: Batch | None = None
    error: RayWhisperError | None = None
    """Why it, or the one whose place it took, has no engine."""
    thread: threading.Thread | None = field(default=None, repr=False)


class LocalPool(PendingPool):
    """A `Recognizer` of threads in this process.

    Args:
        engine_factory: makes the engine of a worker, in the worker's thread.
        workers: number of engines. One is right for CPUs, where an engine uses several cores by itself.
        scheduler: limits of the queue and of batches. The engine's own batch limit is kept too.
        job_timeout_s: an engine call that takes longer fails its jobs with `EngineTimeout`, and the worker is
            replaced.
        clock: monotonic seconds; ``Job.deadline`` stands on it.

    Call `start` next, or use it as a (sync or async) context manager.
    """

    def __init__(
        self,
        engine_factory: EngineFactory,
        workers: int = 1,
        *,
        scheduler: SchedulerConfig | None = None,
        job_timeout_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        if workers < 1:
            raise ConfigurationError("workers", workers, "1 or more")
        if not job_timeout_s > 0:
            raise ConfigurationError("job_timeout_s", job_timeout_s, "more than 0 s")
        self._engine_factory = engine_factory
        self._count = workers
        self._job_timeout_s = job_timeout_s
        self._clock = clock
        self._starting = threading.Lock()
        # One lock guards everything below; workers wait for `_changed`, `start` for `_loaded`.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._loaded = threading.Condition(self._lock)
        self._closed = threading.Event()
        self._ready = False
        self._workers: list[_Worker] = []
        self._watchdog: threading.Thread | None = None
        self._scheduler = Scheduler(scheduler)
        self._load_error: RayWhisperError | None = None

    # Recognizer

    def start(self, timeout_s: float = 300.0) -> None:
        """See `Recognizer`. After a failure it may be called again.

        Raises:
            StartupTimeout, ModelNotFound, StreamClosed: see `Recognizer`.
            PoolError: the engine raised something else while it was loaded.
        """
        with self._starting, self._lock:
            if self._closed.is_set():
                raise StreamClosed("the pool was closed")
            if self._ready:
                return
            self._load_error = None
            self._workers = [self._launch(f"worker-{index}", timeout_s) for index in range(self._count)]
            done = self._loaded.wait_for(
                lambda: (
                    self._closed.is_set()
                    or self._load_error is not None
                    or all(worker.state == "idle" for worker in self._workers)
                ),
                timeout_s,
            )
            if self._closed.is_set():
                raise StreamClosed("the pool was closed while it started")
            if self._load_error is not None or not done:
                self._abandon_all()
                raise self._load_error or StartupTimeout(f"the workers were not ready within {timeout_s:g} s")
            self._ready = True
            self._watchdog = threading.Thread(target=self._watch, name="pool-watchdog", daemon=True)
            self._watchdog.start()

    def submit_nowait(self, job: Job) -> Future[Result]:
        """See `Recognizer`.

        Raises:
            NotReady, StreamClosed, Overloaded: see `Recognizer`.
            InvalidState: a job of the same id is unanswered.
        """
        with self._lock:
            if self._closed.is_set():
                raise StreamClosed("the pool was closed")
            if not self._ready:
                raise NotReady("the pool was not started; call start()")
            future = self._pending.add(job)
            try:
                self._scheduler.add(QueuedJob.of(job), self._clock())
            except RayWhisperError:
                self._pending.drop(job.job_id)
                raise
            self._changed.notify()
        return future

    async def stats(self) -> PoolStats:
        """See `Recognizer`."""
        with self._lock:
            alive = sum(worker.state in ("idle", "busy") for worker in self._workers)
            return pool_stats(self._scheduler.stats(), alive)

    def close(self) -> None:
        """See `Recognizer`. Waits a few seconds for a batch that is being decoded; its jobs fail at once."""
        with self._lock:
            self._closed.set()
            workers, watchdog = self._workers, self._watchdog
            self._changed.notify_all()
            self._loaded.notify_all()
        for job in self._pending.jobs():
            self._pending.fail(job.job_id, StreamClosed("the pool was closed before this job was decoded"))
        give_up_at = time.monotonic() + CLOSE_WAIT_S
        for thread in [*(worker.thread for worker in workers), watchdog]:
            if thread is not None and thread is not threading.current_thread():
                thread.join(max(0.0, give_up_at - time.monotonic()))

    def _withdraw(self, job_id: str) -> None:
        with self._lock:
            if self._scheduler.cancel(job_id):
                self._pending.drop(job_id)

    # A worker's thread

    def _launch(self, worker_id: str, timeout_s: float, error: RayWhisperError | None = None) -> _Worker:
        worker = _Worker(worker_id, expires_at=self._clock() + timeout_s, error=error)
        worker.thread = threading.Thread(
            target=self._work, args=(worker,), name=f"pool-{worker_id}", daemon=True
        )
        worker.thread.start()
        return worker

    def _work(self, worker: _Worker) -> None:
        try:
            engine = load_engine(self._engine_factory)
        except RayWhisperError as error:
            self._fail(worker, error)
            return
        try:
            self._load_done(worker, engine.capabilities)
            while batch := self._next_batch(worker):
                self._decode(worker, engine, batch)
        except DeviceLost as error:
            self._fail(worker, error)
        finally:
            engine.close()

    def _decode(self, worker: _Worker, engine: Engine, batch: Batch) -> None:
        # A job that was cancelled in the meantime, or answered (the pool is closing), is not here any more.
        waits_s: dict[Job, float] = {}
        with self._lock:
            for queued, wait_s in zip(batch.jobs, batch.queue_waits_s, strict=True):
                if job := self._pending.start(queued.job_id):
                    waits_s[job] = wait_s
                else:
                    self._scheduler.update(worker.worker_id, {queued.job_id: False}, 0.0)
        started = self._clock()
        outcomes = decode_batch(engine, list(waits_s)) if waits_s else []
        inference_s = self._clock() - started
        with self._lock:
            if worker.state == "abandoned":
                return
            worker.state, worker.batch = "idle", None
            decoded = {outcome.job_id: isinstance(outcome, Result) for outcome in outcomes}
            self._scheduler.update(worker.worker_id, decoded, inference_s)
        for outcome in with_timings(outcomes, list(waits_s.values()), inference_s):
            self._pending.answer(outcome)

    def _next_batch(self, worker: _Worker) -> Batch | None:
        """Wait for work; None when the worker shall end."""
        with self._lock:
            while worker.state != "abandoned" and not self._closed.is_set():
                if worker.batch is None:
                    self._assign()
                if worker.batch is not None:
                    return worker.batch
                wakeup = self._scheduler.next_wakeup()
                self._changed.wait(None if wakeup is None else max(0.0, wakeup - self._clock()))
            return None

    def _assign(self) -> None:
        """Give work to all idle workers at once, so that it is split between them."""
        now = self._clock()
        idle = {worker.worker_id: worker for worker in self._workers if worker.state == "idle"}
        for batch in self._scheduler.schedule(now, list(idle)):
            worker = idle[batch.worker_id]
            worker.state, worker.batch = "busy", batch
            worker.expires_at = now + self._job_timeout_s
            self._changed.notify_all()

    def _load_done(self, worker: _Worker, capabilities: EngineCapabilities) -> None:
        with self._lock:
            if worker.state == "abandoned":
                return
            self._scheduler.fit_engines(capabilities.max_batch_size, ragged=capabilities.ragged)
            worker.state, worker.error = "idle", None
            self._loaded.notify_all()

    def _fail(self, worker: _Worker, error: RayWhisperError) -> None:
        """A worker has no engine, or none any more: others get its jobs, and after a pause another takes its place."""
        told = str(error) if isinstance(error, DeviceLost) else "no worker could load its engine"
        with self._lock:
            if worker.state == "abandoned":
                return
            worker.state, worker.batch, worker.error = "failed", None, error
            worker.expires_at = self._clock() + RELOAD_DELAY_S
            given_up = self._scheduler.worker_lost(worker.worker_id, told)
            self._load_error = error
            self._loaded.notify_all()
            if not self._ready:
                return
            _log.error("%s has no engine: %s", worker.worker_id, error)
            if all(other.error for other in self._workers):  # even if one is just trying again
                for job in self._pending.jobs():
                    if self._scheduler.cancel(job.job_id):
                        given_up.append(
                            Failure(job_id=job.job_id, error=EngineError(told, job_id=job.job_id))
                        )
            self._changed.notify_all()
        for failure in given_up:
            self._pending.answer(failure)

    # The watchdog's thread

    def _watch(self) -> None:
        while not self._closed.wait(self._job_timeout_s / WATCHES_PER_TIMEOUT):
            failures: list[Outcome] = []
            with self._lock:
                now = self._clock()
                for index, worker in enumerate(self._workers):
                    if worker.state != "idle" and now >= worker.expires_at:
                        failures += self._abandon(worker)
                        self._workers[index] = self._launch(worker.worker_id, RELOAD_TIMEOUT_S, worker.error)
            for failure in failures:
                self._pending.answer(failure)

    def _abandon(self, worker: _Worker) -> list[Failure]:
        hung, batch, worker.state = worker.state != "failed", worker.batch, "abandoned"
        if hung:
            _log.error("%s hangs; another one takes its place", worker.worker_id)
        if batch is None:
            return []
        ended = self._scheduler.update(
            worker.worker_id, {queued.job_id: False for queued in batch.jobs}, self._job_timeout_s
        )
        message = f"no answer within {self._job_timeout_s:g} s"
        return [Failure(job_id=job_id, error=EngineTimeout(message, job_id=job_id)) for job_id in ended]

    def _abandon_all(self) -> None:
        for worker in self._workers:
            worker.state = "abandoned"
        self._workers = []
        self._changed.notify_all()
