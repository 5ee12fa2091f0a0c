"""How soon the end of an utterance is told, and how often it is told inside a sentence: recordings played in steps.

    python benchmarks/endpoints.py --variant min_silence_s=0.8 --variant min_silence_s=1.2,sentence_silence_s=0.6

Where a sentence ends is read off the punctuation of the references. For those that have none it is taken from an
offline transcript by another model (``--punctuate``), which knows what follows.
"""

from __future__ import annotations

import argparse
import bisect
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_whisper_streaming.bench.lockstep import run_lockstep
from ray_whisper_streaming.bench.material import Clip, find_material, load_clip, read_manifest
from ray_whisper_streaming.bench.offline import load_whisper, transcribe_offline
from ray_whisper_streaming.bench.scoring import StreamLog, align, percentiles, split_tokens
from ray_whisper_streaming.bench.text_errors import word_error_rate
from ray_whisper_streaming.bench.variants import parse_variant
from ray_whisper_streaming.core.transcript import SENTENCE_ENDINGS, Word
from ray_whisper_streaming.engines.factory import engine_factory_for

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "speech"
"""Recorded speech beside the repository."""

CLIPS = (
    "en_ls_1688_142285", "en_ls_1998_15444", "en_ls_2414_128291",
    "harvard", "beckett", "two_cities", "jfk", "en_sonnet003",
)  # fmt: skip

VARIANTS = (
    "min_silence_s=0.8",
    "min_silence_s=0.5",
    "min_silence_s=0.4",
    "min_silence_s=1.2,sentence_silence_s=0.6",
    "min_silence_s=0.8,sentence_silence_s=0.6",
    "min_silence_s=1.2,sentence_silence_s=0.4",
    "min_silence_s=0.8,sentence_silence_s=0.4",
)

SLACK_S = 1.0
"""What ends later than this behind the last word of a reference was said behind what the reference has."""

CLOSERS = "\"'”’)"


def load(args: argparse.Namespace) -> list[Clip]:
    """The clips that have word times."""
    source = args.manifest or find_material(speech=SPEECH).parent / "manifest.jsonl"
    entries = [entry for entry in read_manifest(source) if entry.path.stem in args.clips and entry.words]
    if not entries:
        raise SystemExit(f"{source} has none of these clips with word times")
    return [load_clip(entry) for entry in entries]


def is_punctuated(text: str) -> bool:
    return any(token.rstrip(CLOSERS).endswith(SENTENCE_ENDINGS) for token in text.split())


def find_sentence_ends(clip: Clip, punctuated: str) -> set[int]:
    """Indices of the clip's words that end a sentence, told by a text of the same that has punctuation."""
    places, texts = [], []
    ends = []
    for token in punctuated.split():
        texts += [part.text for part in split_tokens([Word(token, 0.0, 0.0)])]
        if texts and token.rstrip(CLOSERS).endswith(SENTENCE_ENDINGS):
            ends.append(len(texts) - 1)
    spoken = []
    for index, word in enumerate(clip.words):
        parts = split_tokens([word])
        spoken += [part.text for part in parts]
        places += [index] * len(parts)
    equal = align(spoken, texts).equal
    found = set()
    for end in ends:
        if end in equal:
            found.add(places[equal[end]])
        elif end + 1 in equal:  # the last word is another one, but that behind it is known
            found.add(places[equal[end + 1]] - 1)
    return found


def find_ends(clip: Clip, log: StreamLog) -> list[tuple[int, float]]:
    """Utterances that silence ended: index of the last word spoken by then, and the seconds from its end until told."""
    starts_s = [word.start_s for word in clip.words]
    ends = []
    spoken = 0
    for utterance in log.utterances:
        begun = bisect.bisect_left(starts_s, utterance.words[-1].end_s)
        by_silence = utterance.silent_at_s is not None and utterance.silent_at_s < clip.seconds
        known = utterance.words[-1].end_s < clip.words[-1].end_s + SLACK_S
        if by_silence and known and begun > spoken:
            ends.append((begun - 1, utterance.final_at_s - clip.words[begun - 1].end_s))
        spoken = max(spoken, begun)
    return ends


def summarise(
    clips: Sequence[Clip], logs: Sequence[StreamLog], sentences: Sequence[set[int]]
) -> dict[str, Any]:
    whole, inside = [], []
    for clip, log, ends in zip(clips, logs, sentences, strict=True):
        for last, delay_s in find_ends(clip, log):
            at_end = last in ends or last == len(clip.words) - 1
            (whole if at_end else inside).append(delay_s)
    both = whole + inside

    def spread(delays_s: list[float]) -> dict[str, float | None]:
        return {"mean": statistics.fmean(delays_s) if delays_s else None, **percentiles(delays_s, 50, 95)}

    return {
        "ends": len(both),
        "at_sentence_end": len(whole),
        "inside_sentence": len(inside),
        "delay_s": spread(both),
        "delay_at_sentence_end_s": spread(whole),
    }


def measure(args: argparse.Namespace) -> None:
    """Print a JSON object for each variant."""
    clips = load(args)
    bare = [clip for clip in clips if not is_punctuated(clip.text)]
    texts = {clip.name: clip.text for clip in clips}
    if bare:
        offline = transcribe_offline(load_whisper(args.punctuate), bare, "en")
        texts.update(zip((clip.name for clip in bare), offline, strict=True))
    sentences = [find_sentence_ends(clip, texts[clip.name]) for clip in clips]
    engine = engine_factory_for("auto", model=args.model)()
    engine.warm_up()
    for variant in map(parse_variant, args.variant or VARIANTS):
        logs, work = run_lockstep(
            engine, clips, variant.in_steps(args.step_s).options("en"), step_s=args.step_s
        )
        groups = {"all": clips, "punctuated": [c for c in clips if c not in bare], "bare": bare}
        row: dict[str, Any] = {"variant": variant.name}
        for name, group in groups.items():
            chosen = [i for i, clip in enumerate(clips) if clip in group]
            row[name] = summarise(*([each[i] for i in chosen] for each in (clips, logs, sentences)))
        row["wer"] = word_error_rate([clip.text for clip in clips], [log.text for log in logs])
        row["jobs_per_audio_s"] = work.jobs / sum(clip.seconds for clip in clips)
        print(json.dumps(row, indent=1), flush=True)
    engine.close()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, help="see docs/evaluate.md; entries need word times")
    parser.add_argument("--clips", nargs="+", default=CLIPS, help="names of the files, without their endings")
    parser.add_argument(
        "--variant", action="append", help="fields of the options, as of ray-whisper evaluate"
    )
    parser.add_argument("--step-s", type=float, default=0.4, help="audio between two passes")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--punctuate", default="base", help="model for references without punctuation")
    measure(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
