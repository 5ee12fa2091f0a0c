"""Where the audio of commands comes from."""

import os
from pathlib import Path

import pytest

from ray_whisper_streaming.cli.feeding import (
    duration_s,
    find_recordings,
    read_bytes,
    sample_recordings,
    sample_texts,
)
from ray_whisper_streaming.errors import AudioError


def test_the_samples_and_what_is_said_in_them() -> None:
    recordings = sample_recordings()
    assert len(recordings) == 4
    assert set(sample_texts()) == set(recordings)
    assert duration_s(recordings[0]) == pytest.approx(18.45, abs=0.01)


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
