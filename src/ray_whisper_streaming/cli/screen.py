"""What the demo shows: captions while the streams run, figures when they have ended."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ray_whisper_streaming import PoolStats
from ray_whisper_streaming.cli.captions import Caption, Figures

__all__ = ["CaptionScreen", "caption_text", "figures_table", "plain_line"]

LINES = 2
"""Lines of a caption, where there is room: as on television."""

NAME_WIDTH = 18
DELAY_WIDTH = 7
SPARE_LINES = 3
"""Lines of the screen that are no captions: the pool's, the one for streams without room, and the cursor's."""

MIN_TEXT_WIDTH = 20


class CaptionScreen:
    """A `rich` renderable: the pool's figures, and one caption per stream that rolls up as it fills.

    Args:
        captions: kept up to date by others.
        where: the model and the backend, in words.
    """

    def __init__(self, captions: Sequence[Caption], where: str) -> None:
        self.stats = PoolStats()
        self.played_s = 0.0
        self._captions = captions
        self._where = where
        self._first: dict[int, int] = {}
        """Where in its text each caption's first line begins: lines keep their breaks as they roll up."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = console.height - SPARE_LINES
        lines = LINES if len(self._captions) * LINES <= height else 1
        room = len(self._captions) if len(self._captions) <= height else max(1, height - 1)
        yield Text(_pool_line(self.stats, self._where, len(self._captions), self.played_s), style="dim")
        name_width = min(NAME_WIDTH, max(len(caption.name) for caption in self._captions))
        text_width = max(MIN_TEXT_WIDTH, options.max_width - name_width - DELAY_WIDTH - 2)
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=name_width, no_wrap=True, overflow="ellipsis", style="cyan")
        grid.add_column(width=text_width, no_wrap=True)
        grid.add_column(width=DELAY_WIDTH, no_wrap=True, justify="right", style="dim")
        for number, caption in enumerate(self._captions[:room]):
            grid.add_row(
                caption.name, self._text(number, caption, console, text_width, lines), _delay(caption)
            )
        yield grid
        if room < len(self._captions):
            yield Text(f"... and {len(self._captions) - room} more streams: no room here", style="dim")

    def _text(self, number: int, caption: Caption, console: Console, width: int, height: int) -> Text:
        """The last ``height`` lines: committed text bold, the partial behind it dim."""
        if caption.error:
            shown = [Text(caption.error, style="red")]
        else:
            first = self._first.get(number, 0)
            committed = caption.committed[first:].lstrip()
            first = len(caption.committed) - len(committed)
            text = caption_text(committed, caption.partial)
            shown = list(text.wrap(console, width))
            begins = 0
            for line in shown[:-height]:
                begins = _behind(text.plain, begins + len(line.plain.rstrip()))
                # Only lines of committed text are gone for good: a partial may get shorter again.
                if first + begins <= len(caption.committed):
                    self._first[number] = first + begins
            shown = shown[-height:]
        return Text("\n").join([*shown, *[Text()] * (height - len(shown))])


def _behind(text: str, end: int) -> int:
    """Where the line behind one that ended at ``end`` begins: words break at spaces, but some scripts have none."""
    return len(text) - len(text[end:].lstrip())


def caption_text(committed: str, partial: str) -> Text:
    """Committed text bold, what may still change dim behind it, with its leading space."""
    bare = partial.lstrip()
    between = partial[: len(partial) - len(bare)] if committed else ""
    return Text.assemble((committed, "bold"), between, (bare, "dim italic"))


def plain_line(caption: Caption, text: str, now: float) -> str:
    """One line for a terminal that can't be redrawn, or a file: when, who, what."""
    return f"{now - caption.started_at:7.1f} s  {caption.name:<{NAME_WIDTH}} {text}"


def figures_table(captions: Sequence[Caption], stats: PoolStats, wall_s: float, where: str) -> Table:
    """What was reached: a line per stream, one for all, and the pool's figures below."""
    table = Table(
        title=f"{_streams(len(captions))} on {where}",
        caption=_pool_figures(captions, stats, wall_s),
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    rates = [Figures([caption]).word_error_rate() for caption in captions]
    scored = any(rate is not None for rate in rates)
    table.add_column("stream", style="cyan", no_wrap=True, overflow="ellipsis", max_width=NAME_WIDTH)
    headings = ["audio s", "words", *(["WER %"] if scored else []), "commit s\np50 / p95"]
    headings += ["shown s\np50 / p95", "updates\nper s"]
    rows = [(caption.name, _row(Figures([caption]), scored=scored)) for caption in captions]
    if len(captions) > 1:
        rows.append(("all", _row(Figures(captions), scored=scored)))
    for heading, *cells in zip(headings, *(figures for _, figures in rows), strict=True):
        width = max(map(len, [*heading.split("\n"), *cells]))  # names may be cut short, figures not
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for number, (name, figures) in enumerate(rows, 1):
        table.add_row(name, *figures, end_section=number == len(captions))
    return table


def _row(figures: Figures, *, scored: bool) -> list[str]:
    rate = figures.word_error_rate() if scored else None
    return [
        f"{figures.audio_s:.1f}",
        str(figures.words),
        *([f"{rate * 100:.1f}" if rate is not None else ""] if scored else []),
        f"{_seconds(figures.commit_latency_s(50))} / {_seconds(figures.commit_latency_s(95))}",
        f"{_seconds(figures.first_shown_latency_s(50))} / {_seconds(figures.first_shown_latency_s(95))}",
        f"{figures.updates_per_s:.1f}",
    ]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _delay(caption: Caption) -> str:
    if caption.done or caption.error:
        return "ended"
    return f"{caption.commit_latencies_s[-1]:.1f} s" if caption.commit_latencies_s else ""


def _streams(count: int) -> str:
    return f"{count} stream" + ("s" if count != 1 else "")


def _pool_line(stats: PoolStats, where: str, streams: int, played_s: float) -> str:
    parts = [f"{_streams(streams)} on {where}", f"{played_s:.0f} s"]
    if stats.batches:
        parts.append(
            f"{stats.jobs_done / max(played_s, 1.0):.1f} passes/s in batches of {stats.batch_size_mean:.1f}"
        )
        parts.append(f"{stats.queued} waiting")
    return ", ".join(parts)


def _pool_figures(captions: Sequence[Caption], stats: PoolStats, wall_s: float) -> str:
    figures = Figures(captions)
    audio_s = figures.audio_s or 1.0
    busy_s = stats.batches * stats.inference_s
    return (
        f"{stats.jobs_done} passes in {stats.batches} batches of {stats.batch_size_mean:.1f}; a pass waited "
        f"{stats.queue_wait_s * 1000:.0f} ms, a batch took {stats.inference_s * 1000:.0f} ms.\n"
        f"Failed: {figures.failed} of {_streams(len(captions))}, {figures.failed_jobs} of the passes; done again after "
        f"a worker died: {stats.jobs_retried}.\n"
        f"Real-time factor {busy_s / audio_s:.2f}: {busy_s:.1f} s of work for {audio_s:.1f} s of audio, "
        f"in {wall_s:.1f} s.\n"
        "Latencies: from a word's end, as the model timed it, until it was committed / first shown."
    )
