"""How the recognisers of whisper_online read audio: to its end, and without what Whisper made up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.answering import AnsweringASR

from ray_whisper_streaming.compat.asr import RecognizerASR
from ray_whisper_streaming.compat.reading import LOOK_BACK_S, MAX_WINDOW, Place
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, DecodeOptions, Job, Result
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import EngineError
from ray_whisper_streaming.media import decode_file

SAMPLES = Path(str(resources.files("ray_whisper_streaming") / "samples"))
SPEECH = np.concatenate(list(decode_file(SAMPLES / "soup_recipe.flac")))
"""18 s of nothing but voice."""


def read(
    asr: RecognizerASR, audio: Any, prompt: str = "", place: Place | None = None
) -> list[tuple[float, float, str]]:
    words = asr.ts_words(asr.submit(audio, prompt, place).result(10))
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
    asr.beam_size, asr.temperature = 3, 0.2
    words = read(asr, SPEECH[: 12 * SAMPLE_RATE], "Before.", Place("s", 100 * SAMPLE_RATE))
    assert words == [(float(i), i + 0.9, f" w{100 + i}") for i in range(12)]
    assert [bounds(job) for job in asr.jobs] == [(100.0, 112.0), (104.9, 112.0)]
    assert [job.context for job in asr.jobs] == ["Before.", " w100 w101 w102 w103 w104"]
    assert asr.jobs[0].stream_id == "s"
    assert all(job.hurried for job in asr.jobs)
    assert {job.options for job in asr.jobs} == {DecodeOptions(beam_size=3, temperature=0.2)}
    assert asr.jobs[1].stream_id != "s", "what the engine remembers of the stream stays"


@pytest.mark.parametrize("silence", [np.zeros, lambda count: np.random.default_rng(1).normal(0, 0.01, count)])
def test_silence_is_not_asked_for_again(silence: Any) -> None:
    asr = AnsweringASR(lambda job: one_a_second(job, until_s=5.0))
    audio = np.concatenate([SPEECH[: 5 * SAMPLE_RATE] / 32_768, silence(10 * SAMPLE_RATE)])
    assert len(read(asr, audio.astype(np.float32))) == 5
    assert len(asr.jobs) == 1


def test_it_is_not_asked_for_without_end() -> None:
    asr = AnsweringASR(lambda job: one_a_second(job, until_s=5.0))
    assert len(read(asr, SPEECH[: 12 * SAMPLE_RATE])) == 5
    assert len(asr.jobs) == 2
    again = AnsweringASR(lambda _: [Word(" again", 1.0, 2.0)])  # whatever is asked
    assert len(read(again, SPEECH[: 12 * SAMPLE_RATE])) == 2
    nothing = AnsweringASR(lambda _: [])
    assert read(nothing, SPEECH[: 12 * SAMPLE_RATE]) == []
    assert len(nothing.jobs) == 1


def test_a_rest_that_can_not_be_decoded_fails_the_pass() -> None:
    def fail_later(job: Job) -> list[Word]:
        if job.start_sample:
            raise EngineError("no", job_id=job.job_id)
        return one_a_second(job, until_s=5.0)

    with pytest.raises(EngineError):
        read(AnsweringASR(fail_later), SPEECH[: 12 * SAMPLE_RATE])


@pytest.mark.parametrize("place", [None, Place("s", 50 * SAMPLE_RATE)])
def test_of_long_audio_every_word_is_read_once(place: Place | None) -> None:
    asr = AnsweringASR(one_a_second)
    words = read(asr, np.tile(SPEECH, 5)[: 80 * SAMPLE_RATE], place=place)
    before = 50 if place else 0
    assert words == [(float(i), i + 0.9, f" w{before + i}") for i in range(80)]
    assert all(len(job.audio) <= MAX_WINDOW for job in asr.jobs)


def test_the_last_words_of_a_window_are_left_to_the_next() -> None:
    def half_heard_at_the_end(job: Job) -> list[Word]:
        end_s = bounds(job)[1]
        return [
            Word(f"{word.text}?", word.start_s, word.end_s)
            if end_s - 1.9 < word.end_s and end_s < 80
            else word
            for word in one_a_second(job)
        ]

    words = read(AnsweringASR(half_heard_at_the_end), np.tile(SPEECH, 5)[: 80 * SAMPLE_RATE])
    assert [text for _, _, text in words] == [f" w{i}" for i in range(80)]


def test_long_silence_is_gone_through() -> None:
    asr = AnsweringASR(lambda job: [])
    assert read(asr, np.zeros(100 * SAMPLE_RATE, np.int16)) == []
    assert 4 <= len(asr.jobs) <= 5
    spans = [bounds(job) for job in asr.jobs]
    assert all(start == end - LOOK_BACK_S for (_, end), (start, _) in pairwise(spans))


def words_of_speech(words: Sequence[Word], seconds: int) -> list[tuple[float, float, str]]:
    """What is read of so much speech, where the first answer is these words, and another one none."""
    asr = AnsweringASR(lambda job: [] if job.start_sample else words)
    return read(asr, SPEECH[: seconds * SAMPLE_RATE])


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

    assert read(AnsweringASR(doubted), SPEECH[: 6 * SAMPLE_RATE]) == []


PROGRAM = """
import threading, time
from concurrent.futures import Future
import numpy as np
from ray_whisper_streaming.compat.asr import RecognizerASR
from ray_whisper_streaming.core.jobs import Result

class ASR(RecognizerASR):
    def _recognizer(self):
        return self, "tiny.en"

    def submit_nowait(self, job):
        answer = Future()
        answer.set_result(Result(job_id=job.job_id, language="en", language_probability=1.0))
        return answer

def work():
    threading.main_thread().join()
    time.sleep(0.2)
    print(ASR("en").transcribe(np.zeros(16_000, np.int16)))

threading.Thread(target=work).start()
"""


def test_threads_that_outlive_the_main_one_are_answered() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
