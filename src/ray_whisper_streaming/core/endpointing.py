"""Where speech begins and ends, decided from a voice probability for every frame."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.core.options import EndpointingOptions

__all__ = ["VOICE_FRAME", "Boundary", "Endpointer", "VoiceMap"]

VOICE_FRAME = 512
"""Samples per voice probability: 32 ms, the frame of Silero at 16 kHz."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """Speech begins (``starts``) or ends at ``sample``, padding included."""

    sample: int
    starts: bool


class VoiceMap:
    """Which stretches of the recent past held voice, as sample intervals."""

    def __init__(self) -> None:
        self._intervals: deque[tuple[int, int]] = deque()

    def add(self, start: int, end: int) -> None:
        """Mark ``[start, end)`` as voiced; comes after everything marked before."""
        if self._intervals and self._intervals[-1][1] >= start:
            start = self._intervals.pop()[0]
        self._intervals.append((start, end))

    def voiced(self, start: int, end: int) -> int:
        """How many samples of ``[start, end)`` are voiced."""
        return sum(max(0, min(end, b) - max(start, a)) for a, b in self._intervals)

    def trim(self, sample: int) -> None:
        """Forget what ended before ``sample``."""
        while self._intervals and self._intervals[0][1] <= sample:
            self._intervals.popleft()


class Endpointer:
    """Turns voice probabilities of consecutive frames into boundaries of speech.

    Silent until `EndpointingOptions.min_speech_s` of frames are voiced, speaking until ``min_silence_s`` of
    frames are not; two thresholds, so that a probability hovering about one of them doesn't flutter.
    """

    def __init__(self, options: EndpointingOptions) -> None:
        self._options = options
        self._speech_frames = max(1, math.ceil(options.min_speech_s * SAMPLE_RATE / VOICE_FRAME))
        self._silence = round(options.min_silence_s * SAMPLE_RATE)
        sentence_s = options.sentence_silence_s
        # Not before the padding was heard: speech can't have ended in the future.
        sentence_s = None if sentence_s is None else max(sentence_s, options.end_padding_s)
        self._sentence_silence = None if sentence_s is None else round(sentence_s * SAMPLE_RATE)
        self._start_padding = round(options.start_padding_s * SAMPLE_RATE)
        self._end_padding = round(options.end_padding_s * SAMPLE_RATE)
        self._onset: int | None = None
        self._onset_frames = 0
        self._floor = 0
        self.position = 0
        self.speaking = False
        self.voiced_until = 0
        self.voice = VoiceMap()

    @property
    def end_if_silent(self) -> int:
        """Where the speech under way will have ended if no more voice comes."""
        return self.voiced_until + self._end_padding

    @property
    def pausing(self) -> bool:
        """Whether speech is under way, and silent for so long that it is over if its text ends like a sentence."""
        if self._sentence_silence is None or not self.speaking:
            return False
        return self.position - self.voiced_until >= self._sentence_silence

    @property
    def silent_until(self) -> int:
        """While not speaking: nothing before this sample can still become part of an utterance."""
        onset = self.position if self._onset is None else self._onset
        return max(self._floor, onset - self._start_padding)

    def receive(self, probabilities: Iterable[float]) -> list[Boundary]:
        """Take the probabilities of the next frames; return the boundaries found, in order."""
        found: list[Boundary] = []
        for probability in probabilities:
            start = self.position
            self.position = start + VOICE_FRAME
            voiced = probability >= (self._options.release if self._active else self._options.threshold)
            if voiced:
                self.voice.add(start, self.position)
                self.voiced_until = self.position
            if self.speaking:
                if not voiced and self.position - self.voiced_until >= self._silence:
                    found.append(self._end(self.end_if_silent))
            elif voiced:
                self._onset = start if self._onset is None else self._onset
                self._onset_frames += 1
                if self._onset_frames >= self._speech_frames:
                    found.append(Boundary(max(self._floor, self._onset - self._start_padding), True))
                    self.speaking = True
            else:
                self._onset, self._onset_frames = None, 0
        return found

    def end_now(self) -> Boundary:
        """While `pausing`: end the speech under way where its voice ended."""
        return self._end(self.end_if_silent)

    def cut(self, sample: int) -> list[Boundary]:
        """The input was flushed at ``sample``: speech under way ends there, frames are counted from there."""
        found: list[Boundary] = []
        if not self.speaking and self._onset is not None:
            # Too short to be sure, and no more will come: better a click decoded than a word lost.
            found.append(Boundary(max(self._floor, self._onset - self._start_padding), True))
            self.speaking = True
        if self.speaking:
            found.append(self._end(sample))
        self._onset, self._onset_frames = None, 0
        self.position = self._floor = sample
        return found

    @property
    def _active(self) -> bool:
        return self.speaking or self._onset is not None

    def _end(self, sample: int) -> Boundary:
        self.speaking = False
        self._onset, self._onset_frames = None, 0
        self._floor = sample
        return Boundary(sample, False)
