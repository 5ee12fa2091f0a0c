"""How loaded the pool is, from two snapshots of its counters and the lags of the sessions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ray_whisper_streaming.pool.base import PoolStats

__all__ = ["Load", "LoadMeter"]

LAGGING_SHARE = 0.1
"""The lag that counts is the one that this share of the live sessions exceeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What was measured last.

    Attributes:
        ready: whether workers are there and warm.
        queue_wait_s: mean of the jobs that were begun lately; or how long nothing moved, if jobs wait.
        lag_s: the lag that one in ten live sessions exceeds.
    """

    ready: bool = True
    queue_wait_s: float = 0.0
    lag_s: float = 0.0


class LoadMeter:
    """Measures between one call and the next.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = PoolStats()
        self._moved_at = clock()

    def measure(self, stats: PoolStats, lags_s: Sequence[float]) -> Load:
        """The load since the last call.

        Args:
            stats: of the pool, now.
            lags_s: of the live sessions, now.
        """
        now, last = self._clock(), self._last
        self._last = stats
        begun, begun_before = _batched_jobs(stats), _batched_jobs(last)
        if begun > begun_before or not stats.queued:
            self._moved_at = now
        wait_s = 0.0
        if begun > begun_before:
            wait_s = (stats.queue_wait_s * begun - last.queue_wait_s * begun_before) / (begun - begun_before)
        stalled_s = now - self._moved_at
        return Load(
            ready=stats.workers > 0,
            queue_wait_s=max(0.0, wait_s, stalled_s),
            lag_s=_exceeded_by(sorted(lags_s), LAGGING_SHARE),
        )


def _batched_jobs(stats: PoolStats) -> int:
    return round(stats.batch_size_mean * stats.batches)


def _exceeded_by(ordered: Sequence[float], share: float) -> float:
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * (1 - share)))]
