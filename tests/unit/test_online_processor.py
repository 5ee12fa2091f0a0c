"""OnlineASRProcessor against the vectors of whisper_streaming, with a recogniser that answers from a script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ray_whisper_streaming.compat.hypothesis import TimedWord
from ray_whisper_streaming.compat.processor import (
    HARD_LIMIT_S,
    OnlineASRProcessor,
    aprocess_iter_many,
    process_iter_many,
)
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
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
