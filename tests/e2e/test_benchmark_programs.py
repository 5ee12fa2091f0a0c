"""The programs in `benchmarks/`, run as a user runs them, for seconds instead of minutes."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from importlib import resources
from pathlib import Path

import av
import numpy as np
import pytest

from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.media import decode_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SAMPLES = Path(str(resources.files("ray_whisper_streaming") / "samples"))

SPOKEN = "Good morning, and here is the weather for today."
SPOKEN_S = 3.4
"""The first sentence of the sample, and where it ends."""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with one clip: the beginning of a sample."""
    sentence = tmp_path / "sentence.flac"
    with av.open(str(SAMPLES / "weather_report.flac")) as source, av.open(str(sentence), "w") as target:
        stream = target.add_stream("flac", rate=source.streams.audio[0].rate, layout="mono")
        for frame in source.decode(audio=0):
            if frame.time is not None and frame.time < SPOKEN_S:
                target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    entry = {"file": sentence.name, "language": "en", "text": SPOKEN}
    (tmp_path / "samples.json").write_text(json.dumps([entry]))
    return tmp_path


def test_a_long_stream_keeps_its_memory_and_its_words(tmp_path):
    report = tmp_path / "long.json"
    done = run("long_stream.py", "--hours", "0.05", "--mark-every-s", "60", "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    last = json.loads(report.read_text())["results"][-1]
    assert last["committed"] == 453
    assert last["wrong"] == 0
    assert 0 < last["lag_s"] < 3


def test_memory_of_a_stream(tmp_path):
    report = tmp_path / "memory.json"
    done = run("stream_memory.py", "--streams", "24", "--scripted", "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(report.read_text())["results"]
    assert [count for count, _ in row["points"]] == [0, 8, 16, 24]
    assert row["audio_mb_per_stream"] / 2 < row["resident_mb_per_stream"] < 5


@pytest.mark.model
@pytest.mark.slow
def test_streams_beside_the_original(tmp_path, clips):
    pytest.importorskip("whisper_online")
    report = tmp_path / "streams.json"
    done = run(
        "streams.py", "--streams", "1", "--seconds", "4", "--audio", str(clips), "--baseline", "--whisper-online",
        "--json", str(report), "--texts",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(report.read_text())
    (row,) = document["results"]
    for other in (row["baseline"], row["whisper_online"]):
        assert row["streams"] == other["streams"] == 1
        assert row["failures"] == other["failures"] == 0
    assert row["whisper_online"]["wer"] < 0.3
    assert row["wer"] < 0.3
    assert row["offline_wer"] < 0.3
    assert row["offline_greedy_wer"] < 0.3
    assert row["words_scored"] > 5
    assert row["commit_latency_s"]["p50"] > 0
    assert row["ratio"] == row["baseline"]["commit_latency_s"]["p95"] / row["commit_latency_s"]["p95"]
    assert row["latency_reference"] == "the system's own word ends"
    assert document["machine"]["cores"] >= 1
    assert "this" in done.stdout
    assert "orig." in done.stdout


@pytest.mark.model
@pytest.mark.speech
def test_ends_of_utterances(tmp_path):
    """Two halves of a sentence with a second of silence behind each: one end is inside it, the other at its end."""
    sample = np.concatenate(list(decode_file(SAMPLES / "weather_report.flac")))
    first, second = sample[: round(1.1 * SAMPLE_RATE)], sample[: round(SPOKEN_S * SAMPLE_RATE)]
    pause = np.zeros(SAMPLE_RATE, np.int16)
    with wave.open(str(tmp_path / "halves.wav"), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(np.concatenate((first, pause, second, pause)).tobytes())
    said = f"Good morning, {SPOKEN}"
    # The last word begins well before the recording says that it ends, whatever the model thinks.
    ends_s = [0.6, 1.1, *np.linspace(2.6, 2.1 + SPOKEN_S - 0.4, len(SPOKEN.split()))]
    words = [{"word": w, "start": end - 0.3, "end": end} for w, end in zip(said.split(), ends_s, strict=True)]
    entry = {"path": "halves.wav", "language": "en", "text": said, "words": words}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(entry))
    arguments = ("--manifest", str(tmp_path / "manifest.jsonl"), "--clips", "halves")
    done = run("endpoints.py", *arguments, "--variant", "min_silence_s=0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads(done.stdout)
    assert (row["all"]["ends"], row["all"]["inside_sentence"]) == (2, 1)
    assert 0.5 <= row["all"]["delay_at_sentence_end_s"]["mean"] <= 1.3


@pytest.mark.model
def test_terms_given_beforehand(tmp_path, clips):
    silence = tmp_path / "silence.wav"
    with wave.open(str(silence), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(np.zeros(2 * SAMPLE_RATE, np.int16).tobytes())
    (entry,) = json.loads((clips / "samples.json").read_text())
    # The same sentence thrice: with its text, with another in which the term is wrong, and as if nobody spoke.
    another = {**entry, "text": SPOKEN.replace("weather", "forecast")}
    nobody = {**entry, "language": "none", "text": ""}
    entries = [entry, another, nobody, {"file": silence.name, "language": "none", "text": ""}]
    (clips / "samples.json").write_text(json.dumps(entries))
    report = tmp_path / "terms.json"
    arguments = ("--manifest", str(clips / "samples.json"), "--terms", "Weather", "zeppelin")
    done = run("terms.py", *arguments, "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(report.read_text())["results"]
    assert [row["given"] for row in rows] == ["not", "hotwords", "prompt"]
    for row in rows:
        assert (row["said"], row["recall"], row["in_vain"]) == (1, 1.0, 1)
        assert (row["words_without_speech"], row["terms_without_speech"]) == (len(SPOKEN.split()), 1)


@pytest.mark.model
def test_translation_beside_one_go(tmp_path, clips):
    """From English into English, which base does by repeating it: both ways have the same words."""
    report = tmp_path / "translation.json"
    arguments = ("--manifest", str(clips / "samples.json"), "--language", "en", "--json", str(report))
    done = run("translation.py", *arguments, "--variant", "name=late,policy=cutoff,commit_delay_s=2")
    assert done.returncode == 0, done.stdout + done.stderr
    greedy, late = json.loads(report.read_text())["results"]
    assert (greedy["way"], greedy["differing"], greedy["delay_s"]) == ("in one go, greedily", 0.0, None)
    assert (late["way"], late["differing"]) == ("late", 0.0)
    # 2 s behind the word and up to a step more; the last words at the end of the recording.
    assert 0.5 < late["delay_s"]["mean"] < 3.1
    assert "recordings: 1" in done.stdout
    done = run("translation.py", "--manifest", str(clips / "samples.json"), "--language", "eo")
    assert done.returncode == 2
    assert "has no recording in eo" in done.stderr
