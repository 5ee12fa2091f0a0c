"""Cues: where they are cut, how long they stand, how they are written."""

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_whisper_streaming.core.transcript import Word, join_text
from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.subtitles import Cue, SubtitleOptions, make_cues, to_srt, to_vtt

USUAL = SubtitleOptions()


def spoken(text: str, start_s: float = 0.0, word_s: float = 0.25) -> list[Word]:
    times = (start_s + number * word_s for number in itertools.count())
    return [Word(f" {word}", at, at + word_s) for word, at in zip(text.split(), times, strict=False)]


def lines_of(words: list[Word], **options: Any) -> list[tuple[str, ...]]:
    return [cue.lines for cue in make_cues(words, SubtitleOptions(**options))]


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
    assert all(len(line) <= USUAL.line_length // 2 for line in lines)
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
    assert cue.end_s == USUAL.max_cue_s


def test_shorter_lines_make_more_cues() -> None:
    words = spoken("First chop the two onions, then cook them in butter till soft.", word_s=0.2)
    assert lines_of(words, line_length=37) == [
        ("First chop the two onions,", "then cook them in butter till soft.")
    ]
    assert lines_of(words, line_length=30) == [
        ("First chop the two onions,",),
        ("then cook them in", "butter till soft."),
    ]


def test_one_line_where_one_is_wanted() -> None:
    words = spoken("Add four large carrots and a little salt and enough water to cover it.", word_s=0.2)
    assert lines_of(words, lines=1) == [
        ("Add four large carrots and a little",),
        ("salt and enough water to cover it.",),
    ]


def test_a_word_longer_than_a_line_stays_whole() -> None:
    assert lines_of(spoken("an incomprehensibility indeed", word_s=0.2), line_length=10, lines=1) == [
        ("an",),
        ("incomprehensibility",),
        ("indeed",),
    ]


def test_slow_readers_get_more_time_where_the_next_cue_lets_them() -> None:
    words = [*spoken("Thirty letters, full stop, yes.", word_s=0.1), *spoken("Next.", start_s=2.0)]
    first, last = make_cues(words, SubtitleOptions(letters_per_s=10))
    assert first.end_s == 2.0, "31 letters would take 3.1 s"
    assert last.end_s == pytest.approx(2.0 + 5 / 6)
    (alone,) = make_cues(words[:5], SubtitleOptions(letters_per_s=10))
    assert alone.end_s == pytest.approx(3.1)
    (hasty,) = make_cues(words[:5], SubtitleOptions(letters_per_s=100, min_cue_s=0.0))
    assert hasty.end_s == pytest.approx(0.5)


def test_long_speech_is_cut_into_cues_of_the_length_wanted() -> None:
    words = spoken("one two three four five six seven eight", word_s=0.5)
    assert lines_of(words, max_cue_s=2.0) == [("one two three four",), ("five six seven eight",)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("line_length", 9),
        ("lines", 0),
        ("lines", 3),
        ("letters_per_s", 0.0),
        ("letters_per_s", float("nan")),
        ("min_cue_s", 7.5),
        ("max_cue_s", 61.0),
    ],
)
def test_what_nobody_could_read_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=field):
        SubtitleOptions(**{field: value})  # type: ignore[arg-type]


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


OPTIONS = st.builds(
    SubtitleOptions,
    line_length=st.integers(10, 60),
    lines=st.integers(1, 2),
    letters_per_s=st.floats(5.0, 30.0),
    min_cue_s=st.floats(0.0, 1.0),
    max_cue_s=st.floats(1.0, 10.0),
)


@given(st.lists(PIECES, max_size=60).map(transcript), OPTIONS)
def test_every_word_once_in_order_in_time(words: list[Word], options: SubtitleOptions) -> None:
    cues = make_cues(words, options)
    assert " ".join(line for cue in cues for line in cue.lines) == join_text(words)
    assert all(0 < cue.end_s - cue.start_s <= options.max_cue_s + 1e-9 for cue in cues)
    assert all(cue.end_s <= after.start_s for cue, after in itertools.pairwise(cues))
    assert all(1 <= len(cue.lines) <= options.lines for cue in cues)
    lines = [line for cue in cues for line in cue.lines]
    assert all(len(line) <= options.line_length or " " not in line for line in lines)
    times = re.findall(r"^(\d\d:\d\d:\d\d,\d{3}) --> (\d\d:\d\d:\d\d,\d{3})$", to_srt(cues), re.MULTILINE)
    assert len(times) == len(cues)
