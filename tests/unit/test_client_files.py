"""Recordings decoded, and played at their pace."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from ray_whisper_streaming.cli.feeding import sample_recordings
from ray_whisper_streaming.client.files import PIECE_SAMPLES, paced, pieces_of
from ray_whisper_streaming.core.jobs import Int16Samples


class HandMovedClock:
    """Sleeping moves it, and `oversleep_s` more."""

    def __init__(self, oversleep_s: float = 0.0) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []
        self._oversleep_s = oversleep_s

    def __call__(self) -> float:
        return self.now

    async def sleep(self, wait_s: float) -> None:
        self.sleeps.append(wait_s)
        self.now += wait_s + self._oversleep_s


async def audio(*seconds: float) -> AsyncIterator[Int16Samples]:
    count = 0
    for length_s in seconds:
        size = round(length_s * 16_000)
        yield np.arange(count, count + size).astype(np.int16)
        count += size


@pytest.mark.parametrize(("speed", "oversleep_s"), [(1.0, 0.0), (1.0, 0.03), (4.0, 0.001)])
async def test_pieces_come_when_they_would_have_been_spoken(speed: float, oversleep_s: float) -> None:
    clock = HandMovedClock(oversleep_s)
    sent = 0
    async for piece in paced(audio(1.0, 0.25, 2.0), 100.0, None, speed, clock=clock, sleep=clock.sleep):
        sent += len(piece)
        # Never early; late by one oversleep at most, however many came before.
        assert 0 <= clock.now - (100.0 + sent / 16_000 / speed) + 1e-6 <= oversleep_s + 1e-5
    assert sent == 3.25 * 16_000


async def test_who_is_late_catches_up_without_waiting() -> None:
    clock = HandMovedClock()
    clock.now = 102.0
    pieces = [len(piece) async for piece in paced(audio(2.0), 100.0, clock=clock, sleep=clock.sleep)]
    assert sum(pieces) == 32_000
    assert clock.sleeps == []


async def test_a_limit_is_kept_to_the_sample() -> None:
    clock = HandMovedClock()
    pieces = [piece async for piece in paced(audio(1.0, 1.0), 100.0, 1.05, clock=clock, sleep=clock.sleep)]
    assert np.array_equal(np.concatenate(pieces), np.arange(16_800))
    assert clock.now == pytest.approx(101.05)


async def test_decoding_gives_all_of_it_in_small_pieces() -> None:
    lengths = [len(piece) async for piece in pieces_of(sample_recordings()[0])]
    assert max(lengths) <= PIECE_SAMPLES
    assert sum(lengths) / 16_000 == pytest.approx(18.45, abs=0.01)
