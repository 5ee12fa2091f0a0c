"""Hours of a stream in seconds: the stream's machine, a scripted engine, and a clock moved by hand.

For what only shows after a long time: memory that grows, words that get lost or doubled once in a thousand.
"""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ray_whisper_streaming.bench.machine import MEGABYTE, resident_mb
from ray_whisper_streaming.core.endpointing import VOICE_FRAME
from ray_whisper_streaming.core.events import Committed
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Failure, Job
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.stream import Stream
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.scripted import ScriptedEngine

__all__ = ["Mark", "Speech", "simulate"]

PACKET = SAMPLE_RATE // 10
"""Samples given at a time."""

INFERENCE_S = 0.3
"""Simulated time from a job to its result."""

TIME_JITTER_S = 0.05
"""Word times of different passes differ by about so much."""


@dataclass(frozen=True, slots=True)
class Speech:
    """Endless speech in sentences of numbered words, with pauses between.

    Attributes:
        word_s: from the start of a word to the start of the next.
        words: in a sentence.
        pause_s: behind a sentence.
    """

    word_s: float = 0.3
    words: int = 20
    pause_s: float = 2.0

    @property
    def period_s(self) -> float:
        """From sentence to sentence."""
        return self.words * self.word_s + self.pause_s

    def between(self, start_s: float, end_s: float) -> list[Word]:
        """The words that overlap a stretch of time."""
        first = max(0, int(start_s // self.period_s)) * self.words
        found: list[Word] = []
        for number in itertools.count(first):
            word = self._word(number)
            if word.start_s >= end_s:
                return found
            if word.end_s > start_s:
                found.append(word)
        return found

    def voice(self, first_frame: int, frames: int) -> list[float]:
        """Voice probabilities of frames of `VOICE_FRAME` samples."""
        middles = ((first_frame + i + 0.5) * VOICE_FRAME / SAMPLE_RATE for i in range(frames))
        return [float(at_s % self.period_s < self.words * self.word_s) for at_s in middles]

    def _word(self, number: int) -> Word:
        sentence, position = divmod(number, self.words)
        start_s = sentence * self.period_s + position * self.word_s
        end = "." if position == self.words - 1 else ""
        return Word(f" w{number}{end}", start_s, start_s + 0.9 * self.word_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How things stand at a moment of a simulated stream.

    Attributes:
        at_s: simulated seconds.
        traced_mb: memory that Python and numpy hold for everything made since tracing began; None: not
            traced.
        resident_mb: of the process.
        buffered_s: audio the stream held, at most, since the last mark.
        lag_s: from the end of a word until it was committed, at most, since the last mark.
        committed: words so far.
        wrong: how many of them were not the next of the script.
    """

    at_s: float
    traced_mb: float | None
    resident_mb: float
    buffered_s: float
    lag_s: float
    committed: int
    wrong: int


def simulate(
    seconds: float,
    mark_every_s: float = 600.0,
    options: StreamOptions | None = None,
    speech: Speech | None = None,
) -> Iterator[Mark]:
    """Run a stream for so many simulated seconds; a mark every ``mark_every_s`` and at the end."""
    speech = speech or Speech()
    stream = Stream("simulated", options)
    packet = np.ones(PACKET, np.int16)
    job: Job | None = None
    due_s = next_mark_s = now = 0.0
    frames = committed = wrong = 0
    buffered_s = lag_s = 0.0

    def mark() -> Mark:
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0] / MEGABYTE if tracemalloc.is_tracing() else None
        return Mark(
            at_s=now,
            traced_mb=traced,
            resident_mb=resident_mb(),
            buffered_s=buffered_s,
            lag_s=lag_s,
            committed=committed,
            wrong=wrong,
        )

    for tick in itertools.count(1):
        now = tick * PACKET / SAMPLE_RATE
        if now <= seconds:
            stream.receive_audio(packet)
        else:
            stream.receive_eof()
        while (heard := stream.voice_input()) is not None:
            stream.receive_voice(speech.voice(frames, len(heard) // VOICE_FRAME))
            frames += len(heard) // VOICE_FRAME
        buffered_s = max(buffered_s, stream.buffered_s)
        if job is not None and now >= due_s:
            _answer(stream, job, speech, now)
            job = None
        if job is None and (job := stream.next_job(now)) is not None:
            due_s = now + INFERENCE_S
        for event in stream.events():
            if isinstance(event, Committed):
                for word in event.words:
                    wrong += word.text.strip(" .") != f"w{committed}"
                    committed += 1
                    lag_s = max(lag_s, now - word.end_s)
        if stream.over:
            yield mark()
            return
        if now >= next_mark_s:
            yield mark()
            next_mark_s += mark_every_s
            buffered_s = lag_s = 0.0


def _answer(stream: Stream, job: Job, speech: Speech, now: float) -> None:
    start_s = job.start_sample / SAMPLE_RATE
    said = speech.between(start_s, start_s + job.audio_s)
    engine = ScriptedEngine(default=said, time_jitter_s=TIME_JITTER_S)
    engine.warm_up()
    (outcome,) = engine.transcribe([job])
    if isinstance(outcome, Failure):
        stream.receive_failure(outcome, now)
    else:
        stream.receive_result(outcome)
