from __future__ import annotations

from typing import Any

import pytest
from tests.support.world import say

from ray_whisper_streaming.core.ledger import Ledger
from ray_whisper_streaming.core.options import TrimmingOptions
from ray_whisper_streaming.core.prompting import ContextText
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.core.trimming import choose_cut_s

OPTIONS = TrimmingOptions(at="word", trim_after_s=8.0, keep_s=3.0, hard_limit_s=24.0)


def test_a_short_window_is_left_alone() -> None:
    assert choose_cut_s(say("one two three"), 0.0, 8.0, OPTIONS) is None


def test_a_long_one_is_cut_in_the_gap_behind_a_committed_word() -> None:
    words = (Word(" one", 1.0, 2.0), Word(" two", 3.0, 4.0), Word(" three", 6.0, 7.0))
    assert choose_cut_s(words, 0.0, 9.0, OPTIONS) == 5.0, "the latest gap that leaves 3 s"
    assert choose_cut_s(words[:2], 0.0, 9.0, OPTIONS) == 2.5, (
        "the last word stays, to tell what is new behind it"
    )


def test_nothing_committed_nothing_cut() -> None:
    assert choose_cut_s((), 0.0, 20.0, OPTIONS) is None


def test_at_the_hard_limit_what_was_decoded_goes_even_without_words() -> None:
    assert choose_cut_s((), 0.0, 24.0, OPTIONS) is None
    assert choose_cut_s((), 0.0, 24.5, OPTIONS) == 21.5


def test_at_the_hard_limit_a_cut_must_help() -> None:
    # A word at the very front is a place to cut, but it would leave the window as long as it is.
    words = (Word(" one", 0.004, 0.004),)
    assert choose_cut_s(words, 0.0, 27.5, OPTIONS) == 24.5


def test_the_last_committed_word_is_not_cut_in_two() -> None:
    words = (Word(" hmmm", 0.0, 24.0),)
    assert choose_cut_s(words, 0.0, 24.5, OPTIONS) == 24.0


def test_no_cut_lies_behind_what_was_decoded() -> None:
    words = (Word(" hmmm", 0.0, 40.0),)
    assert choose_cut_s(words, 0.0, 26.0, OPTIONS) == 26.0


@pytest.mark.parametrize(("decoded_s", "cut_s"), [(9.0, 2.5), (13.0, 4.5)])
def test_sentences_are_preferred(decoded_s: float, cut_s: float) -> None:
    options = TrimmingOptions(at="sentence", trim_after_s=8.0, keep_s=3.0, hard_limit_s=24.0)
    words = (
        Word(" one.", 1.0, 2.0),
        Word(" two", 3.0, 4.0),
        Word(" three.", 4.0, 4.4),
        Word(" four", 4.6, 4.9),
        Word(" five", 5.0, 5.4),
    )
    words = words if decoded_s > 10 else words[:2]
    assert choose_cut_s(words, 0.0, decoded_s, options) == cut_s


def test_a_finer_cut_waits_for_half_the_hard_limit() -> None:
    options = TrimmingOptions(at="sentence", trim_after_s=8.0, keep_s=3.0, hard_limit_s=24.0)
    words = (Word(" no", 1.0, 2.0), Word(" end", 2.5, 3.0), Word(" anywhere", 3.0, 4.0))
    assert choose_cut_s(words, 0.0, 11.0, options) is None
    assert choose_cut_s(words, 0.0, 12.5, options) == 3.0


@pytest.mark.parametrize("at", ["word", "segment", "sentence"])
def test_the_last_committed_word_stays(at: Any) -> None:
    # Else the rest of it, where its end was timed too early, is heard as a new word.
    options = TrimmingOptions(at=at, trim_after_s=8.0, keep_s=3.0, hard_limit_s=24.0)
    assert choose_cut_s((Word(" one.", 1.0, 2.0),), 0.0, 20.0, options) is None


def test_words_whose_times_overlap_are_cut_apart_where_both_sides_know_it() -> None:
    # Times of different passes may overlap; the second of "no, no" lies behind the cut, for the ledger too.
    words = (Word(" no", 1.0, 2.0), Word(" no", 1.5, 2.2))
    cut_s = choose_cut_s(words, 0.0, 9.0, OPTIONS)
    assert cut_s is not None
    ledger = Ledger(ContextText(carry=False), 60.0)
    ledger.commit(words)
    ledger.trim(cut_s)
    assert ledger.prefix == " no"


def test_the_last_segment_may_go_on() -> None:
    options = TrimmingOptions(at="segment", trim_after_s=8.0, keep_s=3.0, hard_limit_s=24.0)
    words = (*say("one two.", 1.0), *say("three four", 3.0))
    cut_s = choose_cut_s(words, 0.0, 9.0, options)
    assert cut_s is not None
    assert words[1].end_s <= cut_s <= words[2].start_s
