"""From aligned tokens to words with times. Pure.

The rules are those of OpenAI's and faster-whisper's word timestamps, so that words look the way users of
those expect: punctuation belongs to its word, and a pause belongs to none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import median

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.tokens import TextTokenizer

__all__ = ["Alignment", "words_of"]

OPENING_PUNCTUATION = "\"'“¿([{-"
"""Belongs to the word behind it."""

CLOSING_PUNCTUATION = "\"'.。,，!！?？:：”)]}、"
"""Belongs to the word before it."""

SENTENCE_END_MARKS = ".。!！?？"

TYPICAL_WORD_S = 0.7
"""The most that is believed of the median duration of a word."""

LONG_WORD = 2.0
"""A word after a pause that lasts longer than this many medians has taken the pause in: its start is
moved."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """When the tokens of one text were said.

    Attributes:
        starts_s: start of each token and, last, of the end of text; seconds from the window's start, shape
            (tokens + 1,).
        probabilities: of each token, shape (tokens,).
    """

    starts_s: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]


def words_of(tokenizer: TextTokenizer, tokens: Sequence[int], alignment: Alignment) -> list[Word]:
    """The words of a window, times in seconds from its start."""
    if not tokens:
        return []
    texts, groups = tokenizer.split_to_word_tokens(list(tokens))
    ends = list(accumulate(len(group) for group in groups))
    starts = [0, *ends[:-1]]
    # Python's own numbers: one by one out of arrays they are slow.
    starts_s, probabilities = alignment.starts_s.tolist(), alignment.probabilities.tolist()
    words = [
        Word(text, starts_s[start], starts_s[end], sum(probabilities[start:end]) / (end - start))
        for text, start, end in zip(texts, starts, ends, strict=True)
    ]
    merged = _drop_leading_marks(_merge_closing(_merge_opening(_shorten_after_pauses(words))))
    # Behind a prompt Whisper ends some answers with spaces.
    return [word for word in merged if word.text.strip()]


def _drop_leading_marks(words: list[Word]) -> list[Word]:
    """Leave out what a window begins with that has no letter or digit: Whisper's word for silence, often a full stop.
    It would be committed like a word, and the first real one come too late.
    """
    first = next((i for i, word in enumerate(words) if any(map(str.isalnum, word.text))), len(words))
    return words[first:]


def _shorten_after_pauses(words: Sequence[Word]) -> list[Word]:
    """Move the start of a very long word at the window's start or behind a sentence's end: it took the pause
    in.
    """
    durations = [word.end_s - word.start_s for word in words if word.end_s > word.start_s]
    limit = LONG_WORD * min(TYPICAL_WORD_S, median(durations)) if durations else 0.0
    shortened: list[Word] = []
    after_pause = True
    for word in words:
        if after_pause and word.end_s - word.start_s > limit:
            word = replace(word, start_s=word.end_s - limit)
        shortened.append(word)
        after_pause = word.text.strip() in tuple(SENTENCE_END_MARKS)
    return shortened


def _merge_opening(words: Sequence[Word]) -> list[Word]:
    """Put opening punctuation in front of the word behind it, which keeps its own times."""
    merged: list[Word] = []
    for word in reversed(words):
        if merged and word.text.startswith(" ") and word.text.strip() in OPENING_PUNCTUATION:
            merged[-1] = replace(merged[-1], text=word.text + merged[-1].text)
        else:
            merged.append(word)
    return merged[::-1]


def _merge_closing(words: Sequence[Word]) -> list[Word]:
    """Put closing punctuation behind the word before it, which keeps its own times: the mark's may be a
    pause.
    """
    merged: list[Word] = []
    for word in words:
        if merged and not merged[-1].text.endswith(" ") and word.text and word.text in CLOSING_PUNCTUATION:
            merged[-1] = replace(merged[-1], text=merged[-1].text + word.text)
        else:
            merged.append(word)
    return merged
