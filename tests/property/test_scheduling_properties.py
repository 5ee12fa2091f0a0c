"""What the scheduler promises whatever happens: a random life of a queue, checked after each step."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_whisper_streaming.core.jobs import BatchKey, DecodeOptions
from ray_whisper_streaming.core.scheduling import (
    FINAL_HEAD_START_S,
    MAX_PATIENCE_S,
    QueuedJob,
    Scheduler,
    SchedulerConfig,
)
from ray_whisper_streaming.errors import Overloaded

KEYS = [BatchKey("tiny.en", DecodeOptions(), window_s) for window_s in (10, 30)]
WORKERS = ["u", "v", "w"]
CONFIG = SchedulerConfig(max_queued=12, max_batch_size=4, max_batch_frames=9_000, max_tries=3)


class QueueLife(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.scheduler = Scheduler(CONFIG)
        self.now = 0.0
        self.count = 0
        self.added: dict[str, tuple[QueuedJob, float]] = {}
        self.waiting: set[str] = set()
        self.running: dict[str, set[str]] = {}
        self.tries: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(
        key=st.sampled_from(KEYS),
        tenant=st.sampled_from("xyz"),
        deadline=st.floats(-5, 30),
        final=st.booleans(),
        audio_s=st.floats(0, 30),
    )
    def add(self, key, tenant, deadline, final, audio_s):
        self.count += 1
        job = QueuedJob(
            job_id=str(self.count),
            stream_id=f"stream {self.count % 5}",
            batch_key=key,
            tenant=tenant,
            deadline=self.now + deadline,
            final=final,
            audio_s=audio_s,
        )
        try:
            assert self.scheduler.add(job, self.now)
        except Overloaded as error:
            assert len(self.waiting) == CONFIG.max_queued
            assert error.retry_after_s > 0  # noqa: PT017
            return
        self.added[job.job_id] = (job, self.now)
        self.waiting.add(job.job_id)

    @rule(workers=st.sets(st.sampled_from(WORKERS), min_size=1))
    def schedule(self, workers):
        idle = sorted(workers - self.running.keys())
        batches = self.scheduler.schedule(self.now, idle)
        assert len({batch.worker_id for batch in batches}) == len(batches)
        # Work-conserving: a worker stays idle only when nothing is left.
        assert len(batches) == len(idle) or sum(len(batch.jobs) for batch in batches) == len(self.waiting)
        for batch in batches:
            assert batch.worker_id in idle
            taken = {job.job_id for job in batch.jobs}
            assert len(taken) == len(batch.jobs) > 0
            assert taken <= self.waiting
            (key,) = {job.batch_key for job in batch.jobs}
            assert len(taken) <= CONFIG.max_batch_size
            assert len(taken) == 1 or len(taken) * key.window_s * 100 <= CONFIG.max_batch_frames
            self.waiting -= taken
            self.tries.update(taken)
            assert len(taken) == 1 or all(self.tries[job_id] < CONFIG.max_tries for job_id in taken)
            self.running[batch.worker_id] = taken
            for job in batch.jobs:
                self.overtaken_by(job, taken)

    def overtaken_by(self, job, batch):
        """Nobody of the same tenant and key who should go before this job is left behind."""
        for other_id in self.waiting - batch:
            other, arrived = self.added[other_id]
            if (other.tenant, other.batch_key) != (job.tenant, job.batch_key) or self.tries[other_id]:
                continue
            since = arrived - self.added[job.job_id][1]  # how much later the other one came
            if other.final and not job.final:
                assert since > FINAL_HEAD_START_S - MAX_PATIENCE_S
            assert -since <= FINAL_HEAD_START_S + MAX_PATIENCE_S

    @precondition(lambda self: self.running)
    @rule(data=st.data(), inference_s=st.floats(0.001, 10))
    def finish(self, data, inference_s):
        worker = data.draw(st.sampled_from(sorted(self.running)))
        outcomes = {job_id: data.draw(st.booleans()) for job_id in self.running.pop(worker)}
        stranger = data.draw(st.sampled_from([name for name in WORKERS if name != worker]))
        assert self.scheduler.update(stranger, outcomes, 0.1) == []
        assert sorted(self.scheduler.update(worker, outcomes, inference_s)) == sorted(outcomes)
        assert self.scheduler.update(worker, outcomes, inference_s) == []
        self.left.update(list(outcomes))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def lose_worker(self, data):
        worker = data.draw(st.sampled_from(sorted(self.running)))
        lost = self.running.pop(worker)
        given_up = {failure.job_id for failure in self.scheduler.worker_lost(worker)}
        assert given_up == {job_id for job_id in lost if self.tries[job_id] == CONFIG.max_tries}
        self.waiting |= lost - given_up
        self.left.update(given_up)

    @precondition(lambda self: self.added)
    @rule(data=st.data())
    def cancel(self, data):
        job_id = data.draw(st.sampled_from(sorted(self.added)))
        assert self.scheduler.cancel(job_id) == (job_id in self.waiting)
        if job_id in self.waiting:
            self.left[job_id] += 1
        self.waiting.discard(job_id)

    @rule(stream=st.integers(0, 4))
    def stream_departs(self, stream):
        gone = set(self.scheduler.cancel_stream(f"stream {stream}"))
        assert gone == {job_id for job_id in self.waiting if int(job_id) % 5 == stream}
        self.waiting -= gone
        self.left.update(gone)

    @invariant()
    def every_job_is_in_one_place(self):
        stats = self.scheduler.stats()
        assert stats.queued == len(self.waiting)
        assert stats.in_flight == sum(map(len, self.running.values()))
        assert stats.queued + stats.in_flight + len(self.left) == len(self.added)
        assert all(times == 1 for times in self.left.values())


TestQueueLife = QueueLife.TestCase
TestQueueLife.settings = settings(max_examples=60)


class Rivals(RuleBasedStateMachine):
    """Two tenants who always have work: the audio they get never differs by much."""

    def __init__(self):
        super().__init__()
        self.scheduler = Scheduler(SchedulerConfig(max_batch_size=3))
        self.served = {"x": 0.0, "y": 0.0}
        self.count = 0
        for tenant in "xy":
            for _ in range(4):
                self.add(tenant, 1.0, False)

    def add(self, tenant, audio_s, final):
        self.count += 1
        self.scheduler.add(
            QueuedJob(
                job_id=str(self.count),
                stream_id="s",
                batch_key=KEYS[0],
                tenant=tenant,
                audio_s=audio_s,
                final=final,
            ),
            0.0,
        )

    @rule(audio_s=st.floats(1, 30), finals=st.sampled_from("xy"))
    def serve(self, audio_s, finals):
        (batch,) = self.scheduler.schedule(0.0, ["w"])
        self.scheduler.update("w", {job.job_id: True for job in batch.jobs}, 0.1)
        for job in batch.jobs:
            self.served[job.tenant] += job.audio_s
            # One has long windows, all final; the other short ones.
            self.add(job.tenant, audio_s if job.tenant == "x" else 1.0, job.tenant == finals)

    @invariant()
    def nobody_gets_far_ahead(self):
        assert abs(self.served["x"] - self.served["y"]) <= 30 + 30  # the slack and one job


TestRivals = Rivals.TestCase
TestRivals.settings = settings(max_examples=30)
