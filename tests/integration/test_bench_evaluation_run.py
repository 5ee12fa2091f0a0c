"""Whole evaluations of a script: real streams, in steps and at the pace of speech, without a model."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from ray_whisper_streaming import AsyncPool
from ray_whisper_streaming.bench.evaluation import as_row
from ray_whisper_streaming.bench.evaluation_run import Material, evaluate_at_pace, evaluate_in_steps
from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.bench.simulation import Speech
from ray_whisper_streaming.bench.variants import Variant
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.engines.scripted import ScriptedEngine

LENGTH_S = 6.0
WORDS = tuple(Speech(pause_s=0.0).between(0.0, LENGTH_S - 0.5))
CLIP = Clip(
    name="scripted",
    audio=np.ones(round(LENGTH_S * SAMPLE_RATE), np.int16),
    text="".join(word.text for word in WORDS).strip(),
    words=WORDS,
)
NOISE = Clip(name="noise", audio=np.ones(2 * SAMPLE_RATE, np.int16), text="", language="none")
BARE = {"voice_activity": False, "policy": "cutoff"}
VARIANTS = [Variant("soon", BARE), Variant("late", {**BARE, "commit_delay_s": 1.5})]
MATERIAL = Material({"en": [CLIP, CLIP]}, [NOISE], {"en": [CLIP.text, ""]})


def test_every_variant_is_measured_in_steps_on_what_it_heard():
    engine = ScriptedEngine(default=WORDS)
    engine.warm_up()
    heard: list[tuple[str, float]] = []
    rows = list(evaluate_in_steps(engine, VARIANTS, MATERIAL, 0.5, lambda *told: heard.append(told)))
    soon, late = map(as_row, rows)
    assert [row["variant"] for row in (soon, late)] == ["soon", "late"]
    for row in (soon, late):
        assert (row["wer"], row["offline_wer"], row["audio_s"]) == (0.0, 0.5, 2 * LENGTH_S)
        # The script speaks in the noise as well: 2 s hold six of its words and most of a seventh.
        assert row["hallucinated_words"] in (6, 7)
        assert row["hallucinated_words_per_hour"] == row["hallucinated_words"] * 1800
        assert row["jobs_per_audio_second"] == pytest.approx(2, abs=0.2)
    assert late["commit_latency_s"]["mean"] - soon["commit_latency_s"]["mean"] == pytest.approx(1.0, abs=0.3)
    assert sum(seconds for name, seconds in heard if name == "soon") == pytest.approx(MATERIAL.seconds)


def test_the_order_of_the_variants_changes_nothing() -> None:
    engine = ScriptedEngine(default=WORDS, misheard_last=0.5, time_jitter_s=0.1)
    engine.warm_up()
    first = list(evaluate_in_steps(engine, VARIANTS, MATERIAL, 0.5, lambda *_: None))
    second = list(evaluate_in_steps(engine, VARIANTS[::-1], MATERIAL, 0.5, lambda *_: None))
    assert first == second[::-1]


async def test_at_the_pace_of_speech_delays_hold_what_decoding_takes():
    means: list[float] = []
    for latency_s in (0.0, 0.6):
        factory = partial(ScriptedEngine, default=WORDS, latency_s=latency_s)
        async with AsyncPool(backend="local", engine_factory=factory) as pool:
            (row,) = [
                as_row(figures)
                async for figures in evaluate_at_pace(pool, VARIANTS[:1], MATERIAL, 2, lambda *_: None)
            ]
        assert (row["wer"], row["failures"]) == (0.0, 0)
        assert row["decoded_seconds_per_audio_second"] > 1
        means.append(row["commit_latency_s"]["mean"])
    assert means[1] - means[0] > 0.3
