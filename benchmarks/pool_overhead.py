"""What a pool adds to the time of the engine: from the submission of a job to its result, less the inference.

    python benchmarks/pool_overhead.py --json overhead.json

The engine sleeps 10 ms and answers with 30 words; a job has 15 s of audio (480 kB). Two loads on each pool:
one job at a time, and many streams that each give the next job as soon as the last one is answered. The
second says how many jobs a second the pool can move; there the overhead holds the wait for batches of others.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ray_whisper_streaming.bench.machine import write_report
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Job, Outcome, Result
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.base import EngineCapabilities
from ray_whisper_streaming.pool.base import Recognizer

INFERENCE_S = 0.010
WINDOW_S = 15
WORDS = 30
WARM_UP_JOBS = 20
PACE_S = 0.02
"""Pause between two jobs of the lone stream: nobody submits without pause."""

TARGET_P50_MS = {"local": 5.0, "ray": 15.0}


class SleepingEngine:
    """Takes `INFERENCE_S` for any batch."""

    capabilities = EngineCapabilities(name="sleeping", device="cpu", multilingual=True, max_batch_size=64)

    def warm_up(self) -> None:
        pass

    def transcribe(self, jobs: Sequence[Job]) -> list[Outcome]:
        time.sleep(INFERENCE_S)
        return [Result(job_id=job.job_id, words=make_words(job.start_sample / SAMPLE_RATE)) for job in jobs]

    def close(self) -> None:
        pass


def make_words(start_s: float) -> tuple[Word, ...]:
    step_s = WINDOW_S / WORDS
    return tuple(
        Word(f" word{number}", start_s + number * step_s, start_s + (number + 1) * step_s, 0.9)
        for number in range(WORDS)
    )


async def one_stream(pool: Recognizer, stream: int, jobs: int, pause_s: float) -> list[float]:
    """Seconds of overhead of each job."""
    noise = np.random.default_rng(stream).integers(-3000, 3000, WINDOW_S * SAMPLE_RATE, np.int16)
    overheads: list[float] = []
    for number in range(jobs):
        job = Job(
            job_id=f"{stream}/{number}", stream_id=str(stream), audio=noise, deadline=time.monotonic() + 1
        )
        started = time.perf_counter()
        result = await pool.submit(job)
        overheads.append(time.perf_counter() - started - result.timings.inference_s)
        await asyncio.sleep(pause_s)
    return overheads


def summary(overheads: list[float], seconds: float) -> dict[str, float]:
    cuts = statistics.quantiles(overheads, n=100)
    return {
        "jobs": len(overheads),
        "p50_ms": 1000 * cuts[49],
        "p95_ms": 1000 * cuts[94],
        "p99_ms": 1000 * cuts[98],
        "jobs_per_s": len(overheads) / seconds,
    }


async def measure(name: str, pool: Recognizer, jobs: int, streams: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    await asyncio.to_thread(pool.start)
    try:
        await one_stream(pool, 0, WARM_UP_JOBS, 0.0)
        for count, pause_s in ((1, PACE_S), (streams, 0.0)):
            started = time.perf_counter()
            each = await asyncio.gather(
                *(one_stream(pool, stream, jobs // count, pause_s) for stream in range(count))
            )
            seconds = time.perf_counter() - started
            rows.append(
                {
                    "pool": name,
                    "streams": count,
                    **summary(list(itertools.chain.from_iterable(each)), seconds),
                }
            )
    finally:
        await pool.aclose()
    return rows


def make_pool(name: str) -> Recognizer:
    if name == "local":
        from ray_whisper_streaming.pool.local import LocalPool

        return LocalPool(SleepingEngine)
    from ray_whisper_streaming.pool.ray_pool import RayPool

    return RayPool(SleepingEngine, workers=1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--jobs", type=int, default=300, help="jobs of each load")
    parser.add_argument("--streams", type=int, default=32, help="streams of the second load")
    parser.add_argument("--pool", choices=["local", "ray"], action="append", help="default: both")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in args.pool or ["local", "ray"]:
        rows += asyncio.run(measure(name, make_pool(name), args.jobs, args.streams))
    write_report(args.json, rows, inference_s=INFERENCE_S, window_s=WINDOW_S)
    table = Table("pool", "streams", "p50 ms", "p95 ms", "p99 ms", "jobs/s", "target p50")
    missed = False
    for row in rows:
        target = TARGET_P50_MS[row["pool"]] if row["streams"] == 1 else None
        missed |= target is not None and row["p50_ms"] > target
        figures = [f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms", "jobs_per_s")]
        table.add_row(row["pool"], str(row["streams"]), *figures, f"<= {target:g}" if target else "")
    Console().print(table)
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
