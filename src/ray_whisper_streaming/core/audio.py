"""Samples: what is accepted, and a buffer that is cheap to append to and to trim."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.core.jobs import Int16Samples
from ray_whisper_streaming.errors import AudioError

__all__ = ["AudioBuffer", "as_int16"]

INT16_SCALE = 32768.0


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


class AudioBuffer:
    """The samples of one stream from `start_sample` to `end_sample`, absolute positions.

    Appending and trimming cost nothing that grows with what is held; only `read` copies.
    """

    def __init__(self) -> None:
        self._chunks: deque[Int16Samples] = deque()
        self.start_sample = 0
        self.end_sample = 0

    def __len__(self) -> int:
        return self.end_sample - self.start_sample

    def append(self, samples: Int16Samples) -> None:
        """Add samples at the end. They are copied: callers may reuse their array."""
        if len(samples):
            self._chunks.append(samples.copy())
            self.end_sample += len(samples)

    def trim(self, sample: int) -> None:
        """Forget everything before ``sample``; positions already forgotten are no error."""
        sample = min(sample, self.end_sample)
        while self._chunks and self.start_sample < sample:
            head = self._chunks[0]
            surplus = sample - self.start_sample
            if surplus >= len(head):
                self._chunks.popleft()
                self.start_sample += len(head)
            else:
                self._chunks[0] = head[surplus:]
                self.start_sample = sample

    def read(self, start: int, end: int) -> Int16Samples:
        """A copy of the samples from ``start`` to ``end`` (exclusive).

        Raises:
            IndexError: part of it is not held.
        """
        if not self.start_sample <= start <= end <= self.end_sample:
            raise IndexError(f"[{start}, {end}) is not inside [{self.start_sample}, {self.end_sample})")
        out = np.empty(end - start, np.int16)
        position = self.start_sample
        for chunk in self._chunks:
            first, last = max(start, position), min(end, position + len(chunk))
            if first < last:
                out[first - start : last - start] = chunk[first - position : last - position]
            position += len(chunk)
            if position >= end:
                break
        return out
