"""Errors in texts short enough to count by hand."""

from __future__ import annotations

import pytest

from ray_whisper_streaming.bench.text_errors import (
    Edit,
    ErrorCount,
    count_errors,
    errors_by_place,
    find_edits,
    split_text,
    word_error_rate,
)


def test_every_kind_of_error_is_marked_at_its_place():
    assert find_edits("Red green, blue black white silver.", "red grin blue white silver gold") == [
        Edit("equal", ("red",), ("red",)),
        Edit("substitution", ("green",), ("grin",)),
        Edit("equal", ("blue",), ("blue",)),
        Edit("deletion", ("black",), ()),
        Edit("equal", ("white", "silver"), ("white", "silver")),
        Edit("insertion", (), ("gold",)),
    ]


def test_errors_are_counted_by_kind_and_add_up():
    first = count_errors(find_edits("red green blue", "red grey blue black white"))
    assert first == ErrorCount(words=3, substitutions=1, insertions=2)
    second = count_errors(find_edits("a longer text", ""))
    assert second == ErrorCount(words=3, deletions=3)
    assert (first + second).rate == pytest.approx(6 / 6)
    assert ErrorCount(insertions=2).rate is None


class TestScriptsWithoutSpaces:
    def test_letters_are_counted(self):
        # Ten letters, two of them wrong.
        assert word_error_rate(["今天天气很好，我们出去。"], ["今天天汽很好我们出门"], "zh") == pytest.approx(
            2 / 10
        )

    def test_segmentation_and_punctuation_are_no_errors(self):
        assert word_error_rate(["東京は、晴れです。"], ["東京 は 晴れ です"], "ja") == 0.0

    def test_the_script_of_chinese_is_no_error(self):
        assert word_error_rate(["他们说过桥"], ["他們說過橋"], "zh") == 0.0
        assert word_error_rate(["图书"], ["圖書"], "ja") == 1.0  # a matter of Chinese alone

    def test_other_languages_keep_their_words(self):
        assert split_text("Grüß Gott, Herr Müller!", "de") == ["grüß", "gott", "herr", "müller"]
        assert word_error_rate(["Grüß Gott Herr Müller"], ["Grüß Gott Herr Miller"], "de") == pytest.approx(
            1 / 4
        )


class TestWordErrorRate:
    def test_spelling_and_contractions_are_no_errors(self):
        assert word_error_rate(["Mr. Smith won't colour it"], ["mister smith will not color it!"]) == 0.0

    def test_errors_of_all_streams_count_together(self):
        assert word_error_rate(["red green blue", "yes"], ["red green blue", "no"]) == pytest.approx(1 / 4)

    def test_all_words_of_a_silent_stream_are_errors(self):
        assert word_error_rate(["one or two"], [""]) == 1.0

    def test_nothing_said_has_no_rate(self):
        assert word_error_rate([""], ["you"]) is None


def test_errors_are_told_apart_by_the_place_of_their_word() -> None:
    said = "red green blue black white gold silver"
    assert errors_by_place([said, said], ["red green blue white gold silver", f"{said} rose lily"]) == {
        "1": pytest.approx(1 / 10),  # black is missing in one
        "6": pytest.approx(2 / 4),  # two too many at the end of the other
        "16": None,
        "31": None,
        "61": None,
        "101": None,
    }


def test_no_errors_where_nothing_was_said() -> None:
    assert set(errors_by_place([""], ["red"]).values()) == {None}
