"""Audio that says its words itself: each is as loud as its number. Unlike a script, an engine for it hears the same
words wherever a stream begins.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples, Job
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.scripted import ScriptedEngine

WORD_S, GAP_S = 0.3, 0.1
QUIET, STEP = 1000, 50
SHORTEST_S = WORD_S / 2
"""Half a word is heard, less is not."""


def speak(count: int) -> tuple[tuple[Word, ...], Int16Samples]:
    """The words `` 0``, `` 1`` ... with their times, and how they sound."""
    words = tuple(
        Word(f" {number}", 0.5 + number * (WORD_S + GAP_S), 0.5 + number * (WORD_S + GAP_S) + WORD_S)
        for number in range(count)
    )
    audio = np.zeros(round((words[-1].end_s + 0.5) * SAMPLE_RATE), np.int16)
    for number, word in enumerate(words):
        audio[round(word.start_s * SAMPLE_RATE) : round(word.end_s * SAMPLE_RATE)] = QUIET + number * STEP
    return words, audio


class NumberEngine(ScriptedEngine):
    """Hears numbers."""

    def _heard(self, job: Job) -> list[Word]:
        start_s = job.start_sample / SAMPLE_RATE
        edges = np.flatnonzero(np.diff(np.concatenate([[0], job.audio, [0]])))
        heard: list[Word] = []
        for begin, end in pairwise(edges):
            level = int(job.audio[begin])
            if level >= QUIET and (end - begin) / SAMPLE_RATE >= SHORTEST_S:
                times = (float(start_s + begin / SAMPLE_RATE), float(start_s + end / SAMPLE_RATE))
                heard.append(Word(f" {(level - QUIET) // STEP}", *times))
        return heard
