"""Of which windows an engine remembers what its encoder made, so that what was heard is not encoded with every pass.

A live stream's window grows at its end: each pass brings the audio of the one before and a little more. Whisper's
encoder lets every position see all others, so that, strictly, all of them change with each second that comes. Those far
from the end hardly do, unless the window is short: here a position is final once `SETTLED` more of audio followed it,
in a window that holds `WHOLE_BELOW`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from ray_whisper_streaming.engines.backend import SAMPLES_PER_POSITION, Source

__all__ = ["LEAST_RANGE", "LEVELS", "OVERLAP", "Known", "KnownWindows"]

SETTLED = 50
"""Positions (a second) of audio behind those that are remembered: the encoder has heard what follows them. (Measured
with tiny.en, passes 0.8 s apart, windows of 8 to 15 s, 8 streams of a minute: 13.1 % word errors when all is encoded
anew, and 12.7, 13.8, 14.8 % with a second, two and three. Of two minutes: 12.9 %, and 14.1, 13.2 % with a second and
two. No trend, but noise of where the windows happen to begin; all without `WHOLE_BELOW`.)"""

WHOLE_BELOW = 300
"""Windows shorter than so many positions (6 s) are encoded anew each time: it costs little, and what a stream begins
with is understood from what follows. (Measured with tiny.en, passes 0.8 s apart, 16 streams of a minute: 13.2 % word
errors where a second settles from the start, 12.3 % with this limit, 12.2 % with one of 9 s, 12.3 % where all is
encoded anew; of the first five words of each stream 20 %, and 11 % in the other three.)"""

OVERLAP = 1
"""Positions computed once more in front of the new ones, and dropped: their convolutions see an edge."""

LEVELS = 127
"""Levels of 8 bits on each side of zero."""

LEAST_RANGE = 1e-2
"""Keeps a step among the normal numbers of half precision (6e-5 and more), where all of a head's are nearly zero."""

ROUNDS_KEPT = 4
"""A stream not heard of while all others came so many times has ended, or pauses."""

Held = TypeVar("Held")
"""Where a runtime has what is remembered of a window."""


@dataclass(slots=True)
class Known(Generic[Held]):
    """What is known of a window.

    Attributes:
        source: the window it was made of.
        positions: how many are remembered.
        held: where.
        used_at: count of uses of the memory when it was used last.
    """

    source: Source
    positions: int
    held: Held = field(repr=False)
    used_at: int = 0


class KnownWindows(Generic[Held]):
    """The window of each stream, as far as it is remembered, within a limit.

    A pass asks what is known (`recall`) and how much is to be remembered from then on (`settle`), and says where it is
    (`keep`).

    Args:
        most_positions: of all windows together.
        forgotten: told what nobody will ask for any more.
    """

    def __init__(self, most_positions: int, forgotten: Callable[[Held], None] | None = None) -> None:
        self._most_positions = most_positions
        self._forgotten = forgotten
        self._known: OrderedDict[str, Known[Held]] = OrderedDict()
        self._uses = 0
        self.positions = 0

    def recall(self, source: Source | None) -> Known[Held] | None:
        """What is known of a window that begins where the stream's last one did, and with the same audio."""
        known = self._known.get(source.stream_id) if source else None
        if known is None or source is None or not _goes_on(source, known):
            return None
        return known

    def settle(self, source: Source | None, known: Known[Held] | None) -> int:
        """How many positions of a window to remember; those known are among them. 0: nothing.

        Streams that have gone make room for it. Where there are none it is not remembered further: all have their turn
        again soon, and forgetting one of them for each that comes would leave nothing for any.

        Args:
            source: the window; None is not to be remembered.
            known: what `recall` gave for it.
        """
        if source is None:
            return 0
        self._uses += 1
        held = self._known.get(source.stream_id)
        if known is not held:
            if known is not None:  # forgotten since
                return 0
            self.forget(source.stream_id)
        heard = len(source.audio) // SAMPLES_PER_POSITION
        before = known.positions if known else 0
        after = max(before, heard - SETTLED if heard >= WHOLE_BELOW else 0)
        if known is not None:
            known.used_at = self._uses
            self._known.move_to_end(source.stream_id)
        while self.positions + after - before > self._most_positions:
            oldest = next(iter(self._known), source.stream_id)
            if oldest == source.stream_id or not self._has_gone(self._known[oldest]):
                return before
            self.forget(oldest)
        return after

    def keep(self, source: Source, positions: int, held: Held) -> None:
        """Remember a window: as many positions as `settle` said, or as there are already."""
        known = self._known.get(source.stream_id)
        self.positions += positions - (known.positions if known else 0)
        self._known[source.stream_id] = Known(source, positions, held, self._uses)
        self._known.move_to_end(source.stream_id)

    def forget(self, stream_id: str) -> None:
        """Forget a stream's window, if there is one."""
        known = self._known.pop(stream_id, None)
        if known is not None:
            self.positions -= known.positions
            if self._forgotten is not None:
                self._forgotten(known.held)

    def _has_gone(self, known: Known[Held]) -> bool:
        return self._uses - known.used_at > ROUNDS_KEPT * len(self._known)


def _goes_on(source: Source, known: Known[Held]) -> bool:
    """Whether the audio is that of the window known, and perhaps more."""
    heard = known.positions * SAMPLES_PER_POSITION
    return (
        source.start_sample == known.source.start_sample
        and len(source.audio) >= heard
        and np.array_equal(source.audio[:heard], known.source.audio[:heard])
    )
