"""Where the new words begin in a hypothesis that also covers words committed before."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from math import inf

from ray_whisper_streaming.core.transcript import Word, normalise

__all__ = ["count_known_words", "count_prefix_words"]

UNMATCHED_COST = 1.0
"""Cost of a word that stands in one of the two texts only, or differs: plain edit distance."""

DRIFT_COST_PER_S = 0.5
"""Cost of pairing words whose middles lie apart: equal words far apart are two words."""

MAX_DRIFT_S = 3.0

HALF_WORD_COST = 0.2
"""Cost of pairing a word with its own beginning: what was committed half heard is not to be said twice."""

EARLY_WORD_COST = 0.6
"""Cost of calling a word new although it lies over the end of what was committed. Times of one word differ by 0.1
to 0.2 s between windows, so this is a hint, never a rule."""

EARLY_SHARE = 0.5
"""A word lies over the last committed one if they share this much of the shorter one's time."""

TIME_SLACK_S = 0.05

NARROW_BAND = 2
"""Words that are missing or too many in a hypothesis, as a rule; where there are more, all pairs are looked at."""


def count_prefix_words(words: Sequence[Word], prefix: str) -> int | None:
    """How many leading words spell exactly ``prefix``; None if they don't.

    An engine that was given a forced prefix answers with it, so the text alone tells where new words begin.
    """
    wanted = prefix.strip()
    text = ""
    for count, word in enumerate(words, 1):
        text += word.text
        if len(text.strip()) >= len(wanted):
            return count if text.strip() == wanted else None
    return None


def count_known_words(words: Sequence[Word], committed: Sequence[Word]) -> int:
    """How many leading words of a hypothesis repeat the ``committed`` words of the same audio.

    The cheapest split: the words before it are aligned with the committed ones by edit distance on normalised
    text plus a price for drift in time; words behind it pay for lying before the last committed word's end.

    Args:
        words: the hypothesis, in order.
        committed: committed words that lie inside the window, in order.
    """
    if not committed:
        return 0
    known = [(normalise(word.text), (word.start_s + word.end_s) / 2) for word in committed]
    split, cost = _cheapest_split(words, known, committed[-1], NARROW_BAND)
    if cost > NARROW_BAND * UNMATCHED_COST:
        # A path that leaves the band has more words unmatched than it is wide, and might be as cheap as this.
        split, _ = _cheapest_split(words, known, committed[-1], max(len(words), len(known)))
    return split


def _cheapest_split(
    words: Sequence[Word], known: Sequence[tuple[str, float]], last: Word, band: int
) -> tuple[int, float]:
    """The cheapest split and its cost, if of the table of pairs only so much beside its diagonal is filled in."""
    row = [i * UNMATCHED_COST if i <= band else inf for i in range(len(known) + 1)]
    distances = [row[-1]]
    for number, word in enumerate(words, 1):
        text, middle = normalise(word.text), (word.start_s + word.end_s) / 2
        above, row = row, [inf] * len(row)
        if number <= band:
            row[0] = number * UNMATCHED_COST
        for i in range(max(0, number - band - 1), min(len(known), number + band)):
            known_text, known_middle = known[i]
            drift_cost = DRIFT_COST_PER_S * min(abs(middle - known_middle), MAX_DRIFT_S)
            cheapest = min(above[i + 1], row[i]) + UNMATCHED_COST
            # Most pairs are too far apart to be worth a closer look, and the closest one is dear.
            if (
                above[i] + drift_cost < cheapest
                and above[i] + (_least_difference(text, known_text) + drift_cost) < cheapest
            ):
                cheapest = min(cheapest, above[i] + (_difference(text, known_text) + drift_cost))
            row[i + 1] = cheapest
        distances.append(row[-1])

    best, best_cost, early = 0, inf, 0.0
    for split in range(len(words), -1, -1):
        if split < len(words):
            early += _early_cost(words[split], last)
        if distances[split] + early <= best_cost:
            best, best_cost = split, distances[split] + early
    return best, best_cost


def _least_difference(first: str, second: str) -> float:
    """What `_difference` is at least: exactly it, where nothing must be compared letter by letter."""
    if first == second:
        return 0.0
    if len(first) != len(second) and (first.startswith(second) or second.startswith(first)):
        return HALF_WORD_COST
    shared = 2.0 * min(len(first), len(second)) / (len(first) + len(second))
    return UNMATCHED_COST * (1.0 - shared / 2)


def _difference(first: str, second: str) -> float:
    """0 for equal texts, `UNMATCHED_COST` for texts with nothing in common; half a word is near to the whole."""
    if first == second:
        return 0.0
    if len(first) != len(second) and (first.startswith(second) or second.startswith(first)):
        return HALF_WORD_COST
    return UNMATCHED_COST * (1.0 - SequenceMatcher(None, first, second, autojunk=False).ratio() / 2)


def _early_cost(word: Word, last: Word) -> float:
    """What it costs to call ``word`` new: nothing, unless it lies over or before the last committed word."""
    border_s = last.end_s - TIME_SLACK_S
    shorter_s = min(word.end_s - word.start_s, last.end_s - last.start_s)
    over_s = border_s - word.start_s
    if over_s <= EARLY_SHARE * shorter_s or over_s <= 0.0:
        return 0.0
    middle_s = (word.start_s + word.end_s) / 2
    return EARLY_WORD_COST + min(max(0.0, border_s - middle_s), 1.0)
