"""A whole trial in three seconds: the real pool and streams, a scripted engine, real pace."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from ray_whisper_streaming import AsyncPool, StreamOptions
from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.bench.report import holds
from ray_whisper_streaming.bench.simulation import Speech
from ray_whisper_streaming.bench.trial import run_trial
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Failure, Job, Outcome
from ray_whisper_streaming.engines.scripted import ScriptedEngine
from ray_whisper_streaming.errors import EngineError

WORDS = tuple(Speech(pause_s=0.0).between(0.0, 2.6))
CLIP = Clip(
    name="scripted",
    audio=np.ones(round(2.8 * SAMPLE_RATE), np.int16),
    text="".join(word.text for word in WORDS).strip(),
    words=WORDS,
)
SHORT = Clip(name="short", audio=CLIP.audio[: SAMPLE_RATE // 2], text="w0", words=WORDS[:1])
OPTIONS = StreamOptions(language="en", voice_activity=False, update_interval_s=0.2)


async def test_a_trial_measures_what_is_scripted():
    engine = partial(ScriptedEngine, default=WORDS, latency_s=0.02)
    async with AsyncPool(backend="local", engine_factory=engine) as pool:
        row = await run_trial(pool, [CLIP] * 3, OPTIONS)
    assert row["streams"] == 3
    assert row["wer"] == 0.0
    assert row["words_scored"] == 3 * len(WORDS)
    assert row["failures"] == row["failed_jobs"] == 0
    assert row["tail_words_lost"] == row["words_lost_at_end"] == 0
    # A word is committed when half a second of audio follows it, and passes are 0.2 s apart.
    assert 0.3 < row["commit_latency_s"]["p50"] < 1.5
    assert -0.3 < row["first_shown_latency_s"]["p50"] < row["commit_latency_s"]["p50"]
    assert 1 < row["partials_per_s"] < 10
    assert 1 <= row["batch_size_mean"] <= 3
    assert 0 < row["real_time_factor"] < 0.5
    assert row["jobs_per_s"] > 3
    assert row["peak_rss_mb"] > 20
    assert holds(row)


class RefusingEngine(ScriptedEngine):
    """Refuses every job for good."""

    def transcribe(self, jobs: Sequence[Job]) -> list[Outcome]:
        error = EngineError("as told", job_id="", retryable=False)
        return [Failure(job_id=job.job_id, error=error) for job in jobs]


async def test_failed_streams_are_counted():
    async with AsyncPool(backend="local", engine_factory=RefusingEngine) as pool:
        row = await run_trial(pool, [SHORT, SHORT], OPTIONS)
    assert (row["failures"], row["failure_kinds"]) == (2, ["EngineError"])
    assert row["wer"] == 1.0
    assert not holds(row)


async def test_streams_that_do_not_end_in_time_are_counted():
    engine = partial(ScriptedEngine, default=WORDS, latency_s=1.0)
    async with AsyncPool(backend="local", engine_factory=engine) as pool:
        row = await run_trial(pool, [SHORT], OPTIONS, drain_limit_s=0.1)
    assert (row["failures"], row["failure_kinds"]) == (1, ["unfinished"])
    assert row["tail_words_lost"] == len(SHORT.words)
    assert not holds(row)
