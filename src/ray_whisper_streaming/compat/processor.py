"""The processors of the `whisper_online` API: a buffer, passes over it, LocalAgreement-2, trimming."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TextIO, TypeAlias

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.compat.asr import RecognizerASR
from ray_whisper_streaming.compat.hypothesis import HypothesisBuffer, TimedWord
from ray_whisper_streaming.compat.reading import Place
from ray_whisper_streaming.compat.tokenizer import SentenceSplitter
from ray_whisper_streaming.core.audio import as_float32, as_int16
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.core.options import MAX_WINDOW_AUDIO_S
from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["OnlineASRProcessor", "Output", "aprocess_iter_many", "process_iter_many"]

Output: TypeAlias = tuple[float | None, float | None, str]
"""Start and end in seconds of the stream, and text; ``(None, None, "")`` for nothing."""

NOTHING: Output = (None, None, "")

PROMPT_CHARACTERS = 200
"""Length of the prompt, in characters (whisper_streaming's value)."""

SENTENCE_MODE_LIMIT_S = 30.0
"""In sentence mode, a buffer longer than this is cut at a segment (whisper_streaming's value)."""

HARD_LIMIT_S = MAX_WINDOW_AUDIO_S - 1.0
"""A buffer longer than this is cut even if nothing was agreed on; the original grew for ever here."""

KEEP_S = 5.0
"""What such a cut leaves, and at most so much again of a word that lies across it."""


class OnlineASRProcessor:
    """Streams one recording through a recogniser; times are seconds of the stream.

    Args:
        asr: a recogniser: anything with ``transcribe``, ``ts_words``, ``segments_end_ts`` and ``sep``.
        tokenizer: splits sentences; needed for ``("sentence", s)``. See `create_tokenizer`.
        buffer_trimming: ``("segment" or "sentence", seconds)``: the buffer is cut at such a border when longer.
        logfile: kept for programs that pass it; nothing is written to it.
        decode_tail: decode audio not seen yet in `finish`. Off by default: the original did not, and its `finish`
            returned the last pass's unconfirmed words only.

    A failing recogniser raises from `process_iter`, and leaves everything as it was: call again, nothing is lost.
    """

    SAMPLING_RATE = SAMPLE_RATE

    def __init__(
        self,
        asr: Any,
        tokenizer: SentenceSplitter | None = None,
        buffer_trimming: tuple[str, float] = ("segment", 15),
        logfile: TextIO | None = sys.stderr,
        *,
        decode_tail: bool = False,
    ) -> None:
        self.asr = asr
        self.tokenizer = tokenizer
        self.logfile = logfile
        self.decode_tail = decode_tail
        self.buffer_trimming_way, self.buffer_trimming_sec = buffer_trimming
        if self.buffer_trimming_way not in ("segment", "sentence"):
            raise ConfigurationError("buffer_trimming", buffer_trimming, "('segment' or 'sentence', seconds)")
        if self.buffer_trimming_way == "sentence" and tokenizer is None:
            raise ConfigurationError("tokenizer", None, "given for sentence trimming: see create_tokenizer")
        self._stream_id = uuid.uuid4().hex
        self.init()

    def init(self, offset: float | None = None) -> None:
        """Start afresh; ``offset`` is where the next audio stands in the stream, in seconds."""
        self.audio_buffer = np.zeros(0, np.float32)
        self.buffer_time_offset = offset or 0.0
        self.transcript_buffer = HypothesisBuffer()
        self.transcript_buffer.last_commited_time = self.buffer_time_offset
        self.commited: list[TimedWord] = []
        self._decoded_s = self.buffer_time_offset
        self._finished = False

    def insert_audio_chunk(self, audio: npt.ArrayLike) -> None:
        """Take the next samples: 16 kHz mono, floats of -1 to 1 or int16, shape (n,).

        Raises:
            AudioError: samples that are no audio; nothing was taken.
        """
        samples = as_float32(as_int16(audio))
        self.audio_buffer = np.append(self.audio_buffer, samples)
        self._finished = False

    def prompt(self) -> tuple[str, str]:
        """The committed text that scrolled out of the buffer (the prompt), and that still in it (for logs)."""
        k = max(0, len(self.commited) - 1)
        while k > 0 and self.commited[k - 1][1] > self.buffer_time_offset:
            k -= 1
        start, length = k, 0
        while start > 0 and length < PROMPT_CHARACTERS:
            start -= 1
            length += len(self.commited[start][2]) + 1
        sep = self.asr.sep
        return (
            sep.join(word[2] for word in self.commited[start:k]),
            sep.join(word[2] for word in self.commited[k:]),
        )

    def process_iter(self) -> Output:
        """One pass over the buffer: the words it confirmed, or ``(None, None, "")``.

        Raises:
            TranscriptionError: the pass failed; nothing has changed.
        """
        end_s = self._end_s
        return self.take(self.submit().result(), end_s)

    async def aprocess_iter(self) -> Output:
        """`process_iter` without blocking the event loop."""
        end_s = self._end_s
        return self.take(await asyncio.wrap_future(self.submit()), end_s)

    def finish(self) -> Output:
        """The unconfirmed words of the last pass, at the end of the stream. Called again, nothing.

        With ``decode_tail``, audio that no pass has seen is decoded before.
        """
        if self._finished:
            return NOTHING
        confirmed: Sequence[TimedWord] = ()
        if self.decode_tail and self._end_s > self._decoded_s:
            confirmed = self._commit(self.submit().result(), self._end_s)
        rest = self.transcript_buffer.complete()
        self._finished = True
        self.buffer_time_offset = self._end_s
        self.audio_buffer = np.zeros(0, np.float32)
        self.transcript_buffer.buffer = []
        return self.to_flush([*confirmed, *rest])

    def to_flush(self, sents: Sequence[TimedWord], sep: str | None = None, offset: float = 0) -> Output:
        """Words (or sentences) as one output."""
        if not sents:
            return NOTHING
        text = (self.asr.sep if sep is None else sep).join(item[2] for item in sents)
        return offset + sents[0][0], offset + sents[-1][1], text

    def __enter__(self) -> OnlineASRProcessor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.init()

    @property
    def _end_s(self) -> float:
        return self.buffer_time_offset + len(self.audio_buffer) / SAMPLE_RATE

    def submit(self) -> Future[Any]:
        """A pass over the buffer, without waiting: its answer is for `take`. One that failed has the exception."""
        asr, (prompt, _) = self.asr, self.prompt()
        answer: Future[Any] = Future()
        try:
            if getattr(asr.transcribe, "__func__", None) is RecognizerASR.transcribe:  # and no other's
                place = Place(self._stream_id, round(self.buffer_time_offset * SAMPLE_RATE))
                return asr.submit(self.audio_buffer, prompt, place)
            answer.set_result(asr.transcribe(self.audio_buffer, init_prompt=prompt))
        except Exception as error:
            answer.set_exception(error)
        return answer

    def take(self, segments: Any, end_s: float | None = None) -> Output:
        """Take what the recogniser made of the buffer as it stands (or stood, when it ended at ``end_s``)."""
        return self.to_flush(self._commit(segments, self._end_s if end_s is None else end_s))

    def _commit(self, segments: Any, end_s: float) -> list[TimedWord]:
        words = self.asr.ts_words(segments)  # may raise: nothing has changed yet
        ends = [float(end) + self.buffer_time_offset for end in self.asr.segments_end_ts(segments)]
        self.transcript_buffer.insert(words, self.buffer_time_offset)
        committed = self.transcript_buffer.flush()
        self._decoded_s = end_s
        length_s = end_s - self.buffer_time_offset
        if length_s > HARD_LIMIT_S:
            committed = [*committed, *self.transcript_buffer.force(end_s - KEEP_S)]
        self.commited += committed
        self._trim(bool(committed), ends, length_s, end_s)
        self._prune()
        return committed

    def _trim(self, anything: bool, ends: Sequence[float], length_s: float, end_s: float) -> None:
        limit_s = self.buffer_trimming_sec
        if self.buffer_trimming_way == "sentence":
            if anything and length_s > limit_s:
                self.chunk_completed_sentence()
            limit_s = SENTENCE_MODE_LIMIT_S
        if end_s - self.buffer_time_offset > limit_s:
            self.chunk_completed_segment(ends)
        if end_s - self.buffer_time_offset > HARD_LIMIT_S:
            cut_s, pending = end_s - KEEP_S, self.transcript_buffer.complete()
            if pending and pending[0][0] < cut_s:
                # A word across the cut is kept whole, or it would be lost; one of many seconds is no word.
                cut_s = max(pending[0][0], cut_s - KEEP_S)
            self.chunk_at(cut_s)

    def chunk_completed_sentence(self) -> None:
        """Cut the buffer at the end of the last committed sentence but one."""
        sentences = self.words_to_sentences(self.commited)
        if len(sentences) >= 2 and sentences[-2][1] > self.buffer_time_offset:
            self.chunk_at(sentences[-2][1])

    def chunk_completed_segment(self, ends: Sequence[float]) -> None:
        """Cut the buffer at the end of a segment that is committed; never at the last segment's.

        Args:
            ends: where the segments of the newest pass end, in seconds of the stream.
        """
        if not self.commited or len(ends) < 2:
            return
        last_s = self.commited[-1][1]
        candidates = list(ends[:-1])
        while len(candidates) > 1 and candidates[-1] > last_s:
            candidates.pop()
        if candidates[-1] <= last_s:
            self.chunk_at(candidates[-1])

    def chunk_at(self, time: float) -> None:
        """Cut the buffer at ``time``, in seconds of the stream; at its end if that is earlier."""
        time = min(time, self._end_s)
        self.transcript_buffer.pop_commited(time)
        surplus = round(max(0.0, time - self.buffer_time_offset) * SAMPLE_RATE)
        self.audio_buffer = self.audio_buffer[surplus:].copy()
        self.buffer_time_offset = max(time, self.buffer_time_offset)

    def words_to_sentences(self, words: Iterable[TimedWord]) -> list[TimedWord]:
        """The words as sentences, each with its start and end."""
        assert self.tokenizer is not None
        left = list(words)
        sentences: list[TimedWord] = []
        for sentence in self.tokenizer.split(self.asr.sep.join(word[2] for word in left)):
            wanted = len("".join(sentence.split()))
            taken: list[TimedWord] = []
            while left and wanted > 0:
                taken.append(left.pop(0))
                wanted -= len("".join(taken[-1][2].split()))
            if taken:
                sentences.append((taken[0][0], taken[-1][1], sentence))
        return sentences

    def _prune(self) -> None:
        """Forget committed words that neither `prompt` nor trimming can ask for again."""
        k = len(self.commited)
        while k > 0 and self.commited[k - 1][1] > self.buffer_time_offset:
            k -= 1
        length = 0
        while k > 0 and length <= 2 * PROMPT_CHARACTERS:
            k -= 1
            length += len(self.commited[k][2]) + 1
        del self.commited[:k]


def process_iter_many(processors: Sequence[OnlineASRProcessor]) -> list[Output | BaseException]:
    """`process_iter` of all at once, so that their passes share batches.

    Returns:
        their outputs, in order; a failed one's exception in its place (that processor is as it was).
    """
    futures = [each.submit() for each in processors]
    outputs: list[Output | BaseException] = []
    for each, future in zip(processors, futures, strict=True):
        try:
            outputs.append(each.take(future.result()))
        except Exception as error:
            outputs.append(error)
    return outputs


async def aprocess_iter_many(processors: Sequence[OnlineASRProcessor]) -> list[Output | BaseException]:
    """`process_iter_many` for asyncio."""
    return await asyncio.gather(*(each.aprocess_iter() for each in processors), return_exceptions=True)
