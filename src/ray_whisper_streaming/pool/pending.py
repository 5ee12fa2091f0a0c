"""Jobs that wait for an answer, and what every pool does with them."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from types import TracebackType
from typing import TypeVar

from ray_whisper_streaming.core.jobs import Failure, Job, Outcome, Result
from ray_whisper_streaming.errors import InvalidState, RayWhisperError

__all__ = ["Pending", "PendingPool"]


class Pending:
    """The unanswered jobs of one process, each with its future. Thread-safe.

    Args:
        withdraw: called with the id of a job whose future was cancelled, in the thread that cancelled it.
    """

    def __init__(self, withdraw: Callable[[str], None]) -> None:
        self._withdraw = withdraw
        self._lock = threading.Lock()
        self._jobs: dict[str, tuple[Job, Future[Result]]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> Future[Result]:
        """Make the future of a job.

        Raises:
            InvalidState: a job of that id is unanswered.
        """
        future: Future[Result] = Future()
        with self._lock:
            if job.job_id in self._jobs:
                raise InvalidState(f"job {job.job_id} was submitted before and is unanswered")
            self._jobs[job.job_id] = (job, future)
        future.add_done_callback(lambda done: self._withdraw(job.job_id) if done.cancelled() else None)
        return future

    def job(self, job_id: str) -> Job | None:
        """The job; None if it is not here."""
        entry = self._jobs.get(job_id)
        return entry[0] if entry else None

    def start(self, job_id: str) -> Job | None:
        """The job, whose future can't be cancelled from now on; None if it was cancelled or is not here."""
        with self._lock:
            if job_id not in self._jobs:
                return None
            job, future = self._jobs[job_id]
            if not future.running() and not future.set_running_or_notify_cancel():
                del self._jobs[job_id]  # that may be said once only
                return None
        return job

    def cancel(self, job_id: str) -> bool:
        """Cancel the future of a job; returns False if it was started, answered or is not here."""
        entry = self._jobs.get(job_id)
        return entry is not None and entry[1].cancel()

    def drop(self, job_id: str) -> None:
        """Forget a job that was cancelled or never queued."""
        future = self._take(job_id)
        if future is not None and future.cancelled():
            future.set_running_or_notify_cancel()  # wakes those who wait with `concurrent.futures.wait`

    def answer(self, outcome: Outcome) -> bool:
        """End the future of a job; returns False for a job that is not here: late, doubled or cancelled."""
        if isinstance(outcome, Failure):
            return self.fail(outcome.job_id, outcome.error)
        future = self._take(outcome.job_id)
        if future is None:
            return False
        try:
            future.set_result(outcome)
        except InvalidStateError:  # cancelled
            return False
        return True

    def fail(self, job_id: str, error: RayWhisperError) -> bool:
        """End the future of a job with an error; returns as `answer` does."""
        future = self._take(job_id)
        if future is None:
            return False
        try:
            future.set_exception(error)
        except InvalidStateError:  # cancelled
            return False
        return True

    def jobs(self) -> list[Job]:
        """All unanswered jobs, oldest first."""
        with self._lock:
            return [job for job, _ in self._jobs.values()]

    def futures(self) -> list[Future[Result]]:
        """Their futures."""
        with self._lock:
            return [future for _, future in self._jobs.values()]

    def _take(self, job_id: str) -> Future[Result] | None:
        with self._lock:
            entry = self._jobs.pop(job_id, None)
        return entry[1] if entry else None


_Self = TypeVar("_Self", bound="PendingPool")


class PendingPool(ABC):
    """The part of a `Recognizer` that follows from its futures."""

    def __init__(self) -> None:
        self._pending = Pending(self._withdraw)

    @abstractmethod
    def start(self, timeout_s: float = 300.0) -> None:
        """See `Recognizer`."""

    @abstractmethod
    def submit_nowait(self, job: Job) -> Future[Result]:
        """See `Recognizer`."""

    @abstractmethod
    def close(self) -> None:
        """See `Recognizer`."""

    @abstractmethod
    def _withdraw(self, job_id: str) -> None:
        """The future of this job was cancelled."""

    async def submit(self, job: Job) -> Result:
        """See `Recognizer`. Cancelling the call withdraws a job that is not being decoded yet."""
        return await asyncio.wrap_future(self.submit_nowait(job))

    async def withdraw(self, job_id: str) -> bool:
        """See `Recognizer`."""
        return self._pending.cancel(job_id)

    async def drain(self) -> None:
        """See `Recognizer`."""
        futures = [asyncio.wrap_future(future) for future in self._pending.futures()]
        if futures:
            await asyncio.wait(futures)
            for future in futures:
                if not future.cancelled():
                    future.exception()  # looked at, so that asyncio does not report it as forgotten

    async def aclose(self) -> None:
        """See `Recognizer`."""
        await asyncio.to_thread(self.close)

    def __enter__(self: _Self) -> _Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self: _Self) -> _Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
