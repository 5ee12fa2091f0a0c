"""Scores against references and logs small enough to work out by hand."""

from __future__ import annotations

import pytest

from ray_whisper_streaming.bench.scoring import (
    Shown,
    StreamLog,
    align,
    measure_lag,
    percentiles,
    score_stream,
    split_tokens,
)
from ray_whisper_streaming.core.transcript import Word


def say(text: str, start_s: float = 0.0) -> tuple[Word, ...]:
    """One word a second, each ending half a second after its start."""
    return tuple(Word(f" {word}", start_s + i, start_s + i + 0.5) for i, word in enumerate(text.split()))


def seen(*updates: tuple[float, str, bool]) -> StreamLog:
    return StreamLog(shown=[Shown(at_s, committed, say(text)) for at_s, text, committed in updates])


def committed(at_s: float, text: str) -> tuple[float, str, bool]:
    return at_s, text, True


def partial(at_s: float, text: str) -> tuple[float, str, bool]:
    return at_s, text, False


def rounded(values) -> list[float]:
    return [round(value, 6) for value in values]


class TestTokens:
    def test_case_punctuation_and_hyphens_do_not_count(self):
        words = [Word(" Well-known,", 0, 1), Word(" it's", 1, 2), Word(" –", 2, 3)]
        assert [(t.text, t.end_s) for t in split_tokens(words)] == [("well", 1), ("known", 1), ("its", 2)]

    def test_a_word_that_is_a_phrase_gives_its_time_to_each_of_them(self):
        assert [t.end_s for t in split_tokens([Word(" two words", 0, 1)])] == [1, 1]


def test_alignment_tells_equal_misheard_and_missing_words_apart():
    alignment = align(["a", "b", "c", "d", "e"], ["a", "x", "c", "d", "more"])
    assert alignment.equal == {0: 0, 2: 2, 3: 3}
    assert alignment.deleted == frozenset()
    assert align(["a", "b", "c"], ["a"]).deleted == {1, 2}
    assert align([], ["a"]).equal == {}
    assert align(["a"], []).deleted == {0}


class TestLatency:
    def test_a_word_counts_from_its_end_in_the_audio(self):
        score = score_stream(
            say("one two three"), seen(committed(2.0, "One two,"), committed(4.0, "three")), 3.0
        )
        assert rounded(end_s for end_s, _ in score.commit_latencies) == [0.5, 1.5, 2.5]
        assert rounded(latency_s for _, latency_s in score.commit_latencies) == [1.5, 0.5, 1.5]

    def test_misheard_words_are_left_out(self):
        score = score_stream(say("one two three"), seen(committed(4.0, "one too three")), 3.0)
        assert rounded(end_s for end_s, _ in score.commit_latencies) == [0.5, 2.5]

    def test_first_shown_is_the_first_time_in_the_right_form(self):
        log = seen(
            partial(1.0, "won"), partial(2.0, "one"), partial(3.0, "one two"), committed(4.0, "one two")
        )
        score = score_stream(say("one two"), log, 2.0)
        assert rounded(score.first_shown_latencies_s) == [1.5, 1.5]
        assert rounded(latency_s for _, latency_s in score.commit_latencies) == [3.5, 2.5]

    def test_words_never_shown_before_count_from_their_commit(self):
        score = score_stream(say("one two"), seen(committed(3.0, "one two")), 2.0)
        assert rounded(score.first_shown_latencies_s) == [2.5, 1.5]

    def test_a_partial_stands_for_words_behind_the_committed_ones(self):
        log = seen(committed(1.0, "the"), partial(2.7, "the"), committed(4.0, "cat the"))
        score = score_stream(say("the cat the"), log, 3.0)
        assert rounded(score.first_shown_latencies_s) == [0.5, 2.5, 0.2]

    def test_a_partial_never_stands_for_words_not_spoken_yet(self):
        # Two words lie ahead that are called "the"; by 1.2 s only the first of them had begun.
        log = seen(partial(1.2, "uh the"), committed(6.0, "cat the dog sees the"))
        score = score_stream(say("cat the dog sees the"), log, 5.0)
        assert rounded(score.first_shown_latencies_s) == [5.5, -0.3, 3.5, 2.5, 1.5]

    def test_without_a_reference_the_systems_own_times_count(self):
        score = score_stream((), seen(partial(1.0, "one"), committed(2.0, "one two")), 2.0)
        assert rounded(latency_s for _, latency_s in score.commit_latencies) == [1.5, 0.5]
        assert rounded(score.first_shown_latencies_s) == [0.5, 0.5]
        assert score.words_lost_at_end == 0

    def test_a_stream_that_says_nothing_has_no_latencies(self):
        score = score_stream(say("one"), StreamLog(), 1.0)
        assert score.commit_latencies == []
        assert score.first_shown_latencies_s == []
        assert score.updates == 0


class TestTail:
    def test_words_of_the_last_seconds_that_never_came(self):
        score = score_stream(say("a b c d e f g h"), seen(committed(9.0, "a b c d e")), 8.0)
        assert (score.tail_words, score.tail_words_lost, score.words_lost_at_end) == (3, 3, 3)

    def test_words_lost_earlier_are_not_the_tail(self):
        score = score_stream(say("a b c d e f g h"), seen(committed(9.0, "a b f g h")), 8.0)
        assert (score.tail_words, score.tail_words_lost, score.words_lost_at_end) == (3, 0, 0)

    def test_a_misheard_last_word_is_not_lost(self):
        score = score_stream(say("a b c d"), seen(committed(9.0, "a b c x")), 4.0)
        assert (score.tail_words_lost, score.words_lost_at_end) == (0, 0)

    def test_what_was_only_shown_is_lost(self):
        score = score_stream(say("a b c d"), seen(committed(3.0, "a b c"), partial(9.0, "d")), 4.0)
        assert (score.tail_words_lost, score.words_lost_at_end) == (1, 1)


def test_a_commit_and_the_partial_behind_it_are_one_update():
    assert seen(committed(1.0, "a"), partial(1.004, "b"), partial(1.5, "c")).updates == 2


class TestLag:
    def test_a_steady_delay_does_not_grow(self):
        lag = measure_lag([(float(s), 1.0) for s in range(60)], 60.0)
        assert lag.slope_s_per_min == pytest.approx(0.0)
        assert lag.growth_s == 0.0
        assert not lag.grows

    def test_a_second_a_minute_is_a_slope_of_one(self):
        lag = measure_lag([(float(s), 2.0 + s / 60) for s in range(120)], 120.0)
        assert lag.slope_s_per_min == pytest.approx(1.0)
        assert lag.growth_s == pytest.approx(80 / 60)
        assert lag.grows

    def test_a_single_outlier_is_no_growth(self):
        assert not measure_lag([(float(s), 30.0 if s == 59 else 1.0) for s in range(60)], 60.0).grows

    def test_catching_up_is_no_growth(self):
        assert not measure_lag([(float(s), 5.0 - s / 20) for s in range(60)], 60.0).grows

    def test_a_run_that_commits_too_little_counts_as_growing(self):
        assert measure_lag([], 60.0).grows
        assert measure_lag([(float(s), 1.0) for s in range(30)], 60.0).grows  # nothing in the last third


def test_percentiles_interpolate_and_have_no_value_without_values():
    assert percentiles([0.0, 1.0, 2.0], 50, 75) == {"p50": 1.0, "p75": 1.5}
    assert percentiles([], 95) == {"p95": None}
