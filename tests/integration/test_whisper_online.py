"""The whisper_online API with a real model, in this process and over Ray."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_whisper_streaming.bench.material import load_clips, make_material
from ray_whisper_streaming.bench.text_errors import word_error_rate
from ray_whisper_streaming.core.audio import as_float32
from ray_whisper_streaming.core.jobs import Job
from ray_whisper_streaming.errors import AudioError, ConfigurationError, NotReady, StreamClosed
from whisper_online import (
    FasterWhisperASR,
    FasterWhisperWorkerCluster,
    OnlineASRProcessor,
    RayFasterWhisperASR,
    VACOnlineASRProcessor,
    add_shared_args,
    asr_factory,
    load_audio,
    load_audio_chunk,
    process_iter_many,
)

SAMPLES = Path(str(resources.files("ray_whisper_streaming") / "samples"))
SOUP = str(SAMPLES / "soup_recipe.flac")

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def asr() -> Iterator[FasterWhisperASR]:
    asr = FasterWhisperASR("en", "tiny.en")
    yield asr
    asr.close()


def engine_of(recognizer: Any) -> str:
    """Of which engine an answer is."""
    second = Job(job_id=uuid.uuid4().hex, stream_id="asks", audio=np.zeros(16_000, np.int16), language="en")
    return recognizer.submit_nowait(second).result(30).engine


def play(online: Any, audio: np.ndarray, step_s: float = 1.0) -> str:
    step = round(step_s * 16_000)
    text = ""
    for start in range(0, len(audio), step):
        online.insert_audio_chunk(audio[start : start + step])
        text += online.process_iter()[2]
    return text + online.finish()[2]


def test_a_recording_is_streamed(asr: FasterWhisperASR) -> None:
    text = play(OnlineASRProcessor(asr), load_audio(SOUP), 2.0)
    for phrase in ("chop two onions", "enough water to cover everything", "spoonful of cream"):
        assert phrase in text


def test_without_a_gpu_the_engine_is_the_one_for_cpus(asr: FasterWhisperASR) -> None:
    recognizer, _ = asr._recognizer()
    assert engine_of(recognizer) == "onnxruntime"


def test_voice_activity_keeps_short_utterances_and_tails(asr: FasterWhisperASR) -> None:
    audio = load_audio(SOUP)
    silence = np.zeros(16_000, np.float32)
    first = load_audio_chunk(SOUP, 0.3, 1.3)  # "First"
    text = play(
        VACOnlineASRProcessor(1.0, asr), np.concatenate([silence, first, silence, audio, silence]), 0.5
    )
    assert text.lower().count("first") == 2
    assert "spoonful of cream" in text


@pytest.mark.speech
def test_a_pass_that_stops_at_the_end_of_a_sentence_loses_nothing(
    asr: FasterWhisperASR, speech_dir: Path
) -> None:
    spoken = make_material(load_clips(speech_dir / "longform", "en"), 1, 60.0)
    online = OnlineASRProcessor(asr)
    audio = as_float32(spoken.audio)
    heard: list[Any] = []
    for start in range(0, len(audio), 16_000):
        online.insert_audio_chunk(audio[start : start + 16_000])
        heard.append(online.process_iter())
    heard = [output for output in [*heard, online.finish()] if output[0] is not None]
    # Of 22 s in the middle nothing was heard, where an answer was taken for all there is.
    assert max(b[0] - a[1] for a, b in pairwise(heard)) < 4.0
    errors = word_error_rate([spoken.text], ["".join(output[2] for output in heard)], "en")
    assert errors is not None
    assert errors < 0.25


def test_long_audio_is_decoded_window_by_window(asr: FasterWhisperASR) -> None:
    audio = np.tile(load_audio(SOUP), 2)
    words = asr.ts_words(asr.transcribe(audio))
    text = "".join(word[2] for word in words)
    assert text.count("spoonful of cream") == 2
    assert all(a[0] <= b[0] for a, b in pairwise(words))


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whisper_online", *arguments, "--model", "tiny.en", "--lan", "en"]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_the_simulation_writes_the_original_lines() -> None:
    done = simulate(SOUP, "--comp_unaware", "--min-chunk-size", "2", "--start_at", "10")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines
    assert all(re.fullmatch(r"\d+\.\d{4} \d+ \d+ .*\S.*", line) for line in lines)
    assert float(lines[0].split()[0]) % 2000 == 0


def test_offline_is_one_line_for_the_whole_file() -> None:
    done = simulate(SOUP, "--offline")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("18")
    assert "chop two onions" in line
    assert "spoonful of cream" in line


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["--buffer_trimming", "sentence", "--buffer_trimming_sec", "8"], OnlineASRProcessor),
        (["--vac", "--vac-chunk-size", "0.5"], VACOnlineASRProcessor),
    ],
)
def test_arguments_make_a_recogniser_and_its_processor(options: list[str], kind: type) -> None:
    parser = argparse.ArgumentParser()
    add_shared_args(parser)
    args = parser.parse_args(["--model", "tiny.en", "--lan", "en", *options])
    asr, online = asr_factory(args)
    try:
        assert type(online) is kind
        assert "chop two onions" in play(online, load_audio_chunk(SOUP, 0.0, 6.0), 2.0)
    finally:
        asr.close()


def test_arguments_that_can_not_be_served_are_refused() -> None:
    parser = argparse.ArgumentParser()
    add_shared_args(parser)
    for options in (["--backend", "openai-api"], ["--buffer_trimming", "sentence"]):
        with pytest.raises(ConfigurationError):
            asr_factory(parser.parse_args(["--model", "tiny.en", *options]))


def test_a_chunk_of_a_file_is_that_part_of_it(tmp_path: Path) -> None:
    part = load_audio_chunk(SOUP, 1.0, 2.5)
    assert np.array_equal(part, load_audio(SOUP)[16_000:40_000])
    part[:] = 0.0
    assert load_audio_chunk(SOUP, 1.0, 2.5).any()
    with pytest.raises(AudioError):
        load_audio_chunk(str(tmp_path / "missing.wav"), 0.0, 1.0)


def test_a_reader_that_has_gone_is_nothing_to_complain_about() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "whisper_online", SOUP, "--offline", "--model", "tiny.en"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=100, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_file_without_audio_is_one_clear_line() -> None:
    done = simulate(str(SAMPLES / "README.md"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "README.md" in done.stderr


def test_wrong_languages_and_models_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        FasterWhisperASR("xx", "tiny.en")
    with pytest.raises(ConfigurationError, match="no-such-model"):
        FasterWhisperASR("en", "no-such-model").load()
    with pytest.raises(ConfigurationError):
        RayFasterWhisperASR("not a queue")  # type: ignore[arg-type]


@pytest.mark.ray
def test_a_cluster_serves_the_driver_and_actors(ray_cluster: Any) -> None:
    import ray

    cluster = FasterWhisperWorkerCluster(lan="en", model_size_or_path="tiny.en", max_worker_count=1)
    with pytest.raises(NotReady):
        cluster.get_global_asr_queue()
    with cluster:
        queue = cluster.get_global_asr_queue()
        assert engine_of(queue.recognizer("tiny.en")) == "onnxruntime"
        audio = load_audio(SOUP)[: 5 * 16_000]
        processors = [OnlineASRProcessor(RayFasterWhisperASR(global_asr_queue=queue)) for _ in range(3)]
        for processor in processors:
            processor.insert_audio_chunk(audio)
        process_iter_many(processors)
        outputs: list[Any] = process_iter_many(processors)
        assert len(outputs) == 3
        assert all("chop two onions" in output[2] for output in outputs), outputs

        @ray.remote(num_cpus=0)
        class Caller:
            def __init__(self, queue: Any) -> None:
                self.processor = OnlineASRProcessor(RayFasterWhisperASR(global_asr_queue=queue))

            def say(self, audio: Any) -> str:
                self.processor.insert_audio_chunk(audio)
                self.processor.process_iter()
                return self.processor.finish()[2]

        caller: Any = Caller.remote(queue)
        assert "chop two onions" in ray.get(caller.say.remote(audio))
    with pytest.raises(StreamClosed):
        cluster.run()
