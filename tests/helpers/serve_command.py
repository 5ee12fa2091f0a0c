"""``ray-whisper serve`` as a process of its own, on a free port, and what its clients say and hear."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import jiwer
import numpy as np
import soxr

from ray_whisper_streaming.media import decode_file

SAMPLES = Path(str(resources.files("ray_whisper_streaming") / "samples"))
STOP_S = 30.0


@dataclass(frozen=True)
class Served:
    """A server that is ready: its address, and its own words so far."""

    url: str
    process: subprocess.Popen[str]

    @property
    def websocket_url(self) -> str:
        return self.url.replace("http", "ws", 1)


@contextmanager
def serving(*arguments: str) -> Generator[Served]:
    """Start the server, wait until its workers are warm, and end it in good order.

    It lets clients in however slow the machine is: recordings are sent faster than speech, by several at once.
    """
    patient = ["--max-queue-wait-s", "600", "--max-lag-s", "600"]
    command = [sys.executable, "-m", "ray_whisper_streaming", "serve", "--port", "0", *patient, *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            found = re.search(r"http\S+", told)
            if found is None:
                errors.seek(0)
                raise AssertionError(f"the server did not start: {told}{errors.read()}")
            yield Served(found[0], process)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(STOP_S)
            errors.seek(0)
            said = errors.read()
    assert code == 0, said
    assert "Traceback" not in said, said
    assert "SIGTERM" not in said, said


@cache
def sample_texts() -> dict[str, str]:
    listed = json.loads((SAMPLES / "samples.json").read_text())
    return {each["file"]: each["text"] for each in listed}


@cache
def speech(name: str, rate: int = 16_000) -> np.ndarray:
    """A packaged recording as int16 of any rate."""
    samples = np.concatenate(list(decode_file(SAMPLES / name)))
    if rate == 16_000:
        return samples
    resampled = soxr.resample(samples.astype(np.float32), 16_000, rate)
    return np.clip(resampled, -32768, 32767).astype(np.int16)


def word_errors(heard: str, name: str) -> float:
    """Word error rate against what is said in the recording."""
    said, told = (
        re.sub(r"[^a-z' ]", "", text.lower().replace("-", " ")) for text in (sample_texts()[name], heard)
    )
    return jiwer.process_words(said, told).wer
