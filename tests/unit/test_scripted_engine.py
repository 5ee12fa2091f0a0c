"""The engine without a model keeps the engines' contract, and breaks when told to."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from ray_whisper_streaming.core.jobs import Failure, Job, Result
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.base import Engine
from ray_whisper_streaming.engines.scripted import Fault, ScriptedEngine
from ray_whisper_streaming.errors import EngineError, NotReady

SCRIPT = [Word(f" word{index}", index * 1.0, index + 0.8) for index in range(20)]


def job(job_id: str = "1", start_s: float = 0.0, seconds: float = 3.0, stream_id: str = "a") -> Job:
    audio = np.zeros(round(seconds * 16_000), np.int16)
    return Job(job_id=job_id, stream_id=stream_id, audio=audio, start_sample=round(start_s * 16_000))


def engine(**options: object) -> ScriptedEngine:
    made = ScriptedEngine(default=SCRIPT, **options)  # type: ignore[arg-type]
    made.warm_up()
    return made


def words(outcome: object) -> list[str]:
    assert isinstance(outcome, Result)
    return [word.text.strip() for word in outcome.words]


def test_it_is_an_engine():
    assert isinstance(ScriptedEngine(), Engine)


def test_it_says_the_words_inside_the_window():
    first, second, nothing = engine().transcribe([job(), job("2", 1.5, 2.8), job("3", 100.0)])
    assert words(first) == ["word0", "word1", "word2"]
    # Word 1 is half over, word 4 has not got half way.
    assert words(second) == ["word2", "word3"]
    assert words(nothing) == []
    assert isinstance(second, Result)
    assert (second.words[0].start_s, second.words[0].end_s) == (2.0, 2.8)


def test_each_stream_has_its_script():
    made = ScriptedEngine({"b": [Word(" other", 0.0, 1.0)]}, SCRIPT)
    made.warm_up()
    assert [
        words(outcome) for outcome in made.transcribe([job(seconds=1), job(seconds=1, stream_id="b")])
    ] == [
        ["word0"],
        ["other"],
    ]


def test_noise_is_the_same_for_the_same_window_and_keeps_times_in_order():
    noisy = {"time_jitter_s": 0.3, "misheard_last": 0.5, "seed": 3}
    jobs = [job(str(index), index * 0.5, 4.0) for index in range(20)]
    together = engine(**noisy).transcribe(jobs)
    alone = [engine(**noisy).transcribe([one])[0] for one in reversed(jobs)][::-1]
    assert [outcome.words for outcome in together] == [outcome.words for outcome in alone]  # type: ignore[union-attr]
    heard = [word for outcome in together for word in outcome.words]  # type: ignore[union-attr]
    assert any(word.text == " hm" for word in heard)
    assert any(word not in SCRIPT and word.text != " hm" for word in heard)
    for outcome, asked in zip(together, jobs, strict=True):
        times = [at_s for word in outcome.words for at_s in (word.start_s, word.end_s)]  # type: ignore[union-attr]
        start_s = asked.start_sample / 16_000
        assert times == sorted(times)
        assert all(start_s <= at_s <= start_s + asked.audio_s for at_s in times)


def test_latency_is_slept_and_reported():
    slept: list[float] = []
    outcomes = engine(latency_s=0.1, latency_per_job_s=0.05, sleep=slept.append).transcribe(
        [job("1"), job("2")]
    )
    assert slept == [pytest.approx(0.2)]
    assert all(outcome.timings.inference_s == slept[0] for outcome in outcomes)  # type: ignore[union-attr]
    assert all(outcome.timings.batch_size == 2 for outcome in outcomes)  # type: ignore[union-attr]


@pytest.mark.parametrize(("kind", "retryable"), [("fail", True), ("reject", False)])
def test_a_bad_job_fails_alone_as_often_as_told(kind: str, retryable: bool):
    made = engine(faults={"bad": Fault(kind, times=2)})  # type: ignore[arg-type]
    good, bad = job("good"), job("bad")
    for _ in range(2):
        fine, failed = made.transcribe([good, bad])
        assert words(fine) == ["word0", "word1", "word2"]
        assert isinstance(failed, Failure)
        assert isinstance(failed.error, EngineError)
        assert failed.error.retryable is retryable
        assert failed.error.job_id == "bad"
    assert words(made.transcribe([bad])[0]) == ["word0", "word1", "word2"]


def test_faults_may_name_a_stream():
    made = engine(faults={"a": Fault("raise")})
    with pytest.raises(RuntimeError):
        made.transcribe([job("1"), replace(job("2"), stream_id="b")])
    assert words(made.transcribe([job("1")])[0])


def test_a_hanging_call_sleeps_longer_than_anybody_waits():
    slept: list[float] = []
    engine(faults={"1": Fault("hang")}, sleep=slept.append).transcribe([job()])
    assert slept == [3600.0]


def test_it_must_be_warm():
    cold = ScriptedEngine()
    with pytest.raises(NotReady):
        cold.transcribe([job()])
    cold.warm_up()
    cold.transcribe([job()])
    cold.close()
    cold.close()
    with pytest.raises(NotReady):
        cold.transcribe([job()])


def test_it_travels_between_processes():
    copied = pickle.loads(pickle.dumps(engine(faults={"bad": Fault("fail")})))
    assert isinstance(copied.transcribe([job("bad")])[0], Failure)
