"""How the recognisers of whisper_online read audio: to its end, and without what Whisper made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_whisper_streaming.compat.asr import RecognizerASR
from ray_whisper_streaming.compat.reading import MAX_WINDOW, Place
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Job, Result
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import EngineError
from ray_whisper_streaming.media import decode_file

SAMPLES = Path(str(resources.files("ray_whisper_streaming") / "samples"))
SPEECH = np.concatenate(list(decode_file(SAMPLES / "soup_recipe.flac")))
"""18 s of nothing but voice."""

Answer = Callable[[Job], Sequence[Word] | Result]


class AnsweringASR(RecognizerASR):
    """Its pool answers as it is told, in seconds of the stream; it keeps its jobs."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("en")
        self.jobs: list[Job] = []
        self._answer = answer

    def _recognizer(self) -> tuple[Any, str]:
        return self, "tiny.en"

    def submit_nowait(self, job: Job) -> Future[Result]:
        self.jobs.append(job)
        future: Future[Result] = Future()
        try:
            said = self._answer(job)
            if not isinstance(said, Result):
                said = Result(job_id=job.job_id, words=tuple(said), language="en", language_probability=1.0)
            future.set_result(said)
        except EngineError as error:
            future.set_exception(error)
        return future

    def read(
        self, audio: Any, prompt: str = "", place: Place | None = None
    ) -> list[tuple[float, float, str]]:
        words = self.ts_words(self.submit(audio, prompt, place).result(10))
        return [(round(start, 2), round(end, 2), text) for start, end, text in words]


def bounds(job: Job) -> tuple[float, float]:
    start_s = job.start_sample / SAMPLE_RATE
    return start_s, start_s + job.audio_s


def one_a_second(job: Job, until_s: float = 1e9) -> list[Word]:
    """A word in each whole second of the window."""
    start_s, end_s = bounds(job)
    numbers = range(int(np.ceil(start_s)), int(min(end_s, until_s)))
    return [Word(f" w{i}", float(i), i + 0.9) for i in numbers]


def test_what_an_answer_leaves_at_its_end_is_asked_for_again() -> None:
    asr = AnsweringASR(lambda job: one_a_second(job, until_s=105.0 if job.start_sample == 1_600_000 else 1e9))
    words = asr.read(SPEECH[: 12 * SAMPLE_RATE], "Before.", Place("s", 100 * SAMPLE_RATE))
    assert words == [(float(i), i + 0.9, f" w{100 + i}") for i in range(12)]
    assert [bounds(job) for job in asr.jobs] == [(100.0, 112.0), (104.9, 112.0)]
    assert [job.context for job in asr.jobs] == ["Before.", " w100 w101 w102 w103 w104"]
    assert asr.jobs[0].stream_id == "s"
    assert asr.jobs[1].stream_id != "s", "what the engine remembers of the stream stays"


@pytest.mark.parametrize("silence", [np.zeros, lambda count: np.random.default_rng(1).normal(0, 0.01, count)])
def test_silence_is_not_asked_for_again(silence: Any) -> None:
    asr = AnsweringASR(lambda job: one_a_second(job, until_s=5.0))
    audio = np.concatenate([SPEECH[: 5 * SAMPLE_RATE] / 32_768, silence(10 * SAMPLE_RATE)])
    assert len(asr.read(audio.astype(np.float32))) == 5
    assert len(asr.jobs) == 1


def test_it_is_not_asked_for_without_end() -> None:
    asr = AnsweringASR(lambda job: one_a_second(job, until_s=5.0))
    assert len(asr.read(SPEECH[: 12 * SAMPLE_RATE])) == 5
    assert len(asr.jobs) == 2
    again = AnsweringASR(lambda _: [Word(" again", 1.0, 2.0)])  # whatever is asked
    assert len(again.read(SPEECH[: 12 * SAMPLE_RATE])) == 2
    nothing = AnsweringASR(lambda _: [])
    assert nothing.read(SPEECH[: 12 * SAMPLE_RATE]) == []
    assert len(nothing.jobs) == 1


def test_a_rest_that_can_not_be_decoded_fails_the_pass() -> None:
    def fail_later(job: Job) -> list[Word]:
        if job.start_sample:
            raise EngineError("no", job_id=job.job_id)
        return one_a_second(job, until_s=5.0)

    with pytest.raises(EngineError):
        AnsweringASR(fail_later).read(SPEECH[: 12 * SAMPLE_RATE])


@pytest.mark.parametrize("place", [None, Place("s", 50 * SAMPLE_RATE)])
def test_of_long_audio_every_word_is_read_once(place: Place | None) -> None:
    asr = AnsweringASR(one_a_second)
    words = asr.read(np.tile(SPEECH, 5)[: 80 * SAMPLE_RATE], place=place)
    before = 50 if place else 0
    assert words == [(float(i), i + 0.9, f" w{before + i}") for i in range(80)]
    assert all(len(job.audio) <= MAX_WINDOW for job in asr.jobs)


def test_long_silence_is_gone_through() -> None:
    asr = AnsweringASR(lambda job: [])
    assert asr.read(np.zeros(100 * SAMPLE_RATE, np.int16)) == []
    assert 4 <= len(asr.jobs) <= 5


def words_of_speech(words: Sequence[Word], seconds: int) -> list[tuple[float, float, str]]:
    """What is read of so much speech, where the first answer is these words, and another one none."""
    asr = AnsweringASR(lambda job: [] if job.start_sample else words)
    return asr.read(SPEECH[: seconds * SAMPLE_RATE])


def test_words_that_whisper_made_up_are_left_out() -> None:
    loop = [Word(" no way", i / 2, i / 2 + 0.5) for i in range(10)]
    assert words_of_speech(loop, 6) == [(0.0, 0.5, " no way")]
    behind = [Word(" Yes.", 0.5, 1.0), Word(" Yes.", 1.9, 2.0)]
    assert words_of_speech(behind, 2) == [(0.5, 1.0, " Yes.")]
    crowd = [Word(" Yes.", 0.5, 1.0), *(Word(f" {i}", 1.2, 1.2) for i in range(4))]
    assert words_of_speech(crowd, 2) == [(0.5, 1.0, " Yes.")]


def test_an_answer_that_whisper_itself_doubts_has_no_words() -> None:
    def doubted(job: Job) -> Result:
        words = tuple(one_a_second(job))
        return Result(job_id=job.job_id, words=words, no_speech_probability=0.7, average_log_probability=-1.2)

    assert AnsweringASR(doubted).read(SPEECH[: 6 * SAMPLE_RATE]) == []
