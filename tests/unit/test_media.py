"""Audio of any kind becomes int16 mono at 16 kHz, or a clear error."""

from __future__ import annotations

import io
import struct
import wave
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_whisper_streaming.errors import AudioError, ConfigurationError
from ray_whisper_streaming.media import AudioConverter, decode_file, load_audio


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def wav(path: Path, rate: int, channels: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((channels * 32767).astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_any_rate_in_any_chunks(rate: int) -> None:
    samples = tone(rate)
    converter = AudioConverter(rate)
    pieces = [converter.convert(samples[start : start + 777]) for start in range(0, len(samples), 777)]
    got = np.concatenate([*pieces, converter.flush()]).astype(np.float32) / 32768
    assert abs(len(got) - 16_000) <= 2
    middle = slice(2_000, 14_000)
    assert np.abs(got[middle] - tone(16_000)[: len(got)][middle]).max() < 0.01


def test_stereo_is_mixed_or_one_channel_taken() -> None:
    frames = np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1).astype(np.float32)
    assert AudioConverter(channels=2).convert(frames)[0] == 4096
    assert AudioConverter(channels=2, channel=1).convert(frames)[0] == -8192


def test_bytes_may_be_cut_anywhere() -> None:
    samples = (tone(16_000) * 32767).astype("<i2")
    converter = AudioConverter()
    raw = samples.tobytes()
    cuts = [0, 1, 2, 5, 1000, 1001, len(raw)]
    pieces = [converter.convert(raw[a:b]) for a, b in pairwise(cuts)]
    assert np.array_equal(np.concatenate(pieces), samples)


@pytest.mark.parametrize(
    ("encoding", "code", "linear"),
    # ITU-T G.711: the largest and smallest values, and silence.
    [
        ("mulaw", 0x00, -32124),
        ("mulaw", 0x80, 32124),
        ("mulaw", 0xFF, 0),
        ("mulaw", 0x7F, 0),
        ("mulaw", 0xFE, 8),
        ("mulaw", 0x0F, -16764),
        ("alaw", 0x2A, -32256),
        ("alaw", 0xAA, 32256),
        ("alaw", 0xD5, 8),
        ("alaw", 0x55, -8),
        ("alaw", 0x80, 5504),
    ],
)
def test_telephony_codes(encoding: Any, code: int, linear: int) -> None:
    assert AudioConverter(encoding=encoding).convert(bytes([code]))[0] == linear


@pytest.mark.parametrize(("encoding", "wave_format"), [("mulaw", 7), ("alaw", 6)])
def test_telephony_codes_mean_what_ffmpeg_takes_them_for(encoding: Any, wave_format: int) -> None:
    codes = bytes(range(256))
    header = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 292, b"WAVE", b"fmt ", 16, wave_format, 1, 16000, 16000, 1, 8
    )
    file = io.BytesIO(header + struct.pack("<4sI", b"data", len(codes)) + codes)
    assert np.array_equal(
        AudioConverter(encoding=encoding).convert(codes), np.concatenate(list(decode_file(file)))
    )


@pytest.mark.parametrize("encoding", ["s16le", "f32le", "mulaw"])
def test_stereo_frames_may_be_cut_anywhere_too(encoding: Any) -> None:
    raw = (
        np.random.default_rng(1).uniform(-1, 1, 600).astype("<f4").tobytes()
        if encoding == "f32le"
        else (np.random.default_rng(1).integers(0, 256, 2400, np.uint8).tobytes())
    )
    whole = AudioConverter(channels=2, encoding=encoding).convert(raw)
    converter = AudioConverter(channels=2, encoding=encoding)
    pieces = [converter.convert(raw[start : start + 7]) for start in range(0, len(raw), 7)]
    assert len(whole) == {"s16le": 600, "f32le": 300, "mulaw": 1200}[encoding]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_nan_among_bytes_is_refused() -> None:
    with pytest.raises(AudioError):
        AudioConverter(encoding="f32le").convert(np.array([0.0, np.nan], "<f4").tobytes())


@pytest.mark.parametrize(
    "bad",
    [
        np.array([0.0, np.nan], np.float32),
        np.array([np.inf], np.float32),
        np.zeros((3, 2), np.float32),
        np.zeros((2, 2, 2), np.int16),
        np.zeros(3, np.int64),
        np.zeros(3, bool),
        "text",
    ],
)
def test_what_is_no_audio_is_refused_and_harms_nothing(bad: Any) -> None:
    converter = AudioConverter()
    with pytest.raises(AudioError):
        converter.convert(bad)
    assert len(converter.convert(np.zeros(10, np.int16))) == 10


def test_empty_and_huge_chunks() -> None:
    assert len(AudioConverter().convert(np.zeros(0, np.float32))) == 0
    assert len(AudioConverter().convert(np.zeros(16_000 * 600, np.int16))) == 16_000 * 600
    converter = AudioConverter(8_000)
    got = len(converter.convert(np.zeros(8_000 * 600, np.int16))) + len(converter.flush())
    assert abs(got - 16_000 * 600) <= 2


@pytest.mark.parametrize("settings", [{"sample_rate": 0}, {"channels": 0}, {"channels": 2, "channel": 2}])
def test_settings_no_audio_has(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        AudioConverter(**settings)


def test_files_are_decoded_piece_by_piece(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", 44_100, np.stack([tone(44_100, 2), np.zeros(88_200)], axis=1))
    pieces = list(decode_file(path))
    assert len(pieces) > 2
    assert abs(sum(map(len, pieces)) - 32_000) <= 2
    assert load_audio(path).dtype == np.float32
    assert np.abs(load_audio(path)).max() == pytest.approx(0.25, abs=0.01)
    assert len(load_audio(io.BytesIO(path.read_bytes()))) == sum(map(len, pieces))


def test_files_that_hold_no_audio(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no audio")
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    for path in (text, empty, tmp_path / "missing.wav", tmp_path):
        with pytest.raises(AudioError, match=path.name):
            list(decode_file(path))


def test_a_wav_that_was_cut_off_on_its_way_is_refused(tmp_path: Path) -> None:
    whole = wav(tmp_path / "whole.wav", 16_000, tone(16_000)[:, None]).read_bytes()
    with_list = whole[:12] + b"LIST\x05\0\0\0INFO\0\0" + whole[12:]  # an odd length is filled up
    for content in (whole[: len(whole) // 2], with_list[: len(with_list) // 2]):
        (tmp_path / "half.wav").write_bytes(content)
        for file in (tmp_path / "half.wav", io.BytesIO(content)):
            with pytest.raises(AudioError, match="cut off"):
                next(decode_file(file, untrusted=True))
        # One's own recording may be all there is.
        assert 7_900 <= sum(map(len, decode_file(tmp_path / "half.wav"))) <= 8_000
    behind = io.BytesIO(b"other" + whole)
    behind.seek(5)
    for file in (io.BytesIO(with_list), io.BytesIO(whole[:-500]), behind):
        assert sum(map(len, decode_file(file, untrusted=True))) >= 15_700


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36])
def test_a_wav_of_who_could_not_tell_its_length_is_read(tmp_path: Path, size: int) -> None:
    whole = wav(tmp_path / "whole.wav", 16_000, tone(16_000)[:, None]).read_bytes()
    at = whole.index(b"data") + 4
    streamed = whole[:at] + size.to_bytes(4, "little") + whole[at + 4 :]
    assert sum(map(len, decode_file(io.BytesIO(streamed), untrusted=True))) == 16_000


def test_what_was_sent_by_somebody_opens_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav(tmp_path / "secret.wav", 16_000, tone(16_000)[:, None])
    monkeypatch.chdir(tmp_path)
    playlist = b"ffconcat version 1.0\nfile secret.wav\n"
    (tmp_path / "list.ffconcat").write_bytes(playlist)
    assert sum(map(len, decode_file("list.ffconcat"))) == 16_000  # so it works, where it is wanted
    for file in ("list.ffconcat", io.BytesIO(playlist)):
        with pytest.raises(AudioError):
            list(decode_file(file, untrusted=True))
    assert sum(map(len, decode_file("secret.wav", untrusted=True))) == 16_000
