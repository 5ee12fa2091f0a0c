"""How soon and how rightly the language of a stream is settled when it is not given.

    python benchmarks/languages.py --model base --json languages.json
    python benchmarks/languages.py --model base --allowed en de es fr pt zh

Every recording that the manifest has a language of is cut into pieces, and each piece is a stream with ``language
"auto"``, played in fixed steps until its language is settled or the piece is over. Speech is counted, not time: the
seconds in which voice activity hears a voice.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ray_whisper_streaming.bench.machine import write_report
from ray_whisper_streaming.bench.material import load_clip, read_manifest
from ray_whisper_streaming.core.endpointing import VOICE_FRAME
from ray_whisper_streaming.core.events import LanguageDetected
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples, Result
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.stream import Stream
from ray_whisper_streaming.engines.base import Engine
from ray_whisper_streaming.engines.factory import engine_factory_for
from ray_whisper_streaming.engines.vad import SileroVad, VadState

MANIFEST = Path(__file__).resolve().parents[2] / "shared" / "speech" / "manifest.jsonl"

VOICE = 0.5
"""Probability from which on a frame counts as speech."""

WANTED_S = 3.0


@dataclass(frozen=True)
class Case:
    name: str
    language: str
    audio: Int16Samples


@dataclass(frozen=True)
class Found:
    """What became of a case: the language settled on, after how much speech; and what each pass would have said."""

    case: Case
    language: str | None
    speech_s: float
    passes: tuple[str, ...]


def listen(engine: Engine, vad: SileroVad, case: Case, options: StreamOptions, step_s: float) -> Found:
    stream, voice = Stream(case.name, options), VadState()
    step = round(step_s * SAMPLE_RATE)
    speech = 0
    passes: list[str] = []
    for position in range(step, len(case.audio) + step, step):
        stream.receive_audio(case.audio[position - step : position])
        if position >= len(case.audio):
            stream.receive_eof()
        while (samples := stream.voice_input()) is not None:
            [probabilities] = vad.score([voice], [samples])
            speech += int((np.asarray(probabilities) >= VOICE).sum())
            stream.receive_voice(probabilities)
        while not stream.over and (job := stream.next_job(now=0.0)) is not None:
            [outcome] = engine.transcribe([job])
            assert isinstance(outcome, Result)
            passes.append(outcome.language)
            stream.receive_result(outcome)
        for event in stream.events():
            if isinstance(event, LanguageDetected):
                return Found(case, event.language, speech * VOICE_FRAME / SAMPLE_RATE, tuple(passes))
    return Found(case, None, speech * VOICE_FRAME / SAMPLE_RATE, tuple(passes))


def summary(language: str, found: list[Found]) -> dict[str, Any]:
    settled = [one for one in found if one.language is not None]
    right = [one for one in settled if one.language == one.case.language]
    soon = [one for one in right if one.speech_s <= WANTED_S]
    return {
        "language": language,
        "streams": len(found),
        "right_in_time": len(soon) / len(found),
        "right": len(right) / len(found),
        "wrong": [(one.case.name, one.language) for one in settled if one not in right],
        "unsettled": len(found) - len(settled),
        "speech_s": float(np.median([one.speech_s for one in right])) if right else None,
        "passes_right": float(np.mean([code == one.case.language for one in found for code in one.passes])),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--model", default="base")
    parser.add_argument(
        "--allowed", nargs="*", default=[], help="languages that may be found; without it, all"
    )
    parser.add_argument("--step-s", type=float, default=0.5, help="audio between two passes")
    parser.add_argument("--piece-s", type=float, default=10.0)
    parser.add_argument("--pieces", type=int, default=6, help="of each recording, at most")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cases: list[Case] = []
    for entry in read_manifest(arguments.manifest):
        if entry.text and entry.language:
            audio = load_clip(entry).audio
            length = round(arguments.piece_s * SAMPLE_RATE)
            starts = range(0, max(1, len(audio) - length // 2), length)[: arguments.pieces]
            cases += [
                Case(
                    f"{entry.path.stem} at {start // SAMPLE_RATE} s",
                    entry.language,
                    audio[start : start + length],
                )
                for start in starts
            ]
    engine = engine_factory_for("auto", model=arguments.model)()
    engine.warm_up()
    options = StreamOptions(model=arguments.model, allowed_languages=tuple(arguments.allowed), beam_size=1)
    vad = SileroVad()
    by_language: defaultdict[str, list[Found]] = defaultdict(list)
    for case in track(cases, "listening", console=Console(stderr=True)):
        by_language[case.language].append(listen(engine, vad, case, options, arguments.step_s))
    rows = [summary(code, found) for code, found in sorted(by_language.items())]
    rows.append(summary("all", [one for found in by_language.values() for one in found]))
    table = Table(
        "language",
        "streams",
        f"right in {WANTED_S:g} s",
        "right",
        "wrong",
        "open",
        "speech s",
        "passes right",
    )
    for row in rows:
        speech_s = "-" if row["speech_s"] is None else f"{row['speech_s']:.1f}"
        table.add_row(
            row["language"],
            str(row["streams"]),
            f"{row['right_in_time']:.0%}",
            f"{row['right']:.0%}",
            str(len(row["wrong"])),
            str(row["unsettled"]),
            speech_s,
            f"{row['passes_right']:.0%}",
        )
    Console().print(table)
    for name, code in rows[-1]["wrong"]:
        print(f"{name}: {code}")
    if arguments.json:
        write_report(arguments.json, rows, model=arguments.model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
