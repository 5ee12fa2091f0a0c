"""Words that Whisper made up: loops, text over silence. They are cut before anything is committed."""

from __future__ import annotations

from collections.abc import Sequence

from ray_whisper_streaming.core.endpointing import VoiceMap
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Result
from ray_whisper_streaming.core.transcript import Word, normalise

__all__ = ["cut_repetition", "drop_unvoiced", "is_hallucination"]

COMPRESSION_RATIO_LIMIT = 2.4
"""Text that compresses better than this repeats itself (the limit of OpenAI's reference implementation)."""

NO_SPEECH_LIMIT = 0.6
"""Above it, and with `LOG_PROBABILITY_LIMIT`, Whisper itself says there is no speech (OpenAI's values)."""

LOG_PROBABILITY_LIMIT = -1.0

MAX_LOOP_WORDS = 8
"""Longest phrase looked for in a loop."""

MAX_WORD_REPEATS = 5
"""A single word said more often in a row is a loop: people do say "no, no, no, no"."""

MAX_PHRASE_REPEATS = 3
"""A phrase of two words or more said more often in a row is a loop."""

VOICE_SLACK_S = 0.2
"""Voice this near to a word counts for it: word times are that inexact."""


def is_hallucination(result: Result) -> bool:
    """Whether the whole answer is noise: judged by compression, and by Whisper's own doubt."""
    if result.compression_ratio > COMPRESSION_RATIO_LIMIT:
        return True
    return (
        result.no_speech_probability > NO_SPEECH_LIMIT
        and result.average_log_probability < LOG_PROBABILITY_LIMIT
    )


def cut_repetition(words: Sequence[Word]) -> list[Word]:
    """Cut the words at the first loop, keeping one round of it; all of them if there is no loop."""
    keys = [normalise(word.text) for word in words]
    for start in range(len(keys)):
        for length in range(1, MAX_LOOP_WORDS + 1):
            repeats = (MAX_WORD_REPEATS if length == 1 else MAX_PHRASE_REPEATS) + 1
            stop = start + repeats * length
            if stop > len(keys):
                continue
            phrase = keys[start : start + length]
            if all(keys[i : i + length] == phrase for i in range(start, stop, length)):
                return list(words[: start + length])
    return list(words)


def drop_unvoiced(words: Sequence[Word], voice: VoiceMap) -> list[Word]:
    """Drop words with no voiced frame in or near them."""
    slack = round(VOICE_SLACK_S * SAMPLE_RATE)

    def is_voiced(word: Word) -> bool:
        start, end = round(word.start_s * SAMPLE_RATE), round(word.end_s * SAMPLE_RATE)
        return voice.voiced(start - slack, end + slack) > 0

    return [word for word in words if is_voiced(word)]
