"""What is told of a committed word besides its letters: whether its probability warns of errors, and whether its times
are right.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from ray_whisper_streaming.bench.scoring import StreamLog, align, split_tokens
from ray_whisper_streaming.core.transcript import Word

__all__ = ["JudgedWord", "WordQuality", "judge_words"]

UNSURE_SHARE = 0.1
"""Of all words, those with the lowest probabilities, that are held against the average."""


@dataclass(frozen=True, slots=True)
class JudgedWord:
    """A committed word against the reference.

    Attributes:
        probability: that it had, 0 to 1.
        right: whether the reference has it in this place. Spelling counts here, unlike in the word error rate.
        time_errors_s: how far its start and its end are from those of the reference; None of a wrong word, or where
            the reference has no times.
    """

    probability: float
    right: bool
    time_errors_s: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class WordQuality:
    """Judged words of some streams together."""

    words: tuple[JudgedWord, ...] = field(default=(), repr=False)

    @property
    def wrong_share(self) -> float | None:
        """Share of the words that are wrong, 0 to 1; None if there are none."""
        return _wrong_share(self.words)

    @property
    def unsure_wrong_share(self) -> float | None:
        """The same of the tenth (`UNSURE_SHARE`) with the lowest probabilities; None of fewer than ten words."""
        words = sorted(self.words, key=lambda word: word.probability)
        return _wrong_share(words[: int(len(words) * UNSURE_SHARE)])

    @property
    def time_error_s(self) -> float | None:
        """Median distance of starts and ends from those of the reference; None where it has no times."""
        errors = [error for word in self.words for error in word.time_errors_s or ()]
        return statistics.median(errors) if errors else None


def judge_words(
    text: str, reference: Sequence[Word], log: StreamLog, language: str = "en"
) -> tuple[JudgedWord, ...]:
    """Hold the committed words of a stream against what was said.

    Args:
        text: everything said.
        reference: the same with times, where they are known; else empty.
        log: what the reader saw.
        language: what is spoken; where it is written without spaces, letters are judged, and their times are those of
            their word, which say nothing.
    """
    said = split_tokens(reference or [Word(text, 0.0, 0.0)], language)
    heard = split_tokens(log.committed, language)
    equal = align([token.text for token in said], [token.text for token in heard]).equal
    judged: list[JudgedWord] = []
    for position, token in enumerate(heard):
        index = equal.get(position)
        times: tuple[float, float] | None = None
        if index is not None and reference:
            times = (abs(token.start_s - said[index].start_s), abs(token.end_s - said[index].end_s))
        judged.append(JudgedWord(token.probability, index is not None, times))
    return tuple(judged)


def _wrong_share(words: Sequence[JudgedWord]) -> float | None:
    return sum(not word.right for word in words) / len(words) if words else None
