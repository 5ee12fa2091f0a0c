"""What the encoder remembers of streams, so that what it has heard is not encoded again with every pass.

A live stream's window grows at its end: each pass brings the audio of the one before and a little more. Whisper's
encoder lets every position see all others, so that, strictly, all of them change with each second that comes. Those far
from the end hardly do, unless the window is short: here a position is final once `SETTLED` more of audio followed it,
in a window that holds `WHOLE_BELOW`.
"""

from __future__ import annotations

import math
import mmap
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.engines.backend import SAMPLES_PER_POSITION, Source

__all__ = ["EncoderMemory", "Known", "Parts"]

Int8 = npt.NDArray[np.int8]
Float16 = npt.NDArray[np.float16]

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

MAX_BYTES = 256 * 2**20
"""Memory for all streams: about 50 windows of 18 s with tiny.en. Beyond it, windows are encoded whole."""

LONGEST = 1500
"""Positions of the longest window (30 s)."""

ROUNDS_KEPT = 4
"""A stream not heard of while all others came so many times has ended, or pauses."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Intermediate results, position by position, in 8 bits.

    Attributes:
        numbers: keys and values of several attentions, shape (positions, tensors, size).
        steps: what 1 stands for in each part of a tensor, shape (positions, tensors, parts).
    """

    numbers: Int8
    steps: Float16


@dataclass(slots=True)
class Known:
    """What is known of a window.

    Attributes:
        source: the window it was made of.
        positions: how many are remembered.
        parts: the results, with room for more positions.
        used_at: count of uses of the memory when it was used last.
    """

    source: Source
    positions: int
    parts: Parts = field(repr=False)
    used_at: int = 0


class EncoderMemory:
    """Intermediate results of the encoder for the window of each stream, within a limit of memory.

    Args:
        tensors: of a window: keys and values of so many attentions.
        size: numbers in each of them for one position.
        parts: how many of a tensor have steps of their own.
        max_bytes: for all streams.
    """

    def __init__(self, tensors: int, size: int, parts: int, max_bytes: int = MAX_BYTES) -> None:
        self._number_shape, self._step_shape = (tensors, size), (tensors, parts)
        self._position_bytes = tensors * (size + parts * np.dtype(np.float16).itemsize)
        self._max_bytes = max_bytes
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._uses = 0
        self.nothing = self._room(0)

    @property
    def held_bytes(self) -> int:
        """What is remembered now."""
        return sum(known.positions for known in self._known.values()) * self._position_bytes

    def recall(self, source: Source | None) -> Known | None:
        """What is known of a window that begins where the stream's last one did, and with the same audio."""
        known = self._known.get(source.stream_id) if source else None
        if known is None or source is None or not known.positions or not _goes_on(source, known):
            return None
        return known

    def keep(self, source: Source | None, known: Known | None, fresh: Parts) -> None:
        """Remember a window.

        Args:
            source: the window; None is not remembered.
            known: what `recall` gave for it.
            fresh: what was made of the positions behind those known.
        """
        if source is None:
            return
        self._uses += 1
        heard = len(source.audio) // SAMPLES_PER_POSITION
        settled = heard - SETTLED if heard >= WHOLE_BELOW else 0
        before = known.positions if known else 0
        after = max(before, min(settled, before + len(fresh.numbers)))
        parts = known.parts if known else self._room(LONGEST if after else 0)
        parts.numbers[before:after] = fresh.numbers[: after - before]
        parts.steps[before:after] = fresh.steps[: after - before]
        self._known[source.stream_id] = Known(source, after, parts, self._uses)
        self._known.move_to_end(source.stream_id)
        self._make_room(source.stream_id)

    def _room(self, positions: int) -> Parts:
        return Parts(
            _pages((positions, *self._number_shape), np.int8),
            _pages((positions, *self._step_shape), np.float16),
        )

    def _make_room(self, newest: str) -> None:
        """Forget streams that have gone, longest ago first; if there are none, the newest: all have their turn
        again soon, and forgetting one of them for each that comes would leave nothing for any.
        """
        while self.held_bytes > self._max_bytes:
            oldest, known = next(iter(self._known.items()))
            gone = self._uses - known.used_at > ROUNDS_KEPT * len(self._known)
            del self._known[oldest if gone else newest]
            if not gone:
                return


def _goes_on(source: Source, known: Known) -> bool:
    """Whether the audio is that of the window known, and perhaps more."""
    heard = known.positions * SAMPLES_PER_POSITION
    return (
        source.start_sample == known.source.start_sample
        and len(source.audio) >= heard
        and np.array_equal(source.audio[:heard], known.source.audio[:heard])
    )


def _pages(shape: tuple[int, ...], kind: type[np.generic]) -> npt.NDArray[Any]:
    """An array of zeros that takes memory where it was written to, and gives it back as soon as nobody needs it.

    Of the allocator that numpy uses, many streams' growing arrays leave gaps that stay with the process.
    """
    size = math.prod(shape)
    if not size:
        return np.empty(shape, kind)
    # A mapping of this process alone, which a fork copies and does not share.
    pages = mmap.mmap(-1, size * np.dtype(kind).itemsize, access=mmap.ACCESS_COPY)
    return np.frombuffer(pages, kind).reshape(shape)
