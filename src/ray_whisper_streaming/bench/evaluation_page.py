"""An evaluation as one HTML file: a table, plots, and every text against its reference. No script, no network."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from ray_whisper_streaming.bench.evaluation import ClipText, Figures
from ray_whisper_streaming.bench.evaluation_table import COLUMNS, cells, percent, setting, tell_coverage
from ray_whisper_streaming.bench.report import FROM_OWN_TIMES
from ray_whisper_streaming.bench.scatter import Point, draw_scatter
from ray_whisper_streaming.bench.text_errors import Edit, ErrorCount, count_errors

__all__ = ["render_page"]

NAMES_IN_PLOT = 8
"""Variants up to which the plot has room for their names; more of them are numbered."""


def render_page(rows: Sequence[Figures], about: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        rows: at least one.
        about: what was measured, where and how: names and values, in order.
    """
    settings = list(dict.fromkeys(map(setting, rows)))
    numbers = {name: n for n, name in enumerate(dict.fromkeys(row.variant for row in rows), 1)}
    body = [
        "<h1>Live text, measured</h1>",
        "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in about.items()) + "</dl>",
        "<h2>Figures</h2>",
        *_table(rows, numbers),
    ]
    for name in settings:
        mine = [row for row in rows if setting(row) == name]
        body += [f"<h2>{escape(name)}: delay against errors</h2>", *_plot(mine, numbers)]
    body += ["<h2>Lost</h2>", *_lost(rows)]
    for name in settings:
        mine = [row for row in rows if setting(row) == name]
        body += [f"<h2>{escape(name)}: texts, the worst first</h2>", _LEGEND, *_texts(mine)]
    body += _hallucinated(rows)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Live text, measured</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _table(rows: Sequence[Figures], numbers: Mapping[str, int]) -> Iterator[str]:
    heads = "".join(f'<th title="{escape(COLUMNS[name])}">{escape(name)}</th>' for name in COLUMNS)
    yield f'<div class="wide"><table><thead><tr><th>#</th><th>variant</th><th></th>{heads}</tr></thead><tbody>'
    for row in rows:
        values = "".join(f"<td>{escape(cell)}</td>" for cell in cells(row))
        yield (
            f"<tr><td>{numbers[row.variant]}</td><th>{escape(row.variant)}</th>"
            f"<td>{escape(setting(row))}</td>{values}</tr>"
        )
    yield "</tbody></table></div>"
    if not all(row.word_times for row in rows):
        yield f"<p>* against {escape(FROM_OWN_TIMES)}, as the recordings have no word times: this flatters.</p>"
    yield "<details><summary>What the columns mean</summary><dl>"
    yield from (f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in COLUMNS.items())
    yield "</dl></details>"


def _plot(rows: Sequence[Figures], numbers: Mapping[str, int]) -> Iterator[str]:
    points = [
        Point(
            mean_s,
            100 * rate,
            row.variant if len(numbers) <= NAMES_IN_PLOT else str(numbers[row.variant]),
            f"{row.variant}: {100 * rate:.1f} %, {mean_s:.2f} s",
        )
        for row in rows
        if (rate := row.errors.rate) is not None and (mean_s := row.commit_latency_s.mean) is not None
    ]
    if not points:
        yield "<p>Nothing was committed that could be timed.</p>"
        return
    offline = rows[0].offline_errors.rate if rows[0].offline_errors else None
    unit = "letters" if rows[0].letters else "words"
    yield "<figure>"
    yield draw_scatter(
        points,
        x_title="seconds from the end of a word to its commit (mean)",
        y_title=f"errors, % of the {unit}",
        line=None if offline is None else 100 * offline,
        line_label="" if offline is None else f"offline {100 * offline:.1f} %",
    )
    yield "</figure>"


def _texts(rows: Sequence[Figures]) -> Iterator[str]:
    """Each clip with its text of every variant."""
    separator = "" if rows[0].letters else " "
    clips = list(zip(*(row.clips for row in rows), strict=True))
    for place, texts in enumerate(sorted(clips, key=_badness, reverse=True)):
        rate = percent(_badness(texts))
        yield f"<details{'' if place else ' open'}><summary>{escape(texts[0].name)} <b>{rate} %</b></summary>"
        for row, text in zip(rows, texts, strict=True):
            yield _text(row.variant, text.edits, separator)
        if texts[0].offline_edits is not None:
            yield _text("offline", texts[0].offline_edits, separator)
        yield "</details>"


def _badness(texts: Sequence[ClipText]) -> float:
    """Mean error rate of a clip over the variants."""
    return statistics.fmean(text.errors.rate or 0.0 for text in texts)


def _text(title: str, edits: Sequence[Edit], separator: str) -> str:
    errors = count_errors(edits)
    marked = separator.join(_marked(edit, separator) for edit in edits)
    return f"<h3>{escape(title)} <small>{_told(errors)}</small></h3><p>{marked}</p>"


def _marked(edit: Edit, separator: str) -> str:
    """A stretch of text, with what was said over what was heard where they differ."""
    if edit.kind == "equal":
        return escape(separator.join(edit.said))
    if edit.kind == "deletion":
        return f"<del>{escape(separator.join(edit.said))}</del>"
    if edit.kind == "insertion":
        return f"<ins>{escape(separator.join(edit.heard))}</ins>"
    return separator.join(
        f'<span class="sub"><s>{escape(said)}</s><b>{escape(heard)}</b></span>'
        for said, heard in zip(edit.said, edit.heard, strict=True)
    )


def _told(errors: ErrorCount) -> str:
    return (
        f"{percent(errors.rate)} %: {errors.substitutions} wrong, {errors.deletions} missing, "
        f"{errors.insertions} too many, of {errors.words}"
    )


def _lost(rows: Sequence[Figures]) -> Iterator[str]:
    """Stretches without a word, those that the model doesn't have in one go either as well."""
    for row in rows:
        yield from (f"<p>{escape(line)}</p>" for line in tell_coverage(row))
        for clip in row.clips:
            for stretch in clip.lost:
                offline = {True: "the model has it in one go", False: "nor has the model in one go"}
                yield (
                    f"<p>{escape(clip.name)}, {stretch.start_s:.1f} to {stretch.end_s:.1f} s: "
                    f"<del>{escape(stretch.said)}</del> ({stretch.reason}"
                    + (f"; {offline[stretch.offline]}" if stretch.offline is not None else "")
                    + ")</p>"
                )


def _hallucinated(rows: Sequence[Figures]) -> Iterator[str]:
    if not any(row.hallucinated.audio_s for row in rows):
        return
    yield "<h2>Heard where nobody spoke</h2>"
    if not any(row.hallucinated.texts for row in rows):
        yield "<p>Nothing.</p>"
    for row in rows:
        for name, text in row.hallucinated.texts:
            yield f"<p>{escape(row.variant)}, {escape(row.language)}, {escape(name)}: <ins>{escape(text)}</ins></p>"


_LEGEND = (
    '<p class="legend"><span class="sub"><s>said</s><b>heard</b></span> wrong '
    "<del>said</del> missing <ins>heard</ins> too many</p>"
)

_STYLE = """
:root { --text: #1c2024; --back: #fff; --dim: #5f6872; --edge: #d5dae0; --point: #0b62c4;
  --wrong: #8a5200; --missing: #b3261e; --more: #1b6e3a; --wrong-back: #fff1d6; --missing-back: #fde7e5;
  --more-back: #dff3e5; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7ea; --back: #15181c; --dim: #9aa4ae; --edge: #363d45;
  --point: #6cb0ff; --wrong: #ffc566; --missing: #ff9a90; --more: #86d9a3; --wrong-back: #3a2c10;
  --missing-back: #401f1c; --more-back: #17331f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--text); background: var(--back);
  font: 1rem/1.6 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 0; }
small { font-weight: normal; color: var(--dim); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .5rem 0; font-size: .9rem; }
dt { color: var(--dim); }
dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--edge); text-align: right; }
th { font-weight: 600; }
tbody th, th:nth-child(2) { text-align: left; }
figure { margin: 0; max-width: 34rem; }
svg { display: block; width: 100%; height: auto; font: 14px system-ui, sans-serif; fill: var(--text); }
svg .grid { stroke: var(--edge); }
svg .tick { fill: var(--dim); }
svg .offline { stroke: var(--more); stroke-width: 2; stroke-dasharray: 6 4; }
svg circle { fill: var(--point); }
details { border-bottom: 1px solid var(--edge); padding: .4rem 0; }
summary { cursor: pointer; }
details p { margin: .3rem 0; line-height: 2.4; }
.legend { font-size: .9rem; color: var(--dim); }
.sub { display: inline-flex; flex-direction: column; vertical-align: middle; line-height: 1.15; padding: 0 .2em;
  border-radius: .2em; background: var(--wrong-back); color: var(--wrong); }
.sub s { font-size: .8em; }
del, ins { padding: .1em .2em; border-radius: .2em; }
del { background: var(--missing-back); color: var(--missing); }
ins { background: var(--more-back); color: var(--more); text-decoration-style: double; }
"""
