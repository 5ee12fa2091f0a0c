"""Recordings, decoded off the event loop, as fast as they can be or at the pace they were spoken."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import BinaryIO, TypeAlias

import numpy as np

from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["PIECE_SAMPLES", "AudioFile", "paced", "pieces_of"]

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


async def paced(
    pieces: AsyncIterator[Int16Samples],
    started_at: float | None = None,
    limit_s: float | None = None,
    speed: float = 1.0,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Int16Samples]:
    """Pieces at the pace of the audio: each when its last sample would have been spoken, without drift.

    Args:
        pieces: the audio.
        started_at: monotonic second at which the audio begins; None: with the first piece.
        limit_s: end after so many seconds of it.
        speed: seconds of audio per second.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """
    limit = None if limit_s is None else round(limit_s * SAMPLE_RATE)
    sent = 0
    async for piece in pieces:
        if started_at is None:
            started_at = clock()
        part = piece if limit is None else piece[: limit - sent]
        sent += len(part)
        wait_s = started_at + sent / SAMPLE_RATE / speed - clock()
        if wait_s > 0:
            await sleep(wait_s)
        yield part
        if sent == limit:
            return
