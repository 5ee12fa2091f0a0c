from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.support.world import random_words, say

from ray_whisper_streaming.core.stitching import (
    DRIFT_COST_PER_S,
    MAX_DRIFT_S,
    _difference,
    _early_cost,
    count_known_words,
)
from ray_whisper_streaming.core.transcript import Word, normalise


def moved(words: tuple[Word, ...], by_s: float) -> list[Word]:
    return [word.shifted(by_s) for word in words]


def test_nothing_committed_means_everything_is_new() -> None:
    assert count_known_words(say("one two"), ()) == 0


def test_nothing_heard_means_nothing_is_known() -> None:
    assert count_known_words((), say("one two")) == 0


@pytest.mark.parametrize("by_s", [-0.2, -0.1, 0.0, 0.1, 0.2])
def test_words_are_known_again_although_their_times_moved(by_s: float) -> None:
    words = say("one two three four five")
    for count in range(6):
        assert count_known_words(moved(words, by_s), words[:count]) == count


@pytest.mark.parametrize("by_s", [-0.1, 0.0, 0.1])
def test_a_word_said_again_is_a_new_word(by_s: float) -> None:
    words = say("no no no no and then no no")
    for count in range(len(words) + 1):
        assert count_known_words(moved(words, by_s), words[:count]) == count


def test_spelling_may_change() -> None:
    committed = say("and then we went")
    heard = say("And, then we went. Home")
    assert count_known_words(heard, committed) == 4


def test_a_known_word_may_be_heard_differently() -> None:
    assert count_known_words(say("one too three four"), say("one two three")) == 3


def test_a_known_word_may_be_missing_or_split() -> None:
    committed = say("one two three four")
    assert count_known_words((*committed[:1], *committed[2:], *say("five", 2.1)), committed) == 3
    split = (*say("every", 0.5, 0.15), *say("one", 0.65, 0.15), *say("two three", 0.9))
    assert count_known_words(split, (*say("everyone", 0.5), *say("two", 0.9))) == 3


def test_times_decide_where_the_text_does_not() -> None:
    # The words before the window are gone; what is heard now is later, though spelled the same.
    committed = say("no", start_s=1.0)
    assert count_known_words(say("no no", start_s=4.5), committed) == 0
    assert count_known_words(say("no no", start_s=1.0), committed) == 1


def alignment_cost(words: Sequence[Word], committed: Sequence[Word]) -> float:
    """By the book: every pair is compared letter by letter."""
    row = [float(i) for i in range(len(committed) + 1)]
    for word in words:
        text, middle = normalise(word.text), (word.start_s + word.end_s) / 2
        above, row = row, [row[0] + 1.0]
        for i, known in enumerate(committed):
            drift_s = abs(middle - (known.start_s + known.end_s) / 2)
            pair = _difference(text, normalise(known.text)) + DRIFT_COST_PER_S * min(drift_s, MAX_DRIFT_S)
            row.append(min(above[i] + pair, above[i + 1] + 1.0, row[i] + 1.0))
    return row[-1]


def count_by_the_book(words: Sequence[Word], committed: Sequence[Word]) -> int:
    costs = [
        alignment_cost(words[:split], committed)
        + sum(_early_cost(word, committed[-1]) for word in reversed(words[split:]))
        for split in range(len(words) + 1)
    ]
    return min(range(len(costs)), key=lambda split: costs[split])


def test_what_is_not_looked_at_closer_changes_nothing() -> None:
    for seed in range(400):
        rng = random.Random(seed)
        words = [
            Word(" " + "".join(rng.choices("abcd", k=rng.randrange(1, 7))), index * 0.3, index * 0.3 + 0.25)
            for index in range(rng.randrange(1, 9))
        ]
        heard = [word.shifted(rng.uniform(-0.4, 0.4)) for word in words if rng.random() > 0.1]
        heard = [replace(word, text=word.text + rng.choice("abcd")) for word in heard]
        committed = words[: rng.randrange(1, len(words) + 1)]
        assert count_known_words(heard, committed) == count_by_the_book(heard, committed)
        # Of texts that differ in the middle nothing is a beginning of the other.
        heard = [replace(word, text=f" d{word.text[2:]}b") for word in heard]
        assert count_known_words(heard, committed) == count_by_the_book(heard, committed)


def test_words_that_are_missing_or_too_many_are_looked_for_far_enough() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        words = random_words(rng, 8.0)
        heard = [
            word.shifted(rng.uniform(-0.2, 0.2)) for word in words if rng.random() > rng.choice((0, 0.5))
        ]
        committed = [
            word for word in words[: rng.randrange(1, len(words))] if rng.random() > rng.choice((0, 0.5))
        ]
        committed = committed or words[:1]
        assert count_known_words(heard, committed) == count_by_the_book(heard, committed)


def test_jitter_rarely_costs_a_word() -> None:
    wrong = cases = 0
    for seed in range(40):
        rng = random.Random(seed)
        words = random_words(rng, 12.0)
        for count in range(len(words)):
            heard = [word.shifted(rng.uniform(-0.1, 0.1)) for word in words]
            wrong += count_known_words(heard, words[:count]) != count
            cases += 1
    assert cases > 500
    assert wrong <= cases // 200
