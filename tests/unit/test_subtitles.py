"""Cues: where they are cut, how long they stand, how they are written."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_whisper_streaming.core.transcript import Word, join_text
from ray_whisper_streaming.subtitles import LINE_LENGTH, MAX_CUE_S, Cue, make_cues, to_srt, to_vtt


def spoken(text: str, start_s: float = 0.0, word_s: float = 0.25) -> list[Word]:
    times = (start_s + number * word_s for number in itertools.count())
    return [Word(f" {word}", at, at + word_s) for word, at in zip(text.split(), times, strict=False)]


def lines_of(words: list[Word]) -> list[tuple[str, ...]]:
    return [cue.lines for cue in make_cues(words)]


def test_no_words_no_cues() -> None:
    assert make_cues([]) == []


def test_sentences_and_pauses_are_borders() -> None:
    words = [*spoken("One two. Three four"), *spoken("five six", start_s=3.0)]
    assert lines_of(words) == [("One two.",), ("Three four",), ("five six",)]


def test_two_lines_of_like_length() -> None:
    words = spoken("Add four large carrots and a little salt and enough water to cover it.", word_s=0.2)
    assert lines_of(words) == [("Add four large carrots and a little", "salt and enough water to cover it.")]


def test_lines_break_behind_a_clause() -> None:
    words = spoken("First chop the two onions, then cook them in butter till soft.", word_s=0.2)
    assert lines_of(words) == [("First chop the two onions,", "then cook them in butter till soft.")]


def test_no_orphan_word_after_a_full_cue() -> None:
    text = "Please follow me up the stairs and watch your step because the path can be really slippery."
    cues = lines_of(spoken(text, word_s=0.2))
    assert len(cues) == 2
    assert all(len(" ".join(cue).split()) > 4 for cue in cues)


def test_wide_characters_take_two_places() -> None:
    words = [Word(char, n * 0.2, n * 0.2 + 0.2) for n, char in enumerate("我们站在市场大厅前面" * 3)]
    (lines,) = lines_of(words)
    assert len(lines) == 2
    assert all(len(line) <= LINE_LENGTH // 2 for line in lines)
    assert " " not in "".join(lines)


def test_combining_marks_take_no_room() -> None:
    assert lines_of([Word(" e\u0301" * 21, 0.0, 1.0)]) == [("e\u0301 " * 20 + "e\u0301",)]


def test_short_words_stand_long_enough_to_be_read() -> None:
    cue, after = make_cues([Word(" Yes.", 1.0, 1.1), Word(" No.", 5.0, 5.1)])
    assert cue.end_s == pytest.approx(1.0 + 5 / 6)
    assert after.end_s == pytest.approx(5.0 + 5 / 6)
    hasty = make_cues(spoken("Forty letters said within a single second.", word_s=0.1))
    assert hasty[0].end_s == pytest.approx(42 / 20)


def test_the_next_cue_ends_this_one() -> None:
    cue, _ = make_cues([Word(" Yes.", 1.0, 1.1), Word(" No.", 1.3, 1.4)])
    assert (cue.start_s, cue.end_s) == (1.0, 1.3)


def test_a_word_stretched_over_silence_is_not_shown_all_the_while() -> None:
    (cue,) = make_cues([Word(" So", 0.0, 20.0)])
    assert cue.end_s == MAX_CUE_S


def test_srt() -> None:
    cues = [Cue(0.0, 1.5, ("One",)), Cue(3599.9996, 3661.25, ("Two", "three"))]
    assert to_srt(cues) == (
        "1\n00:00:00,000 --> 00:00:01,500\nOne\n\n2\n01:00:00,000 --> 01:01:01,250\nTwo\nthree\n"
    )


def test_vtt_escapes_what_would_be_markup() -> None:
    text = to_vtt([Cue(0.0, 1.5, ("R&D <b> -->",))])
    assert text == "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nR&amp;D &lt;b&gt; --&gt;\n"


def test_nothing_said_is_a_valid_file() -> None:
    assert to_srt([]) == ""
    assert to_vtt([]) == "WEBVTT\n"


PIECES = st.tuples(
    st.sampled_from(["a", "b,", "c.", "longer", "我们", "averylongwordindeedlongerthanhalfaline", "ß;"]),
    st.sampled_from([0.0, 0.0, 0.2, 2.5]),
    st.sampled_from([0.05, 0.3, 1.0, 9.0]),
)


def transcript(pieces: list[tuple[str, float, float]]) -> list[Word]:
    words: list[Word] = []
    for text, pause_s, length_s in pieces:
        start_s = (words[-1].end_s if words else 0.0) + pause_s
        words.append(Word(" " + text, start_s, start_s + length_s))
    return words


@given(st.lists(PIECES, max_size=60).map(transcript))
def test_every_word_once_in_order_in_time(words: list[Word]) -> None:
    cues = make_cues(words)
    assert " ".join(line for cue in cues for line in cue.lines) == join_text(words)
    assert all(0 < cue.end_s - cue.start_s <= MAX_CUE_S + 1e-9 for cue in cues)
    assert all(cue.end_s <= after.start_s for cue, after in itertools.pairwise(cues))
    assert all(1 <= len(cue.lines) <= 2 for cue in cues)
    times = re.findall(r"^(\d\d:\d\d:\d\d,\d{3}) --> (\d\d:\d\d:\d\d,\d{3})$", to_srt(cues), re.MULTILINE)
    assert len(times) == len(cues)
