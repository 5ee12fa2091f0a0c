"""Recordings, decoded off the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import BinaryIO, TypeAlias

import numpy as np

from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["AudioFile", "pieces_of"]

AudioFile: TypeAlias = str | os.PathLike[str] | BinaryIO

PIECE_SAMPLES = SAMPLE_RATE // 10
"""A tenth of a second: what a browser or a telephone sends, within a factor of five."""


async def pieces_of(file: AudioFile) -> AsyncIterator[Int16Samples]:
    """A recording of any codec as int16 mono of 16 kHz, a tenth of a second at a time.

    Raises:
        AudioError: no audio can be read from it.
        ConfigurationError: the packages that decode are not installed.
    """
    try:
        # Not at the top: who sends samples of a microphone needs no codecs.
        from ray_whisper_streaming.media import decode_file
    except ImportError as error:
        raise ConfigurationError(
            "file", "a recording", f"decoded with the packages av and soxr ({error})"
        ) from error
    frames = decode_file(file)

    def next_second() -> Int16Samples:
        taken: list[Int16Samples] = []
        while sum(map(len, taken)) < SAMPLE_RATE and (frame := next(frames, None)) is not None:
            taken.append(frame)
        return np.concatenate(taken) if taken else np.zeros(0, np.int16)

    while len(second := await asyncio.to_thread(next_second)):
        for start in range(0, len(second), PIECE_SAMPLES):
            yield second[start : start + PIECE_SAMPLES]
