"""Words that Whisper made up: loops, text over silence. They are cut before anything is committed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import takewhile

from ray_whisper_streaming.core.endpointing import VoiceMap
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Result
from ray_whisper_streaming.core.transcript import Word, normalise

__all__ = [
    "COMPRESSION_RATIO_LIMIT",
    "compression_ratio",
    "cut_crowd",
    "cut_repetition",
    "cut_unheard",
    "drop_unvoiced",
    "is_hallucination",
]

COMPRESSION_RATIO_LIMIT = 2.4
"""Text that compresses better than this repeats itself (the limit of OpenAI's reference implementation)."""

NO_SPEECH_LIMIT = 0.6
"""Above it, and with `LOG_PROBABILITY_LIMIT`, Whisper itself says there is no speech (OpenAI's values)."""

LOG_PROBABILITY_LIMIT = -1.0

UNVOICED_LIMITS = ((0.4, -0.6), (0.2, -0.7))
"""The same, two pairs of which either is enough, for streams without voice activity: nothing but Whisper itself says
that anybody speaks. (`benchmarks/non_speech.py --no-voice-activity`: no word in an hour of noise, with tiny.en and with
base in English, German, French; with the limits above tiny.en had 640, with the first of these two alone base had 38.
It costs: of base's passes over speech in five languages, a second apart, 9 % are dropped instead of 8 %, nearly all at
the beginning of a stream, and nine recordings in English have 11.1 instead of 11.5 % word errors: the same.)"""

PROMPTED_LIMIT = (0.3, -0.6)
"""One more for those of them that have a prompt, hotwords or context: behind text Whisper expects more of it. (tiny.en,
passes 0.8 s apart, 23 hotwords: half of the passes over speech give no speech a probability of 0.09 or more, and 0.35
without hotwords; 5 % more than 0.25 and 0.5; of those over noise, 5 % less than 0.33 and 0.44. What it mends:
`benchmarks/terms.py`.)"""

GUESS_LIMIT = -2.0
"""Average log probability below which an answer is a guess, whatever Whisper says of speech. (Found with base and tiny
on speech in six languages, half of it in white noise at 10 dB, a pass a second: 5 of 1,234 passes were below it, each
of them a stream's first, over one or two seconds of audio; over noise that passes for voice, -2.3 to -3.4.)"""

MAX_LOOP_WORDS = 8
"""Longest phrase looked for in a loop."""

MAX_WORD_REPEATS = 5
"""A single word said more often in a row is a loop: people do say "no, no, no, no"."""

MAX_PHRASE_REPEATS = 3
"""A phrase of two words or more said more often in a row is a loop."""

CROWDED_WORD_S = 0.045
"""A word this short takes no time: two steps of Whisper's time grid (20 ms each), and rounding."""

CROWD_WORDS = 3
"""So many words in a row that take no time are made up; one or two are an alignment's weakness."""

CROWD_DOUBT = 0.1
"""A word right before a crowd that Whisper itself gives less probability belongs to the crowd."""

UNHEARD_S = 0.1
"""Of the last audio: what begins there can't have been heard. (What was really begun there, the next pass hears.)"""

VOICE_SLACK_S = 0.2
"""Voice this near to a word counts for it: word times are that inexact."""


def compression_ratio(text: str) -> float:
    """Length of the text over its zlib length, in bytes of UTF-8; 0.0 for an empty text."""
    raw = text.encode("utf-8")
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def is_hallucination(result: Result, *, voiced: bool = True, prompted: bool = False) -> bool:
    """Whether the whole answer is noise: judged by compression, and by Whisper's own doubt.

    Args:
        result: the answer.
        voiced: whether voice activity found a voice in its window.
        prompted: whether Whisper was given text in front of it.
    """
    if result.compression_ratio > COMPRESSION_RATIO_LIMIT or result.average_log_probability < GUESS_LIMIT:
        return True
    limits = [(NO_SPEECH_LIMIT, LOG_PROBABILITY_LIMIT)]
    if not voiced:
        limits += UNVOICED_LIMITS
        limits += [PROMPTED_LIMIT] if prompted else []
    return any(
        result.no_speech_probability > no_speech and result.average_log_probability < log_probability
        for no_speech, log_probability in limits
    )


def cut_repetition(words: Sequence[Word], before: Sequence[Word] = ()) -> list[Word]:
    """Cut the loops out of the words, keeping one round of each; what stands behind a loop stays.

    Args:
        words: in order.
        before: the words in front of them, where a loop may have begun; they are not returned.
    """
    keys = [normalise(word.text) for word in (*before, *words)]
    kept: list[int] = []
    start = 0
    while start < len(keys):
        length, stop = _loop_at(keys, start)
        kept += range(start, start + length)
        start = stop
    return [words[index - len(before)] for index in kept if index >= len(before)]


def _loop_at(keys: Sequence[str], start: int) -> tuple[int, int]:
    """Length of the phrase at ``start`` and where its loop ends; of a single word if there is no loop."""
    for length in range(1, MAX_LOOP_WORDS + 1):
        stop = start + length
        while stop < len(keys) and keys[stop] == keys[stop - length]:
            stop += 1
        rounds = (stop - start) // length
        if rounds > (MAX_WORD_REPEATS if length == 1 else MAX_PHRASE_REPEATS):
            # At the very end a round may be cut short; elsewhere its words belong to what follows.
            return length, stop if stop == len(keys) else start + rounds * length
    return 1, start + 1


def cut_crowd(words: Sequence[Word]) -> list[Word]:
    """Cut the words at the first crowd: several in a row that take no time, because there is no audio for them.

    So end answers that go on after everything was said, often by saying it again.
    """
    run = 0
    for index, word in enumerate(words):
        run = run + 1 if word.end_s - word.start_s <= CROWDED_WORD_S else 0
        if run == CROWD_WORDS:
            kept = list(words[: index + 1 - run])
            while kept and kept[-1].probability < CROWD_DOUBT:
                kept.pop()  # the word that led into it: Whisper knew better
            return kept
    return list(words)


def cut_unheard(words: Sequence[Word], audio_end_s: float) -> list[Word]:
    """Cut the words at the first one that begins where the audio ends: there is next to none for it."""
    limit_s = audio_end_s - UNHEARD_S
    return list(takewhile(lambda word: word.start_s < limit_s, words))


def cut_echo(words: Sequence[Word], before: Sequence[Word] = ()) -> list[Word]:
    """Cut the end of the words if it says once more what stands right before it, in no time.

    Args:
        words: in order.
        before: the words in front of them, which may be what is echoed; they are not returned.
    """
    both = (*before, *words)
    keys = [normalise(word.text) for word in both]
    for length in range(min(MAX_LOOP_WORDS, len(words), len(both) // 2), CROWD_WORDS - 1, -1):
        echo_s = both[-1].end_s - both[-length].start_s
        if keys[-length:] == keys[-2 * length : -length] and echo_s <= length * CROWDED_WORD_S:
            return list(words[:-length])
    return list(words)


def drop_unvoiced(words: Sequence[Word], voice: VoiceMap) -> list[Word]:
    """Drop words with no voiced frame in or near them."""
    slack = round(VOICE_SLACK_S * SAMPLE_RATE)

    def is_voiced(word: Word) -> bool:
        start, end = round(word.start_s * SAMPLE_RATE), round(word.end_s * SAMPLE_RATE)
        return voice.voiced(start - slack, end + slack) > 0

    return [word for word in words if is_voiced(word)]
