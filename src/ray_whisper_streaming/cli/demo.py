"""``ray-whisper demo``: recordings at real pace, captions live, a table at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ray_whisper_streaming import (
    AsyncLiveStream,
    AsyncPool,
    Committed,
    Event,
    Final,
    JobFailed,
    Partial,
    PoolStats,
    StreamFailed,
    StreamOptions,
)
from ray_whisper_streaming.cli.feeding import decode_aside, find_recordings, paced, sample_recordings
from ray_whisper_streaming.errors import RayWhisperError

__all__ = ["Caption", "run"]

REFRESH_PER_S = 8

CAPTION_LINES = 2

console = Console(highlight=False)


@dataclass(slots=True)
class Caption:
    """What is known of one stream: for the live view and for the table."""

    name: str
    started_at: float = 0.0
    committed: str = ""
    partial: str = ""
    words: int = 0
    shown: int = 0
    updates: int = 0
    audio_s: float = 0.0
    commit_latencies_s: list[float] = field(default_factory=list[float])
    shown_latencies_s: list[float] = field(default_factory=list[float])
    failed_jobs: int = 0
    error: str = ""
    done: bool = False

    def receive(self, event: Event, now: float) -> None:
        """Take an event at the monotonic second ``now``; word ends are the recogniser's own."""
        heard_s = now - self.started_at
        if isinstance(event, Committed):
            self.updates += 1
            self.words += len(event.words)
            self.committed += "".join(word.text for word in event.words)
            self.commit_latencies_s += [heard_s - word.end_s for word in event.words]
            self._show([word.end_s for word in event.words], self.words - len(event.words), heard_s)
        elif isinstance(event, Partial):
            self.updates += 1
            self.partial = event.text
            self._show([word.end_s for word in event.words], self.words, heard_s)
        elif isinstance(event, JobFailed):
            self.failed_jobs += 1
        elif isinstance(event, StreamFailed):
            self.error = str(event.error)
        elif isinstance(event, Final) and event.end_of_stream:
            self.done = True

    def _show(self, ends_s: Sequence[float], first: int, heard_s: float) -> None:
        for index, end_s in enumerate(ends_s, first):
            if index >= self.shown:
                self.shown = index + 1
                self.shown_latencies_s.append(max(0.0, heard_s - end_s))


async def run(
    audio: Sequence[Path],
    *,
    streams: int | None,
    options: StreamOptions,
    limit_s: float | None,
    plain: bool,
    pool_options: dict[str, Any],
) -> int:
    """Play the recordings and show their captions; return the exit code."""
    recordings = find_recordings(audio) if audio else sample_recordings()
    count = streams or len(recordings)
    chosen = [recordings[number % len(recordings)] for number in range(count)]
    captions = [
        Caption(path.stem if count <= len(recordings) else f"{path.stem} {number}")
        for number, path in enumerate(chosen, 1)
    ]
    plain = plain or not console.is_terminal
    backend, model = pool_options["backend"], pool_options["model"]
    with console.status(f"Starting {'Ray and ' if backend == 'ray' else ''}the workers, loading {model} ..."):
        pool = AsyncPool(**pool_options)
        try:
            await pool.start()
        except BaseException:
            await pool.aclose()
            raise
    try:
        started_at = time.monotonic()
        playing = [
            asyncio.create_task(_play(pool, path, caption, options, limit_s, plain))
            for path, caption in zip(chosen, captions, strict=True)
        ]
        if plain:
            await asyncio.gather(*playing)
        else:
            await _show(pool, captions, playing)
        wall_s = time.monotonic() - started_at
        console.print(_table(captions, await pool.stats(), wall_s))
    finally:
        await pool.aclose()
    return 1 if any(caption.error for caption in captions) else 0


async def _play(
    pool: AsyncPool, path: Path, caption: Caption, options: StreamOptions, limit_s: float | None, plain: bool
) -> None:
    caption.started_at = time.monotonic()
    async with pool.stream(options) as stream:
        feeding = asyncio.create_task(_feed(stream, path, caption, limit_s))
        async for event in stream:
            caption.receive(event, time.monotonic())
            if plain and isinstance(event, Committed):
                console.print(f"{caption.name}: {event.text}", soft_wrap=True)
        try:
            await feeding
        except RayWhisperError as error:
            caption.error = caption.error or str(error)
    caption.done = True


async def _feed(stream: AsyncLiveStream, path: Path, caption: Caption, limit_s: float | None) -> None:
    try:
        async for samples in paced(decode_aside(path), caption.started_at, limit_s):
            await stream.push(samples)
            caption.audio_s += len(samples) / 16_000
    finally:
        await stream.finish()


async def _show(pool: AsyncPool, captions: Sequence[Caption], playing: Sequence[asyncio.Task[None]]) -> None:
    """Redraw the view until all streams have ended."""
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            stats = await pool.stats()
            live.update(_view(captions, stats), refresh=True)
            if all(task.done() for task in playing):
                break
            await asyncio.wait(playing, timeout=1 / REFRESH_PER_S, return_when=asyncio.ALL_COMPLETED)
    await asyncio.gather(*playing)


def _view(captions: Sequence[Caption], stats: PoolStats) -> Group:
    workers = f"{stats.workers} worker" + ("s" if stats.workers != 1 else "")
    header = Text(
        f"{len(captions)} streams, {workers}, {stats.jobs_done} passes in {stats.batches} batches "
        f"(mean {stats.batch_size_mean:.1f})",
        style="dim",
    )
    grid = Table.grid(padding=(0, 1), expand=True)
    name_width = min(20, max(len(caption.name) for caption in captions))
    grid.add_column(width=name_width, no_wrap=True, overflow="ellipsis", style="cyan")
    grid.add_column(ratio=1)
    grid.add_column(width=7, justify="right", style="dim")
    width = max(20, console.width - name_width - 10)
    for caption in captions:
        latest = caption.commit_latencies_s[-1:]
        lag = "done" if caption.done else f"{latest[0]:.1f} s" if latest else ""
        grid.add_row(caption.name, _caption_text(caption, width * CAPTION_LINES), lag)
    return Group(header, grid)


def _caption_text(caption: Caption, room: int) -> Text:
    """The end of the committed text, and the partial behind it dim; padded so that lines don't jump."""
    if caption.error:
        return Text(caption.error, style="red")
    committed, partial = caption.committed.strip(), caption.partial
    keep = max(0, room - len(partial) - 8)
    if len(committed) > keep:
        committed = "… " + committed[-keep:].partition(" ")[2] if keep else ""
    return Text.assemble((committed, "bold"), " ", (partial, "dim italic"))


def _table(captions: Sequence[Caption], stats: PoolStats, wall_s: float) -> Table:
    table = Table(title="Live captions", caption=_pool_facts(captions, stats, wall_s), caption_justify="left")
    table.add_column("stream", style="cyan")
    for heading in (
        "audio s",
        "words",
        "commit p50 s",
        "p95 s",
        "first shown p50 s",
        "p95 s",
        "updates/s",
        "failed",
    ):
        table.add_column(heading, justify="right")
    for caption in captions:
        table.add_row(caption.name, *_figures([caption]))
    if len(captions) > 1:
        table.add_section()
        table.add_row("all", *_figures(captions))
    return table


def _figures(captions: Sequence[Caption]) -> list[str]:
    audio_s = sum(caption.audio_s for caption in captions)
    updates = sum(caption.updates for caption in captions)
    failed = sum(bool(caption.error) for caption in captions)
    jobs = sum(caption.failed_jobs for caption in captions)
    commit = [latency for caption in captions for latency in caption.commit_latencies_s]
    shown = [latency for caption in captions for latency in caption.shown_latencies_s]
    return [
        f"{audio_s:.1f}",
        str(sum(caption.words for caption in captions)),
        *_percentiles(commit),
        *_percentiles(shown),
        f"{updates / audio_s:.1f}" if audio_s else "",
        f"{failed} ({jobs} jobs)" if jobs else str(failed),
    ]


def _percentiles(values: Sequence[float]) -> tuple[str, str]:
    if not values:
        return "", ""
    p50, p95 = np.percentile(values, (50, 95))
    return f"{p50:.2f}", f"{p95:.2f}"


def _pool_facts(captions: Sequence[Caption], stats: PoolStats, wall_s: float) -> str:
    audio_s = sum(caption.audio_s for caption in captions) or 1.0
    busy_s = stats.batches * stats.inference_s
    return (
        f"{stats.jobs_done} passes in {stats.batches} batches (mean {stats.batch_size_mean:.1f}), "
        f"queue wait {stats.queue_wait_s * 1000:.0f} ms, inference {stats.inference_s * 1000:.0f} ms a batch; "
        f"real-time factor {busy_s / audio_s:.2f} (busy {busy_s:.1f} s of {wall_s:.1f} s)\n"
        "Latencies: from the end of a word, as the recogniser heard it, until it was committed or first shown."
    )
