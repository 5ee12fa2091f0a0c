"""Samples as the bytes of an encoding of the protocol."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.core.audio import as_float32, as_int16
from ray_whisper_streaming.errors import AudioError

__all__ = ["as_bytes"]


def as_bytes(samples: npt.ArrayLike | bytes, encoding: str, channels: int) -> bytes:
    """Samples, ready to be sent.

    Args:
        samples: bytes of the encoding, taken as they are; or int16, or floats of -1 to 1, shape (frames,) for one
            channel or (frames, channels).
        encoding: one of the protocol's.
        channels: of the stream.

    Raises:
        AudioError: another type or shape, NaN or infinity; arrays where the encoding is one of telephony.
    """
    if isinstance(samples, (bytes, bytearray, memoryview)):
        return bytes(cast(bytes, samples))
    if encoding not in ("s16le", "f32le"):
        raise AudioError(f"{encoding} is given as bytes")
    array: npt.NDArray[Any] = np.asarray(samples)
    if array.ndim == 1 and channels == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != channels:
        raise AudioError(f"samples have shape {array.shape}; (frames, {channels}) is wanted")
    flat = as_int16(np.ascontiguousarray(array).reshape(-1))
    if encoding == "s16le":
        return flat.astype("<i2", copy=False).tobytes()
    return as_float32(flat).astype("<f4").tobytes()
