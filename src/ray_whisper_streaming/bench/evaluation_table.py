"""An evaluation as a table: its columns, how figures are written, and the table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ray_whisper_streaming.bench.conditions import CLEAN
from ray_whisper_streaming.bench.evaluation import Figures
from ray_whisper_streaming.bench.report import FROM_OWN_TIMES

__all__ = ["COLUMNS", "cells", "make_table", "percent", "setting", "tell_coverage"]

COLUMNS: Mapping[str, str] = {
    "words": "in the references (letters, where a script has no spaces)",
    "err. %": "words or letters that are wrong, missing or too many, per one of the reference: WER, or CER",
    "offl. %": "the same of this model, given each recording in one go",
    "commit s": "from the end of a word until it was committed: mean, 95th percentile (page: mean, 50th, 95th, 99th)",
    "first s": "from the start of an utterance until the first text of it was shown: 50th percentile",
    "end s": "from the end of an utterance until it was reported as complete: 50th percentile",
    "chg. %": "words shown before they were committed that changed",
    "dec. s/s": "seconds of audio decoded per second of audio",
    "false /h": "words committed per hour of recordings without speech",
    "lost": "stretches of 2 s of voice and more without a committed word, which the model has in one go",
}
"""Columns of the table of figures, and what they mean."""


def cells(figures: Figures, *, narrow: bool = False) -> list[str]:
    """The figures of one row, as `COLUMNS` has them; ``-`` is what was not measured."""
    commit = figures.commit_latency_s
    commits_s = (commit.mean, commit.p95) if narrow else (commit.mean, commit.p50, commit.p95, commit.p99)
    own = "" if figures.word_times or commit.mean is None else "*"
    offline = figures.offline_errors
    return [
        str(figures.errors.words),
        percent(figures.errors.rate),
        percent(offline.rate if offline else None),
        "/".join(_seconds(value) for value in commits_s) + own,
        _seconds(figures.first_partial_latency_s.p50),
        _seconds(figures.endpoint_delay_s.p50),
        percent(figures.partial_words.changed_share),
        f"{figures.decoded_s / figures.audio_s:.1f}" if figures.audio_s else "-",
        _whole(figures.hallucinated.words_per_hour),
        str(len(figures.lost)),
    ]


def tell_coverage(figures: Figures) -> list[str]:
    """What was lost, a line each; a single one that says so if nothing was."""
    where = f"{figures.variant}, {setting(figures)}"
    told: list[str] = []
    if figures.uncovered_s:
        told.append(f"{where}: {figures.uncovered_s:.2f} s of voice were never decoded")
    told += [
        f"{where}: {name}, {stretch.start_s:.1f} to {stretch.end_s:.1f} s lost: {stretch.reason}"
        for name, stretch in figures.lost
    ]
    if told:
        return told
    heard = "" if figures.uncovered_s is None else "all voice decoded, "
    return [f"{where}: {heard}no stretch lost"]


def setting(figures: Figures) -> str:
    """The language, and the condition unless it is clean."""
    return figures.language + ("" if figures.condition == CLEAN.name else f" {figures.condition}")


def make_table(rows: Sequence[Figures], title: str) -> Table:
    """A line per variant, language and condition; what all lines have in common of these stands in the title."""
    labels = [(row.variant, row.language, row.condition) for row in rows]
    differs = [len(set(part)) > 1 for part in zip(*labels, strict=True)]
    if not any(differs):
        differs[0] = True
    common = [text for text, varies in zip(labels[0], differs, strict=True) if not varies]
    own = not all(row.word_times for row in rows)
    caption = "commit s: mean/p95" + (f"; * against {FROM_OWN_TIMES}: flatters" if own else "")
    # Names are the user's: brackets in them are no markup.
    table = Table(
        title=Text(", ".join([title, *common])),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=caption,
    )
    table.add_column("", overflow="fold")
    for name in COLUMNS:
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for row, label in zip(rows, labels, strict=True):
        told = " ".join(text for text, varies in zip(label, differs, strict=True) if varies)
        table.add_row(Text(told), *cells(row, narrow=True), style="red" if row.failures else None)
    return table


def percent(share: float | None) -> str:
    """A share, 0 to 1, in per cent."""
    return "-" if share is None else f"{100 * share:.1f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
