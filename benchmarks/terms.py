"""Whether terms given beforehand are heard more often, and whether they turn up where nobody says them.

    python benchmarks/terms.py --model base --json terms.json
    python benchmarks/terms.py --terms Helstone Zarathustra distichs

The terms are given to every stream at once, as a glossary is: to those that say one of them and to those that don't.
The recordings without speech are played without voice activity, so that nothing but Whisper keeps quiet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ray_whisper_streaming.bench.lockstep import run_lockstep
from ray_whisper_streaming.bench.machine import write_report
from ray_whisper_streaming.bench.material import Clip, load_clip, read_manifest
from ray_whisper_streaming.bench.text_errors import find_edits, split_text, word_error_rate
from ray_whisper_streaming.bench.variants import Variant
from ray_whisper_streaming.engines.base import Engine
from ray_whisper_streaming.engines.factory import engine_factory_for

MANIFEST = Path(__file__).resolve().parents[2] / "shared" / "speech" / "manifest.jsonl"

TERMS = (
    "Helstone", "Thornton", "emetic", "gullet", "alimentary", "apomorphine", "distichs", "eunuch", "Zau", "Makan",
    "Nuzhat", "Zaman", "Zarathustra", "kine", "Merneptah", "Ephraim", "Manasseh", "sojourn", "Gutenberg", "Schoeffer",
    "Basle", "Sweynheim", "Pannartz",
)  # fmt: skip
"""Names and rare words of the long English recordings at hand; Whisper's small models miss most of them."""

WAYS = ("", "hotwords", "prompt")
"""Options by which terms are given; the first: not at all."""


def count_terms(said: str, heard: str, terms: frozenset[str], language: str) -> tuple[int, int, int]:
    """How often the terms were said, how often of these they were heard, and how often they were heard in vain."""
    spoken = right = in_vain = 0
    for edit in find_edits(said, heard, language):
        spoken += sum(word in terms for word in edit.said)
        if edit.kind == "equal":
            right += sum(word in terms for word in edit.said)
        else:
            in_vain += sum(word in terms for word in edit.heard)
    return spoken, right, in_vain


def measure(
    engine: Engine, clips: Sequence[Clip], silent: Sequence[Clip], way: str, args: argparse.Namespace
) -> dict[str, Any]:
    """A row of the table."""
    # Normalised as the texts are, so that they can be found there.
    terms = frozenset(split_text(" ".join(args.terms), args.language))
    variant = Variant("", {way: ", ".join(args.terms)} if way else {}).in_steps(args.step_s)
    logs, _ = run_lockstep(engine, clips, variant.options(args.language), step_s=args.step_s)
    counts = [
        count_terms(clip.text, log.text, terms, args.language) for clip, log in zip(clips, logs, strict=True)
    ]
    spoken, right, in_vain = (sum(column) for column in zip(*counts, strict=True))
    alone = Variant("", {**variant.values, "voice_activity": False}).options(args.language)
    noise, _ = run_lockstep(engine, silent, alone, step_s=args.step_s)
    leaked = [word for log in noise for word in split_text(log.text, args.language)]
    return {
        "given": way or "not",
        "said": spoken,
        "recall": right / spoken if spoken else None,
        "in_vain": in_vain,
        "wer": word_error_rate([clip.text for clip in clips], [log.text for log in logs], args.language),
        "words_without_speech": len(leaked),
        "terms_without_speech": sum(word in terms for word in leaked),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--terms", nargs="+", default=list(TERMS))
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--language", default="en")
    parser.add_argument("--step-s", type=float, default=0.8, help="audio between two passes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    entries = read_manifest(args.manifest)
    clips = [load_clip(entry) for entry in entries if entry.text and entry.language == args.language]
    silent = [load_clip(entry) for entry in entries if not entry.text]
    engine = engine_factory_for("auto", model=args.model)()
    engine.warm_up()
    rows = [measure(engine, clips, silent, way, args) for way in WAYS]
    table = Table("terms given", "said", "heard", "in vain", "word errors", "words (terms) without speech")
    for row in rows:
        recall = "-" if row["recall"] is None else f"{row['recall']:.0%}"
        beside = f"{row['words_without_speech']} ({row['terms_without_speech']})"
        table.add_row(
            row["given"], str(row["said"]), recall, str(row["in_vain"]), f"{row['wer']:.1%}", beside
        )
    Console().print(table)
    if args.json:
        write_report(args.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
