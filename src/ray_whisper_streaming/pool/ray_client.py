"""A process's side of a Ray pool: its unanswered jobs, a thread that sends, a thread that receives."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import ray as untyped_ray
from ray.exceptions import ActorDiedError, RayError

from ray_whisper_streaming.core.jobs import Job, Result
from ray_whisper_streaming.core.scheduling import QueuedJob
from ray_whisper_streaming.errors import NotReady, PoolError, StreamClosed, TranscriptionError
from ray_whisper_streaming.pool.base import PoolStats
from ray_whisper_streaming.pool.pending import PendingPool
from ray_whisper_streaming.pool.ray_messages import JobRef, Mail, Submission, unpack_answer
from ray_whisper_streaming.pool.ray_session import session_name, without_connecting

__all__ = ["RayPoolHandle"]

RETRY_DELAY_S = 0.2
"""Pause before a dispatcher that did not answer is asked again."""

GONE_AFTER_S = 60.0
"""A dispatcher that does not come back for so long is given up: its pool has gone."""

DEAD_AFTER_S = 2.0
"""The same, where Ray says that it is dead and not just being restarted."""

LOOK_S = 1.0
"""How often a receiver looks whether Ray is still there."""

JOIN_S = 5.0
"""How long `RayPoolHandle.close` waits for its threads."""

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
        self._threads: list[threading.Thread] = []
        self._outbox: SimpleQueue[str | None] = SimpleQueue()
        self._refs: dict[str, JobRef] = {}
        self._session_name = ""
        self._met = threading.Event()
        """The dispatcher answered once: only who knew it before can tell that it was replaced."""

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
        self._connect()
        future = self._pending.add(job)
        future.add_done_callback(lambda _: self._refs.pop(job.job_id, None))
        self._outbox.put(job.job_id)
        if self._closed:  # since the first line: whoever closed it may not have seen this job
            self._pending.fail(job.job_id, StreamClosed("the pool was closed"))
        return future

    async def withdraw(self, job_id: str) -> bool:
        """See `Recognizer`. Asks the dispatcher: only it knows which jobs wait."""
        try:
            self._connect()
            withdrawn = await self._ask("cancel", [self._wire_id(job_id)])
        except RayError:  # it may have been withdrawn all the same; if not, submitting it again is harmless
            self._outbox.put(job_id)
            return False
        except (PoolError, StreamClosed):  # the pool has gone, and its jobs fail
            return False
        return bool(withdrawn) and self._pending.cancel(job_id)

    async def stats(self) -> PoolStats:
        """See `Recognizer`. Counts since the start of the pool, or since its dispatcher was restarted."""
        self._connect()
        try:
            return await self._ask("stats")
        except RayError as error:
            raise PoolError("the pool's dispatcher does not answer") from error

    def close(self) -> None:
        """Leave the pool: unanswered jobs of this handle fail with `StreamClosed`. Safe to call twice."""
        self._leave()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(JOIN_S)

    def _withdraw(self, job_id: str) -> None:
        self._pending.drop(job_id)
        self._outbox.put(job_id)  # the sender sees that it has gone

    def _connected_dispatcher(self) -> Any:
        if self._closed:
            raise StreamClosed("the pool was closed")
        if self._dispatcher is None:
            raise NotReady("the pool was not started; call start()")
        return self._dispatcher

    def _connect(self) -> None:
        if self._threads and not self._closed:
            return
        with self._lock:
            self._connected_dispatcher()
            if not self._threads:
                self._session_name = session_name()
                self._threads = [
                    threading.Thread(target=self._send, name="ray-pool-sender", daemon=True),
                    threading.Thread(target=self._receive, name="ray-pool-receiver", daemon=True),
                ]
                for thread in self._threads:
                    thread.start()

    def _ask(self, method: str, *args: Any) -> Any:
        """Call the dispatcher; returns the reference of its answer."""
        self._check_ray()
        return getattr(self._dispatcher, method).remote(*args)

    def _check_ray(self) -> None:
        """Any call to a Ray that was shut down would start a new one, and wait there for ever."""
        if not ray.is_initialized() or session_name() != self._session_name:
            raise PoolError("Ray was shut down before the pool was closed")

    def _leave(self) -> None:
        """End the threads and fail what is unanswered: no answers come any more."""
        with self._lock:
            self._closed = True
        self._met.set()
        self._outbox.put(None)
        for job in self._pending.jobs():
            self._pending.fail(job.job_id, StreamClosed("the pool was closed before this job was decoded"))

    def _wire_id(self, job_id: str) -> str:
        """Job ids are unique in a process, not in the cluster."""
        return f"{self._client_id}/{job_id}"

    # The sender's thread: all jobs that came while the last call was made go in the next one

    def _send(self) -> None:
        self._met.wait()
        while not self._closed:
            job_ids = [self._outbox.get()]
            while not self._outbox.empty():
                job_ids.append(self._outbox.get())
            try:
                self._send_all([job_id for job_id in job_ids if job_id is not None])
            except Exception as error:  # whatever it is, later jobs must not suffer
                _log.error("jobs could not be submitted: %s", type(error).__name__)
                message = f"the job could not be submitted: {type(error).__name__}"
                for job_id in job_ids:
                    self._pending.fail(job_id or "", PoolError(message))
        with contextlib.suppress(Exception):  # its dispatcher may have gone, or Ray
            self._ask("leave", self._client_id)

    def _send_all(self, job_ids: Sequence[str]) -> None:
        jobs = {job_id: self._pending.job(job_id) for job_id in job_ids}
        submissions = [
            submission for job in jobs.values() if job is not None and (submission := self._submission(job))
        ]
        if submissions:
            sent = [submission.queued.job_id.partition("/")[2] for submission in submissions]
            reply: Future[None] = self._ask("submit", self._client_id, submissions).future()
            reply.add_done_callback(lambda done: self._confirm(done, sent))
        withdrawn = [self._wire_id(job_id) for job_id, job in jobs.items() if job is None]
        if withdrawn:
            self._ask("cancel", withdrawn)

    def _submission(self, job: Job) -> Submission | None:
        """None for a job that Ray's store does not take (it may be full): it fails, and no other with it."""
        ref = self._refs.get(job.job_id)
        if ref is None:
            self._check_ray()
            try:
                ref = self._refs[job.job_id] = without_connecting(ray.put)(job)
            except Exception as error:
                _log.error("a job could not be put into Ray's store: %s", type(error).__name__)
                message = f"the job could not be put into Ray's store: {type(error).__name__}"
                self._pending.fail(job.job_id, TranscriptionError(message, job_id=job.job_id))
                return None
            if self._pending.job(job.job_id) is None:  # ended meanwhile
                self._refs.pop(job.job_id, None)
        queued = replace(
            QueuedJob.of(job), job_id=self._wire_id(job.job_id), deadline=job.deadline - time.monotonic()
        )
        return Submission(queued, ref)

    def _confirm(self, reply: Future[None], job_ids: Sequence[str]) -> None:
        """Submit again what may not have arrived: doing so twice is harmless."""
        error = reply.exception()
        if isinstance(error, RayError):
            _log.debug("%d jobs are submitted again: %s", len(job_ids), type(error).__name__)
            again = threading.Timer(RETRY_DELAY_S, lambda: [self._outbox.put(job_id) for job_id in job_ids])
            again.daemon = True
            again.start()

    # The receiver's thread

    def _receive(self) -> None:
        try:
            self._receive_mail()
        finally:
            self._leave()

    def _receive_mail(self) -> None:
        epoch, seen = "", 0
        failing_since: float | None = None
        while not self._closed:
            try:
                mail = self._next_mail(epoch, seen)
            except PoolError as error:
                _log.warning("the pool is gone: %s", error)
                return
            except Exception as error:  # Ray raises several kinds
                failing_since = failing_since or time.monotonic()
                patience_s = DEAD_AFTER_S if isinstance(error, ActorDiedError) else GONE_AFTER_S
                if time.monotonic() - failing_since > patience_s:
                    _log.warning("the pool is gone: %s", type(error).__name__)
                    if not self._find_another():
                        return
                    failing_since = None
                time.sleep(RETRY_DELAY_S)
                continue
            failing_since = None
            if mail is None:
                if not self._find_another():
                    return
                continue
            for answer in mail.answers:
                self._take(answer.job_id.partition("/")[2], unpack_answer(answer))
            seen = mail.first + len(mail.answers)
            if epoch and mail.epoch != epoch:  # it forgot this client, or is another: it knows nothing
                for job in self._pending.jobs():
                    self._outbox.put(job.job_id)
            epoch = mail.epoch
            self._met.set()

    def _find_another(self) -> bool:
        """The pool has ended. Whether there is another one in its place, which gets what is unanswered."""
        return False

    def _next_mail(self, epoch: str, seen: int) -> Mail | None:
        # Waits outside of Ray, which ends a process that has a thread in `ray.get` while another shuts it down.
        reply: Future[Mail | None] = self._ask("poll", self._client_id, epoch, seen).future()
        while not reply.done():
            wait([reply], LOOK_S)
            self._check_ray()
        return reply.result()

    def _take(self, job_id: str, ending: Any) -> None:
        if isinstance(ending, Result):
            self._pending.answer(ending)
            return
        if isinstance(ending, TranscriptionError):
            ending.job_id = job_id
        self._pending.fail(job_id, ending)
