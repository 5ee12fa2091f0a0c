"""What one more stream costs in memory.

    python benchmarks/stream_memory.py --streams 50

Opens streams on a warm pool, gives each the same seconds of speech, waits until all is decoded as far as it
can be, and divides what the process has grown by. The audio that each stream still holds (32 kB a second) is
included.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from ray_whisper_streaming import AsyncLiveStream, AsyncPool, StreamOptions
from ray_whisper_streaming.bench.machine import MEGABYTE, describe_machine, resident_mb
from ray_whisper_streaming.bench.material import find_material, load_clips
from ray_whisper_streaming.bench.simulation import Speech
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.engines.scripted import ScriptedEngine

LIMIT_MB = 5.0
"""What a stream may cost."""

WARM_STREAMS = 4
"""Streams opened before counting, for what is made once: thread stacks, scratch memory of the model."""

SETTLED_LOOKS = 5
LOOK_PAUSE_S = 0.1
"""The pool is done when it was seen idle so many times in a row."""


async def measure(pool: AsyncPool, audio: Int16Samples, streams: int) -> dict[str, Any]:
    """Memory before and after so many streams, in MB and per stream. The pool is started already."""
    kept = await _open(pool, audio, WARM_STREAMS)
    gc.collect()
    tracemalloc.start()
    try:
        resident_before_mb = resident_mb()
        kept += await _open(pool, audio, streams)
        gc.collect()
        resident_grown_mb = resident_mb() - resident_before_mb
        traced_mb = tracemalloc.get_traced_memory()[0] / MEGABYTE
    finally:
        tracemalloc.stop()
    for stream in kept:
        await stream.aclose()
    return {
        "streams": streams,
        "audio_s": len(audio) / SAMPLE_RATE,
        "resident_mb_per_stream": resident_grown_mb / streams,
        "held_by_python_mb_per_stream": traced_mb / streams,
    }


async def _open(pool: AsyncPool, audio: Int16Samples, count: int) -> list[AsyncLiveStream]:
    streams = [pool.stream(StreamOptions(language="en")) for _ in range(count)]
    for stream in streams:
        await stream.push(audio)
    idle = 0
    while idle < SETTLED_LOOKS:
        await asyncio.sleep(LOOK_PAUSE_S)
        stats = await pool.stats()
        idle = idle + 1 if stats.queued + stats.in_flight == 0 else 0
    return streams


async def run(args: argparse.Namespace) -> dict[str, Any]:
    audio = load_clips(find_material())[0].audio[: round(args.seconds * SAMPLE_RATE)]
    script = Speech(pause_s=0.0).between(0.0, args.seconds)
    factory = partial(ScriptedEngine, default=script) if args.scripted else None
    async with AsyncPool(args.model, backend="local", engine_factory=factory) as pool:
        return await measure(pool, audio, args.streams)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument(
        "--seconds", type=float, default=7.0, help="speech given to each; over 8 s windows get cut"
    )
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--scripted", action="store_true", help="no model: what the streams alone cost")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    result = asyncio.run(run(args))
    Console().print(
        f"{result['resident_mb_per_stream']:.2f} MB resident, "
        f"{result['held_by_python_mb_per_stream']:.2f} MB held by Python and numpy, per stream"
    )
    if args.json:
        report = {"machine": describe_machine(), "results": [result]}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(result["resident_mb_per_stream"] > LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
