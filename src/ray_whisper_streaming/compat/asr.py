"""The recognisers of the `whisper_online` API: blocking calls in front of a pool."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TextIO

import numpy.typing as npt

from ray_whisper_streaming.compat.hypothesis import TimedWord
from ray_whisper_streaming.compat.reading import Place, Reading
from ray_whisper_streaming.core.audio import as_int16
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, DecodeOptions, Job, Result, Task
from ray_whisper_streaming.core.languages import LanguageTracker, check_language
from ray_whisper_streaming.core.options import AUTO
from ray_whisper_streaming.core.transcript import Word, segment_words
from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.pool.base import Recognizer

__all__ = ["FasterWhisperASR", "RecognizerASR", "TranscribedSegment", "TranscribedWord"]

NO_SPEECH_LIMIT = 0.9
"""Segments that Whisper itself thinks are not speech, above this, give no words (whisper_streaming's value)."""


_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="whisper-online")
"""For what becomes of answers: the pool's own have better to do than to look for voice. Nothing waits in them."""


@dataclass(frozen=True, slots=True)
class TranscribedWord:
    """A word of a segment, named as faster-whisper names it; times in seconds of the audio given."""

    start: float
    end: float
    word: str
    probability: float


@dataclass(frozen=True, slots=True)
class TranscribedSegment:
    """A stretch of words, about a sentence, named as faster-whisper names it."""

    start: float
    end: float
    text: str
    words: list[TranscribedWord]
    no_speech_prob: float


class RecognizerASR:
    """A recogniser in front of a pool.

    Args:
        lan: Whisper's language code, or ``"auto"``: detected, and kept once certain.
        logfile: kept for programs that pass it; nothing is written to it.

    Attributes:
        sep: what joins words: nothing, they carry their own leading space.
        beam_size: 1 is greedy; None is the engine's choice. The original always used 5.
        temperature: 0 to 1; above 0 words are drawn at random, and passes agree less.
    """

    sep = ""

    def __init__(self, lan: str, logfile: TextIO | None = sys.stderr) -> None:
        if lan != AUTO:
            check_language("lan", lan)
        self.original_language = lan
        self.logfile = logfile
        self.beam_size: int | None = None
        self.temperature = 0.0
        self._task: Task = "transcribe"
        self._language = LanguageTracker(None if lan == AUTO else lan)

    def transcribe(self, audio: npt.ArrayLike, init_prompt: str = "") -> list[TranscribedSegment]:
        """Decode audio of any length and wait for the words.

        Args:
            audio: 16 kHz mono, floats of -1 to 1 or int16, shape (n,).
            init_prompt: text that stands before it.

        Raises:
            AudioError: samples that are no audio.
            TranscriptionError: the job failed; it may be tried again. Nothing else has changed.
        """
        return self.submit(audio, init_prompt).result()

    def submit(
        self, audio: npt.ArrayLike, init_prompt: str = "", place: Place | None = None
    ) -> Future[list[TranscribedSegment]]:
        """`transcribe` without waiting: many at once are decoded in batches.

        Args:
            audio: as for `transcribe`.
            init_prompt: as for `transcribe`.
            place: where this is in a stream, if it is decoded again and again as the stream goes on.
        """
        answer: Future[list[TranscribedSegment]] = Future()
        answer.set_running_or_notify_cancel()  # it can't be taken back
        place = place or Place(uuid.uuid4().hex)
        self._read_on(Reading(as_int16(audio), init_prompt, place), answer)
        return answer

    def ts_words(self, segments: Sequence[Any]) -> list[TimedWord]:
        """(start, end, text) of all words; none of segments that Whisper thinks are no speech."""
        return [
            (word.start, word.end, word.word)
            for segment in segments
            if segment.no_speech_prob <= NO_SPEECH_LIMIT
            for word in segment.words or ()
        ]

    def segments_end_ts(self, segments: Sequence[Any]) -> list[float]:
        """Where the segments end, in seconds of the audio given."""
        return [segment.end for segment in segments]

    def use_vad(self) -> None:
        """Kept for programs that call it: silence is told from speech without it."""

    def set_translate_task(self) -> None:
        """Translate into English from now on."""
        self._task = "translate"

    def close(self) -> None:
        """Free what this object started. Safe to call twice."""

    def _recognizer(self) -> tuple[Recognizer, str]:
        """Where jobs go, and the model's name."""
        raise NotImplementedError

    def _read_on(self, reading: Reading, answer: Future[list[TranscribedSegment]]) -> None:
        recognizer, model = self._recognizer()
        place = reading.window_place
        job = Job(
            job_id=uuid.uuid4().hex,
            stream_id=place.stream_id,
            audio=reading.window,
            start_sample=place.start_sample,
            model=model,
            language=self._language.language,
            task=self._task,
            context=reading.prompt,
            options=DecodeOptions(beam_size=self.beam_size, temperature=self.temperature),
            hurried=True,  # programs step on, however busy the pool: nothing would make up for dearer passes
        )

        def answered(done: Future[Result]) -> None:
            try:
                _threads.submit(self._take, reading, done, answer)
            except RuntimeError:
                # The main thread has ended: executors take nothing more, while others still wait.
                self._take(reading, done, answer)

        recognizer.submit_nowait(job).add_done_callback(answered)

    def _take(self, reading: Reading, done: Future[Result], answer: Future[list[TranscribedSegment]]) -> None:
        try:
            result = done.result()
            start_s = reading.window_place.start_sample / SAMPLE_RATE
            heard_s = result.words[-1].end_s - start_s if result.words else 0.0
            self._language.receive(result.language, result.language_probability, heard_s)
            if reading.take(result):
                self._read_on(reading, answer)
            else:
                answer.set_result([s for words, silent in reading.answers for s in _segments(words, silent)])
        except BaseException as error:
            answer.set_exception(error)


class FasterWhisperASR(RecognizerASR):
    """A recogniser with a model of its own in this process; loaded at the first call, or by `load`.

    Args:
        lan: as for `RecognizerASR`.
        modelsize: the model's name, path or hub id.
        cache_dir: kept for programs that pass it; the hub's own settings say where models are kept.
        model_dir: folder of a model; goes before ``modelsize``.
        logfile: not written to.
    """

    def __init__(
        self,
        lan: str,
        modelsize: str | None = None,
        cache_dir: str | None = None,
        model_dir: str | None = None,
        logfile: TextIO | None = sys.stderr,
    ) -> None:
        super().__init__(lan, logfile)
        model = model_dir or modelsize
        if not model:
            raise ConfigurationError("modelsize", modelsize, "a model's name, unless model_dir is given")
        self._model = model
        self._pool: Recognizer | None = None

    def load(self) -> None:
        """Load the model now. Raises `ModelNotFound`."""
        if self._pool is None:
            from ray_whisper_streaming.engines.factory import engine_factory_for
            from ray_whisper_streaming.pool.local import LocalPool

            pool = LocalPool(engine_factory_for("auto", model=self._model))
            pool.start()
            self._pool = pool

    def close(self) -> None:
        """Free the model."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _recognizer(self) -> tuple[Recognizer, str]:
        self.load()
        assert self._pool is not None
        return self._pool, self._model


def _segments(words: Sequence[Word], no_speech_probability: float) -> list[TranscribedSegment]:
    return [
        TranscribedSegment(
            start=segment.start_s,
            end=segment.end_s,
            text="".join(word.text for word in segment.words),
            words=[
                TranscribedWord(word.start_s, word.end_s, word.text, word.probability)
                for word in segment.words
            ],
            no_speech_prob=no_speech_probability,
        )
        for segment in segment_words(words)
    ]
