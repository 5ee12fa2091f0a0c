"""What the encoder computes of each window in a pass, and where it stands on the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ray_whisper_streaming.engines.backend import FRAMES_PER_POSITION
from ray_whisper_streaming.engines.remembering import OVERLAP
from ray_whisper_streaming.engines.torch.attention import Spans
from ray_whisper_streaming.engines.torch.remembered import Rows
from ray_whisper_streaming.engines.torch.runtime import Tensor, to_device

__all__ = ["Part", "Pass"]


@dataclass(frozen=True, slots=True)
class Part:
    """What of a window is computed in a pass.

    Attributes:
        frames: of the window, padding included; even.
        first: the first position computed; those before it are remembered.
        rows: where they are, and where some of the new ones go.
    """

    frames: int
    first: int = 0
    rows: Rows = field(default_factory=Rows)

    @property
    def overlap(self) -> int:
        """Positions in front of the first whose frames the convolutions are given, too."""
        return min(OVERLAP, self.first)

    @property
    def begin(self) -> int:
        """The first frame that the convolutions are given."""
        return (self.first - self.overlap) * FRAMES_PER_POSITION

    @property
    def length(self) -> int:
        """Positions computed."""
        return self.frames // FRAMES_PER_POSITION - self.first


class Pass:
    """Where everything stands in a pass: indices on the device.

    Attributes:
        new: spans of the positions computed.
        all: of those remembered and computed.
        encodings: which position of its window each new one is.
        new_places: of the new ones among all.
        known_places: of those remembered among all.
        known_rows: where they are remembered; None: none are.
        kept: of the new ones, those remembered from now on; None: none are.
        kept_rows: where.
    """

    def __init__(self, parts: Sequence[Part], device: Tensor) -> None:
        self._device = device
        self._parts = parts
        firsts = [part.first for part in parts]
        lengths = [part.length for part in parts]
        self.new = Spans.of(lengths, device)
        self.all = Spans.of([first + length for first, length in zip(firsts, lengths, strict=True)], device)
        self.encodings = _ranges(firsts, lengths, device)
        self.known_rows = self.known_places = self.new_places = None
        if any(firsts):
            starts = np.cumsum([0, *self.all.lengths[:-1]])
            self.known_rows = to_device(np.concatenate([part.rows.known for part in parts]), device)
            self.known_places = _ranges(starts, firsts, device)
            self.new_places = _ranges(starts + firsts, lengths, device)
        self.kept = self.kept_rows = None
        kept = [len(part.rows.new) for part in parts]
        if any(kept):
            self.kept_rows = to_device(np.concatenate([part.rows.new for part in parts]), device)
            self.kept = _ranges(np.cumsum([0, *lengths[:-1]]), kept, device)

    def joined(self, known: Tensor, new: Tensor) -> Tensor:
        """All positions window by window, from those remembered and those computed: shape (positions, size)."""
        every = new.new_empty(sum(self.all.lengths), new.shape[1])
        every[self.known_places] = known
        every[self.new_places] = new
        return every

    def packed(self, hidden: Tensor) -> Tensor:
        """The new positions one behind the other: shape (windows, positions, width) to (new positions, width)."""
        width: int = hidden.shape[1]
        if all(part.length == width for part in self._parts):
            return hidden.flatten(0, 1)
        place = np.arange(width)
        overlaps = np.array([part.overlap for part in self._parts])[:, None]
        lengths = np.array([part.length for part in self._parts])[:, None]
        kept = (place >= overlaps) & (place < overlaps + lengths)
        return hidden.flatten(0, 1)[to_device(np.flatnonzero(kept), self._device)]


def _ranges(starts: Iterable[int], counts: Iterable[int], device: Tensor) -> Tensor:
    """So many numbers from each start on, one behind the other."""
    pieces = [start + np.arange(count) for start, count in zip(starts, counts, strict=True)]
    return to_device(np.concatenate(pieces), device)
