"""The sample recordings that are installed with the package."""

import json
from importlib import resources
from typing import Any

import av
import pytest

SAMPLES = resources.files("ray_whisper_streaming") / "samples"
ENTRIES: list[dict[str, Any]] = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
TOTAL_LIMIT_BYTES = 1_000_000


def test_the_list_names_every_recording_and_nothing_else():
    listed = sorted(entry["file"] for entry in ENTRIES)
    assert listed == sorted(item.name for item in SAMPLES.iterdir() if item.name.endswith(".flac"))


def test_all_are_marked_synthetic():
    assert all(entry["synthetic"] is True for entry in ENTRIES)


def test_together_they_stay_small():
    assert sum(len((SAMPLES / entry["file"]).read_bytes()) for entry in ENTRIES) < TOTAL_LIMIT_BYTES


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["file"])
def test_a_recording_is_what_the_list_says(entry: dict[str, Any]):
    with resources.as_file(SAMPLES / entry["file"]) as path, av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.rate, stream.channels) == (16_000, 1)
        samples = sum(frame.samples for frame in container.decode(stream))
    assert samples / 16_000 == pytest.approx(entry["seconds"], abs=0.01)
