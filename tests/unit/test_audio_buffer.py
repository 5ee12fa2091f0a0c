from __future__ import annotations

import numpy as np
import pytest

from ray_whisper_streaming.core.audio import AudioBuffer, as_int16
from ray_whisper_streaming.errors import AudioError


def numbers(start: int, end: int) -> np.ndarray:
    return np.arange(start, end, dtype=np.int16)


def test_int16_is_taken_as_it_is() -> None:
    samples = numbers(-3, 3)
    assert as_int16(samples).tolist() == samples.tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_scaled_rounded_and_clipped(dtype: type) -> None:
    samples = np.array([0.0, 0.5, -1.0, 1.0, 7.0, -7.0], dtype)
    assert as_int16(samples).tolist() == [0, 16384, -32768, 32767, 32767, -32768]


def test_bytes_are_little_endian() -> None:
    for raw in (b"\x01\x00\xff\xff", bytearray(b"\x01\x00\xff\xff"), memoryview(b"\x01\x00\xff\xff")):
        assert as_int16(raw).tolist() == [1, -1]


def test_lists_and_nothing_at_all() -> None:
    assert as_int16([0.0, -0.5]).tolist() == [0, -16384]
    assert as_int16([]).dtype == np.int16
    assert as_int16(b"").shape == (0,)


@pytest.mark.parametrize(
    "samples",
    [
        b"odd",
        np.zeros((2, 2), np.int16),
        np.int16(3),
        np.zeros(3, np.int32),
        np.array([0.0, np.nan]),
        np.array([np.inf]),
        np.array(["one"]),
    ],
)
def test_what_is_no_audio_is_refused(samples: object) -> None:
    with pytest.raises(AudioError):
        as_int16(samples)  # type: ignore[arg-type]


def test_reading_spans_what_was_appended() -> None:
    buffer = AudioBuffer()
    for start in range(0, 100, 10):
        buffer.append(numbers(start, start + 10))
    assert len(buffer) == 100
    assert buffer.read(5, 95).tolist() == list(range(5, 95))
    assert buffer.read(40, 40).tolist() == []


def test_positions_stay_absolute_after_trimming() -> None:
    buffer = AudioBuffer()
    buffer.append(numbers(0, 10))
    buffer.append(numbers(10, 20))
    buffer.trim(13)
    buffer.trim(4)  # long forgotten
    assert (buffer.start_sample, buffer.end_sample, len(buffer)) == (13, 20, 7)
    assert buffer.read(13, 20).tolist() == list(range(13, 20))


def test_trimming_stops_at_the_end() -> None:
    buffer = AudioBuffer()
    buffer.append(numbers(0, 10))
    buffer.trim(99)
    assert (buffer.start_sample, len(buffer)) == (10, 0)
    buffer.append(numbers(10, 12))
    assert buffer.read(10, 12).tolist() == [10, 11]


@pytest.mark.parametrize(("start", "end"), [(2, 6), (8, 11), (7, 6)])
def test_what_is_not_held_cannot_be_read(start: int, end: int) -> None:
    buffer = AudioBuffer()
    buffer.append(numbers(0, 10))
    buffer.trim(3)
    with pytest.raises(IndexError):
        buffer.read(start, end)


def test_the_caller_may_use_its_array_again() -> None:
    buffer = AudioBuffer()
    samples = numbers(0, 4)
    buffer.append(samples)
    samples[:] = 99
    assert buffer.read(0, 4).tolist() == [0, 1, 2, 3]


def test_what_was_read_stays_what_it_was() -> None:
    buffer = AudioBuffer()
    buffer.append(numbers(0, 100))
    out = buffer.read(50, 60)
    with pytest.raises(ValueError, match="read-only"):
        out[:] = 77
    buffer.trim(80)
    for start in range(100, 30_000, 100):  # through more than one block
        buffer.append(numbers(start, start + 100))
        buffer.trim(start)
    assert out.tolist() == list(range(50, 60))


def test_what_is_held_moves_on_into_the_next_block() -> None:
    buffer = AudioBuffer()
    for start in range(0, 30_000, 100):
        buffer.append(numbers(start, start + 100))
    buffer.trim(12_345)
    buffer.append(numbers(30_000, 32_000))
    assert buffer.read(12_345, 32_000).tolist() == list(range(12_345, 32_000))
