"""Which waiting jobs go to which idle worker now. Pure: the time is an argument, and audio never comes here.

The order of jobs rests on three rules:

1. **Due time.** A job is due at its deadline, but no earlier than its arrival (`MAX_PATIENCE_S` before it, if it
   stands for one that was withdrawn while it waited) and no later than `MAX_PATIENCE_S` after it. The last job of
   an utterance is due `FINAL_HEAD_START_S` earlier: it goes before all others that came up to
   `FINAL_HEAD_START_S - MAX_PATIENCE_S` before it. The due time never changes, so every job's turn comes: nothing
   that arrives later by more than the sum of both can overtake it.
2. **Fairness.** Each tenant's served seconds of audio are counted. Tenants within one `FAIRNESS_SLACK_S` of
   each other are equals, among whom rule 1 holds; a tenant further ahead waits. A tenant that comes (back)
   starts at the service level of the moment, so nobody saves up a claim (the virtual time of fair queueing;
   Demers, Keshav, Shenker 1989).
3. **Batches.** The first job in this order leads a batch; jobs of the same `BatchKey` follow in the same
   order. Windows of different length are mixed only for engines that take them as they are. Padding the shorter
   ones could make a batch fuller, but a job's result must not depend on the company it happens to find.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from ray_whisper_streaming.core.batches import Batch, QueuedJob, SchedulerConfig, SchedulerStats, WorkerStats
from ray_whisper_streaming.core.jobs import BatchKey, Failure
from ray_whisper_streaming.errors import Overloaded, WorkerDied

__all__ = ["Batch", "QueuedJob", "Scheduler", "SchedulerConfig", "SchedulerStats", "WorkerStats"]

FRAMES_PER_S = 100
"""Mel frames per second of window: Whisper's hop is 10 ms. A batch costs about its frames."""

MAX_PATIENCE_S = 10.0
"""Deadlines further away than this count as this far. Live captions older than that help nobody."""

FINAL_HEAD_START_S = 30.0
"""How much earlier the last job of an utterance is due. The client waits for it with nothing left to show."""

FAIRNESS_SLACK_S = 30.0
"""Tenants whose served audio differs by less than this are equals: one window of the longest kind."""

FIRST_BATCH_FRAMES = 8_000
"""Size of the first batches, before any was timed: about 1.5 s of work for tiny.en on 2 CPU cores."""

ANY_LENGTH = 0
"""The window of a key under which windows of all lengths wait."""

MEMORY = 0.9
"""What an average keeps of its past at each new value: the last ten batches or so count."""

RETRY_AFTER_RANGE_S = (0.1, 30.0)
"""Bounds of the retry hint in `Overloaded`."""

UNKNOWN_RETRY_AFTER_S = 1.0
"""The retry hint before any batch was timed."""

TENANTS_REMEMBERED = 64
"""From so many tenants on, and then at every doubling, those that may be are forgotten."""


@dataclass(slots=True, eq=False)
class _Entry:
    job: QueuedJob
    key: BatchKey
    order: tuple[float, int]
    enqueued_at: float
    tries: int = 0
    worker_id: str = ""


@dataclass(slots=True)
class _Counts:
    jobs_done: int = 0
    jobs_failed: int = 0
    jobs_retried: int = 0
    batches: int = 0
    batched_jobs: int = 0
    queue_wait_sum_s: float = 0.0
    inference_sum_s: float = 0.0
    audio_s: float = 0.0
    workers_by_id: dict[str, WorkerStats] = field(default_factory=dict[str, WorkerStats])


@dataclass(slots=True)
class _Speed:
    """What a worker does in a second, over the last batches."""

    frames: float = 0.0
    jobs: float = 0.0
    seconds: float = 0.0

    def add(self, frames: int, jobs: int, seconds: float) -> None:
        self.frames = self.frames * MEMORY + frames
        self.jobs = self.jobs * MEMORY + jobs
        self.seconds = self.seconds * MEMORY + seconds


_Queue = list[_Entry]


def _order(entry: _Entry) -> tuple[float, int]:
    return entry.order


class Scheduler:
    """The queue of a pool. Not thread-safe: its owner holds a lock or is the only one to call.

    A job is waiting from `add` until `schedule` puts it into a batch, then running until `update` or
    `worker_lost` tells of its end. Each job leaves exactly once, by `cancel`, `update` or `worker_lost`.
    """

    def __init__(self, config: SchedulerConfig | None = None) -> None:
        self._config = config or SchedulerConfig()
        self._max_batch_size = self._config.max_batch_size
        self._ragged = False
        self._groups: dict[BatchKey, dict[str, _Queue]] = {}  # key -> tenant -> entries in order, none empty
        self._waiting: dict[str, _Entry] = {}
        self._running: dict[str, _Entry] = {}
        self._waiting_of_tenant: dict[str, int] = {}
        self._served_s: dict[str, float] = {}
        self._service_level_s = 0.0
        self._sweep_at = TENANTS_REMEMBERED
        self._added = 0
        self._wakeup: float | None = None
        self._speed = _Speed()
        self._counts = _Counts()

    def fit_engines(self, max_batch_size: int, *, ragged: bool) -> None:
        """Make batches as the engines take them, from now on: so large at most, of windows of any length or of one."""
        self._max_batch_size = min(self._max_batch_size, max_batch_size)
        self._ragged = ragged

    def add(self, job: QueuedJob, now: float) -> bool:
        """Queue a job. A job that is already here is left as it is: adding is idempotent.

        Args:
            job: the job.
            now: second of the owner's monotonic clock, as in every method.

        Returns:
            Whether the job is new.

        Raises:
            Overloaded: ``max_queued`` jobs are waiting.
        """
        if job.job_id in self._waiting or job.job_id in self._running:
            return False
        if len(self._waiting) >= self._config.max_queued:
            raise Overloaded(
                "the pool's queue",
                limit=self._config.max_queued,
                current=len(self._waiting),
                retry_after_s=self._retry_after_s(),
            )
        earliest = now - MAX_PATIENCE_S if job.keeps_place else now
        due = min(max(job.deadline, earliest), now + MAX_PATIENCE_S)
        if job.final:
            due -= FINAL_HEAD_START_S
        self._added += 1
        key = replace(job.batch_key, window_s=ANY_LENGTH) if self._ragged else job.batch_key
        self._enqueue(_Entry(job, key, (due, self._added), now))
        return True

    def cancel(self, job_id: str) -> bool:
        """Withdraw a waiting job; returns whether it was waiting. A running job runs on."""
        entry = self._waiting.get(job_id)
        if entry is None:
            return False
        self._dequeue(entry)
        return True

    def cancel_stream(self, stream_id: str) -> list[str]:
        """Withdraw the waiting jobs of a stream that has gone; returns their ids."""
        gone = [job_id for job_id, entry in self._waiting.items() if entry.job.stream_id == stream_id]
        for job_id in gone:
            self.cancel(job_id)
        return gone

    def schedule(self, now: float, idle_workers: Sequence[str]) -> list[Batch]:
        """Take jobs off the queue for idle workers: at most one batch each, the work split between them.

        Workers without a batch stay idle: ask again after `add`, or at `next_wakeup`.
        """
        self._wakeup = None
        batches: list[Batch] = []
        for index, worker_id in enumerate(idle_workers):
            key = self._first_key(now)
            if key is None:
                break
            share = math.ceil(len(self._waiting) / (len(idle_workers) - index))
            batches.append(self._fill(key, worker_id, share, now))
        return batches

    def next_wakeup(self) -> float | None:
        """When to call `schedule` again although nothing happened (the last call held jobs back), or None."""
        return self._wakeup

    def update(self, worker_id: str, outcomes: Mapping[str, bool], inference_s: float) -> list[str]:
        """Take what became of a worker's batch.

        Args:
            worker_id: the worker.
            outcomes: job id to whether it was decoded (True) or failed (False).
            inference_s: how long the engine took for all of them.

        Returns:
            The ids that were running on that worker. The others' outcomes are late or doubled: drop them.
        """
        ended: list[_Entry] = []
        for job_id, decoded in outcomes.items():
            entry = self._running.get(job_id)
            if entry is None or entry.worker_id != worker_id:
                continue
            del self._running[job_id]
            ended.append(entry)
            if decoded:
                self._counts.jobs_done += 1
                self._counts.audio_s += entry.job.audio_s
            else:
                self._counts.jobs_failed += 1
        answered = [entry for entry in ended if outcomes[entry.job.job_id]]
        if answered:
            self._counts.inference_sum_s += inference_s
            before = self._counts.workers_by_id.get(worker_id, WorkerStats())
            self._counts.workers_by_id[worker_id] = WorkerStats(
                jobs_done=before.jobs_done + len(answered),
                batches=before.batches + 1,
                inference_s=before.inference_s + inference_s,
                audio_s=before.audio_s + sum(entry.job.audio_s for entry in answered),
            )
            self._speed.add(sum(map(_frames, ended)), len(ended), inference_s)
        return [entry.job.job_id for entry in ended]

    def worker_lost(self, worker_id: str, why: str = "the worker died") -> list[Failure]:
        """A worker died: queue its jobs again, in their old place.

        Args:
            worker_id: the worker.
            why: told to those whose jobs are given up.

        Returns:
            The jobs whose tries are used up, as failures with `WorkerDied`.
        """
        failures: list[Failure] = []
        for job_id in self.running(worker_id):
            entry = self._running.pop(job_id)
            if entry.tries < self._config.max_tries:
                self._counts.jobs_retried += 1
                self._enqueue(entry)
            else:
                self._counts.jobs_failed += 1
                message = f"{why}; that was try {entry.tries} of {self._config.max_tries}"
                failures.append(Failure(job_id=job_id, error=WorkerDied(message, job_id=job_id)))
        return failures

    def running(self, worker_id: str) -> list[str]:
        """The ids of the jobs a worker has."""
        return [job_id for job_id, entry in self._running.items() if entry.worker_id == worker_id]

    def stats(self) -> SchedulerStats:
        """What happened so far."""
        counts = self._counts
        return SchedulerStats(
            queued=len(self._waiting),
            in_flight=len(self._running),
            jobs_done=counts.jobs_done,
            jobs_failed=counts.jobs_failed,
            jobs_retried=counts.jobs_retried,
            batches=counts.batches,
            batched_jobs=counts.batched_jobs,
            queue_wait_sum_s=counts.queue_wait_sum_s,
            inference_sum_s=counts.inference_sum_s,
            audio_s=counts.audio_s,
            workers_by_id=dict(counts.workers_by_id),
        )

    # Choosing

    def _rank(self, entry: _Entry) -> tuple[int, float, int]:
        return (int(self._served_s[entry.job.tenant] // FAIRNESS_SLACK_S), *entry.order)

    def _first_key(self, now: float) -> BatchKey | None:
        best: tuple[tuple[int, float, int], BatchKey] | None = None
        for key, group in self._groups.items():
            held_until = self._held_until(key, group)
            if held_until > now:
                self._wakeup = min(held_until, self._wakeup or held_until)
                continue
            rank = min(self._rank(queue[0]) for queue in group.values())
            if best is None or rank < best[0]:
                best = (rank, key)
        return best[1] if best else None

    def _held_until(self, key: BatchKey, group: Mapping[str, _Queue]) -> float:
        """The second until which a group waits for company; long past if it waits no more."""
        if not self._config.batch_wait_s:
            return -math.inf
        entries = list(chain.from_iterable(group.values()))
        frames = [_frames(entry) for entry in entries]
        full = len(entries) >= self._max_batch_size or sum(frames) + min(frames) > self._max_frames()
        if full or any(entry.job.final or entry.tries for entry in entries):
            return -math.inf
        return min(entry.enqueued_at for entry in entries) + self._config.batch_wait_s

    def _max_frames(self) -> float:
        frames = self._config.max_batch_frames
        if self._config.target_batch_s is not None:
            speed = self._speed
            affordable = (
                speed.frames / speed.seconds * self._config.target_batch_s
                if speed.seconds > 0
                else FIRST_BATCH_FRAMES
            )
            frames = min(frames, affordable)
        return frames

    def _fill(self, key: BatchKey, worker_id: str, share: int, now: float) -> Batch:
        group = self._groups[key]
        limit, frames_left = min(share, self._max_batch_size), self._max_frames()
        heads = [(self._rank(queue[0]), queue) for queue in group.values()]
        heapq.heapify(heads)
        entries: _Queue = []
        while heads and len(entries) < limit:
            _, queue = heapq.heappop(heads)
            entry = queue[0]
            # The last try is made alone: a job that kills workers takes no other with it.
            alone = 1 < self._config.max_tries == entry.tries + 1
            if alone and entries:
                continue
            frames_left -= _frames(entry)
            if entries and frames_left < 0:
                break
            self._run(entry, worker_id)
            self._dequeue(entry)
            entries.append(entry)
            if alone:
                break
            if queue:
                heapq.heappush(heads, (self._rank(queue[0]), queue))
        waits_s = tuple(now - entry.enqueued_at for entry in entries)
        self._counts.batches += 1
        self._counts.batched_jobs += len(entries)
        self._counts.queue_wait_sum_s += sum(waits_s)
        return Batch(worker_id=worker_id, jobs=tuple(entry.job for entry in entries), queue_waits_s=waits_s)

    def _run(self, entry: _Entry, worker_id: str) -> None:
        tenant = entry.job.tenant
        self._served_s[tenant] += entry.job.audio_s
        # What each waiting tenant would have got by now, had this one shared with them (virtual time).
        self._service_level_s += entry.job.audio_s / len(self._waiting_of_tenant)
        entry.tries += 1
        entry.worker_id = worker_id
        self._running[entry.job.job_id] = entry

    # The queues

    def _enqueue(self, entry: _Entry) -> None:
        job = entry.job
        self._waiting[job.job_id] = entry
        if job.tenant not in self._waiting_of_tenant:
            self._waiting_of_tenant[job.tenant] = 0
            self._served_s[job.tenant] = max(self._served_s.get(job.tenant, 0.0), self._service_level_s)
        self._waiting_of_tenant[job.tenant] += 1
        queue = self._groups.setdefault(entry.key, {}).setdefault(job.tenant, [])
        insort(queue, entry, key=_order)

    def _dequeue(self, entry: _Entry) -> None:
        job = entry.job
        del self._waiting[job.job_id]
        group = self._groups[entry.key]
        queue = group[job.tenant]
        del queue[bisect_left(queue, entry.order, key=_order)]
        if not queue:
            del group[job.tenant]
        if not group:
            del self._groups[entry.key]
        self._waiting_of_tenant[job.tenant] -= 1
        if not self._waiting_of_tenant[job.tenant]:
            del self._waiting_of_tenant[job.tenant]
            self._forget_idle_tenants()

    def _forget_idle_tenants(self) -> None:
        if not self._waiting:  # all were served: nobody is ahead of anybody
            self._served_s.clear()
        elif len(self._served_s) >= self._sweep_at:  # who is not ahead would come back at the level anyway
            self._served_s = {
                tenant: served_s
                for tenant, served_s in self._served_s.items()
                if served_s > self._service_level_s or tenant in self._waiting_of_tenant
            }
            self._sweep_at = max(TENANTS_REMEMBERED, 2 * len(self._served_s))

    def _retry_after_s(self) -> float:
        """About how long the workers busy now need for all that waits."""
        if not self._speed.jobs:
            return UNKNOWN_RETRY_AFTER_S
        busy = len({entry.worker_id for entry in self._running.values()}) or 1
        seconds = len(self._waiting) * self._speed.seconds / self._speed.jobs / busy
        shortest_s, longest_s = RETRY_AFTER_RANGE_S
        return min(max(seconds, shortest_s), longest_s)


def _frames(entry: _Entry) -> int:
    return entry.job.batch_key.window_s * FRAMES_PER_S
