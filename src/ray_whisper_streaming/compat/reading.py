"""Audio read window by window: what is longer than one, and what an answer left unread at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from ray_whisper_streaming.core.hallucination import (
    cut_crowd,
    cut_repetition,
    cut_unheard,
    is_hallucination,
)
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples, Result
from ray_whisper_streaming.core.options import MAX_WINDOW_AUDIO_S, EndpointingOptions
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.vad import VAD_FRAME_SAMPLES, SileroVad, VadState

__all__ = ["Place", "Reading"]

MAX_WINDOW = round(MAX_WINDOW_AUDIO_S * SAMPLE_RATE)

LOOK_BACK_S = 2.0
"""Words in the last seconds of a window that is not the last are left to the next."""

UNREAD_S = 1.5
"""Voice behind an answer's last word for which another is asked: where a sentence ends Whisper may stop too early."""

PROMPT_CHARACTERS = 200
"""Of what was read before."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where audio stands in a stream: an engine that knows goes on from the stream's pass before.

    Attributes:
        stream_id: of the stream.
        start_sample: where the audio begins in it, in samples.
    """

    stream_id: str
    start_sample: int = 0


@dataclass(slots=True)
class Reading:
    """What is read of some audio so far, and from where to go on.

    Attributes:
        samples: the audio.
        prompt: text before the next window.
        place: of the audio.
        start: of the next window, in samples of the audio.
        answers: the words of each window, in seconds of the audio, and how probable it is that nobody spoke there.
    """

    samples: Int16Samples = field(repr=False)
    prompt: str
    place: Place
    start: int = 0
    answers: list[tuple[Sequence[Word], float]] = field(default_factory=list[tuple[Sequence[Word], float]])

    @property
    def window(self) -> Int16Samples:
        """The audio to be read next."""
        return self.samples[self.start : self._end]

    @property
    def window_place(self) -> Place:
        """Its place. What an answer left is a stream of its own to the engine, beside that which goes on."""
        beside = f"{self.place.stream_id}+" if self.start else self.place.stream_id
        return Place(beside, self.place.start_sample + self.start)

    def take(self, result: Result) -> bool:
        """Take the answer to the window, in seconds of the stream. Whether there is more to read."""
        words, end_s = self._sound_words(result), self._end / SAMPLE_RATE
        ended = self._end == len(self.samples)
        if not ended:
            words = [word for word in words if word.end_s <= end_s - LOOK_BACK_S]
        self.answers.append((words, result.no_speech_probability))
        heard = round(words[-1].end_s * SAMPLE_RATE) if words else self.start
        if heard > self.start:
            self.start = heard
            read = "".join(word.text for words, _ in self.answers for word in words)
            self.prompt = read[-PROMPT_CHARACTERS:]
        elif ended:
            return False
        else:
            self.start = round((end_s - LOOK_BACK_S) * SAMPLE_RATE)
        return not ended or _voiced_s(self.samples[self.start :]) >= UNREAD_S

    @property
    def _end(self) -> int:
        return min(self.start + MAX_WINDOW, len(self.samples))

    def _sound_words(self, result: Result) -> Sequence[Word]:
        """The words without those that Whisper made up, which passes agree on better than on any others."""
        if is_hallucination(result):
            return ()
        before_s = self.place.start_sample / SAMPLE_RATE
        words = [word.shifted(-before_s) for word in result.words]
        return cut_unheard(cut_crowd(cut_repetition(words)), self._end / SAMPLE_RATE)


def _voiced_s(samples: Int16Samples) -> float:
    """Seconds of voice."""
    whole = len(samples) // VAD_FRAME_SAMPLES * VAD_FRAME_SAMPLES
    if whole < UNREAD_S * SAMPLE_RATE:
        return 0.0  # not enough, whatever it is
    (probabilities,) = _voice_detector().score([VadState()], [samples[:whole]])
    return float((probabilities >= EndpointingOptions().threshold).sum()) * VAD_FRAME_SAMPLES / SAMPLE_RATE


@cache
def _voice_detector() -> SileroVad:
    return SileroVad()
