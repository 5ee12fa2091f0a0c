"""The points of the page ``/status``."""

from __future__ import annotations

import pytest

from ray_whisper_streaming.pool.base import PoolStats
from ray_whisper_streaming.server.status import KEPT_POINTS, SPAN_POINTS, Point, StatusLog, percentile


def stats(batches: int, jobs: int, *, inference_s: float = 0.0, audio_s: float = 0.0, waited_s: float = 0.0):
    """Of a pool, from sums."""
    return PoolStats(
        workers=2,
        batches=batches,
        batch_size_mean=jobs / batches if batches else 0.0,
        queue_wait_s=waited_s / jobs if jobs else 0.0,
        inference_s=inference_s / batches if batches else 0.0,
        audio_s=audio_s,
    )


def look(
    log: StatusLog, seen: PoolStats, now: float, lags_s: tuple[float, ...] = (), model: str = "tiny.en"
) -> Point:
    log.measured(model, seen, now, sessions=1, streams=2, lags_s=lags_s)
    return log.after(-1)[-1]


def test_means_are_of_what_came_since_the_points_before() -> None:
    log = StatusLog()
    look(log, stats(100, 100, inference_s=50.0, audio_s=100.0, waited_s=10.0), 0.0)
    point = look(log, stats(110, 140, inference_s=51.0, audio_s=120.0, waited_s=14.0), 1.0)
    assert point.batch_size == pytest.approx(4.0)
    assert point.queue_wait_s == pytest.approx(0.1)
    assert point.real_time_factor == pytest.approx(0.05)
    assert point.busy == pytest.approx(0.5)  # one second of work, two workers


def test_where_nothing_ran_there_is_no_mean() -> None:
    log = StatusLog()
    first = look(log, stats(3, 3, inference_s=1.0, audio_s=4.0), 0.0)
    assert (first.batch_size, first.real_time_factor, first.busy) == (None, None, None)
    second = look(log, stats(3, 3, inference_s=1.0, audio_s=4.0), 1.0)
    assert (second.batch_size, second.real_time_factor, second.busy) == (None, None, 0.0)


def test_what_was_before_the_span_is_forgotten() -> None:
    log = StatusLog()
    look(log, stats(0, 0), 0.0)
    points = [look(log, stats(1, 8), float(second)) for second in range(1, SPAN_POINTS + 2)]
    assert points[-2].batch_size == 8.0
    assert points[-1].batch_size is None


def test_a_pool_that_counts_anew_is_no_negative_work() -> None:
    log = StatusLog()
    look(log, stats(100, 100, inference_s=50.0, audio_s=100.0), 0.0)
    assert look(log, stats(1, 1, inference_s=0.1, audio_s=1.0), 1.0).busy is None
    assert look(log, stats(2, 2, inference_s=0.2, audio_s=2.0), 2.0).real_time_factor == pytest.approx(0.1)


def test_lags_by_percentile() -> None:
    point = look(StatusLog(), stats(0, 0), 0.0, lags_s=tuple(float(lag) for lag in range(100, 0, -1)))
    assert (point.lag_p50_s, point.lag_p90_s, point.lag_p99_s) == (50.0, 90.0, 99.0)
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([], 0.5) is None


def test_points_are_kept_for_a_while_and_told_from_a_number_on() -> None:
    log = StatusLog()
    for second in range(KEPT_POINTS + 10):
        look(log, stats(0, 0), float(second))
    assert len(log.after(-1)) == KEPT_POINTS
    assert [point.n for point in log.after(KEPT_POINTS + 7)] == [KEPT_POINTS + 8, KEPT_POINTS + 9]
    assert log.after(KEPT_POINTS + 9) == []
    # A number that was never given is of a server that ran before this one.
    assert len(log.after(KEPT_POINTS + 10)) == KEPT_POINTS


def test_a_point_tells_its_age() -> None:
    told = look(StatusLog(), stats(0, 0), 10.0).told(12.5)
    assert told["age_s"] == 2.5
    assert "at_s" not in told


def test_models_are_told_apart() -> None:
    log = StatusLog()
    for second in range(KEPT_POINTS + 1):
        look(log, stats(second, second), float(second))
        look(log, stats(second, 4 * second), float(second), model="base")
    assert len(log.after(-1)) == 2 * KEPT_POINTS
    small, large = log.after(2 * KEPT_POINTS - 1)
    assert (small.model, small.n, small.batch_size) == ("tiny.en", 2 * KEPT_POINTS, 1.0)
    assert (large.model, large.n, large.batch_size) == ("base", 2 * KEPT_POINTS + 1, 4.0)
