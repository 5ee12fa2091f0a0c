"""How far apart a stream's passes are: as was asked for while the pool keeps up, further apart when it doesn't."""

from __future__ import annotations

from ray_whisper_streaming.core.policy import AGREEMENT_SPAN_S

__all__ = ["Pace"]

SHORT_WAIT_S = 0.1
"""A wait that nobody minds, however quick the engine is."""

SLOWER, FASTER = 1.1, 0.95
"""By what the interval is multiplied. Getting slower is quicker, so that a queue which grows is met in time."""

LONGEST_S = 1.2
"""Passes further apart tell too little. Where the pool can't keep up even so, jobs wait, and tell a server by that not
to let more sessions in."""


class Pace:
    """The interval between passes, from what became of the jobs before.

    A pool that is never idle serves every stream as often as it can, which is too often: a pass that comes 0.7 s
    after the one before costs as much as any, but confirms nothing yet (`AGREEMENT_SPAN_S`), and all jobs wait for
    each other. So a stream whose jobs wait asks less often, until they don't; and never at an interval between the one
    asked for and the span. (Measured, eight streams of tiny.en on two cores, each before and after within minutes:
    commit p95 3.0 and 2.5 s, first shown p95 2.0 and 1.5 s, jobs waited 0.49 and 0.12 s; through Ray 3.4 and 2.7 s,
    2.4 and 1.9 s, 0.66 and 0.17 s.)

    Args:
        least_s: the interval that was asked for, seconds of audio.
    """

    def __init__(self, least_s: float) -> None:
        self._least_s = least_s
        self._affordable_s = least_s

    @property
    def interval_s(self) -> float:
        """New audio, in seconds, that the next pass is to wait for."""
        if self._affordable_s < (self._least_s + AGREEMENT_SPAN_S) / 2:
            return self._least_s
        return max(self._affordable_s, AGREEMENT_SPAN_S)

    @property
    def slowed(self) -> bool:
        """Whether passes are further apart than was asked for."""
        return self.interval_s > self._least_s

    def receive(self, wait_s: float, decoding_s: float) -> None:
        """Take how long a pass waited for a worker, and how long its batch took there."""
        if wait_s > max(decoding_s, SHORT_WAIT_S):  # a whole batch was ahead of it
            self._affordable_s = max(self._least_s, min(self._affordable_s * SLOWER, LONGEST_S))
        elif wait_s < decoding_s / 4:
            self._affordable_s = max(self._least_s, self._affordable_s * FASTER)
