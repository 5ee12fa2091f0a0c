"""The actor that holds the queue of a Ray pool: a scheduler, long-polled by clients and workers.

It sees records of jobs and references to them, never audio or words. It may die at any time: its successor
knows the workers from its constructor's arguments and calls them again; clients notice the new epoch and
submit what is unanswered once more.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray as untyped_ray
from ray.exceptions import ActorUnavailableError, RayError

from ray_whisper_streaming.core.scheduling import Scheduler, SchedulerConfig
from ray_whisper_streaming.errors import (
    DeviceLost,
    EngineError,
    EngineTimeout,
    Overloaded,
    PoolError,
    RayWhisperError,
)
from ray_whisper_streaming.pool.base import PoolStats
from ray_whisper_streaming.pool.decoding import pool_stats
from ray_whisper_streaming.pool.ray_messages import (
    Answer,
    DecodeOrder,
    JobRef,
    Mail,
    Progress,
    Ready,
    Report,
    Submission,
    pack_answer,
)

__all__ = ["CLIENT_LEASE_S", "Dispatcher"]

POLL_S = 10.0
"""A client's poll is answered after this long even if there is nothing to tell: a sign of life both ways."""

CLIENT_LEASE_S = 3 * POLL_S
"""A client that did not poll for so long has gone: its jobs and its mail are dropped. Should it come back after all,
it meets another epoch, and submits what is unanswered once more."""

WATCH_S = 1.0
"""How often timeouts and leases are looked after; more often where the job timeout is short."""

WATCHES_PER_TIMEOUT = 20
"""A timeout is noticed at most a twentieth late."""

LAST_ANSWERS_S = 0.1
"""Time for the last answers to leave, before `close` returns and the actor is killed."""

RECALL_DELAY_S = 0.1
"""Pause before a worker that died is called again; doubled each time it dies before it is ready, up to"""

RELOAD_DELAY_S = 5.0
"""this, which is also the pause after it could not load its engine."""

LOAD_TIMEOUT_S = 900.0
"""A worker that loads its engine for longer hangs. (How long a start may take is the pool's to say.)"""

_log = logging.getLogger(__name__)

ray: Any = untyped_ray


@dataclass(slots=True, eq=False)
class _Seat:
    """A worker as the dispatcher sees it."""

    worker_id: str
    handle: Any
    attendance: int = 0
    """How often it was called; what it says in an earlier call's name is not heard."""
    ready: bool = False
    request: asyncio.Future[DecodeOrder | None] | None = None
    """Its request for work, while it is idle."""
    expires_at: float | None = None
    """When what it does now (loading, decoding) has taken too long."""
    error: RayWhisperError | None = None
    """Why it could not load its engine."""


@dataclass(slots=True, eq=False)
class _Client:
    seen_at: float
    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Of this record: who was forgotten gets another one."""
    waiting: int = 0
    """Its polls that wait for answers."""
    first: int = 0
    """Number of the first answer in ``answers``: those before it are known to have arrived."""
    answers: list[Answer] = field(default_factory=list[Answer])
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Dispatcher:
    """One per pool. All methods run on the actor's event loop, and none of them blocks it.

    Args:
        workers: names of the `Worker` actors,
        namespace: in this namespace of Ray. (Names, because Ray can't keep handles for a restart.)
        config: of the scheduler.
        job_timeout_s: a worker that decodes for longer is killed, and its jobs fail.
    """

    def __init__(
        self, workers: Sequence[str], namespace: str, config: SchedulerConfig, job_timeout_s: float
    ) -> None:
        self._seats = {name: _Seat(name, ray.get_actor(name, namespace)) for name in workers}
        self._scheduler = Scheduler(config)
        self._job_timeout_s = job_timeout_s
        self._clients: dict[str, _Client] = {}
        self._jobs: dict[str, tuple[str, JobRef]] = {}  # job id -> client id, job
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._assigning = False
        self._wakeup: asyncio.TimerHandle | None = None
        self._closed = False

    # Called by the pool and its clients

    async def progress(self, known: Progress | None) -> Progress:
        """How many workers are ready; returns when that is no longer what the caller knows."""
        self._begin()
        while True:
            now = Progress(
                ready=sum(seat.ready for seat in self._seats.values()),
                workers=len(self._seats),
                errors=tuple(seat.error for seat in self._seats.values() if seat.error),
            )
            if known is None or (now.ready, len(now.errors)) != (known.ready, len(known.errors)):
                return now
            self._changed.clear()
            await self._changed.wait()

    async def submit(self, client_id: str, submissions: Sequence[Submission]) -> None:
        """Queue jobs. Jobs that are here already are left as they are; refusals come with the mail."""
        self._begin()
        now = time.monotonic()
        self._clients.setdefault(client_id, _Client(now))
        for submission in submissions:
            job_id = submission.queued.job_id
            try:
                queued = replace(submission.queued, deadline=now + submission.queued.deadline)
                if self._scheduler.add(queued, now):
                    self._jobs[job_id] = (client_id, submission.job)
            except Overloaded as error:
                self._send(client_id, pack_answer(job_id, error))
        self._assign_soon()

    async def cancel(self, job_ids: Sequence[str]) -> list[str]:
        """Withdraw the jobs among these that wait; returns them."""
        withdrawn = [job_id for job_id in job_ids if self._scheduler.cancel(job_id)]
        for job_id in withdrawn:
            del self._jobs[job_id]
        return withdrawn

    async def poll(self, client_id: str, epoch: str, seen: int) -> Mail | None:
        """Fetch answers; waits until there are some, or for `POLL_S`.

        Args:
            client_id: who asks.
            epoch: of the mail seen last. One of before the client was forgotten, or none: returns at once.
            seen: number of the first answer not seen: those before it are not kept any longer.

        Returns:
            None when the pool was closed, or the client has left.
        """
        self._begin()
        client = self._clients.setdefault(client_id, _Client(time.monotonic()))
        client.seen_at = time.monotonic()
        if epoch == client.epoch:
            del client.answers[: seen - client.first]
            client.first = seen
            if not client.answers and not self._closed:
                client.news.clear()
                client.waiting += 1
                try:
                    await asyncio.wait_for(client.news.wait(), POLL_S)
                except asyncio.TimeoutError:
                    pass
                finally:
                    client.waiting -= 1
                    client.seen_at = time.monotonic()
        if self._closed or self._clients.get(client_id) is not client:
            return None
        return Mail(client.epoch, client.first, tuple(client.answers))

    async def leave(self, client_id: str) -> None:
        """A client goes: nobody waits for its jobs any more."""
        if client_id in self._clients:
            self._forget(client_id)

    async def stats(self) -> PoolStats:
        """What happened in this dispatcher's life."""
        return pool_stats(self._scheduler.stats(), sum(seat.ready for seat in self._seats.values()))

    async def close(self) -> None:
        """Tell clients and workers that it is over."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for client in self._clients.values():
            client.news.set()
        for seat in self._seats.values():
            if seat.request is not None:
                seat.request.set_result(None)
                seat.request = None
        await asyncio.sleep(LAST_ANSWERS_S)

    # Called by the workers

    async def exchange(self, worker_id: str, attendance: int, message: Ready | Report) -> DecodeOrder | None:
        """Take what a worker has to tell and give it a batch; waits until there is one.

        Returns:
            None: the call to the worker that ``attendance`` counts is over.
        """
        seat = self._seats[worker_id]
        if attendance != seat.attendance or self._closed:
            return None
        seat.expires_at = None
        if isinstance(message, Ready):
            self._scheduler.fit_engines(message.max_batch_size, ragged=message.ragged)
            seat.ready, seat.error = True, None
            self._changed.set()
        else:
            decoded = {answer.job_id: answer.decoded for answer in message.answers}
            ended = set(self._scheduler.update(worker_id, decoded, message.inference_s))
            self._deliver(answer for answer in message.answers if answer.job_id in ended)
        request = seat.request = asyncio.get_running_loop().create_future()
        self._assign_soon()
        return await request

    def _begin(self) -> None:
        """Start the tasks: the constructor of an actor does not run on its event loop."""
        if not self._tasks and not self._closed:
            me = ray.get_runtime_context().current_actor
            self._tasks = [asyncio.create_task(self._attend(seat, me)) for seat in self._seats.values()]
            self._tasks.append(asyncio.create_task(self._watch()))

    async def _attend(self, seat: _Seat, me: Any) -> None:
        """Keep a worker working: call it, and again whenever the call ends."""
        delay_s = RECALL_DELAY_S
        while True:
            seat.attendance += 1
            seat.expires_at = time.monotonic() + LOAD_TIMEOUT_S
            error: RayWhisperError | None = None
            try:
                error = await seat.handle.serve.remote(me, seat.worker_id, seat.attendance)
            except ActorUnavailableError:
                _log.warning("%s died and is restarted", seat.worker_id)
            except RayError as failure:  # it is not restarted: its constructor failed
                error = PoolError(f"a worker could not be made: {failure}")
            if isinstance(error, DeviceLost):
                _log.error("%s is restarted: %s", seat.worker_id, error)
                ray.kill(seat.handle, no_restart=False)
                if seat.ready:  # it was lost in decoding: the new process may well load the engine
                    error = None
            seat.error = error
            delay_s = RECALL_DELAY_S if seat.ready else min(2 * delay_s, RELOAD_DELAY_S)
            self._lose(seat)
            if seat.error is not None:
                delay_s = RELOAD_DELAY_S
                _log.error("%s could not load its engine: %s", seat.worker_id, seat.error)
                self._fail_all_if_nobody_is_left()
            await asyncio.sleep(delay_s)

    def _lose(self, seat: _Seat) -> None:
        seat.attendance += 1  # whatever it may still say is not heard
        if seat.request is not None:
            seat.request.set_result(None)
        seat.ready, seat.request, seat.expires_at = False, None, None
        failures = self._scheduler.worker_lost(seat.worker_id)
        self._deliver(pack_answer(failure.job_id, failure.error) for failure in failures)
        self._changed.set()
        self._assign_soon()

    def _fail_all_if_nobody_is_left(self) -> None:
        if all(seat.error for seat in self._seats.values()):
            for job_id in list(self._jobs):
                self._scheduler.cancel(job_id)
                error = EngineError("no worker could load its engine", job_id=job_id)
                self._deliver([pack_answer(job_id, error)])

    def _assign_soon(self) -> None:
        """Assign when everything that came in this turn of the loop has been taken in."""
        if not self._assigning:
            self._assigning = True
            asyncio.get_running_loop().call_soon(self._assign)

    def _assign(self) -> None:
        self._assigning = False
        now = time.monotonic()
        idle = {seat.worker_id: seat.request for seat in self._seats.values() if seat.request is not None}
        for batch in self._scheduler.schedule(now, list(idle)):
            job_ids = tuple(job.job_id for job in batch.jobs)
            refs = tuple(self._jobs[job_id][1] for job_id in job_ids)
            seat = self._seats[batch.worker_id]
            idle[batch.worker_id].set_result(DecodeOrder(job_ids, refs, batch.queue_waits_s))
            seat.request, seat.expires_at = None, now + self._job_timeout_s
        if self._wakeup is not None:
            self._wakeup.cancel()
        at = self._scheduler.next_wakeup()
        self._wakeup = (
            None if at is None else asyncio.get_running_loop().call_later(at - now, self._assign_soon)
        )

    def _deliver(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            client_id, _ = self._jobs.pop(answer.job_id)
            self._send(client_id, answer)

    def _send(self, client_id: str, answer: Answer) -> None:
        client = self._clients.get(client_id)
        if client is not None:  # it may have left
            client.answers.append(answer)
            client.news.set()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(WATCH_S, self._job_timeout_s / WATCHES_PER_TIMEOUT))
            now = time.monotonic()
            for seat in self._seats.values():
                if seat.expires_at is not None and now >= seat.expires_at:
                    self._end_hung(seat)
            for client_id, client in list(self._clients.items()):
                # One whose poll waits here is there, however long this process itself stood still.
                if not client.waiting and now - client.seen_at > CLIENT_LEASE_S:
                    self._forget(client_id)

    def _end_hung(self, seat: _Seat) -> None:
        _log.error("%s hangs and is restarted", seat.worker_id)
        running = self._scheduler.running(seat.worker_id)
        self._scheduler.update(seat.worker_id, dict.fromkeys(running, False), self._job_timeout_s)
        message = f"no answer within {self._job_timeout_s:g} s"
        self._deliver(pack_answer(job_id, EngineTimeout(message, job_id=job_id)) for job_id in running)
        seat.expires_at = None
        ray.kill(seat.handle, no_restart=False)  # the call in `_attend` fails, and the worker is called again

    def _forget(self, client_id: str) -> None:
        self._clients.pop(client_id).news.set()
        for job_id in [job_id for job_id, (owner, _) in self._jobs.items() if owner == client_id]:
            if self._scheduler.cancel(job_id):
                del self._jobs[job_id]
