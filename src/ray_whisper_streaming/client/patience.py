"""How a stream bears a lost connection."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Patience"]

MOST_DOUBLINGS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds of this and that.

    Attributes:
        reconnect_s: give up after so many seconds without a connection; 0: at once.
        first_pause_s: before the second try; the first is made at once. Doubles with each.
        longest_pause_s: between two tries.
        unacknowledged_s: audio kept, in seconds; more than that, and `push` waits. Less than half a minute could be
            less than the server takes for one pass.
    """

    reconnect_s: float = 60.0
    first_pause_s: float = 0.25
    longest_pause_s: float = 5.0
    unacknowledged_s: float = 60.0

    def pause_s(self, tries: int) -> float:
        """Before the next try, after so many; a part is left to chance, so that clients don't come all at once."""
        if not tries:
            return 0.0
        longest_s = min(self.longest_pause_s, self.first_pause_s * 2 ** min(tries - 1, MOST_DOUBLINGS))
        return longest_s * random.uniform(0.5, 1.0)
