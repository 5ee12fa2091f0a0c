"""Where an engine call's time goes: spectrogram, encoder, decoder steps, alignment, at several batch sizes.

    python benchmarks/engine.py --model tiny.en --batches 1 2 4 8
    python benchmarks/engine.py --engine onnxruntime --prefix 0.8 --beam 1 5

Each row is the quickest of several calls with windows of different streams; the engines take turns, so that a busy
moment of the machine meets both. Encoding includes spectrograms, computed whole; these are shown twice besides: whole,
as for a stream's first window, and with all but the last second known, as for every later one. ``--prefix`` forces a
share of each answer's words, as a stream does with what it has committed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from ray_whisper_streaming.bench.machine import write_report
from ray_whisper_streaming.bench.material import find_material, load_clips
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.core.transcript import join_text
from ray_whisper_streaming.engines.backend import Source
from ray_whisper_streaming.engines.factory import engine_factory_for
from ray_whisper_streaming.engines.mel import FRAMES_PER_S, MelCache
from ray_whisper_streaming.engines.window_decoder import Window, WindowDecoder
from ray_whisper_streaming.engines.window_engine import LoadedModel, WindowEngine

BANDS = 80
"""Mel bands of all models but large-v3."""

_streams = itertools.count()

STRIDE_S = 1.5
"""Between the starts of two windows cut from one recording."""


class TimedBackend:
    """A backend that adds up the seconds of each of its calls."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend, name)
        if name not in ("encode", "generate", "align", "take"):
            return value

        def timed(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            answer = value(*args, **options)
            self.seconds[name] += time.perf_counter() - started
            if name == "generate":
                # With the end of text.
                self.steps += 1 + max(len(item.tokens) for item in answer)
            return answer

        return timed


def prefixes_of(
    loaded: LoadedModel[Any], audios: Sequence[Int16Samples], window_s: int, share: float
) -> list[str]:
    """The first words of what an engine makes of each window."""
    decoder = WindowDecoder[Any](loaded.backend, loaded.languages)
    decoded = decoder.decode(
        [
            Window(source=source, padded_frames=window_s * FRAMES_PER_S, language="en")
            for source in _sources(audios)
        ]
    )
    return [join_text(item.words[: round(share * len(item.words))]) for item in decoded]


def measure(
    engine: str,
    loaded: LoadedModel[Any],
    audios: Sequence[Int16Samples],
    prefixes: Sequence[str],
    window_s: int,
    beam_size: int,
) -> dict[str, Any]:
    """Milliseconds of one batch by part, and jobs a second."""
    timed = TimedBackend(loaded.backend)
    backend: Any = timed
    decoder = WindowDecoder[Any](backend, loaded.languages)
    whole_ms = _spectrograms_ms(MelCache(BANDS), audios, 0)
    cache = MelCache(BANDS)
    _spectrograms_ms(cache, audios, SAMPLE_RATE)
    grown_ms = _spectrograms_ms(cache, audios, 0)
    wanted = [
        Window(source=source, padded_frames=window_s * FRAMES_PER_S, language="en", prefix=prefix)
        for source, prefix in zip(_sources(audios), prefixes, strict=True)
    ]
    started = time.perf_counter()
    decoded = decoder.decode(wanted, beam_size=beam_size)
    total_ms = (time.perf_counter() - started) * 1000
    parts = {name: timed.seconds[name] * 1000 for name in ("encode", "generate", "align")}
    return {
        "engine": engine,
        "batch": len(audios),
        "beam": beam_size,
        "mel_whole_ms": whole_ms,
        "mel_grown_ms": grown_ms,
        **{f"{name}_ms": value for name, value in parts.items()},
        "other_ms": total_ms - sum(parts.values()),
        "total_ms": total_ms,
        "longest": timed.steps,
        "words": sum(len(item.words) for item in decoded),
        "jobs_per_s": len(audios) / total_ms * 1000,
    }


def _sources(audios: Sequence[Int16Samples]) -> list[Source]:
    """Each a stream that no engine has met, so that nothing of it is remembered."""
    return [Source(f"{next(_streams)}", 0, audio) for audio in audios]


def _spectrograms_ms(cache: MelCache, audios: Sequence[Int16Samples], left_out: int) -> float:
    started = time.perf_counter()
    for row, audio in enumerate(audios):
        cache.log_mel(str(row), 0, audio[: len(audio) - left_out])
    return (time.perf_counter() - started) * 1000


def windows(seconds: float, count: int) -> list[Int16Samples]:
    """Windows of speech from different recordings, taken in turn."""
    clips = load_clips(find_material())
    found: list[Int16Samples] = []
    for index in range(count):
        audio = clips[index % len(clips)].audio
        length = round(seconds * SAMPLE_RATE)
        start = round(index // len(clips) * STRIDE_S * SAMPLE_RATE) % max(1, len(audio) - length)
        found.append(np.ascontiguousarray(audio[start : start + length]))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compute-type", default="auto")
    parser.add_argument("--engine", nargs="+", default=["ctranslate2", "onnxruntime"])
    parser.add_argument("--seconds", type=float, default=6.0, help="of speech in a window")
    parser.add_argument("--window", type=int, default=10, help="seconds the window is padded to")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--prefix", type=float, default=0.0, help="share of each answer that is forced")
    parser.add_argument("--beam", type=int, nargs="+", default=[1], help="beam sizes; 1 is greedy")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    process = psutil.Process()
    loaded: dict[str, LoadedModel[Any]] = {}
    loading: dict[str, dict[str, float]] = {}
    for name in args.engine:
        engine = engine_factory_for(
            name, model=args.model, device=args.device, compute_type=args.compute_type
        )()
        assert isinstance(engine, WindowEngine)
        before_bytes, started = process.memory_info().rss, time.perf_counter()
        loaded[name] = engine._load()
        load_s, grown_bytes = time.perf_counter() - started, process.memory_info().rss - before_bytes
        loading[name] = {"load_s": load_s, "memory_mb": grown_bytes / 1e6}
        print(f"{name}: loaded in {load_s:.1f} s, {grown_bytes / 1e6:.0f} MB")
    rows: list[dict[str, Any]] = []
    for batch in args.batches:
        audios = windows(args.seconds, batch)
        first = next(iter(loaded.values()))
        prefixes = prefixes_of(first, audios, args.window, args.prefix)
        calls = [
            measure(name, model, audios, prefixes, args.window, beam)
            for _ in range(args.repeat)
            for beam in args.beam
            for name, model in loaded.items()
        ]
        rows += [
            min(
                (row for row in calls if (row["engine"], row["beam"]) == (name, beam)),
                key=lambda row: row["total_ms"],
            )
            for name in loaded
            for beam in args.beam
        ]
    table = Table(title=f"{args.model}: {args.seconds:g} s of speech in windows of {args.window} s")
    for name in rows[0]:
        table.add_column(name.replace("_", "\n"), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    if args.json:
        write_report(args.json, rows, loading=loading)
    return 0


if __name__ == "__main__":
    sys.exit(main())
