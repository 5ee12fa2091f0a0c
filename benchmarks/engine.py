"""Where an engine call's time goes: spectrogram, encoder, decoder steps, alignment, at several batch sizes.

    python benchmarks/engine.py --model tiny.en --batches 1 2 4 8

Each row is the quickest of several calls with windows of different streams. Spectrograms are shown twice:
computed whole, as for a stream's first window, and with all but the last second known, as for every later
one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ray_whisper_streaming.bench.machine import describe_machine
from ray_whisper_streaming.bench.material import find_material, load_clips
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.engines.ctranslate2 import CTranslate2Engine
from ray_whisper_streaming.engines.mel import MelCache
from ray_whisper_streaming.engines.window_decoder import Window, WindowDecoder
from ray_whisper_streaming.engines.window_engine import LoadedModel

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
                # One step more than tokens: the end of text.
                self.steps += 1 + max(len(item.tokens) for item in answer)
            return answer

        return timed


def quickest(repeat: int, call: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The call with the smallest total."""
    return min((call() for _ in range(repeat)), key=lambda row: row["total_ms"])


def measure(
    loaded: LoadedModel[Any], audios: Sequence[Int16Samples], window_s: int, repeat: int
) -> dict[str, float]:
    """Milliseconds of one batch by part, and jobs a second."""
    bands = loaded.backend.mel_bands

    def once() -> dict[str, float]:
        timed = TimedBackend(loaded.backend)
        backend: Any = timed
        decoder = WindowDecoder[Any](backend, loaded.languages)
        cache = MelCache(bands)
        whole_ms = _spectrograms(cache, audios, 0)[1]
        cache = MelCache(bands)
        _spectrograms(cache, audios, SAMPLE_RATE)
        mels, grown_ms = _spectrograms(cache, audios, 0)
        started = time.perf_counter()
        decoded = decoder.decode([Window(mel=mel, language="en") for mel in mels], window_s=window_s)
        total_ms = (time.perf_counter() - started) * 1000 + grown_ms
        parts = {name: timed.seconds[name] * 1000 for name in ("encode", "generate", "align")}
        return {
            "batch": len(audios),
            "mel_whole_ms": whole_ms,
            "mel_grown_ms": grown_ms,
            **{f"{name}_ms": value for name, value in parts.items()},
            "other_ms": total_ms - grown_ms - sum(parts.values()),
            "total_ms": total_ms,
            "steps": timed.steps,
            "step_ms": parts["generate"] / timed.steps,
            "words": sum(len(item.words) for item in decoded),
            "jobs_per_s": len(audios) / total_ms * 1000,
        }

    return quickest(repeat, once)


def _spectrograms(cache: MelCache, audios: Sequence[Int16Samples], left_out: int) -> tuple[list[Any], float]:
    started = time.perf_counter()
    mels = [cache.log_mel(str(row), 0, audio[: len(audio) - left_out]) for row, audio in enumerate(audios)]
    return mels, (time.perf_counter() - started) * 1000


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
    parser.add_argument("--threads", type=int, default=0, help="of the model on a CPU; 0: one per core")
    parser.add_argument("--seconds", type=float, default=6.0, help="of speech in a window")
    parser.add_argument("--window", type=int, default=10, help="seconds the window is padded to")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    loaded = CTranslate2Engine(args.model, args.device, args.compute_type, args.threads)._load()
    rows = [measure(loaded, windows(args.seconds, batch), args.window, args.repeat) for batch in args.batches]
    table = Table(title=f"{args.model}: {args.seconds:g} s of speech in windows of {args.window} s")
    for name in rows[0]:
        table.add_column(name.replace("_", "\n"), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.0f}" if value == int(value) else f"{value:.1f}" for value in row.values()))
    Console().print(table)
    if args.json:
        report = {"machine": describe_machine(), "results": rows}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
