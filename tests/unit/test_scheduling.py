"""The scheduler, by examples."""

from __future__ import annotations

from typing import Any

import pytest

from ray_whisper_streaming.core.jobs import BatchKey, DecodeOptions
from ray_whisper_streaming.core.scheduling import (
    FAIRNESS_SLACK_S,
    FINAL_HEAD_START_S,
    FIRST_BATCH_FRAMES,
    MAX_PATIENCE_S,
    QueuedJob,
    Scheduler,
    SchedulerConfig,
    WorkerStats,
)
from ray_whisper_streaming.errors import ConfigurationError, Overloaded, WorkerDied

SHORT = BatchKey("tiny.en", DecodeOptions(), 10)
LONG = BatchKey("tiny.en", DecodeOptions(), 20)


def job(job_id: str, **facts: Any) -> QueuedJob:
    defaults: dict[str, Any] = {"stream_id": f"stream of {job_id}", "batch_key": SHORT, "audio_s": 5.0}
    return QueuedJob(job_id=job_id, **{**defaults, **facts})


def ids(batches) -> list[list[str]]:
    return [[item.job_id for item in batch.jobs] for batch in batches]


def scheduler_with(*jobs: QueuedJob, now: float = 0.0, **config) -> Scheduler:
    scheduler = Scheduler(SchedulerConfig(**config))
    for item in jobs:
        assert scheduler.add(item, now)
    return scheduler


def test_earliest_deadline_first_and_finals_before_all():
    scheduler = scheduler_with(
        job("late", deadline=5.0),
        job("soon", deadline=1.0),
        job("at once"),
        job("end", deadline=9.0, final=True),
    )
    assert ids(scheduler.schedule(0.0, ["w"])) == [["end", "at once", "soon", "late"]]


def test_a_past_deadline_is_no_claim_against_earlier_arrivals():
    scheduler = scheduler_with(job("first", deadline=99.0), now=100.0)
    scheduler.add(job("second", deadline=1.0), 100.5)
    assert ids(scheduler.schedule(101.0, ["w"])) == [["first", "second"]]


def test_a_job_that_stands_for_one_that_waited_keeps_its_place():
    scheduler = scheduler_with(job("came after", deadline=5.0), now=4.0)
    scheduler.add(job("fresh audio", deadline=1.0, keeps_place=True), 4.1)
    scheduler.add(job("claims much", deadline=-1e9, keeps_place=True), 4.2)
    scheduler.add(job("before all claims", deadline=-6.0, keeps_place=True), 4.0)
    order = [ids(scheduler.schedule(5.0, ["w"])) for _ in range(2)]
    assert order == [[["before all claims", "claims much", "fresh audio", "came after"]], []]


def test_a_stream_of_finals_does_not_hold_up_a_partial_for_ever():
    scheduler = scheduler_with(job("partial", deadline=1e9), max_batch_size=1)
    overtakers = 0
    for second in range(100):
        scheduler.add(job(f"final {second}", final=True), float(second))
        if ids(scheduler.schedule(float(second), ["w"])) == [["partial"]]:
            break
        overtakers += 1
    assert overtakers == pytest.approx(FINAL_HEAD_START_S + MAX_PATIENCE_S, abs=1)


def test_a_batch_holds_one_key_and_the_most_urgent_key_goes_first():
    scheduler = scheduler_with(
        job("a", deadline=2.0),
        job("b", deadline=1.0, batch_key=LONG),
        job("c", deadline=3.0, batch_key=LONG),
    )
    assert ids(scheduler.schedule(0.0, ["w"])) == [["b", "c"]]
    assert ids(scheduler.schedule(0.0, ["w"])) == [["a"]]
    assert scheduler.schedule(0.0, ["w"]) == []


def test_windows_of_any_length_share_a_batch_where_the_engines_take_them():
    short, long = BatchKey("m", DecodeOptions(), 8), BatchKey("m", DecodeOptions(), 20)
    other = BatchKey("m", DecodeOptions(beam_size=5), 8)
    scheduler = scheduler_with(job("before", batch_key=short))
    scheduler.fit_engines(4, ragged=True)
    for name, key in (("a", short), ("b", long), ("c", other)):
        scheduler.add(job(name, batch_key=key), 1.0)
    # What was queued before keeps its place; options are never mixed.
    batches = [ids(scheduler.schedule(2.0, ["w"])) for _ in range(3)]
    assert batches == [[["before"]], [["a", "b"]], [["c"]]]
    assert scheduler.schedule(2.0, ["w"]) == []


def test_mixed_windows_count_as_long_as_they_are():
    # 20 s are 2000 frames: both short ones fit beside the long one, the second long one does not.
    short, long = BatchKey("m", DecodeOptions(), 8), BatchKey("m", DecodeOptions(), 20)
    scheduler = scheduler_with(max_batch_frames=3600)
    scheduler.fit_engines(9, ragged=True)
    for name, key in (("a", long), ("b", short), ("c", short), ("d", long), ("e", short)):
        scheduler.add(job(name, batch_key=key), 0.0)
    assert [ids(scheduler.schedule(1.0, ["w"])) for _ in range(2)] == [[["a", "b", "c"]], [["d", "e"]]]


def test_limits_by_count_and_by_frames():
    jobs = [job(str(number), batch_key=LONG) for number in range(6)]
    by_count = scheduler_with(*jobs, max_batch_size=4)
    assert [len(batch) for batch in ids(by_count.schedule(0.0, ["w"]))] == [4]
    by_frames = scheduler_with(*jobs, max_batch_frames=2 * 2000 + 1999)
    assert [len(batch) for batch in ids(by_frames.schedule(0.0, ["w"]))] == [2]
    at_least_one = scheduler_with(*jobs, max_batch_frames=1)
    assert [len(batch) for batch in ids(at_least_one.schedule(0.0, ["w"]))] == [1]


def test_batches_follow_the_measured_speed():
    scheduler = scheduler_with(
        *(job(str(number), batch_key=LONG) for number in range(60)), target_batch_s=1.0
    )
    (first,) = scheduler.schedule(0.0, ["w"])
    assert len(first.jobs) == FIRST_BATCH_FRAMES // 2000 == 4
    scheduler.update("w", {item.job_id: True for item in first.jobs}, inference_s=2.0)
    (second,) = scheduler.schedule(2.0, ["w"])
    assert len(second.jobs) == 2  # 4 took 2 s
    scheduler.update("w", {item.job_id: True for item in second.jobs}, inference_s=0.01)
    (third,) = scheduler.schedule(3.0, ["w"])
    assert len(third.jobs) == 3  # faster than before: (4 x 0.9 + 2) jobs in 1.81 s


def test_a_timeout_does_not_count_as_speed():
    scheduler = scheduler_with(*(job(str(number)) for number in range(30)))
    (first,) = scheduler.schedule(0.0, ["w"])
    scheduler.update("w", {item.job_id: False for item in first.jobs}, inference_s=60.0)
    (second,) = scheduler.schedule(60.0, ["w"])
    assert len(second.jobs) == len(first.jobs)


def test_idle_workers_share_the_work():
    scheduler = scheduler_with(*(job(str(number)) for number in range(5)))
    assert ids(scheduler.schedule(0.0, ["u", "v"])) == [["0", "1", "2"], ["3", "4"]]


def test_a_tenant_with_many_streams_does_not_starve_one_with_few():
    crowd = [job(f"crowd {number}", tenant="crowd") for number in range(40)]
    scheduler = scheduler_with(*crowd, max_batch_size=1)
    waits = []
    for turn in range(4):
        scheduler.add(job(f"lone {turn}", tenant="lone"), 1.0)
        wait = 0
        while ids(scheduler.schedule(1.0, ["w"])) != [[f"lone {turn}"]]:
            wait += 1
        waits.append(wait)
    assert max(waits) <= 2 * FAIRNESS_SLACK_S / 5.0


def test_a_tenant_that_comes_late_has_no_claim_on_the_past():
    scheduler = scheduler_with(
        *(job(f"old {number}", tenant="old") for number in range(40)), max_batch_size=1
    )
    for _ in range(20):
        scheduler.schedule(0.0, ["w"])
    for number in range(20):
        scheduler.add(job(f"new {number}", tenant="new"), 0.0)
    first = [ids(scheduler.schedule(0.0, ["w"]))[0][0].split()[0] for _ in range(20)]
    assert first.count("old") >= 6


@pytest.mark.parametrize("backlog", [0, 10])
def test_the_memory_of_tenants_is_bounded(backlog):
    scheduler = scheduler_with(*(job(f"backlog {number}") for number in range(backlog)), max_batch_size=1)
    for number in range(2000):
        scheduler.add(job(f"job {number}", tenant=f"tenant {number}"), float(number))
        scheduler.schedule(float(number), ["w"])
    assert len(scheduler._served_s) < 200


def test_a_full_queue_says_when_to_come_back():
    scheduler = scheduler_with(job("a"), job("b"), max_queued=2)
    with pytest.raises(Overloaded) as unmeasured:
        scheduler.add(job("c"), 0.0)
    assert (unmeasured.value.limit, unmeasured.value.current) == (2, 2)
    scheduler.schedule(0.0, ["w"])
    scheduler.update("w", {"a": True, "b": True}, inference_s=3.0)
    for name in "cd":
        scheduler.add(job(name), 3.0)
    with pytest.raises(Overloaded) as measured:
        scheduler.add(job("e"), 3.0)
    assert measured.value.retry_after_s == pytest.approx(3.0)


def test_adding_twice_is_adding_once():
    scheduler = scheduler_with(job("a"))
    assert not scheduler.add(job("a"), 1.0)
    assert ids(scheduler.schedule(1.0, ["w"])) == [["a"]]
    assert not scheduler.add(job("a"), 2.0)
    assert scheduler.stats().queued == 0


def test_outcomes_count_once_and_only_from_the_worker_that_has_the_job():
    scheduler = scheduler_with(job("a"))
    assert scheduler.update("w", {"a": True}, 0.1) == []
    scheduler.schedule(0.0, ["w"])
    assert scheduler.update("other", {"a": True}, 0.1) == []
    assert scheduler.update("w", {"a": True, "foreign": True}, 0.1) == ["a"]
    assert scheduler.update("w", {"a": True}, 0.1) == []
    assert scheduler.stats().jobs_done == 1


def test_withdrawing_jobs_and_streams():
    scheduler = scheduler_with(job("a", stream_id="s"), job("b", stream_id="t"), job("c", stream_id="s"))
    assert scheduler.cancel("b")
    assert not scheduler.cancel("b")
    assert scheduler.cancel_stream("s") == ["a", "c"]
    assert scheduler.schedule(0.0, ["w"]) == []
    scheduler.add(job("d"), 0.0)
    scheduler.schedule(0.0, ["w"])
    assert not scheduler.cancel("d")  # running


def test_jobs_of_a_lost_worker_run_again_the_last_time_alone():
    scheduler = scheduler_with(job("a"), job("b"))
    scheduler.schedule(0.0, ["w"])
    assert scheduler.worker_lost("w") == []
    scheduler.add(job("c"), 1.0)
    assert ids(scheduler.schedule(1.0, ["w"])) == [["a", "b", "c"]]
    assert scheduler.worker_lost("w") == []
    assert ids(scheduler.schedule(2.0, ["w"])) == [["a"]]
    (failure,) = scheduler.worker_lost("w", "as told")
    assert failure.job_id == "a"
    assert str(failure.error) == "as told; that was try 3 of 3"
    assert isinstance(failure.error, WorkerDied)
    assert failure.error.job_id == "a"
    assert ids(scheduler.schedule(3.0, ["w"])) == [["b"]]
    assert scheduler.update("w", {"b": True}, 0.1) == ["b"]
    assert ids(scheduler.schedule(3.0, ["w"])) == [["c"]]
    stats = scheduler.stats()
    assert (stats.jobs_retried, stats.jobs_failed, stats.jobs_done) == (5, 1, 1)


def test_waiting_for_company():
    scheduler = scheduler_with(job("a"), batch_wait_s=0.05, max_batch_size=3)
    assert scheduler.schedule(0.01, ["w"]) == []
    assert scheduler.next_wakeup() == pytest.approx(0.05)
    scheduler.add(job("b"), 0.02)
    assert ids(scheduler.schedule(0.05, ["w"])) == [["a", "b"]]
    assert scheduler.next_wakeup() is None


@pytest.mark.parametrize("newcomer", [job("end", final=True), job("other", batch_key=LONG, final=True)])
def test_a_final_does_not_wait(newcomer):
    scheduler = scheduler_with(job("a"), batch_wait_s=1.0)
    scheduler.add(newcomer, 0.0)
    (batch,) = scheduler.schedule(0.0, ["w"])
    assert batch.jobs[0] == newcomer


def test_a_full_batch_does_not_wait():
    scheduler = scheduler_with(job("a"), job("b"), batch_wait_s=1.0, max_batch_size=2)
    assert ids(scheduler.schedule(0.0, ["w"])) == [["a", "b"]]


def test_stats_and_waits():
    scheduler = scheduler_with(job("a"), job("b"))
    (batch,) = scheduler.schedule(0.5, ["w"])
    assert batch.queue_waits_s == (0.5, 0.5)
    scheduler.add(job("c"), 1.0)
    scheduler.update("w", {"a": True, "b": False}, 0.25)
    stats = scheduler.stats()
    assert (stats.queued, stats.in_flight, stats.jobs_done, stats.jobs_failed) == (1, 0, 1, 1)
    assert (stats.batches, stats.batched_jobs, stats.queue_wait_sum_s) == (1, 2, 1.0)
    assert (stats.inference_sum_s, stats.audio_s) == (0.25, 5.0)
    assert stats.workers_by_id == {"w": WorkerStats(jobs_done=1, batches=1, inference_s=0.25, audio_s=5.0)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_queued": 0},
        {"max_batch_size": 0},
        {"max_batch_frames": 0},
        {"max_tries": 0},
        {"target_batch_s": 0.0},
        {"batch_wait_s": -1.0},
        {"batch_wait_s": float("nan")},
    ],
)
def test_limits_are_checked(wrong):
    with pytest.raises(ConfigurationError) as caught:
        SchedulerConfig(**wrong)
    assert caught.value.field in wrong
