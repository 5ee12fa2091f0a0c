"""The lines of whisper_streaming's TCP protocol."""

from __future__ import annotations

from ray_whisper_streaming.core.events import Committed
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.wire.lines import LineWriter


def committed(*words: Word) -> Committed:
    return Committed(words=words, first_index=0)


def test_milliseconds_and_the_words_as_they_are() -> None:
    line = LineWriter().line(committed(Word(" Good", 0.5, 0.84), Word(" morning.", 0.84, 1.4996)))
    assert line == b"500 1500  Good morning.\n"


def test_lines_never_overlap() -> None:
    writer = LineWriter()
    assert writer.line(committed(Word(" a", 1.0, 2.0))) == b"1000 2000  a\n"
    assert writer.line(committed(Word(" b", 1.5, 1.8))) == b"2000 2000  b\n"
    assert writer.line(committed(Word(" c", 2.5, 3.0))) == b"2500 3000  c\n"


def test_a_line_equal_to_the_last_one_is_left_out() -> None:
    writer = LineWriter()
    assert writer.line(committed(Word(" a", 2.0, 2.0))) == b"2000 2000  a\n"
    assert writer.line(committed(Word(" a", 2.0, 2.0))) == b""
    assert writer.line(committed(Word(" b", 2.0, 2.0))) == b"2000 2000  b\n"


def test_a_line_is_one_line() -> None:
    assert LineWriter().line(committed(Word(" a\nb\u2028c", 0.0, 1.0))) == b"0 1000  a b c\n"
