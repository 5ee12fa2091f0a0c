"""Lockstep runs with a scripted engine: the text arrives, the delay is that of the policy and the step, every time."""

from __future__ import annotations

import numpy as np
import pytest

from ray_whisper_streaming import StreamOptions
from ray_whisper_streaming.bench.coverage import find_lost, uncovered_s
from ray_whisper_streaming.bench.lockstep import run_lockstep
from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.bench.scoring import score_stream
from ray_whisper_streaming.bench.simulation import Speech
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.engines.scripted import ScriptedEngine

LENGTH_S = 20.0
WORDS = tuple(Speech(pause_s=0.0).between(0.0, LENGTH_S - 0.5))
CLIP = Clip(
    name="scripted",
    audio=np.ones(round(LENGTH_S * SAMPLE_RATE), np.int16),
    text="".join(word.text for word in WORDS).strip(),
    words=WORDS,
)
OPTIONS = StreamOptions(language="en", voice_activity=False, update_interval_s=0.2, policy="cutoff")


@pytest.mark.parametrize("step_s", [0.5, 2.0])
def test_words_come_a_delay_and_at_most_a_step_after_their_end(step_s: float) -> None:
    engine = ScriptedEngine(default=WORDS)
    engine.warm_up()
    logs, work = run_lockstep(engine, [CLIP, CLIP], OPTIONS, step_s=step_s)
    assert [log.text.strip() for log in logs] == [CLIP.text] * 2
    for log in logs:
        score = score_stream(CLIP.words, log, CLIP.seconds)
        assert score.tail_words_lost == 0
        # What is left at the end of the clip is committed there, and no pass may be later.
        latest_s = OPTIONS.commit_delay_s + step_s
        assert all(-0.01 <= latency_s <= latest_s + 0.01 for _, latency_s in score.commit_latencies)
        assert log.ended_at_s == CLIP.seconds
        # What the passes covered: all of it, and the last of them the end.
        assert log.passes is not None
        assert uncovered_s([(0.0, CLIP.seconds)], log.passes) == 0
        assert log.passes[-1].end_s == CLIP.seconds
        assert find_lost(CLIP.text, CLIP.words, log, [(0.0, CLIP.seconds)]) == []
    assert work.jobs == pytest.approx(2 * LENGTH_S / step_s, abs=4)
    assert work.audio_s < work.window_s


def test_what_the_engine_does_not_hear_is_found() -> None:
    deaf = [word for word in WORDS if not 8.0 < word.start_s < 12.0]
    engine = ScriptedEngine(default=deaf)
    engine.warm_up()
    (log,), _ = run_lockstep(engine, [CLIP], OPTIONS, step_s=1.0)
    (lost,) = find_lost(CLIP.text, CLIP.words, log, [(0.0, CLIP.seconds)], CLIP.text)
    assert (lost.start_s, lost.end_s) == (pytest.approx(8.1, abs=0.3), pytest.approx(12.0, abs=0.3))
    assert (lost.reason, lost.offline) == ("decoded, nothing heard", True)


def test_equal_runs_give_equal_logs() -> None:
    engine = ScriptedEngine(default=WORDS)
    engine.warm_up()
    (first,), _ = run_lockstep(engine, [CLIP], OPTIONS, step_s=1.0)
    (second,), _ = run_lockstep(engine, [CLIP], OPTIONS, step_s=1.0)
    assert first.shown == second.shown
