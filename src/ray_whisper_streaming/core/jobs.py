"""What goes to a worker and what comes back: plain data that can be pickled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import RayWhisperError

__all__ = [
    "LANGUAGE_WINDOW_S",
    "SAMPLE_RATE",
    "WINDOW_BUCKETS_S",
    "BatchKey",
    "DecodeOptions",
    "Failure",
    "Int16Samples",
    "Job",
    "Outcome",
    "Result",
    "Task",
    "Timings",
    "window_bucket_s",
]

SAMPLE_RATE = 16_000
"""Samples per second of all audio inside the project (what Whisper was trained on)."""

WINDOW_BUCKETS_S = (8, 11, 13, 15, 20, 30)
"""Window lengths an encoder is run at, in seconds. Few, so that jobs of different streams fit one batch."""

WINDOW_MARGIN_S = 2.0
"""Silence kept behind the audio of a window. Windows cut flush make Whisper loop (44 of 56 windows, base model;
2 s of padding stopped most of it)."""

LANGUAGE_WINDOW_S = 30
"""The window that a language is detected in: all that Whisper takes, as it was trained. (Base, 121 beginnings in six
languages: after 2 s of audio 90 % are right, in windows of 5 s 83 %; after 3 s 96 and 93 %.)"""

Task: TypeAlias = Literal["transcribe", "translate"]
Int16Samples: TypeAlias = npt.NDArray[np.int16]


def window_bucket_s(audio_s: float) -> int:
    """The shortest window, in seconds, that holds ``audio_s`` seconds of audio and the margin behind it.

    Audio too long for any bucket gets the longest one, without margin: 30 s is as much as Whisper takes.
    """
    for bucket in WINDOW_BUCKETS_S:
        if audio_s + WINDOW_MARGIN_S <= bucket:
            return bucket
    return WINDOW_BUCKETS_S[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """What must be equal for two jobs to share a batch.

    Attributes:
        beam_size: 1 is greedy; None is the engine's own choice.
        temperature: 0 to 1; 0 searches for the likeliest text, more draws it at random.
        suppress_blank: forbid an empty answer as the first token.
        window_s: window length in seconds, or None for the bucket that fits the audio.
    """

    beam_size: int | None = None
    temperature: float = 0.0
    suppress_blank: bool = True
    window_s: int | None = None


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Jobs with equal keys may be decoded in one batch. Language, task, context and prefix may differ."""

    model: str
    options: DecodeOptions
    window_s: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One window of one stream, to be decoded.

    Attributes:
        job_id: unique; a result is matched by it alone.
        stream_id: whose audio this is. A stream has at most one job in flight.
        audio: int16 mono 16 kHz, shape (samples,), at most 30 s. It must not change any more: engines compare it with
            the next window.
        start_sample: where the window stands in the stream, in samples.
        model: name, path or hub id, as given to the pool.
        language: Whisper's code (``"en"``), or None: detect it from this audio.
        allowed_languages: what detection may answer; empty means any.
        task: ``"transcribe"``, or ``"translate"`` into English.
        context: text before the window (prompt, earlier committed text). The engine takes its tail.
        hotwords: terms to favour, as a text; stands before the context and is not scrolled away.
        prefix: text the answer must begin with (committed words inside the window), spoken in this audio.
        options: what must be equal inside a batch.
        deadline: monotonic second by which the answer is wanted; orders jobs, drops none.
        keeps_place: it stands for a job that was withdrawn while it waited: its deadline may have passed.
        hurried: the pool is busy: where the beams are the engine's choice, it may take fewer.
        final: the last job of an utterance: goes first.
        tenant: fairness is kept between tenants.
    """

    job_id: str
    stream_id: str
    audio: Int16Samples = field(repr=False)
    start_sample: int = 0
    model: str = "tiny.en"
    language: str | None = None
    allowed_languages: tuple[str, ...] = ()
    task: Task = "transcribe"
    context: str = field(default="", repr=False)
    hotwords: str = field(default="", repr=False)
    prefix: str = field(default="", repr=False)
    options: DecodeOptions = DecodeOptions()
    deadline: float = 0.0
    keeps_place: bool = False
    hurried: bool = False
    final: bool = False
    tenant: str = ""

    @property
    def audio_s(self) -> float:
        """Length of the audio in seconds."""
        return len(self.audio) / SAMPLE_RATE

    @property
    def window_s(self) -> int:
        """Length of the window the audio is decoded in, in seconds; at most, where the engine pads as it likes."""
        if self.options.window_s:
            return self.options.window_s
        return LANGUAGE_WINDOW_S if self.language is None else window_bucket_s(self.audio_s)

    @property
    def batch_key(self) -> BatchKey:
        """What this job has in common with those it may be batched with."""
        return BatchKey(self.model, self.options, self.window_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time of one job went, in seconds; and how many jobs shared its batch."""

    queue_wait_s: float = 0.0
    inference_s: float = 0.0
    batch_size: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an engine made of one job.

    Attributes:
        job_id: the job this answers.
        words: all words of the window (the forced prefix among them), times on the STREAM's time line.
        language: the language decoded in.
        language_probability: 1.0 where the language was given.
        no_speech_probability: Whisper's own estimate that there is no speech, 0 to 1.
        average_log_probability: mean over the tokens chosen freely (without the prefix); 0.0 if there are none.
        compression_ratio: length of the text over its zlib length; loops compress well.
        truncated: the token cap cut the answer short.
        timings: where the time went.
        engine: name of the engine, for reports.
        model: name of the model.
    """

    job_id: str
    words: tuple[Word, ...] = ()
    language: str = "en"
    language_probability: float = 1.0
    no_speech_probability: float = 0.0
    average_log_probability: float = 0.0
    compression_ratio: float = 0.0
    truncated: bool = False
    timings: Timings = Timings()
    engine: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A job that was not decoded, and why. Never an empty transcript."""

    job_id: str
    error: RayWhisperError


Outcome: TypeAlias = Result | Failure
