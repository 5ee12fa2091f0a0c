"""How far live translation is from translation in one go, and how late it comes, for any options.

    python benchmarks/translation.py --model base --json translation.json
    python benchmarks/translation.py --variant policy=agreement --variant policy=cutoff,commit_delay_s=2

Recordings seldom come with a translation. So live text is compared with what faster-whisper makes of the same
recordings in one go, with five beams: the share of words that differ says how far live text is from that, not how
wrong it is. Greedy search in one go stands beside it. Each recording is a stream in fixed steps; delays are from the
end of a word, by the system's own times, to the end of the step that committed it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ray_whisper_streaming.bench.lockstep import run_lockstep
from ray_whisper_streaming.bench.machine import write_report
from ray_whisper_streaming.bench.material import Clip, load_clip, read_manifest
from ray_whisper_streaming.bench.offline import BEAM_SIZE, load_whisper, transcribe_offline
from ray_whisper_streaming.bench.scoring import StreamLog
from ray_whisper_streaming.bench.text_errors import word_error_rate
from ray_whisper_streaming.bench.variants import Variant, parse_variant
from ray_whisper_streaming.engines.base import Engine
from ray_whisper_streaming.engines.factory import engine_factory_for

MANIFEST = Path(__file__).resolve().parents[2] / "shared" / "speech" / "manifest.jsonl"

VARIANTS = (
    "policy=hybrid",
    "policy=cutoff,commit_delay_s=1",
    "policy=cutoff,commit_delay_s=2",
    "policy=cutoff,commit_delay_s=3",
    "policy=agreement",
    "policy=agreement,agreement_passes=3",
)
TARGET = "en"
"""Whisper translates into English alone."""


def delays(log: StreamLog) -> list[float]:
    """Seconds from the end of each word until it was committed."""
    return [shown.at_s - word.end_s for shown in log.shown if shown.committed for word in shown.words]


def measure(
    engine: Engine,
    clips: dict[str, list[Clip]],
    wanted: Sequence[str],
    variant: Variant,
    step_s: float,
) -> dict[str, Any]:
    """``clips`` by their language; ``wanted``: their translations, in the same order."""
    variant = Variant(variant.name, {**variant.values, "task": "translate"}).in_steps(step_s)
    logs: list[StreamLog] = []
    for language, spoken in clips.items():
        logs += run_lockstep(engine, spoken, variant.options(language), step_s=step_s)[0]
    late_s = [seconds for log in logs for seconds in delays(log)]
    return {
        "way": variant.name,
        "differing": word_error_rate(wanted, [log.text for log in logs], TARGET),
        "delay_s": {"mean": float(np.mean(late_s)), "p95": float(np.percentile(late_s, 95))}
        if late_s
        else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--language", nargs="+", default=["de", "es", "fr", "pt"], help="of the recordings")
    parser.add_argument("--model", default="base")
    parser.add_argument(
        "--variant", action="append", help="options of the streams, as of ray-whisper evaluate"
    )
    parser.add_argument("--step-s", type=float, default=1.0, help="audio between two passes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    clips: dict[str, list[Clip]] = {language: [] for language in args.language}
    for entry in read_manifest(args.manifest):
        if entry.text and entry.language in clips:
            clips[entry.language].append(load_clip(entry))
    count = sum(map(len, clips.values()))
    if not count:
        parser.error(f"{args.manifest} has no recording in {', '.join(args.language)}")

    whisper = load_whisper(args.model)
    wanted, greedy = (
        [
            text
            for language, spoken in clips.items()
            for text in transcribe_offline(whisper, spoken, language, task="translate", beam_size=beam_size)
        ]
        for beam_size in (BEAM_SIZE, 1)
    )
    engine = engine_factory_for("auto", model=args.model)()
    engine.warm_up()
    rows: list[dict[str, Any]] = [
        {"way": "in one go, greedily", "differing": word_error_rate(wanted, greedy, TARGET), "delay_s": None}
    ]
    variants = map(parse_variant, args.variant or VARIANTS)
    rows += [measure(engine, clips, wanted, variant, args.step_s) for variant in variants]
    seconds = sum(clip.seconds for spoken in clips.values() for clip in spoken)
    words = sum(len(text.split()) for text in wanted)
    table = Table("way", "words that differ %", "delay s, mean / p95")
    for row in rows:
        late = row["delay_s"]
        table.add_row(
            row["way"],
            f"{100 * row['differing']:.1f}",
            f"{late['mean']:.2f} / {late['p95']:.2f}" if late else "",
        )
    Console().print(f"{args.model}; recordings: {count}, {seconds / 60:.1f} minutes, {words} English words")
    Console().print(table)
    if args.json:
        write_report(args.json, rows, model=args.model, words=words, audio_s=seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
