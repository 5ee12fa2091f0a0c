"""Words made up where nobody speaks: hours of noise, music, murmur and silence, as streams played in fixed steps.

    python benchmarks/non_speech.py --hours 1 --model base --language en de zh --json non_speech.json
    python benchmarks/non_speech.py --hours 1 --no-voice-activity

Every stream is a random succession of the recordings that the manifest lists without a text (and of digital silence),
each from a random place and at a random loudness; the same seed gives the same hour. All of it should give no word.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ray_whisper_streaming.bench.conditions import amplify
from ray_whisper_streaming.bench.lockstep import run_lockstep
from ray_whisper_streaming.bench.machine import write_report
from ray_whisper_streaming.bench.material import Clip, load_clip, read_manifest
from ray_whisper_streaming.bench.scoring import split_tokens
from ray_whisper_streaming.bench.variants import Variant
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.base import Engine
from ray_whisper_streaming.engines.factory import engine_factory_for

MANIFEST = Path(__file__).resolve().parents[2] / "shared" / "speech" / "manifest.jsonl"

STREAMS = 8
HOUR_S = 3600.0

SHORTEST_S, LONGEST_S = 3.0, 30.0
"""Of one sound in a stream."""

GAINS_DB = (-20.0, 6.0)

SILENCE_SHARE = 0.1
"""Of the sounds."""


def make_stream(sounds: list[Clip], seconds: float, random: np.random.Generator) -> tuple[Clip, list[str]]:
    """A succession of sounds, and the name of the sound in each of its seconds."""
    parts: list[Int16Samples] = []
    names: list[str] = []
    while len(names) < seconds:
        length_s = int(random.uniform(SHORTEST_S, LONGEST_S))
        if random.random() < SILENCE_SHARE:
            part, name = np.zeros(length_s * SAMPLE_RATE, np.int16), "silence"
        else:
            sound = sounds[random.integers(len(sounds))]
            begin = random.integers(len(sound.audio))
            part = np.take(sound.audio, np.arange(begin, begin + length_s * SAMPLE_RATE), mode="wrap")
            part, name = amplify(part, random.uniform(*GAINS_DB)), sound.name
        parts.append(part)
        names += [name] * length_s
    return Clip(name="no speech", audio=np.concatenate(parts), text=""), names


def measure(
    engine: Engine, streams: list[tuple[Clip, list[str]]], variant: Variant, step_s: float, language: str
) -> dict[str, Any]:
    """A row of the table: what was committed, where, and how sure of it Whisper was."""
    options = variant.in_steps(step_s).options(language)
    logs, work = run_lockstep(engine, [clip for clip, _ in streams], options, step_s=step_s)
    made_up: list[dict[str, Any]] = []
    for log, (_, names) in zip(logs, streams, strict=True):
        words: list[Word] = list(log.committed)
        for word in words:
            sound = names[min(int(word.start_s), len(names) - 1)]
            made_up.append({"word": word.text, "probability": round(word.probability, 2), "sound": sound})
    hours = sum(clip.seconds for clip, _ in streams) / HOUR_S
    count = sum(len(split_tokens(log.committed, language)) for log in logs)
    return {
        "language": language,
        "voice_activity": options.voice_activity,
        "hours": round(hours, 3),
        "jobs": work.jobs,
        "words": count,
        "words_per_hour": round(count / hours, 1),
        "made_up": made_up,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--language", nargs="+", default=["en"])
    parser.add_argument("--step-s", type=float, default=1.0, help="audio between two passes")
    parser.add_argument("--no-voice-activity", dest="voice_activity", action="store_false")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.hours > 0:
        parser.error("--hours must be more than 0")
    sounds = [load_clip(entry) for entry in read_manifest(arguments.manifest) if not entry.text]
    if not sounds:
        parser.error(f"{arguments.manifest.name} lists no recording without a text")
    random = np.random.default_rng(arguments.seed)
    streams = [make_stream(sounds, arguments.hours * HOUR_S / STREAMS, random) for _ in range(STREAMS)]
    engine = engine_factory_for("auto", model=arguments.model)()
    engine.warm_up()
    variant = Variant("", {"voice_activity": arguments.voice_activity})
    rows = [measure(engine, streams, variant, arguments.step_s, code) for code in arguments.language]
    table = Table("language", "voice activity", "hours", "passes", "words", "words per hour", "some of them")
    for row in rows:
        some = " ".join(word["word"].strip() for word in row["made_up"][:12])
        switch = "on" if row["voice_activity"] else "off"
        counts = (f"{row['hours']:.2f}", str(row["jobs"]), str(row["words"]), f"{row['words_per_hour']:.1f}")
        table.add_row(row["language"], switch, *counts, some)
    Console().print(table)
    if arguments.json:
        write_report(arguments.json, rows, model=arguments.model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
