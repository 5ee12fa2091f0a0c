"""How the pools did over the last minutes, for the page ``/status``: one point each time the gateway looks at one."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ray_whisper_streaming.pool.base import PoolStats

__all__ = ["Point", "StatusLog", "percentile"]

KEPT_POINTS = 300
"""Of each model: five minutes, a point a second."""

SPAN_POINTS = 5
"""Means are taken over the time since so many points before: in a single second there may be one batch, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One look at a pool. Where nothing ran there is no mean: it is None, not 0.

    Attributes:
        n: its running number, over all pools.
        model: the pool's.
        at_s: monotonic seconds.
        workers: ready.
        sessions: open.
        streams: open, over all sessions.
        queued: jobs waiting for a worker.
        running: jobs being decoded.
        queue_wait_s: mean wait of the jobs begun.
        batch_size: jobs per engine call.
        busy: share of the workers' time spent decoding.
        real_time_factor: seconds of inference per second of audio decoded.
        lag_p50_s, lag_p90_s, lag_p99_s: of live sessions, now.

    Sessions and streams are those of the model.
    """

    n: int
    model: str
    at_s: float
    workers: int
    sessions: int
    streams: int
    queued: int
    running: int
    queue_wait_s: float | None
    batch_size: float | None
    busy: float | None
    real_time_factor: float | None
    lag_p50_s: float | None
    lag_p90_s: float | None
    lag_p99_s: float | None

    def told(self, now: float) -> dict[str, str | float | int | None]:
        """The point for JSON. Whoever reads it has another clock, so it tells its age (``age_s``), not its time."""
        facts: dict[str, str | float | int | None] = asdict(self)
        del facts["at_s"]
        facts["age_s"] = now - self.at_s
        return {name: _rounded(value) for name, value in facts.items()}


@dataclass(frozen=True, slots=True)
class _Sums:
    """The pool's counters as sums, of which differences can be taken."""

    at_s: float
    batches: int = 0
    jobs: float = 0.0
    waited_s: float = 0.0
    inference_s: float = 0.0
    audio_s: float = 0.0


class StatusLog:
    """Points of the last minutes, made of one snapshot of a pool and the snapshots before it."""

    def __init__(self) -> None:
        self._points: dict[str, deque[Point]] = defaultdict(lambda: deque(maxlen=KEPT_POINTS))
        self._sums: dict[str, deque[_Sums]] = defaultdict(lambda: deque(maxlen=SPAN_POINTS + 1))
        self._next = 0

    def measured(
        self,
        model: str,
        stats: PoolStats,
        now: float,
        *,
        sessions: int,
        streams: int,
        lags_s: Sequence[float],
    ) -> None:
        """The gateway looked at a pool.

        Args:
            model: the pool's.
            stats: of the pool.
            now: monotonic seconds.
            sessions: open, of this model.
            streams: open.
            lags_s: of the live sessions.
        """
        jobs = stats.batch_size_mean * stats.batches
        sums = _Sums(
            now,
            stats.batches,
            jobs,
            stats.queue_wait_s * jobs,
            stats.inference_s * stats.batches,
            stats.audio_s,
        )
        earlier = self._sums[model]
        if earlier and sums.batches < earlier[-1].batches:
            earlier.clear()  # the pool began to count anew
        earlier.append(sums)
        before = earlier[0]
        ordered = sorted(lags_s)
        inference_s = sums.inference_s - before.inference_s
        work_s = (now - before.at_s) * stats.workers
        point = Point(
            n=self._next,
            model=model,
            at_s=now,
            workers=stats.workers,
            sessions=sessions,
            streams=streams,
            queued=stats.queued,
            running=stats.in_flight,
            queue_wait_s=_ratio(sums.waited_s - before.waited_s, sums.jobs - before.jobs),
            batch_size=_ratio(sums.jobs - before.jobs, sums.batches - before.batches),
            # A call that took longer than the span is counted when it ends.
            busy=None if work_s <= 0 else min(1.0, inference_s / work_s),
            real_time_factor=_ratio(inference_s, sums.audio_s - before.audio_s),
            lag_p50_s=percentile(ordered, 0.5),
            lag_p90_s=percentile(ordered, 0.9),
            lag_p99_s=percentile(ordered, 0.99),
        )
        self._points[model].append(point)
        self._next += 1

    def after(self, n: int) -> list[Point]:
        """The points behind the one of number ``n``, oldest first; all that are kept where ``n`` is not known here."""
        kept = (point for points in self._points.values() for point in points)
        return sorted((point for point in kept if point.n > n or n >= self._next), key=lambda point: point.n)


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of them doesn't exceed; None of nothing."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _rounded(value: str | float | int | None) -> str | float | int | None:
    return round(value, 4) if isinstance(value, float) else value
