"""Samples: what is accepted, and a buffer that is cheap to append to and to trim."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.core.jobs import Int16Samples
from ray_whisper_streaming.errors import AudioError

__all__ = ["AudioBuffer", "as_float32", "as_int16"]

INT16_SCALE = 32768.0

SPARE_SAMPLES, SPARE_SHARE = 16_000, 4
"""What a new block has free: a second, and a fourth of what it holds. A sample is thus copied four times at most while
it is held (its share of the moves, on average)."""


def as_int16(samples: npt.ArrayLike | bytes | bytearray | memoryview) -> Int16Samples:
    """Mono samples as int16.

    Args:
        samples: int16, or floats of -1 to 1 (beyond is clipped), shape (n,); or bytes of little-endian int16.

    Raises:
        AudioError: another type or shape, an odd number of bytes, NaN or infinity.
    """
    if isinstance(samples, (bytes, bytearray, memoryview)):
        raw = bytes(cast(bytes, samples))
        if len(raw) % 2:
            raise AudioError(f"{len(raw)} bytes are not a whole number of 16-bit samples")
        return np.frombuffer(raw, dtype="<i2").astype(np.int16, copy=False)
    array: npt.NDArray[Any] = np.asarray(samples)
    if array.ndim != 1:
        raise AudioError(f"samples have shape {array.shape}; one channel of shape (n,) is wanted")
    if array.dtype == np.int16:
        return array
    if array.dtype.kind != "f":
        if array.size == 0:
            return np.zeros(0, np.int16)
        raise AudioError(f"samples are {array.dtype}; int16, or floats of -1 to 1, are wanted")
    if not np.isfinite(array).all():
        raise AudioError("samples hold NaN or infinity")
    scaled = np.rint(array.astype(np.float32, copy=False) * INT16_SCALE)
    return np.clip(scaled, -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def as_float32(samples: Int16Samples) -> npt.NDArray[np.float32]:
    """The samples as float32, -1 to 1, of the same shape."""
    return samples.astype(np.float32) / np.float32(INT16_SCALE)


class AudioBuffer:
    """The samples of one stream from `start_sample` to `end_sample`, absolute positions.

    They stand in one block, written once and never again, so reading copies nothing. A block that is full is replaced
    by one for what is still held and a share more: appending costs the same whatever is held, trimming nothing.
    """

    def __init__(self) -> None:
        self._block = np.empty(0, np.int16)
        self._block_start = 0
        self.start_sample = 0
        self.end_sample = 0

    def __len__(self) -> int:
        return self.end_sample - self.start_sample

    def append(self, samples: Int16Samples) -> None:
        """Add samples at the end. They are copied: callers may reuse their array."""
        end = self.end_sample + len(samples)
        if end - self._block_start > len(self._block):
            self._renew(end - self.start_sample)
        self._block[self.end_sample - self._block_start : end - self._block_start] = samples
        self.end_sample = end

    def trim(self, sample: int) -> None:
        """Forget everything before ``sample``; positions already forgotten are no error."""
        self.start_sample = max(self.start_sample, min(sample, self.end_sample))

    def read(self, start: int, end: int) -> Int16Samples:
        """The samples from ``start`` to ``end`` (exclusive), to be read only; they stay what they are.

        Raises:
            IndexError: part of it is not held.
        """
        if not self.start_sample <= start <= end <= self.end_sample:
            raise IndexError(f"[{start}, {end}) is not inside [{self.start_sample}, {self.end_sample})")
        view = self._block[start - self._block_start : end - self._block_start]
        view.flags.writeable = False
        return view

    def _renew(self, wanted: int) -> None:
        held = self.read(self.start_sample, self.end_sample)
        self._block = np.empty(wanted + wanted // SPARE_SHARE + SPARE_SAMPLES, np.int16)
        self._block[: len(held)] = held
        self._block_start = self.start_sample
