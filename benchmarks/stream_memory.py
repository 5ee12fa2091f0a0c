"""What one more stream costs in memory, apart from what the pool takes for its largest batch.

    python benchmarks/stream_memory.py --streams 40

A pool takes some memory once: the runtime's for the largest batch, threads, what the allocator keeps for next time.
So it is given windows of full length first, as many as fill its batches. Then more and more streams are opened on it,
each heard step by step, in windows as long as in a live stream, a few at a time. All stay open; they are heard for
different times, so that their windows are of all lengths. What is free but kept by the allocator is given back before
each look, and told by itself. What one more stream costs is the median over these steps: else a runtime that takes tens
of MB at once for a batch it had not met would be counted as a cost of streams.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import itertools
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console

from ray_whisper_streaming import AsyncLiveStream, AsyncPool, StreamOptions
from ray_whisper_streaming.bench.machine import MEGABYTE, resident_mb, write_report
from ray_whisper_streaming.bench.material import find_material, load_clips
from ray_whisper_streaming.bench.simulation import Speech
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples, Job
from ray_whisper_streaming.engines.factory import EngineName, engine_factory_for
from ray_whisper_streaming.engines.scripted import ScriptedEngine
from ray_whisper_streaming.engines.window_decoder import MAX_WINDOW_S

LIMIT_MB = 5.0
"""What a stream may cost beside the audio it holds."""

WARM_STREAMS = 10
"""Streams and full windows heard before counting: more than any engine takes into one batch on a CPU."""

STEP_S = 0.5
"""Audio between two passes: windows are then as long as on an idle pool, where they are longest."""

PHASES = 8
PHASE_STEPS = 2
"""Streams opened at a time, each heard for so many steps more than the one before: a window grows and is trimmed in as
many seconds."""

SETTLED_LOOKS = 5
LOOK_PAUSE_S = 0.02
"""The pool is done when it was seen idle so many times in a row."""


class Players:
    """Opens streams and lets them hear speech."""

    def __init__(self, pool: AsyncPool, speech: Int16Samples, seconds: float) -> None:
        self._pool = pool
        self._speech = speech
        self._steps = round(seconds / STEP_S)
        self.streams: list[AsyncLiveStream] = []

    @property
    def held_audio_mb(self) -> float:
        """Audio that the streams hold, in MB."""
        held_s = sum(stream._driven.machine.buffered_s for stream in self.streams)
        return held_s * SAMPLE_RATE * self._speech.itemsize / MEGABYTE

    async def fill_batches(self) -> None:
        """Have windows of full length decoded, side by side and then one alone: no batch of streams is larger."""
        for count in (WARM_STREAMS, 1):
            jobs = [
                Job(
                    job_id=f"full {number} of {count}",
                    stream_id=f"full {number}",
                    audio=self._heard(number * MAX_WINDOW_S * SAMPLE_RATE, MAX_WINDOW_S * SAMPLE_RATE),
                    model=self._pool.model,
                    language="en",
                )
                for number in range(count)
            ]
            futures = [self._pool.recognizer.submit_nowait(job) for job in jobs]
            await asyncio.gather(*map(asyncio.wrap_future, futures))

    async def open(self, count: int) -> None:
        """So many streams more, heard to their ends at once; none is closed."""
        options = StreamOptions(language="en")
        fresh = [self._pool.stream(options) for _ in range(count)]
        step = round(STEP_S * SAMPLE_RATE)
        for number in range(self._steps + PHASES * PHASE_STEPS):
            for index, stream in enumerate(fresh, len(self.streams)):
                if number < self._steps + index % PHASES * PHASE_STEPS:
                    place = (index * self._steps + number) * step
                    await stream.push(self._heard(place, step))
            await self._idle()
        self.streams += fresh

    def _heard(self, start: int, samples: int) -> Int16Samples:
        return self._speech.take(range(start, start + samples), mode="wrap")

    async def _idle(self) -> None:
        idle = 0
        while idle < SETTLED_LOOKS:
            await asyncio.sleep(LOOK_PAUSE_S)
            stats = await self._pool.stats()
            idle = idle + 1 if stats.queued + stats.in_flight == 0 else 0


async def measure(players: Players, streams: int) -> dict[str, Any]:
    """Memory of the process, in MB: of a pool just started, and then of so many streams on it, step by step."""
    loaded_mb = resident_mb()
    await players.fill_batches()
    await players.open(WARM_STREAMS)
    points: list[tuple[int, float]] = []
    untrimmed_mb = loaded_mb
    for count in range(0, max(streams, PHASES) + 1, PHASES):
        await players.open(PHASES if count else 0)
        gc.collect()
        untrimmed_mb = resident_mb()
        _give_back()
        points.append((count, resident_mb()))
    slope = statistics.median(
        (after - before) / PHASES for (_, before), (_, after) in itertools.pairwise(points)
    )
    streams = points[-1][0]
    audio_mb = players.held_audio_mb / len(players.streams)
    return {
        "streams": streams,
        "points": points,
        "loaded_mb": loaded_mb,
        "spare_mb": untrimmed_mb - points[-1][1],
        "pool_mb": points[-1][1] - (WARM_STREAMS + streams) * slope,
        "resident_mb_per_stream": slope,
        "audio_mb_per_stream": audio_mb,
        "beside_audio_mb_per_stream": slope - audio_mb,
    }


def _give_back() -> None:
    """Let glibc return what is free: how much it keeps goes by chance and not by the streams."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def run(args: argparse.Namespace) -> dict[str, Any]:
    speech = np.concatenate([clip.audio for clip in load_clips(find_material())])
    if args.scripted:
        longest_s = args.seconds + PHASES * PHASE_STEPS * STEP_S
        factory = partial(ScriptedEngine, default=Speech(pause_s=0.0).between(0.0, longest_s))
    else:
        factory = engine_factory_for(args.engine, model=args.model)
    async with AsyncPool(args.model, backend="local", engine_factory=factory) as pool:
        players = Players(pool, speech, args.seconds)
        result = await measure(players, args.streams)
        for stream in players.streams:
            await stream.aclose()
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--streams", type=int, default=40, help=f"the most, {PHASES} at a time, beside those of the warm-up"
    )
    parser.add_argument("--seconds", type=float, default=14.0, help="speech given to each at least")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--engine", choices=get_args(EngineName), default="auto")
    parser.add_argument("--scripted", action="store_true", help="no model: what the streams alone cost")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    result = asyncio.run(run(args))
    console = Console()
    for count, total_mb in result["points"]:
        console.print(f"{WARM_STREAMS} + {count:2} streams: {total_mb:6.0f} MB")
    console.print(
        f"the pool: {result['pool_mb']:.0f} MB at its largest batch ({result['loaded_mb']:.0f} MB before), "
        f"and {result['spare_mb']:.0f} MB that the allocator kept; "
        f"each stream: {result['resident_mb_per_stream']:.2f} MB, of which {result['audio_mb_per_stream']:.2f} "
        "MB are the audio it holds"
    )
    if args.json:
        write_report(args.json, [result])
    return int(result["beside_audio_mb_per_stream"] > LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
