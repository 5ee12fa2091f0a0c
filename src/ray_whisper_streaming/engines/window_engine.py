"""What every engine does that decodes with Whisper in windows: check jobs, form groups, contain failures."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.core.jobs import (
    LANGUAGE_WINDOW_S,
    SAMPLE_RATE,
    WINDOW_BUCKETS_S,
    DecodeOptions,
    Failure,
    Job,
    Outcome,
    Result,
    Timings,
    window_bucket_s,
)
from ray_whisper_streaming.engines.backend import Backend, Encoded, Source
from ray_whisper_streaming.engines.base import EngineCapabilities
from ray_whisper_streaming.engines.mel import FRAMES_PER_S, HOP
from ray_whisper_streaming.engines.window_decoder import (
    DEFAULT_LANGUAGE,
    MAX_WINDOW_S,
    Decoded,
    Window,
    WindowDecoder,
)
from ray_whisper_streaming.errors import DeviceLost, EngineError, NotReady

__all__ = ["LoadedModel", "WindowEngine"]

MAX_SAMPLES = MAX_WINDOW_S * SAMPLE_RATE

RAGGED_MARGIN_S = 1.0
"""Silence kept behind the audio where each window may have its own length. (Measured with 1 and 2 s: 12.7 and 12.8 %
word errors with tiny.en, 12.3 and 12.8 % with base.)"""

RAGGED_FROM_S = 5.0
"""The shortest window then."""

LEAST_SAMPLES = 5
"""Samples of a job with a temperature at least: so many does OpenAI's own program take the best of. Fewer beams would
offer each of them too few tokens to draw from (one beam one alone)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel(Generic[Encoded]):
    """A model in memory.

    Attributes:
        backend: what runs it.
        device: ``"cpu"`` or ``"cuda"``.
        languages: codes it knows.
        max_batch_size: windows decoded in one call.
        beam_size: for jobs that name none.
        hurried_beam_size: for those of them that are hurried.
    """

    backend: Backend[Encoded]
    device: str
    languages: frozenset[str]
    max_batch_size: int
    beam_size: int = 1
    hurried_beam_size: int = 1

    def beams(self, job: Job) -> int:
        """How many beams a job gets; with a temperature, samples."""
        beams = job.options.beam_size or (self.hurried_beam_size if job.hurried else self.beam_size)
        return max(LEAST_SAMPLES, beams) if job.options.temperature > 0 else beams


class WindowEngine(ABC, Generic[Encoded]):
    """An `Engine` over a `Backend`; subclasses say how to load it. Used by one thread at a time.

    Each job's result is the same alone and in any batch, but for the limit on second tries (see
    `WindowDecoder.decode`). A backend that goes by a stream's earlier passes makes it depend on those, and one with a
    single random generator, where a job has a temperature, on all before it.

    Args:
        name: of the engine, for results.
        model: name, path or hub id, for results.
        clock: monotonic seconds.
    """

    def __init__(self, name: str, model: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._model = model
        self._clock = clock
        self._loaded: LoadedModel[Encoded] | None = None
        self._decoder: WindowDecoder[Encoded] | None = None

    @abstractmethod
    def _load(self) -> LoadedModel[Encoded]:
        """Load the model."""

    def _device_lost(self) -> bool:
        """Whether the device, asked after something failed, fails for good in this process."""
        return False

    @property
    def capabilities(self) -> EngineCapabilities:
        """Known after `warm_up`; before, `NotReady` is raised."""
        loaded = self._ready(self._loaded)
        return EngineCapabilities(
            name=self._name,
            device=loaded.device,
            multilingual=loaded.backend.multilingual,
            max_batch_size=loaded.max_batch_size,
            max_window_s=MAX_WINDOW_S,
            ragged=loaded.backend.ragged,
        )

    def warm_up(self) -> None:
        """Load the model and decode silence once in windows of each length. Safe to call twice.

        Raises:
            ModelNotFound: the model is not on this machine.
            EngineError: not even the shortest window can be decoded; the engine is closed.
            DeviceLost: see `transcribe`.
        """
        if self._loaded is not None:
            return
        try:
            loaded = self._load()
        except Exception as error:
            self._check_device(error)
            raise
        self._decoder = WindowDecoder(loaded.backend, loaded.languages)
        self._loaded = loaded
        # On a GPU the first run of each shape compiles kernels; on a CPU one run is enough to touch all
        # weights.
        for window_s in WINDOW_BUCKETS_S if loaded.device != "cpu" else WINDOW_BUCKETS_S[:1]:
            options = DecodeOptions(window_s=window_s)
            second = Job(
                job_id="warm-up", stream_id="warm-up", audio=np.zeros(SAMPLE_RATE, np.int16), options=options
            )
            [outcome] = self.transcribe([second])
            if isinstance(outcome, Failure):
                if window_s == WINDOW_BUCKETS_S[0]:
                    self.close()
                    raise outcome.error
                # Memory may be short for long windows alone, which few jobs need.
                _log.warning("a window of %d s can't be decoded: %s", window_s, outcome.error)

    def transcribe(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Decode the jobs: one outcome per job, in their order.

        Jobs of different windows or options are decoded one group after the other. A job that can't be
        decoded becomes a `Failure` alone: one that asks for the impossible can't be retried; one the runtime
        failed on can.

        Raises:
            NotReady: before `warm_up` or after `close`.
            DeviceLost: the device fails for good; the engine is closed. Another one needs another process.
        """
        loaded = self._ready(self._loaded)
        started = self._clock()
        outcomes: dict[int, Outcome] = {}
        groups: defaultdict[tuple[int, DecodeOptions], list[int]] = defaultdict(list)
        ragged = loaded.backend.ragged
        for index, job in enumerate(jobs):
            problem = _problem(job, loaded)
            if problem:
                outcomes[index] = _failure(job, problem, retryable=False)
            elif len(job.audio) < HOP:
                outcomes[index] = Result(
                    job_id=job.job_id, language=job.language or DEFAULT_LANGUAGE, language_probability=0.0
                )
            else:
                options = replace(job.options, beam_size=loaded.beams(job))
                groups[0 if ragged else _padded_frames(job, loaded.backend), options].append(index)
        for (_, options), indices in groups.items():
            for first in range(0, len(indices), loaded.max_batch_size):
                piece = indices[first : first + loaded.max_batch_size]
                decoded = self._decode([jobs[index] for index in piece], options)
                outcomes.update(zip(piece, decoded, strict=True))
        timings = Timings(inference_s=self._clock() - started, batch_size=len(jobs))
        return [self._signed(outcomes[index], timings) for index in range(len(jobs))]

    def close(self) -> None:
        """Free the model. Safe to call twice."""
        self._loaded = self._decoder = None

    def _decode(self, jobs: Sequence[Job], options: DecodeOptions) -> list[Outcome]:
        try:
            decoded = self._ready(self._decoder).decode(
                [self._window(job) for job in jobs],
                beam_size=self._ready(self._loaded).beams(jobs[0]),  # as many as the others of the group
                suppress_blank=options.suppress_blank,
                temperature=options.temperature,
            )
            return [_result(job, item) for job, item in zip(jobs, decoded, strict=True)]
        except Exception as error:
            self._check_device(error)
            if len(jobs) == 1:
                return [_failure(jobs[0], f"decoding failed with {_told(error)}", retryable=True)]
            _log.warning("a batch of %d failed with %s; decoding halves", len(jobs), type(error).__name__)
        # Behind the handler, where nothing holds what the failed call had in memory any more.
        half = len(jobs) // 2
        return [*self._decode(jobs[:half], options), *self._decode(jobs[half:], options)]

    def _check_device(self, error: Exception) -> None:
        """Raise `DeviceLost` if that is what is behind an error: halves of the batch would only fail again."""
        if self._device_lost():
            self.close()
            told = f"the device is lost to this process, which must be restarted: {_told(error)}"
            raise DeviceLost(told) from error

    def _window(self, job: Job) -> Window:
        return Window(
            source=Source(job.stream_id, job.start_sample, job.audio),
            padded_frames=_padded_frames(job, self._ready(self._loaded).backend),
            language=job.language,
            allowed_languages=job.allowed_languages,
            task=job.task,
            context=job.context,
            hotwords=job.hotwords,
            prefix=job.prefix,
        )

    def _signed(self, outcome: Outcome, timings: Timings) -> Outcome:
        if isinstance(outcome, Failure):
            return outcome
        return replace(outcome, timings=timings, engine=self._name, model=self._model)

    def _ready(self, part: _Part | None) -> _Part:
        if part is None:
            raise NotReady(f"engine {self._name} has no model loaded; call warm_up()")
        return part


_Part = TypeVar("_Part")


def _problem(job: Job, loaded: LoadedModel[Encoded]) -> str:
    """Why a job can't be decoded, or an empty text."""
    if not _is_pcm(job.audio):
        return "audio must be an int16 array of one dimension"
    if len(job.audio) > MAX_SAMPLES:
        return f"audio of {job.audio_s:.1f} s is longer than {MAX_WINDOW_S} s"
    if not 1 <= job.window_s <= MAX_WINDOW_S:
        return f"a window of {job.window_s} s; it must be 1 to {MAX_WINDOW_S} s"
    if job.options.beam_size is not None and job.options.beam_size < 1:
        return f"beam_size is {job.options.beam_size}; it must be 1 or more"
    if not 0 <= job.options.temperature <= 1:
        return f"temperature is {job.options.temperature}; it must be from 0 to 1"
    if not loaded.backend.multilingual:
        if job.language not in (None, DEFAULT_LANGUAGE):
            return f"language {job.language!r}: this model knows English alone"
        if job.task != "transcribe":
            return "translation needs a multilingual model"
    elif job.language is not None and job.language not in loaded.languages:
        return f"language {job.language!r} is not one this model knows"
    if job.task not in ("transcribe", "translate"):
        return f"task {job.task!r} is neither transcribe nor translate"
    return ""


def _padded_frames(job: Job, backend: Backend[Any]) -> int:
    """How long a window is padded: as asked, but never cut; all the way where its language is to be detected; else to
    the bucket, or, where each may have its own length, by the margin.
    """
    if job.options.window_s:
        window_s = max(job.options.window_s, math.ceil(job.audio_s))
    elif job.language is None and backend.multilingual:
        window_s = LANGUAGE_WINDOW_S
    elif backend.ragged:
        window_s = max(job.audio_s + RAGGED_MARGIN_S, RAGGED_FROM_S)
    else:
        window_s = max(window_bucket_s(job.audio_s), math.ceil(job.audio_s))
    return math.ceil(min(MAX_WINDOW_S, window_s) * FRAMES_PER_S / 2) * 2


def _is_pcm(audio: Any) -> bool:
    if not isinstance(audio, np.ndarray):
        return False
    samples = cast(npt.NDArray[Any], audio)
    return samples.dtype == np.int16 and samples.ndim == 1


def _told(error: Exception) -> str:
    # The runtimes raise RuntimeError and ValueError with texts of their own; others might quote data.
    text = f": {error}" if isinstance(error, (RuntimeError, ValueError)) else ""
    return f"{type(error).__name__}{text}".partition("\n")[0]


def _failure(job: Job, message: str, *, retryable: bool) -> Failure:
    return Failure(job_id=job.job_id, error=EngineError(message, job_id=job.job_id, retryable=retryable))


def _result(job: Job, decoded: Decoded) -> Result:
    offset_s = job.start_sample / SAMPLE_RATE
    return Result(
        job_id=job.job_id,
        words=tuple(word.shifted(offset_s) for word in decoded.words),
        language=decoded.language,
        language_probability=decoded.language_probability,
        no_speech_probability=decoded.no_speech_probability,
        average_log_probability=decoded.average_log_probability,
        compression_ratio=decoded.compression_ratio,
        truncated=decoded.truncated,
    )
