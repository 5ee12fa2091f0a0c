"""What a commit policy and a window cost in words: streams played in fixed steps, as fast as the machine can.

    python benchmarks/lockstep.py --step-s 1.0 --trim-after-s 8.5 --keep-s 7.5 --beam-size 4
    python benchmarks/lockstep.py --streams 16 --seconds 120 --step-s 0.8 --offline

Commit latency is counted in audio alone (a word is committed at the end of the audio of its pass), so that the
figures don't depend on the machine or on what else it does. A longer step stands for a busier pool. See README.md
beside this file for the material and the figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any, get_args

from original import Task, run_offline

from ray_whisper_streaming import StreamOptions
from ray_whisper_streaming.bench.lockstep import run_lockstep
from ray_whisper_streaming.bench.material import find_material, load_clips, make_material
from ray_whisper_streaming.bench.scoring import percentiles, score_stream
from ray_whisper_streaming.bench.text_errors import errors_by_place, word_error_rate
from ray_whisper_streaming.bench.variants import Variant
from ray_whisper_streaming.engines import remembering
from ray_whisper_streaming.engines.factory import EngineName, engine_factory_for

WHOLE = 9999
"""Positions that never settle: longer than any window."""

FIELDS = (
    "policy", "commit_delay_s", "trim_after_s", "keep_s", "hard_limit_s", "bridge_s", "beam_size", "context",
    "voice_activity",
)  # fmt: skip
"""Options that are those of the streams."""

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "speech"
"""Recorded speech beside the repository."""


def measure(args: argparse.Namespace) -> dict[str, Any]:
    folder = find_material(args.audio, SPEECH)
    clips = load_clips(folder, args.language)
    materials = [make_material(clips, index, args.seconds) for index in range(args.streams)]
    if args.encode_whole:
        remembering.SETTLED = WHOLE
    engine = engine_factory_for(args.engine, model=args.model)()
    engine.warm_up()
    logs, work = run_lockstep(engine, materials, stream_options(args), step_s=args.step_s)
    engine.close()
    said, heard = [clip.text for clip in materials], [log.text for log in logs]
    offline: dict[str, Any] = {}
    if args.offline:
        task = Task(args.model, "auto", "auto", args.language, folder, args.seconds)
        texts = run_offline(task, args.streams)
        for key, heard_offline in texts.items():
            offline[key] = word_error_rate(said, heard_offline, language=args.language)
            offline[f"{key}_from_word"] = errors_by_place(said, heard_offline, language=args.language)
    scores = [score_stream(clip.words, log, clip.seconds) for clip, log in zip(materials, logs, strict=True)]
    commits = [latency_s for score in scores for _, latency_s in score.commit_latencies]
    shown = list(itertools.chain.from_iterable(score.first_shown_latencies_s for score in scores))
    audio_s = sum(clip.seconds for clip in materials)
    return {
        "step_s": args.step_s,
        "words": sum(len(text.split()) for text in said),
        "wer": word_error_rate(said, heard, language=args.language),
        "wer_from_word": errors_by_place(said, heard, language=args.language),
        **offline,
        "commit_latency_s": percentiles(commits, 50, 95, 99),
        "first_shown_latency_s": percentiles(shown, 50, 95),
        "tail_words_lost": sum(score.tail_words_lost for score in scores),
        "jobs_per_audio_s": work.jobs / audio_s,
        "decoded_s_per_audio_s": work.audio_s / audio_s,
        "window_s_mean": work.window_s / max(1, work.jobs),
        "ms_per_job": 1000 * work.decoding_s / max(1, work.jobs),
    }


def stream_options(args: argparse.Namespace) -> StreamOptions:
    """The options of every stream; what was not given keeps the library's default."""
    given = {name: value for name in FIELDS if (value := getattr(args, name)) is not None}
    return Variant("", given).in_steps(args.step_s).options(args.language)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each stream")
    parser.add_argument("--step-s", type=float, default=1.0, help="audio between two passes")
    parser.add_argument("--audio", type=Path, help="folder of clips with manifest.jsonl or samples.json")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--engine", choices=get_args(EngineName), default="auto")
    parser.add_argument("--language", default="en")
    parser.add_argument("--policy", choices=("hybrid", "cutoff", "agreement"))
    parser.add_argument("--commit-delay-s", type=float)
    parser.add_argument("--trim-after-s", type=float)
    parser.add_argument("--keep-s", type=float)
    parser.add_argument("--hard-limit-s", type=float)
    parser.add_argument("--bridge-s", type=float)
    parser.add_argument("--beam-size", type=int)
    parser.add_argument("--context", action="store_true", default=None)
    parser.add_argument(
        "--offline",
        action="store_true",
        help="word errors of faster-whisper in one go, greedy and beam 5, too",
    )
    parser.add_argument(
        "--encode-whole",
        action="store_true",
        help="remember nothing of earlier passes",
    )
    parser.add_argument("--no-vad", dest="voice_activity", action="store_false")
    print(json.dumps(measure(parser.parse_args(arguments)), indent=1))


if __name__ == "__main__":
    main()
