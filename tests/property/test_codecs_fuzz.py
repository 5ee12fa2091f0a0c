"""Damaged containers and packets: what comes out is audio or `AudioError`, soon, and no decoder notices another's."""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.coded_audio import FRAGMENTED_MP4, LIVE_WEBM, RATE, encode, opus_packets

from ray_whisper_streaming.errors import AudioError
from ray_whisper_streaming.server.codecs import CodedAudio, framed
from ray_whisper_streaming.server.containers import STUCK_S

LENGTH_S = 1.0
MOST_S = 60.0
"""Damage may make a container say that its rate is low or its silence long."""

FORMATS: dict[str, tuple[str, dict[str, str]]] = {
    "webm": ("libopus", LIVE_WEBM),
    "matroska": ("pcm_s16le", {}),
    "ogg": ("libopus", {}),
    "mp3": ("libmp3lame", {}),
    "flac": ("flac", {}),
    "wav": ("pcm_s16le", {}),
    "mp4": ("aac", FRAGMENTED_MP4),
    "mpegts": ("aac", {}),
}

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "drop", "insert", "copy"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=6,
)


def tone() -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(round(RATE * LENGTH_S)) / RATE)).astype(np.float32)


@cache
def whole(container: str) -> bytes:
    codec, options = FORMATS[container]
    return encode(container, codec, tone(), options=options)


@cache
def whole_packets() -> list[bytes]:
    return opus_packets(tone())


def damaged(raw: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    changed = bytearray(raw)
    for kind, where, what in edits:
        # Heads are where most depends on a few bytes.
        at = int(where**3 * len(changed))
        behind = at + len(what)
        if kind == "insert":
            changed[at:at] = what
        elif kind == "drop":
            del changed[at:behind]
        elif kind == "copy":
            changed[at:at] = changed[-len(what) :]
        else:
            changed[at:behind] = what[: len(changed[at:behind])]
    return bytes(changed)


def decoded(audio: CodedAudio, pieces: list[bytes]) -> np.ndarray:
    (decoder,) = audio.decoders()
    return np.concatenate([*(decoder.convert(piece) for piece in pieces), decoder.flush()])


@pytest.mark.parametrize("container", FORMATS)
@given(edits=EDITS, size=st.sampled_from([50, 997, 10**6]))
@settings(max_examples=40, deadline=None)
def test_damaged_containers(container: str, edits: list[tuple[str, float, bytes]], size: int) -> None:
    raw = damaged(whole(container), edits)
    (healthy,) = CodedAudio().decoders()
    good = whole("webm")
    heard = [healthy.convert(good[: len(good) // 2])]
    began = time.monotonic()
    try:
        samples = decoded(CodedAudio(), [raw[start : start + size] for start in range(0, len(raw), size)])
        assert samples.dtype == np.int16
        assert len(samples) < MOST_S * 16_000
    except AudioError:
        pass
    assert time.monotonic() - began < STUCK_S
    heard += [healthy.convert(good[len(good) // 2 :]), healthy.flush()]
    assert abs(sum(map(len, heard)) - LENGTH_S * 16_000) < 1_000


@given(
    edits=st.dictionaries(st.integers(0, 49), EDITS | st.just([("drop", 0.0, bytes(2_000))]), max_size=49),
    together=st.sampled_from([1, 7, 100]),
)
@settings(max_examples=150, deadline=None)
def test_damaged_packets(edits: dict[int, list[tuple[str, float, bytes]]], together: int) -> None:
    sent = [damaged(packet, edits.get(number, [])) for number, packet in enumerate(whole_packets())]
    messages = [framed(packet) for packet in sent]
    pieces = [b"".join(messages[start : start + together]) for start in range(0, len(messages), together)]
    try:
        samples = decoded(CodedAudio(codec="opus"), pieces)
    except AudioError:
        assert 0 in edits or len(edits) == 49  # only what begins with garbage is refused so soon
        return
    # 20 ms for every packet that is whole; a damaged one is anything up to 120 ms, or left out.
    assert (len(sent) - len(edits)) * 320 - 50 <= len(samples) <= len(sent) * 320 + len(edits) * 1_600
