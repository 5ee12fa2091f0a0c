"""Recordings found, and played at their pace."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from ray_whisper_streaming.cli.feeding import (
    PACKET_S,
    decode_aside,
    duration_s,
    find_recordings,
    paced,
    read_bytes,
    sample_recordings,
    sample_texts,
)
from ray_whisper_streaming.core.jobs import Int16Samples
from ray_whisper_streaming.errors import AudioError


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
async def test_packets_come_when_they_would_have_been_spoken(speed: float, oversleep_s: float) -> None:
    clock = HandMovedClock(oversleep_s)
    sent = 0
    async for packet in paced(audio(1.0, 0.25, 2.0), 100.0, None, speed, clock=clock, sleep=clock.sleep):
        sent += len(packet)
        assert 0 < len(packet) <= PACKET_S * 16_000
        # Never early; late by one oversleep at most, however many came before.
        assert 0 <= clock.now - (100.0 + sent / 16_000 / speed) + 1e-6 <= oversleep_s + 1e-5
    assert sent == 3.25 * 16_000


async def test_who_is_late_catches_up_without_waiting() -> None:
    clock = HandMovedClock()
    clock.now = 102.0
    packets = [len(packet) async for packet in paced(audio(2.0), 100.0, clock=clock, sleep=clock.sleep)]
    assert sum(packets) == 32_000
    assert clock.sleeps == []


async def test_a_limit_is_kept_to_the_sample() -> None:
    clock = HandMovedClock()
    pieces = [piece async for piece in paced(audio(1.0, 1.0), 100.0, 1.05, clock=clock, sleep=clock.sleep)]
    assert np.array_equal(np.concatenate(pieces), np.arange(16_800))
    assert clock.now == pytest.approx(101.05)


def test_the_samples_and_what_is_said_in_them() -> None:
    recordings = sample_recordings()
    assert len(recordings) == 4
    assert set(sample_texts()) == set(recordings)
    assert duration_s(recordings[0]) == pytest.approx(18.45, abs=0.01)


async def test_decoding_aside_gives_all_of_it() -> None:
    total = sum([len(piece) async for piece in decode_aside(sample_recordings()[0])])
    assert total / 16_000 == pytest.approx(18.45, abs=0.01)


def test_no_recording_has_no_length(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no audio")
    assert duration_s(tmp_path / "notes.txt") is None
    assert duration_s(tmp_path / "missing.wav") is None


def test_folders_give_their_recordings(tmp_path: Path) -> None:
    for name in ("b.WAV", "a.mp3", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    assert find_recordings([tmp_path, tmp_path / "notes.txt"]) == [
        tmp_path / "a.mp3",
        tmp_path / "b.WAV",
        tmp_path / "notes.txt",
    ]
    with pytest.raises(AudioError, match="holds no recordings"):
        find_recordings([tmp_path / "empty"])
    with pytest.raises(AudioError, match="does not exist"):
        find_recordings([tmp_path / "missing.wav"])


async def test_bytes_are_read_as_they_come() -> None:
    out, into = os.pipe()
    pieces = read_bytes(out)
    try:
        os.write(into, b"one")
        assert await anext(pieces) == b"one"
        os.write(into, b"two")
        assert await anext(pieces) == b"two"
    finally:
        os.close(into)
    assert [piece async for piece in pieces] == []
    os.close(out)


async def test_a_closed_input_is_an_end() -> None:
    out, into = os.pipe()
    os.close(into)
    os.close(out)
    assert [piece async for piece in read_bytes(out)] == []
