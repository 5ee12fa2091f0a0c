"""Words as subtitles: SRT and WebVTT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ray_whisper_streaming.core.transcript import Word, join_text, segment_words

__all__ = ["Cue", "make_cues", "to_srt", "to_vtt"]

LINE_LENGTH = 42
"""Characters in a line (Netflix's timed text guide for Latin scripts; the BBC's is 37)."""

LINES = 2

MAX_CUE_S = 7.0
"""A cue stays no longer (Netflix, BBC)."""

MIN_CUE_S = 5 / 6
"""A cue stays no shorter, where the next one lets it (Netflix: 5/6 s)."""

WIDE_FROM = "\u1100"
"""From here on characters are, mostly, twice as wide: Korean, Chinese, Japanese."""


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown from ``start_s`` to ``end_s``: one or two lines."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


def make_cues(words: Sequence[Word]) -> list[Cue]:
    """Cut words into cues at sentences and pauses, and where two lines or seven seconds are full."""
    groups: list[list[Word]] = []
    for segment in segment_words(words):
        group: list[Word] = []
        for word in segment.words:
            full = group and (len(_wrap([*group, word])) > LINES or word.end_s - group[0].start_s > MAX_CUE_S)
            if full:
                groups.append(group)
                group = []
            group.append(word)
        groups.append(group)
    cues: list[Cue] = []
    for group, following in zip(groups, [*groups[1:], None], strict=True):
        start_s, end_s = group[0].start_s, group[-1].end_s
        wanted_s = max(end_s, start_s + MIN_CUE_S)
        end_s = wanted_s if following is None else max(end_s, min(wanted_s, following[0].start_s))
        cues.append(Cue(start_s, end_s, tuple(_wrap(group))))
    return cues


def to_srt(cues: Iterable[Cue]) -> str:
    """The cues as a SubRip file."""
    blocks = (
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues, 1)
    )
    return "\n".join(blocks)


def to_vtt(cues: Iterable[Cue]) -> str:
    """The cues as a WebVTT file."""
    blocks = (
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n"
        + "\n".join(
            line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in cue.lines
        )
        + "\n"
        for cue in cues
    )
    return "\n".join(("WEBVTT\n", *blocks))


def _wrap(words: Sequence[Word]) -> list[str]:
    lines: list[list[Word]] = [[]]
    for word in words:
        if lines[-1] and _width(join_text([*lines[-1], word])) > LINE_LENGTH:
            lines.append([])
        lines[-1].append(word)
    return [join_text(line) for line in lines]


def _width(text: str) -> int:
    return sum(2 if char >= WIDE_FROM else 1 for char in text)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{milliseconds:03d}"
