"""What the encoder on ONNX Runtime remembers of streams, in memory of this process."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.engines.backend import Source
from ray_whisper_streaming.engines.remembering import Known, KnownWindows

__all__ = ["EncoderMemory", "Parts"]

Int8 = npt.NDArray[np.int8]
Float16 = npt.NDArray[np.float16]

MAX_BYTES = 256 * 2**20
"""Memory for all streams: about 50 windows of 18 s with tiny.en. Beyond it, windows are encoded whole."""

LONGEST = 1500
"""Positions of the longest window (30 s)."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Intermediate results, position by position, in 8 bits.

    Attributes:
        numbers: keys and values of several attentions, shape (positions, tensors, size).
        steps: what 1 stands for in each part of a tensor, shape (positions, tensors, parts).
    """

    numbers: Int8
    steps: Float16


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
        self._windows = KnownWindows[Parts](max_bytes // self._position_bytes)
        self.nothing = self._room(0)

    @property
    def held_bytes(self) -> int:
        """What is remembered now."""
        return self._windows.positions * self._position_bytes

    def recall(self, source: Source | None) -> Known[Parts] | None:
        """What is known of a window, as a part of room for more of it."""
        return self._windows.recall(source)

    def keep(self, source: Source | None, known: Known[Parts] | None, fresh: Parts) -> None:
        """Remember a window.

        Args:
            source: the window; None is not remembered.
            known: what `recall` gave for it.
            fresh: what was made of the positions behind those known.
        """
        after = self._windows.settle(source, known)
        if source is None or not after:
            return
        before = known.positions if known else 0
        parts = known.held if known else self._room(LONGEST)
        parts.numbers[before:after] = fresh.numbers[: after - before]
        parts.steps[before:after] = fresh.steps[: after - before]
        self._windows.keep(source, after, parts)

    def _room(self, positions: int) -> Parts:
        return Parts(
            _pages((positions, *self._number_shape), np.int8),
            _pages((positions, *self._step_shape), np.float16),
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
