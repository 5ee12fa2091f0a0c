"""Words as subtitles: SRT and WebVTT."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ray_whisper_streaming.core.options import check_range
from ray_whisper_streaming.core.transcript import Word, join_text, segment_words

__all__ = ["Cue", "SubtitleOptions", "make_cues", "to_srt", "to_vtt"]

PAUSE_S = 1.0
"""A pause between two words that ends a cue."""

CLAUSE_ENDINGS = (",", ";", ":", "–", "—", "،", "、", "，", "；", "：")

CLAUSE_BONUS = 16
"""Letters by which two lines, or two cues, may differ more if the first ends with a clause."""

WIDE = frozenset("WF")
"""Unicode's East Asian widths of characters twice as wide as Latin letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtitleOptions:
    """How subtitles are to look: by default as Netflix's timed text guide has them. Checked when made.

    Attributes:
        line_length: Latin letters in a line (Netflix: 42; the BBC: 37). A Chinese, Japanese or Korean character takes
            the room of two. A single word that is longer stays whole.
        lines: lines of a cue, 1 or 2.
        letters_per_s: reading speed (Netflix: 20 for adults, 17 for children). A cue stays long enough for it, never
            into the next one: words are shown when they are said, and where that is faster than this they have to
            be read faster.
        min_cue_s: a cue stays no shorter (Netflix: 5/6 s), where the next one lets it.
        max_cue_s: a cue stays no longer (Netflix, BBC: 7 s).

    Raises:
        ConfigurationError: a value out of its range.
    """

    line_length: int = 42
    lines: int = 2
    letters_per_s: float = 20.0
    min_cue_s: float = 5 / 6
    max_cue_s: float = 7.0

    def __post_init__(self) -> None:
        check_range("line_length", self.line_length, 10, 200)
        check_range("lines", self.lines, 1, 2)
        check_range("letters_per_s", self.letters_per_s, 1.0, 100.0)
        check_range("max_cue_s", self.max_cue_s, 0.5, 60.0)
        check_range("min_cue_s", self.min_cue_s, 0.0, self.max_cue_s)


DEFAULTS = SubtitleOptions()


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown from ``start_s`` to ``end_s``: one or two lines."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


def make_cues(words: Sequence[Word], options: SubtitleOptions = DEFAULTS) -> list[Cue]:
    """Cut words into cues: at sentences and pauses and, where one is too long for a cue, into parts of like length.

    Args:
        words: in order, word starts never going back; as committed by a stream.
        options: how long lines and cues may be.

    Returns:
        Cues in order that don't overlap.
    """
    sentences = segment_words(words, PAUSE_S)
    groups = [group for sentence in sentences for group in _fitting(sentence.words, options)]
    cues: list[Cue] = []
    for group, following in zip_longest(groups, groups[1:]):
        start_s = group[0].start_s
        reading_s = _width(join_text(group)) / options.letters_per_s
        end_s = max(group[-1].end_s, start_s + options.min_cue_s, start_s + reading_s)
        end_s = min(end_s, start_s + options.max_cue_s)
        # (Two cues may start at the same moment: no time at all would hide the first.)
        if following is not None and following[0].start_s > start_s:
            end_s = min(end_s, following[0].start_s)
        cues.append(Cue(start_s, end_s, _lines(group, options)))
    return cues


def to_srt(cues: Iterable[Cue]) -> str:
    """The cues as a SubRip file."""
    return "\n".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues, 1)
    )


def to_vtt(cues: Iterable[Cue]) -> str:
    """The cues as a WebVTT file."""
    blocks = (
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n"
        + "\n".join(map(_escape_vtt, cue.lines))
        + "\n"
        for cue in cues
    )
    return "\n".join(("WEBVTT\n", *blocks))


def _fitting(words: Sequence[Word], options: SubtitleOptions) -> list[Sequence[Word]]:
    """The words in as many parts as it takes for each to fit into a cue."""
    short = words[-1].end_s - words[0].start_s <= options.max_cue_s
    fits = all(_width(line) <= options.line_length for line in _lines(words, options))
    if len(words) == 1 or (short and fits):
        return [words]
    middle = _best_break(words)
    return [*_fitting(words[:middle], options), *_fitting(words[middle:], options)]


def _lines(words: Sequence[Word], options: SubtitleOptions) -> tuple[str, ...]:
    text = join_text(words)
    if options.lines == 1 or len(words) == 1 or _width(text) <= options.line_length:
        return (text,)
    middle = _best_break(words)
    return join_text(words[:middle]), join_text(words[middle:])


def _best_break(words: Sequence[Word]) -> int:
    """Where to break in two: parts of like length, rather behind a clause."""
    widths = [_width(word.text) for word in words]
    total, before = sum(widths), 0
    best, best_cost = 1, float("inf")
    for index in range(1, len(words)):
        before += widths[index - 1]
        clause = words[index - 1].text.rstrip().endswith(CLAUSE_ENDINGS)
        cost = abs(total - 2 * before) - CLAUSE_BONUS * clause
        if cost < best_cost:
            best, best_cost = index, cost
    return best


def _width(text: str) -> int:
    """The room a text takes, in Latin letters; marks that stand over or under others take none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in WIDE else 1
        for char in text
    )


def _escape_vtt(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{milliseconds:03d}"
