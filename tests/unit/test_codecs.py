"""Containers and Opus packets, pushed in pieces of any size."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
from tests.helpers.coded_audio import FRAGMENTED_MP4, LIVE_WEBM, RATE, encode, opus_packets

from ray_whisper_streaming.errors import AudioError, ConfigurationError
from ray_whisper_streaming.server import containers
from ray_whisper_streaming.server.audio import AudioFormat
from ray_whisper_streaming.server.codecs import CodedAudio, framed
from ray_whisper_streaming.server.containers import MAX_DAMAGED

LEFT_HZ, RIGHT_HZ = 440.0, 1000.0


def tone(hertz: float, seconds: float = 2.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(round(RATE * seconds)) / RATE)).astype(np.float32)


def decode(audio: CodedAudio, pieces: list[bytes]) -> list[np.ndarray]:
    decoders = audio.decoders()
    parts = [[decoder.convert(piece) for decoder in decoders] for piece in pieces]
    parts.append([decoder.flush() for decoder in decoders])
    return [np.concatenate(channel) for channel in zip(*parts, strict=True)]


def loudest_hz(samples: np.ndarray) -> float:
    return float(
        np.argmax(np.abs(np.fft.rfft(samples[: len(samples) // 16_000 * 16_000]))) / (len(samples) // 16_000)
    )


def cut(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


@pytest.mark.parametrize("size", [7, 1000, 10**9])
@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("webm", "libopus", LIVE_WEBM),
        ("ogg", "libopus", {}),
        ("mp3", "libmp3lame", {}),
        ("flac", "flac", {}),
        ("mpegts", "aac", {}),
        ("mp4", "aac", FRAGMENTED_MP4),
        ("wav", "pcm_s16le", {}),
    ],
)
def test_containers_in_pieces(container: str, codec: str, options: dict[str, str], size: int) -> None:
    raw = encode(container, codec, tone(LEFT_HZ), options=options)
    (samples,) = decode(CodedAudio(), cut(raw, size))
    assert len(samples) == pytest.approx(32_000, abs=1_600)
    assert loudest_hz(samples) == pytest.approx(LEFT_HZ, abs=2)


def test_audio_comes_while_the_container_goes_on() -> None:
    raw = encode("webm", "libopus", tone(LEFT_HZ, 10.0), options=LIVE_WEBM)
    (decoder,) = CodedAudio().decoders()
    half = len(decoder.convert(raw[: len(raw) // 2]))
    assert half > 4 * 16_000


def test_channels_kept_apart_and_mixed() -> None:
    raw = encode("webm", "libopus", tone(LEFT_HZ), tone(RIGHT_HZ), options=LIVE_WEBM)
    left, right = decode(CodedAudio(channels=2, split=True), cut(raw, 500))
    assert loudest_hz(left) == pytest.approx(LEFT_HZ, abs=2)
    assert loudest_hz(right) == pytest.approx(RIGHT_HZ, abs=2)
    (mixed,) = decode(CodedAudio(channels=2), cut(raw, 500))
    assert len(mixed) == len(left)


def test_a_channel_count_that_was_not_announced() -> None:
    raw = encode("ogg", "libopus", tone(LEFT_HZ))
    with pytest.raises(AudioError, match="1 channels, not 2"):
        decode(CodedAudio(channels=2, split=True), [raw])


def test_a_rate_that_no_audio_has() -> None:
    raw = bytearray(encode("wav", "pcm_s16le", tone(LEFT_HZ)))
    raw[24:28] = (1_000).to_bytes(4, "little")  # in the head's description of the samples
    with pytest.raises(AudioError, match="its sample_rate is 1000"):
        decode(CodedAudio(), [bytes(raw)])


def test_audio_that_changes_its_shape_on_the_way() -> None:
    """As where a station plays one file behind the other."""
    raw = encode("mp3", "libmp3lame", tone(LEFT_HZ)) + encode(
        "mp3", "libmp3lame", tone(LEFT_HZ), tone(LEFT_HZ)
    )
    (samples,) = decode(CodedAudio(), cut(raw, 500))
    assert len(samples) == pytest.approx(64_000, abs=3_200)
    assert loudest_hz(samples[-16_000:]) == pytest.approx(LEFT_HZ, abs=2)


@pytest.mark.parametrize("together", [1, 10])
def test_opus_packets(together: int) -> None:
    sent = [framed(packet) for packet in opus_packets(tone(LEFT_HZ))]
    pieces = [b"".join(sent[start : start + together]) for start in range(0, len(sent), together)]
    (samples,) = decode(CodedAudio(codec="opus"), pieces)
    assert len(samples) == pytest.approx(32_000, abs=1_600)
    assert loudest_hz(samples) == pytest.approx(LEFT_HZ, abs=2)


def test_opus_packets_of_two_channels() -> None:
    sent = [framed(packet) for packet in opus_packets(tone(LEFT_HZ), tone(RIGHT_HZ))]
    left, right = decode(CodedAudio(codec="opus", channels=2, split=True), sent)
    assert (loudest_hz(left), loudest_hz(right)) == (
        pytest.approx(LEFT_HZ, abs=2),
        pytest.approx(RIGHT_HZ, abs=2),
    )


def test_a_lost_opus_packet_is_no_end() -> None:
    sent = opus_packets(tone(LEFT_HZ))
    sent[20:22] = [b"\xff\xff\xff\xff"] * 2
    (samples,) = decode(CodedAudio(codec="opus"), [framed(packet) for packet in sent])
    assert len(samples) > 30_000


@pytest.mark.parametrize("codec", ["container", "opus"])
def test_garbage_is_an_error(codec: Any) -> None:
    garbage = np.random.default_rng(3).bytes(50_000)
    with pytest.raises(AudioError):
        decode(CodedAudio(codec=codec), [framed(garbage) if codec == "opus" else garbage])


def test_garbage_is_found_out_before_its_end() -> None:
    (decoder,) = CodedAudio().decoders()
    pieces = cut(np.random.default_rng(3).bytes(60_000), 1_000)
    with pytest.raises(AudioError):
        [decoder.convert(piece) for piece in pieces]


def test_too_little_to_be_anything_is_an_error_at_its_end() -> None:
    (decoder,) = CodedAudio().decoders()
    assert len(decoder.convert(b"RIFF")) == 0
    with pytest.raises(AudioError):
        decoder.flush()
    (decoder,) = CodedAudio().decoders()
    with pytest.raises(AudioError):
        decoder.flush()


@pytest.mark.parametrize("wrong", [b"", bytes(70_000)])
def test_packets_of_a_length_that_none_has(wrong: bytes) -> None:
    with pytest.raises(AudioError):
        decode(CodedAudio(codec="opus"), [framed(wrong)])
    sent = opus_packets(tone(LEFT_HZ))
    whole, less = (
        decode(CodedAudio(codec="opus"), [framed(packet) for packet in each])[0]
        for each in (sent, [*sent[:20], wrong, *sent[21:]])
    )
    assert len(whole) - len(less) == 320  # nothing but itself


def test_many_damaged_packets_cost_no_good_ones_that_came_with_them() -> None:
    sent = opus_packets(tone(LEFT_HZ))
    damaged = [b"\xff\xff\xff\xff"] * (MAX_DAMAGED + 1)
    (decoder,) = CodedAudio(codec="opus").decoders()
    together = b"".join(framed(packet) for packet in [*sent[:50], *damaged, *sent[50:]])
    assert len(decoder.convert(together)) > 30_000
    with pytest.raises(AudioError):
        decoder.convert(b"".join(framed(packet) for packet in damaged))


@pytest.mark.parametrize(
    ("codec", "channels", "split"),
    [
        ("opus", 3, False),
        ("opus", 0, False),
        ("container", 0, False),
        ("container", 10**9, False),
        ("container", 9, True),
    ],
)
def test_channels_that_can_not_be(codec: Any, channels: int, split: bool) -> None:
    with pytest.raises(ConfigurationError, match="channels"):
        CodedAudio(codec=codec, channels=channels, split=split)


@pytest.mark.parametrize(
    "playlist", ["ffconcat version 1.0\nfile secret.wav\n", "#EXTM3U\n#EXTINF:1,\nsecret.wav\n"]
)
def test_files_of_the_server_can_not_be_read(
    playlist: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.wav").write_bytes(encode("wav", "pcm_s16le", tone(LEFT_HZ)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AudioError):
        decode(CodedAudio(), [playlist.encode()])


def test_silence_packed_a_thousandfold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_BURST_S", 60.0)
    raw = encode("flac", "flac", np.zeros(RATE * 70, np.float32))
    (decoder,) = CodedAudio().decoders()
    with pytest.raises(AudioError, match="60 s"):
        decoder.convert(raw)


def test_noise_behind_good_audio_is_told_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_BARREN_BYTES", 1 << 20)
    raw = encode("webm", "libopus", tone(LEFT_HZ), options=LIVE_WEBM)
    (decoder,) = CodedAudio().decoders()
    assert len(decoder.convert(raw)) > 25_000
    noise = np.random.default_rng(3).bytes(100_000)
    with pytest.raises(AudioError, match="1 MB"):
        [decoder.convert(noise) for _ in range(11)]


def test_what_comes_behind_the_end_is_not_kept() -> None:
    raw = encode("aiff", "pcm_s16be", tone(LEFT_HZ))
    (decoder,) = CodedAudio().decoders()
    assert len(decoder.convert(raw)) == pytest.approx(32_000, abs=1_600)
    tracemalloc.start()
    try:
        for _ in range(70):
            decoder.convert(bytes(100_000))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000  # of 7 MB


def test_a_session_given_up_leaves_no_thread() -> None:
    before = threading.active_count()
    raw = encode("ogg", "libopus", tone(LEFT_HZ))
    decoders = [CodedAudio().decoders() for _ in range(5)]
    assert all(len(each[0].convert(raw[:2_000])) >= 0 for each in decoders)
    started = [thread for thread in threading.enumerate() if thread.name == "container-decoding"]
    assert len(started) == 5
    decoders.clear()
    gc.collect()
    for thread in started:
        thread.join(5)
    assert threading.active_count() == before


def test_nobody_waits_for_the_container_of_another() -> None:
    assert CodedAudio(codec="container").may_hang
    assert not CodedAudio(codec="opus").may_hang
    assert not AudioFormat().may_hang
