"""``ray-whisper demo``: recordings at real pace, captions live, a table at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.live import Live

from ray_whisper_streaming import AsyncLiveStream, AsyncPool, Committed, StreamOptions
from ray_whisper_streaming.cli.captions import Caption
from ray_whisper_streaming.cli.console import FAILURE, StdoutConsole
from ray_whisper_streaming.cli.feeding import find_recordings, sample_recordings, sample_texts
from ray_whisper_streaming.cli.screen import CaptionScreen, figures_table, plain_line
from ray_whisper_streaming.cli.starting import started_pool
from ray_whisper_streaming.client.files import paced, pieces_of
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.errors import RayWhisperError

__all__ = ["run"]

REFRESH_S = 1 / 8

START_SPREAD_S = 1.0
"""The streams start within this time, one after the other: in step they would make neater batches than life does."""

console = StdoutConsole()


async def run(
    audio: Sequence[Path],
    *,
    streams: int | None,
    options: StreamOptions,
    speed: float,
    limit_s: float | None,
    plain: bool,
    pool_options: dict[str, Any],
) -> int:
    """Play the recordings and show their captions; return the exit code."""
    recordings = find_recordings(audio) if audio else sample_recordings()
    count = streams or len(recordings)
    chosen = [recordings[number % len(recordings)] for number in range(count)]
    texts = sample_texts()
    captions = [
        Caption(
            path.stem if count <= len(recordings) else f"{number} {path.stem}",
            speed=speed,
            reference=texts.get(path, ""),
        )
        for number, path in enumerate(chosen, 1)
    ]
    live = not plain and console.is_terminal
    with console.status("") as status:
        async with started_pool(status.update, **pool_options) as pool:
            status.stop()
            where = _where((await pool.stats()).workers, pool_options)
            started_at = time.monotonic()
            for number, caption in enumerate(captions):
                caption.started_at = started_at + number / count * START_SPREAD_S
            playing = [
                asyncio.create_task(_play(pool, path, caption, options, limit_s, plain=not live))
                for path, caption in zip(chosen, captions, strict=True)
            ]
            try:
                if live:
                    await _watch(pool, CaptionScreen(captions, where), playing, started_at)
                await asyncio.gather(*playing)
            finally:
                # Also when ended by Ctrl-C: what was reached until then.
                for task in playing:
                    task.cancel()
                await asyncio.gather(*playing, return_exceptions=True)
                wall_s = time.monotonic() - started_at
                console.print(figures_table(captions, await pool.stats(), wall_s, where))
    for caption in captions:
        if caption.error:
            console.print(f"{caption.name}: {caption.error}", style="red", markup=False, soft_wrap=True)
    return FAILURE if any(caption.error for caption in captions) else 0


def _where(workers: int, pool_options: dict[str, Any]) -> str:
    kind = "worker" if pool_options["backend"] == "local" else "Ray worker"
    return f"{workers} {kind}{'s' if workers != 1 else ''}, {pool_options['model']}"


async def _play(
    pool: AsyncPool,
    path: Path,
    caption: Caption,
    options: StreamOptions,
    limit_s: float | None,
    *,
    plain: bool,
) -> None:
    """Play one recording into one stream, and keep its caption."""
    async with pool.stream(options) as stream:
        feeding = asyncio.create_task(_feed(stream, path, caption, limit_s))
        try:
            async for event in stream:
                now = time.monotonic()
                caption.receive(event, now)
                if plain and isinstance(event, Committed):
                    console.print(plain_line(caption, event.text, now), markup=False, soft_wrap=True)
            await feeding
        except RayWhisperError as error:
            caption.error = caption.error or str(error)
        finally:
            feeding.cancel()


async def _feed(stream: AsyncLiveStream, path: Path, caption: Caption, limit_s: float | None) -> None:
    try:
        async for samples in paced(pieces_of(path), caption.started_at, limit_s, caption.speed):
            await stream.push(samples)
            caption.audio_s += len(samples) / SAMPLE_RATE
        caption.whole = limit_s is None
    finally:
        await stream.finish()


async def _watch(
    pool: AsyncPool, screen: CaptionScreen, playing: Sequence[asyncio.Task[None]], started_at: float
) -> None:
    """Redraw the screen until all streams have ended."""
    with Live(screen, console=console, auto_refresh=False) as live:
        pending = set(playing)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=REFRESH_S)
            screen.stats = await pool.stats()
            screen.played_s = time.monotonic() - started_at
            live.refresh()
