"""A scripted world: what is said and when. Audio, voice probabilities and results all follow from it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_whisper_streaming.core.endpointing import VOICE_FRAME
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples, Job, Result
from ray_whisper_streaming.core.transcript import Word

VOICED, UNVOICED = 0.9, 0.05
LOUD = 1000
VOCABULARY = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "no")


@dataclass(frozen=True)
class World:
    """Words with their times. A word belongs to the window that holds its middle.

    Attributes:
        words: what is said, in order.
        length_s: how long the recording is.
        jitter_s: results are wrong about times by up to this much, differently for every window.
        respell: results differ in case and punctuation from window to window.
        seed: of what is random in results. The same window gets the same answer.
    """

    words: tuple[Word, ...]
    length_s: float
    jitter_s: float = 0.0
    respell: bool = False
    seed: int = 0

    @property
    def samples(self) -> int:
        return round(self.length_s * SAMPLE_RATE)

    @property
    def text(self) -> list[str]:
        return [word.text for word in self.words]

    def audio(self) -> Int16Samples:
        """Loud where something is said; no two samples in reach of each other are alike, to find slips."""
        audio = (np.arange(self.samples) % 97).astype(np.int16) % 7
        for word in self.words:
            audio[to_samples(word.start_s) : to_samples(word.end_s)] += LOUD
        return audio

    def result(self, job: Job, **facts: Any) -> Result:
        """What a perfect engine would hear in the window (but for the jitter)."""
        start_s = job.start_sample / SAMPLE_RATE
        end_s = start_s + job.audio_s
        noise = random.Random(f"{self.seed}/{job.start_sample}/{len(job.audio)}")
        heard: list[Word] = []
        for word in self.words:
            if not start_s <= (word.start_s + word.end_s) / 2 < end_s:
                continue
            text = word.text
            if self.respell:
                text = text + noise.choice(("", "", ",", "."))
                text = noise.choice((text, text.title()))
            shift = noise.uniform(-self.jitter_s, self.jitter_s)
            first = min(max(word.start_s + shift, start_s), end_s)
            last = min(max(word.end_s + noise.uniform(-self.jitter_s, self.jitter_s), first), end_s)
            heard.append(Word(text, first, last))
        return Result(job_id=job.job_id, words=tuple(heard), language=job.language or "en", **facts)


def voice_of(samples: Int16Samples) -> list[float]:
    """Voice probabilities of whole frames of a world's audio."""
    frames = samples.reshape(-1, VOICE_FRAME)
    return [VOICED if loud else UNVOICED for loud in frames.max(axis=1) >= LOUD]


def to_samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def say(text: str, start_s: float = 0.5, word_s: float = 0.3, gap_s: float = 0.1) -> tuple[Word, ...]:
    """The words of ``text``, one after the other; a ``|`` is a pause of two seconds."""
    words: list[Word] = []
    at_s = start_s
    for token in text.split():
        if token == "|":
            at_s += 2.0
            continue
        words.append(Word(f" {token}", at_s, at_s + word_s))
        at_s += word_s + gap_s
    return tuple(words)


def random_words(
    rng: random.Random, length_s: float, pauses: Sequence[float] = (0.02, 3.0)
) -> tuple[Word, ...]:
    """Words of 0.2 to 0.6 s, gaps mostly short, sometimes a long pause; ends before ``length_s``."""
    words: list[Word] = []
    at_s = rng.uniform(0.0, 1.5)
    text = rng.choice(VOCABULARY)
    while True:
        word_s = rng.uniform(0.2, 0.6)
        if at_s + word_s > length_s:
            return tuple(words)
        # Words are often said twice or thrice, but not so often that it looks like a loop.
        again = len(words) >= 3 and all(word.text == f" {text}" for word in words[-3:])
        if again or rng.random() < 0.75:
            text = rng.choice([word for word in VOCABULARY if word != text])
        words.append(Word(f" {text}", at_s, at_s + word_s))
        low, high = pauses
        at_s += word_s + (rng.uniform(low, 0.2) if rng.random() < 0.85 else rng.uniform(low, high))
