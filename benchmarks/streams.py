"""How many live streams one machine takes, how late their words are, and how right.

    python benchmarks/streams.py --streams 1,2,4,8 --seconds 60 --baseline --find-max --json streams.json

See README.md beside this file for every figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, get_args

from rich.console import Console

from ray_whisper_streaming import AsyncPool, StreamOptions, TrimmingOptions
from ray_whisper_streaming.bench.capacity import find_max
from ray_whisper_streaming.bench.machine import describe_machine
from ray_whisper_streaming.bench.material import Clip, find_material, load_clips, make_material
from ray_whisper_streaming.bench.report import holds, make_table
from ray_whisper_streaming.bench.text_errors import word_error_rate
from ray_whisper_streaming.bench.trial import run_trial
from ray_whisper_streaming.core.options import EndpointingOptions
from ray_whisper_streaming.engines.factory import EngineName

WARM_UP_S = 4.0
"""One stream of this length goes before the measurement: the voice detector and the first real windows are
warm then."""

OFFLINE_STREAMS = 8
"""Streams whose audio is transcribed offline too, at most: the first ones, which every row has."""

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "speech"
"""Recorded speech beside the repository."""

T = TypeVar("T")

progress = Console(stderr=True, log_path=False)


class Measurement:
    """One run of this program: rows come in one by one, and are kept on disk as they come."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.folder = find_material(args.audio, SPEECH)
        self.clips = load_clips(self.folder, args.language)
        self.options = stream_options(args)
        self.rows: list[dict[str, Any]] = []
        self.report: dict[str, Any] = {
            "machine": describe_machine(),
            "material": self._describe(),
            "results": self.rows,
        }

    def materials(self, streams: int) -> list[Clip]:
        return [make_material(self.clips, index, self.args.seconds) for index in range(streams)]

    async def run(self) -> None:
        args = self.args
        pool = AsyncPool(
            args.model,
            backend=args.backend,
            device=args.device,
            compute_type=args.compute_type,
            engine=args.engine,
            workers=args.workers,
        )
        async with pool:
            progress.log("warming up")
            await run_trial(
                pool, [make_material(self.clips, 0, WARM_UP_S)], self.options, language=args.language
            )
            for streams in args.streams:
                await self._trial(pool, streams)
            if args.find_max:
                known = {row["streams"]: holds(row) for row in self.rows}

                async def live(streams: int) -> bool:
                    return holds(await self._trial(pool, streams))

                self.report["max_streams"] = await find_max(live, known, args.max_limit)
        # The pool is closed from here on: the others have the machine for themselves.
        if args.whisper_online:
            self._measure_whisper_online()
        if args.baseline:
            await self._measure_original()
        if args.offline:
            self._measure_offline()
        self._save()

    async def _trial(self, pool: AsyncPool, streams: int) -> dict[str, Any]:
        progress.log(f"{streams} streams of {self.args.seconds:g} s")
        row = await run_trial(
            pool,
            self.materials(streams),
            self.options,
            language=self.args.language,
            texts=self.args.texts,
        )
        row["holds"] = holds(row)
        self.rows.append(row)
        self._save()
        return row

    async def _measure_original(self) -> None:
        known: dict[int, bool] = {}
        for streams in self.args.streams:
            baseline = self._original(streams)
            known[streams] = holds(baseline)
            row = next(row for row in self.rows if row["streams"] == streams)
            row["baseline"] = baseline
            ours, theirs = (r["commit_latency_s"]["p95"] for r in (row, baseline))
            row["ratio"] = theirs / ours if ours and theirs else None
            self._save()
        if self.args.find_max:

            async def live(streams: int) -> bool:
                return holds(self._original(streams))

            self.report["baseline_max_streams"] = await find_max(live, known, self.args.max_limit)

    def _measure_whisper_online(self) -> None:
        from original import run_whisper_online

        for row in self.rows:
            if row["streams"] in self.args.streams:
                progress.log(f"{row['streams']} streams of whisper_online")
                same = in_child(run_whisper_online, self._task(), row["streams"])
                row["whisper_online"] = {**same, "holds": holds(same)}
                self._save()

    def _original(self, streams: int) -> dict[str, Any]:
        from original import run_original

        progress.log(f"{streams} streams the original's way")
        row = in_child(run_original, self._task(), streams)
        return {**row, "holds": holds(row)}

    def _measure_offline(self) -> None:
        from original import run_offline

        count = min(max(row["streams"] for row in self.rows), OFFLINE_STREAMS)
        progress.log(f"{count} streams offline")
        texts = in_child(run_offline, self._task(), count)
        said = [clip.text for clip in self.materials(count)]
        for row in self.rows:
            part = slice(row["streams"])
            for key, heard in texts.items():
                row[key] = word_error_rate(said[part], heard[part], self.args.language)
            row["offline_streams"] = len(said[part])

    def _task(self) -> Any:
        from original import Task

        args = self.args
        return Task(
            args.model,
            args.device,
            args.compute_type,
            args.language,
            self.folder,
            args.seconds,
            engine=args.engine,
        )

    def _describe(self) -> dict[str, Any]:
        return {
            "clips": [clip.name for clip in self.clips],
            "seconds": round(sum(clip.seconds for clip in self.clips), 1),
            "word_times": all(clip.words for clip in self.clips),
        }

    def _save(self) -> None:
        self.args.json.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")


def in_child(work: Callable[..., T], *args: Any) -> T:
    """Do the work in a fresh process, so that its memory is not counted as ours nor ours as its."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as child:
        return child.submit(work, *args).result()


def stream_options(args: argparse.Namespace) -> StreamOptions:
    """The options of every stream; what was not given keeps the library's default."""

    def given(*names: str) -> dict[str, Any]:
        return {name: getattr(args, name) for name in names if getattr(args, name) is not None}

    return StreamOptions(
        language=args.language,
        voice_activity=args.vad,
        trimming=TrimmingOptions(**given("trim_after_s", "keep_s", "hard_limit_s")),
        endpointing=EndpointingOptions(**given("min_silence_s")),
        **given("policy", "commit_delay_s", "agreement_passes", "update_interval_s", "beam_size", "context"),
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--streams", type=_counts, default=[1, 2, 4, 8], help="numbers of streams, e.g. 1,2,4,8"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each stream")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--audio", type=Path, help="folder of clips with manifest.jsonl or samples.json")
    parser.add_argument("--baseline", action="store_true", help="the same streams the original's way, too")
    parser.add_argument(
        "--whisper-online", action="store_true", help="the same streams by whisper_online's processors, too"
    )
    parser.add_argument("--find-max", action="store_true", help="look for the largest number that is live")
    parser.add_argument("--max-limit", type=int, default=512, help="most streams --find-max tries")
    parser.add_argument(
        "--no-offline", dest="offline", action="store_false", help="no offline word error rate"
    )
    parser.add_argument(
        "--texts", action="store_true", help="keep what was said and committed, in the JSON file"
    )
    pool = parser.add_argument_group("the pool")
    pool.add_argument("--model", default="tiny.en")
    pool.add_argument("--backend", choices=("local", "ray"), default="local")
    pool.add_argument("--device", default="auto")
    pool.add_argument("--compute-type", default="auto")
    pool.add_argument("--engine", choices=get_args(EngineName), default="auto", help="of our side")
    pool.add_argument("--workers", type=int)
    stream = parser.add_argument_group("the streams (see StreamOptions)")
    stream.add_argument("--language", default="en")
    stream.add_argument("--update-interval-s", type=float)
    stream.add_argument("--policy", choices=("hybrid", "cutoff", "agreement"))
    stream.add_argument("--commit-delay-s", type=float)
    stream.add_argument("--agreement-passes", type=int)
    stream.add_argument("--trim-after-s", type=float)
    stream.add_argument("--keep-s", type=float)
    stream.add_argument("--hard-limit-s", type=float)
    stream.add_argument("--min-silence-s", type=float)
    stream.add_argument("--beam-size", type=int)
    stream.add_argument("--context", action="store_true", default=None)
    stream.add_argument("--no-vad", dest="vad", action="store_false")
    return parser.parse_args(arguments)


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("at least 1 stream")
    return counts


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    measurement = Measurement(args)
    asyncio.run(measurement.run())
    title = f"{args.model}, {args.backend}, {args.seconds:g} s a stream; dim: not live"
    Console().print(make_table(measurement.rows, title))
    for key in ("max_streams", "baseline_max_streams"):
        if key in measurement.report:
            Console().print(f"{key}: {measurement.report[key]}")
    progress.log(f"written to {args.json}")


if __name__ == "__main__":
    main()
