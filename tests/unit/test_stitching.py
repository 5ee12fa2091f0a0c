from __future__ import annotations

import random

import pytest
from tests.support.world import random_words, say

from ray_whisper_streaming.core.stitching import count_known_words
from ray_whisper_streaming.core.transcript import Word


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
