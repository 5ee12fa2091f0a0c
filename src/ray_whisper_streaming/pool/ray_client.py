"""A process's side of a Ray pool: its unanswered jobs, one long-poll, one thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import ray as untyped_ray
from ray.exceptions import ActorDiedError, RayActorError, RayError

from ray_whisper_streaming.core.jobs import Job, Result
from ray_whisper_streaming.core.scheduling import QueuedJob
from ray_whisper_streaming.errors import NotReady, PoolError, StreamClosed, TranscriptionError
from ray_whisper_streaming.pool.base import PoolStats
from ray_whisper_streaming.pool.pending import PendingPool
from ray_whisper_streaming.pool.ray_messages import JobRef, Mail, Submission, unpack_answer

__all__ = ["RayPoolHandle"]

RETRY_DELAY_S = 0.2
"""Pause before a dispatcher that did not answer is asked again."""

GONE_AFTER_S = 60.0
"""A dispatcher that does not come back for so long is given up: its pool has gone."""

DEAD_AFTER_S = 2.0
"""The same, where Ray says that it is dead and not just being restarted."""

JOIN_S = 5.0
"""How long `RayPoolHandle.close` waits for the thread."""

_log = logging.getLogger(__name__)

ray: Any = untyped_ray


class RayPoolHandle(PendingPool):
    """A `Recognizer` that uses a Ray pool started elsewhere. Can be pickled: pass it to tasks and actors.

    Every handle made or unpickled has its own jobs. Closing a handle leaves the pool as it is.
    Connects by itself on first use.

    Args:
        dispatcher: actor handle of the pool's dispatcher.
    """

    def __init__(self, dispatcher: Any) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._client_id = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # Below: touched by the thread alone, but for appending to `_outbox`.
        self._outbox: deque[str] = deque()
        self._sending = False
        self._refs: dict[str, JobRef] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    @classmethod
    def attach(cls, name: str, namespace: str | None = None) -> RayPoolHandle:
        """A handle of the pool of that name in the Ray cluster this process is connected to.

        Raises:
            NotReady: there is none.
        """
        try:
            return cls(ray.get_actor(name, namespace))
        except ValueError as error:
            raise NotReady(f"there is no pool named {name!r} in this Ray cluster") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return RayPoolHandle, (self._connected_dispatcher(),)

    # Recognizer

    def start(self, timeout_s: float = 300.0) -> None:
        """See `Recognizer`. Connects; the pool itself was started by its owner."""
        self._connect()

    def submit_nowait(self, job: Job) -> Future[Result]:
        """See `Recognizer`. `Overloaded` comes in the future.

        Raises:
            NotReady, StreamClosed: see `Recognizer`.
            InvalidState: a job of the same id is unanswered.
        """
        loop = self._connect()
        future = self._pending.add(job)
        future.add_done_callback(lambda _: self._refs.pop(job.job_id, None))
        self._outbox.append(job.job_id)
        if not self._sending:
            self._sending = True
            self._call_soon(loop, self._send)
        if self._closed:  # closed since the first line: whoever closed it may not have seen this job
            self._pending.fail(job.job_id, StreamClosed("the pool was closed"))
        return future

    async def stats(self) -> PoolStats:
        """See `Recognizer`. Counts since the start of the pool, or since its dispatcher was restarted."""
        loop = self._connect()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._fetch_stats(), loop))

    def close(self) -> None:
        """Leave the pool: unanswered jobs of this handle fail with `StreamClosed`. Safe to call twice."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        self._fail_all()
        if loop is not None and thread is not None:
            self._call_soon(loop, self._stop)
            if thread is not threading.current_thread():
                thread.join(JOIN_S)

    def _withdraw(self, job_id: str) -> None:
        self._pending.drop(job_id)
        if self._loop is not None:
            self._call_soon(self._loop, lambda: self._ask("cancel", [self._wire_id(job_id)]))

    # The thread

    def _connected_dispatcher(self) -> Any:
        if self._closed:
            raise StreamClosed("the pool was closed")
        if self._dispatcher is None:
            raise NotReady("the pool was not started; call start()")
        return self._dispatcher

    def _connect(self) -> asyncio.AbstractEventLoop:
        if self._loop is not None and not self._closed:
            return self._loop
        with self._lock:
            self._connected_dispatcher()
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop,), name="ray-pool-client", daemon=True
                )
                self._thread.start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._fetch_answers())
        except asyncio.CancelledError:
            pass
        finally:
            rest = asyncio.all_tasks(loop)
            for task in rest:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
            loop.close()

    def _stop(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    @staticmethod
    def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], Any]) -> None:
        try:
            loop.call_soon_threadsafe(callback)
        except RuntimeError:  # closed: there is nothing left to do
            pass

    def _fail_all(self) -> None:
        for job in self._pending.jobs():
            self._pending.fail(job.job_id, StreamClosed("the pool was closed before this job was decoded"))

    def _wire_id(self, job_id: str) -> str:
        """Job ids are unique in a process, not in the cluster."""
        return f"{self._client_id}/{job_id}"

    def _ask(self, method: str, *args: Any) -> Awaitable[Any]:
        _check_ray()
        return getattr(self._dispatcher, method).remote(*args)

    # Out: all jobs given in one turn of the loop go in one call

    def _send(self) -> None:
        self._sending = False
        job_ids: list[str] = []
        while self._outbox:
            job_ids.append(self._outbox.popleft())
        try:
            submissions = [submission for job_id in job_ids if (submission := self._submission(job_id))]
            sent = self._ask("submit", self._client_id, submissions) if submissions else None
        except (RayError, PoolError) as error:
            self._fail(job_ids, error)
            return
        if sent is not None:
            task = asyncio.ensure_future(self._confirm(sent, job_ids))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _submission(self, job_id: str) -> Submission | None:
        job = self._pending.job(job_id)
        if job is None:
            return None
        ref = self._refs.get(job_id)
        if ref is None:
            _check_ray()
            ref = self._refs[job_id] = ray.put(job)
            if self._pending.job(job_id) is None:  # cancelled meanwhile
                self._refs.pop(job_id, None)
        queued = replace(
            QueuedJob.of(job), job_id=self._wire_id(job_id), deadline=job.deadline - time.monotonic()
        )
        return Submission(queued, ref)

    async def _confirm(self, sent: Awaitable[None], job_ids: list[str]) -> None:
        try:
            await sent
        except RayActorError:
            await asyncio.sleep(RETRY_DELAY_S)
            self._outbox.extend(job_ids)  # submitting twice is harmless
            self._send()
        except RayError as error:
            self._fail(job_ids, error)

    def _fail(self, job_ids: Iterable[str], error: Exception) -> None:
        _log.error("jobs could not be submitted: %s", type(error).__name__)
        for job_id in job_ids:
            self._pending.fail(job_id, PoolError(f"the job could not be submitted: {type(error).__name__}"))

    # In

    async def _fetch_answers(self) -> None:
        epoch, seen = "", 0
        failing_since: float | None = None
        while not self._closed:
            try:
                mail: Mail | None = await self._ask("poll", self._client_id, epoch, seen)
            except (RayError, PoolError) as error:
                failing_since = failing_since or time.monotonic()
                patience_s = DEAD_AFTER_S if isinstance(error, ActorDiedError) else GONE_AFTER_S
                if time.monotonic() - failing_since < patience_s and not isinstance(error, PoolError):
                    await asyncio.sleep(RETRY_DELAY_S)
                    continue
                _log.warning("the pool is gone: %s", error if isinstance(error, PoolError) else type(error))
                mail = None
            if mail is None:
                self._closed = True
                self._fail_all()
                return
            failing_since = None
            for answer in mail.answers:
                self._take(answer.job_id.partition("/")[2], unpack_answer(answer))
            seen = mail.first + len(mail.answers)
            if mail.epoch != epoch:
                # Another dispatcher, which knows nothing (or the first: then it knows all of these already).
                epoch = mail.epoch
                self._outbox.extend(job.job_id for job in self._pending.jobs())
                self._send()

    def _take(self, job_id: str, ending: Any) -> None:
        if isinstance(ending, Result):
            self._pending.answer(ending)
            return
        if isinstance(ending, TranscriptionError):
            ending.job_id = job_id
        self._pending.fail(job_id, ending)

    async def _fetch_stats(self) -> PoolStats:
        try:
            return await self._ask("stats")
        except RayActorError as error:
            raise PoolError("the pool's dispatcher does not answer") from error


def _check_ray() -> None:
    """Any call to a Ray that was shut down would start a new one."""
    if not ray.is_initialized():
        raise PoolError("Ray was shut down before the pool was closed")
