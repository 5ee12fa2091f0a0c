"""OnlineASRProcessor against the vectors of whisper_streaming, with a recogniser that answers from a script."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tests.support.answering import AnsweringASR

from ray_whisper_streaming.compat.hypothesis import TimedWord
from ray_whisper_streaming.compat.processor import (
    HARD_LIMIT_S,
    OnlineASRProcessor,
    aprocess_iter_many,
    process_iter_many,
)
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Job
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import AudioError, ConfigurationError, EngineError

NOTHING = (None, None, "")


@dataclass
class ScriptedASR:
    """Answers with the words of `script` that lie inside the audio; `offset` is asked of the processor."""

    script: list[TimedWord]
    sep: str = ""
    segment_s: float = 5.0
    error: Exception | None = None
    prompts: list[str] = field(default_factory=list)
    offset: Callable[[], float] = lambda: 0.0

    def transcribe(self, audio: Any, init_prompt: str = "") -> list[TimedWord]:
        self.prompts.append(init_prompt)
        if self.error is not None:
            raise self.error
        start, end = self.offset(), self.offset() + len(audio) / SAMPLE_RATE
        return [(a - start, b - start, text) for a, b, text in self.script if a >= start - 0.01 and b <= end]

    def ts_words(self, words: list[TimedWord]) -> list[TimedWord]:
        return words

    def segments_end_ts(self, words: list[TimedWord]) -> list[float]:
        last: dict[int, float] = {}
        for _, end, _ in words:
            last[int((end - 1e-6) / self.segment_s)] = end
        return list(last.values())


def numbered(count: int) -> list[TimedWord]:
    return [(float(i), i + 1.0, f" w{i:03d}") for i in range(count)]


def make(script: list[TimedWord], **settings: Any) -> tuple[OnlineASRProcessor, ScriptedASR]:
    asr = ScriptedASR(script)
    processor = OnlineASRProcessor(asr, **settings)
    asr.offset = lambda: processor.buffer_time_offset
    return processor, asr


def audio(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def with_committed(offset: float) -> OnlineASRProcessor:
    processor, _ = make([])
    processor.commited = numbered(100)
    processor.buffer_time_offset = offset
    return processor


def test_prompt_is_the_text_that_scrolled_away() -> None:
    prompt, context = with_committed(90.0).prompt()
    assert prompt == "".join(f" w{i:03d}" for i in range(56, 90))
    assert context == "".join(f" w{i:03d}" for i in range(90, 100))


def test_the_last_committed_word_is_never_in_the_prompt() -> None:
    prompt, context = with_committed(1000.0).prompt()
    assert context == " w099"
    assert prompt.endswith(" w098")
    processor, _ = make([])
    processor.commited = [(0.0, 1.0, " only")]
    processor.buffer_time_offset = 1000.0
    assert processor.prompt()[0] == ""


@pytest.mark.parametrize(
    ("ends", "last", "cut"),
    [
        ([5.0, 9.0, 14.0], 12.0, 9.0),
        ([5.0, 9.0, 14.0], 8.0, 5.0),
        ([5.0, 9.0, 14.0], 4.0, None),
        ([14.0], 14.0, None),
        ([5.0, 14.0], 4.0, None),
        ([5.0, 14.0], 5.0, 5.0),
    ],
)
def test_segment_cut(ends: list[float], last: float, cut: float | None) -> None:
    processor, _ = make([])
    processor.insert_audio_chunk(audio(16))
    processor.commited = [(last - 1.0, last, " word")]
    processor.chunk_completed_segment(ends)
    assert processor.buffer_time_offset == (cut or 0.0)
    assert len(processor.audio_buffer) == round((16 - (cut or 0.0)) * SAMPLE_RATE)


def test_nothing_committed_is_a_triple_of_nothing() -> None:
    processor, _ = make(numbered(3))
    processor.insert_audio_chunk(audio(3))
    assert processor.process_iter() == NOTHING
    assert processor.process_iter() == (0.0, 3.0, " w000 w001 w002")
    assert processor.process_iter() == NOTHING


def stream(processor: OnlineASRProcessor, seconds: float, step: float = 1.0) -> str:
    text = ""
    for _ in range(round(seconds / step)):
        processor.insert_audio_chunk(audio(step))
        text += processor.process_iter()[2]
    return text


@pytest.mark.parametrize("trimming", [("segment", 15), ("sentence", 8)])
def test_a_long_stream_says_every_word_once_in_a_bounded_buffer(trimming: tuple[str, float]) -> None:
    class Sentences:
        def split(self, text: str) -> list[str]:
            found = text.split()
            return [" ".join(found[i : i + 4]) for i in range(0, len(found), 4)]

    processor, _ = make(numbered(300), tokenizer=Sentences(), buffer_trimming=trimming)
    text = ""
    for _ in range(300):
        processor.insert_audio_chunk(audio(1))
        text += processor.process_iter()[2]
        assert len(processor.audio_buffer) <= 25 * SAMPLE_RATE
        assert len(processor.commited) < 150
    text += processor.finish()[2]
    assert text.split() == [f"w{i:03d}" for i in range(300)]


def test_a_segment_that_never_ends_is_cut_at_the_hard_limit() -> None:
    processor, asr = make(numbered(100))
    asr.segment_s = 1e9
    text = ""
    for _ in range(100):
        processor.insert_audio_chunk(audio(1))
        text += processor.process_iter()[2]
        assert len(processor.audio_buffer) <= (HARD_LIMIT_S + 1) * SAMPLE_RATE
    text += processor.finish()[2]
    assert text.split() == [f"w{i:03d}" for i in range(100)]


def test_a_failing_recogniser_changes_nothing() -> None:
    processor, asr = make(numbered(6))
    text = stream(processor, 3)
    asr.error = EngineError("no", job_id="x")
    processor.insert_audio_chunk(audio(1))
    with pytest.raises(EngineError):
        processor.process_iter()
    outputs = process_iter_many([processor])
    assert isinstance(outputs[0], EngineError)
    asr.error = None
    text += stream(processor, 2) + processor.finish()[2]
    assert text.split() == [f"w{i:03d}" for i in range(6)]


async def test_many_at_once_keep_their_order_and_their_failures() -> None:
    made = [make([(0.0, 1.0, f" stream{i}")]) for i in range(3)]
    processors = [processor for processor, _ in made]
    for processor in processors:
        processor.insert_audio_chunk(audio(2))
    process_iter_many(processors)
    made[1][1].error = EngineError("no", job_id="x")
    outputs = process_iter_many(processors)
    assert outputs[0] == (0.0, 1.0, " stream0")
    assert isinstance(outputs[1], EngineError)
    made[1][1].error = None
    assert (await aprocess_iter_many(processors))[1] == (0.0, 1.0, " stream1")


def test_finish_returns_the_unconfirmed_words_once() -> None:
    processor, _ = make(numbered(4))
    processor.insert_audio_chunk(audio(4))
    processor.process_iter()
    assert processor.finish() == (0.0, 4.0, " w000 w001 w002 w003")
    assert processor.finish() == NOTHING


def test_audio_behind_the_last_pass_is_decoded_on_wish() -> None:
    for decode_tail, expected in ((False, NOTHING), (True, (0.0, 4.0, " w000 w001 w002 w003"))):
        processor, _ = make(numbered(4), decode_tail=decode_tail)
        processor.insert_audio_chunk(audio(4))
        assert processor.finish() == expected


def test_bad_samples_are_refused_whole() -> None:
    processor, _ = make([])
    for bad in (np.full(4, np.nan, np.float32), np.zeros((4, 2), np.float32), np.zeros(4, np.int64)):
        with pytest.raises(AudioError):
            processor.insert_audio_chunk(bad)
    assert len(processor.audio_buffer) == 0


def test_settings_that_can_not_work_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        make([], buffer_trimming=("sentence", 15))
    with pytest.raises(ConfigurationError):
        make([], buffer_trimming=("word", 15))


def test_prompt_stops_at_the_first_word_that_reaches_two_hundred() -> None:
    processor, _ = make([])
    processor.commited = [(float(i), i + 1.0, " " + "x" * 98) for i in range(5)]
    processor.buffer_time_offset = 1000.0
    # 100 characters a word, the separator counted: two of them.
    assert processor.prompt()[0] == (" " + "x" * 98) * 2


@pytest.mark.parametrize("offset", [0.0, 150.0, 399.5, 400.0])
def test_forgetting_old_words_changes_no_prompt(offset: float) -> None:
    processor, _ = make([])
    processor.commited = numbered(400)
    processor.buffer_time_offset = offset
    before, context = processor.prompt()
    processor._prune()
    assert processor.prompt() == (before, context)
    assert len(processor.commited) <= 400 - max(0, offset - 100)


def test_the_prompt_of_a_stream_is_what_left_its_buffer() -> None:
    processor, asr = make(numbered(60))
    said: list[str] = []
    for _ in range(60):
        gone = said[: min(len(said) - 1, int(processor.buffer_time_offset))] if said else []
        processor.insert_audio_chunk(audio(1))
        said += processor.process_iter()[2].split()
        assert asr.prompts[-1].split() == gone[-34:]
    # 200 characters at five and a separator's one to a word.
    assert len(asr.prompts[-1].split()) == 34


def test_a_buffer_of_just_the_limit_is_not_cut() -> None:
    processor, _ = make(numbered(20))
    stream(processor, 15)
    assert processor.buffer_time_offset == 0.0
    stream(processor, 1)
    # Segments end at 5, 10, 15 and 16 s, and 15 s are committed: at the last segment's end but one.
    assert processor.buffer_time_offset == 15.0


class FourWords:
    """A sentence every four words."""

    def split(self, text: str) -> list[str]:
        found = text.split()
        return [" ".join(found[i : i + 4]) for i in range(0, len(found), 4)]


def test_sentence_cut_is_at_the_end_of_the_last_sentence_but_one() -> None:
    processor, asr = make(numbered(20), tokenizer=FourWords(), buffer_trimming=("sentence", 10))
    stream(processor, 10)
    assert processor.buffer_time_offset == 0.0
    stream(processor, 1)
    # Ten words are committed: two whole sentences, and two words of the third.
    assert processor.buffer_time_offset == 8.0
    # Without a commit there is no cut, however long the buffer is.
    asr.script = asr.script[:11]
    stream(processor, 1)
    stream(processor, 9)
    assert processor.buffer_time_offset == 8.0


def test_a_sentence_before_the_buffer_cuts_nothing() -> None:
    processor, _ = make([], tokenizer=FourWords(), buffer_trimming=("sentence", 10))
    processor.commited = numbered(6)
    processor.buffer_time_offset = 5.0
    processor.insert_audio_chunk(audio(3))
    processor.chunk_completed_sentence()
    assert (processor.buffer_time_offset, len(processor.audio_buffer)) == (5.0, 3 * SAMPLE_RATE)


def test_one_word_sentences_keep_their_times() -> None:
    class Each:
        def split(self, text: str) -> list[str]:
            return text.split()

    processor, _ = make([], tokenizer=Each(), buffer_trimming=("sentence", 10))
    assert processor.words_to_sentences([(0.0, 1.0, " Yes."), (1.0, 2.5, " No.")]) == [
        (0.0, 1.0, "Yes."),
        (1.0, 2.5, "No."),
    ]


@pytest.mark.parametrize("step", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("width", [0.7, 1.0, 1.3])
def test_where_no_two_passes_agree_every_word_is_still_said_once(step: float, width: float) -> None:
    class Unsure(ScriptedASR):
        def ts_words(self, words: list[TimedWord]) -> list[TimedWord]:
            return [(start, end, text + "ab"[len(self.prompts) % 2]) for start, end, text in words]

    asr = Unsure([(i * width, (i + 1) * width, f" w{i:03d}") for i in range(100)], segment_s=1e9)
    processor = OnlineASRProcessor(asr)
    asr.offset = lambda: processor.buffer_time_offset
    text = ""
    while processor.buffer_time_offset + len(processor.audio_buffer) / SAMPLE_RATE < 100 * width + 1:
        processor.insert_audio_chunk(audio(step))
        text += processor.process_iter()[2]
        assert len(processor.audio_buffer) < 28 * SAMPLE_RATE
    text += processor.finish()[2]
    assert [word[:4] for word in text.split()] == [f"w{i:03d}" for i in range(100)]


def test_without_any_words_the_buffer_is_bounded() -> None:
    processor, _ = make([])
    for _ in range(90):
        processor.insert_audio_chunk(audio(1))
        assert processor.process_iter() == NOTHING
        assert len(processor.audio_buffer) <= HARD_LIMIT_S * SAMPLE_RATE
    assert processor.buffer_time_offset + len(processor.audio_buffer) / SAMPLE_RATE == 90.0


def test_no_cut_is_beyond_the_audio() -> None:
    processor, _ = make([])
    processor.insert_audio_chunk(audio(2))
    processor.chunk_at(2.4)
    processor.insert_audio_chunk(audio(1))
    assert (processor.buffer_time_offset, len(processor.audio_buffer)) == (2.0, SAMPLE_RATE)


def state(processor: OnlineASRProcessor) -> tuple[Any, ...]:
    buffer = processor.transcript_buffer
    return (
        processor.buffer_time_offset,
        processor.audio_buffer.tobytes(),
        tuple(processor.commited),
        tuple(buffer.commited_in_buffer),
        tuple(buffer.buffer),
        tuple(buffer.new),
        buffer.last_commited_time,
    )


@pytest.mark.parametrize("broken", ["transcribe", "ts_words", "segments_end_ts"])
def test_whatever_of_the_recogniser_fails_the_state_stays(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise EngineError("no", job_id="x")

    processor, asr = make(numbered(30), decode_tail=True)
    text = stream(processor, 17)
    processor.insert_audio_chunk(audio(3))
    before = state(processor)
    with monkeypatch.context() as patch:
        patch.setattr(asr, broken, fail)
        for call in (processor.process_iter, processor.finish):
            with pytest.raises(EngineError):
                call()
            assert state(processor) == before
        assert isinstance(process_iter_many([processor])[0], EngineError)
        assert state(processor) == before
    text += processor.finish()[2]
    assert text.split() == [f"w{i:03d}" for i in range(20)]


def test_a_job_refused_at_once_takes_no_other_stream_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [make([(0.0, 1.0, f" stream{i}")]) for i in range(3)]
    processors = [processor for processor, _ in made]
    for processor in processors:
        processor.insert_audio_chunk(audio(2))
        processor.process_iter()

    def refuse(*_: Any, **__: Any) -> Any:
        raise EngineError("full", job_id="x")

    monkeypatch.setattr(made[0][1], "transcribe", refuse)
    monkeypatch.setattr(made[1][1], "ts_words", refuse)
    outputs = process_iter_many(processors)
    assert [type(output) for output in outputs] == [EngineError, EngineError, tuple]
    assert outputs[2] == (0.0, 1.0, " stream2")


def sentences(job: Job) -> list[Word]:
    """A word in each second of the stream, and in every third the end of a sentence."""
    first_s = job.start_sample / SAMPLE_RATE
    numbers = range(math.ceil(first_s), int(first_s + job.audio_s))
    return [Word(f" w{i:03d}" + "." * (i % 3 == 2), float(i), i + 1.0) for i in numbers]


def test_the_pool_is_told_whose_audio_it_is_and_where_it_begins() -> None:
    asr = AnsweringASR(sentences)
    said = np.arange(40 * SAMPLE_RATE) % 30_000
    pair = [OnlineASRProcessor(asr) for _ in range(2)]
    outputs: list[Any] = []
    for second in range(40):
        for processor in pair:
            processor.insert_audio_chunk(said[second * SAMPLE_RATE :][:SAMPLE_RATE].astype(np.int16))
        outputs += process_iter_many(pair)
    words = "".join(text for _, _, text in outputs[::2]).split()
    assert words == [f"w{i:03d}" + "." * (i % 3 == 2) for i in range(39)]
    assert [start for start, _, _ in outputs[::2] if start is not None][-3:] == [36.0, 37.0, 38.0]
    ones, others = asr.jobs[::2], asr.jobs[1::2]
    for jobs in (ones, others):
        assert len({job.stream_id for job in jobs}) == 1
        for job in jobs:
            assert np.array_equal(job.audio, said[job.start_sample :][: len(job.audio)])
    assert ones[0].stream_id != others[0].stream_id
    assert len({job.start_sample for job in ones}) > 2
    assert len({job.job_id for job in asr.jobs}) == 80


def test_each_way_of_a_pass_tells_it() -> None:
    asr = AnsweringASR(sentences)
    processor = OnlineASRProcessor(asr, decode_tail=True)
    processor.init(offset=2.5)
    processor.insert_audio_chunk(audio(3))
    processor.process_iter()
    asyncio.run(processor.aprocess_iter())
    processor.insert_audio_chunk(audio(1))
    processor.finish()
    assert [(job.start_sample, job.audio_s) for job in asr.jobs] == [(40_000, 3), (40_000, 3), (40_000, 4)]
    assert len({job.stream_id for job in asr.jobs}) == 1


def test_a_recogniser_with_a_transcribe_of_its_own_is_asked_by_it() -> None:
    class Louder(AnsweringASR):
        def transcribe(self, audio: Any, init_prompt: str = "") -> Any:
            return super().transcribe(np.asarray(audio) * 2, init_prompt)

    louder, asr = Louder(sentences), AnsweringASR(sentences)
    plain = asr.transcribe
    asr.transcribe = lambda audio, init_prompt="": plain(np.asarray(audio) * 4, init_prompt)  # type: ignore[method-assign]
    processors = [OnlineASRProcessor(louder), OnlineASRProcessor(asr)]
    for processor in processors:
        processor.insert_audio_chunk(np.full(SAMPLE_RATE, 0.125, np.float32))
        processor.process_iter()
    process_iter_many(processors)
    assert [int(job.audio[0]) for job in louder.jobs] == [8_192, 8_192]
    assert [int(job.audio[0]) for job in asr.jobs] == [16_384, 16_384]


def test_the_stream_may_go_on_after_finish() -> None:
    processor, _ = make(numbered(8))
    text = stream(processor, 4) + processor.finish()[2]
    text += stream(processor, 4) + processor.finish()[2]
    assert text.split() == [f"w{i:03d}" for i in range(8)]


def test_init_starts_afresh_at_an_offset() -> None:
    processor, asr = make([(100.0, 101.0, " late")])
    processor.insert_audio_chunk(audio(5))
    processor.init(offset=100.0)
    processor.insert_audio_chunk(audio(1))
    assert processor.process_iter() == NOTHING
    assert processor.process_iter() == (100.0, 101.0, " late")
    assert asr.prompts == ["", ""]


def test_words_are_joined_by_the_recognisers_separator() -> None:
    processor, asr = make([(0.0, 1.0, "one"), (1.0, 2.0, "two")])
    asr.sep = " "
    processor.insert_audio_chunk(audio(2))
    processor.process_iter()
    assert processor.process_iter() == (0.0, 2.0, "one two")
