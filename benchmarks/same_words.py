"""Whether two engines say the same words at the same times, window by window.

    python benchmarks/same_words.py --engines torch ctranslate2 --model tiny.en --audio FOLDER FOLDER

Of each recording, windows of some seconds from its first part, decoded greedily in float32 (``--compute-type``), each
by itself. A window in which words differ is printed with the mean logarithm of both answers' probabilities: two that
are as likely as each other, but for rounding, are no mistake.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from ray_whisper_streaming.bench.material import find_material, load_clips
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, DecodeOptions, Job, Result
from ray_whisper_streaming.engines.factory import engine_factory_for

NEAR_S = 0.04
"""Two positions of the encoder."""

STEP_S = 13
FIRST_S = 40

TIE = 1e-3
"""Answers whose mean logarithms are nearer than this are as good as each other."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", nargs=2, default=["torch", "ctranslate2"])
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compute-type", default="float32")
    parser.add_argument(
        "--audio",
        type=Path,
        nargs="+",
        help="folders with a manifest.jsonl, in them or above, or a samples.json",
    )
    parser.add_argument("--language", default="en", help="of the recordings taken")
    parser.add_argument("--seconds", type=float, default=7.0)
    parser.add_argument("--window", type=int, default=10, help="seconds the window is padded to")
    parser.add_argument("--beam", type=int, default=1)
    args = parser.parse_args(arguments)
    engines = [
        engine_factory_for(
            name,  # type: ignore[arg-type]
            model=args.model,
            device=args.device,
            compute_type=args.compute_type,
        )()
        for name in args.engines
    ]
    for engine in engines:
        engine.warm_up()
    options = DecodeOptions(window_s=args.window, beam_size=args.beam)
    windows = words = differ = ties = 0
    apart_s: list[float] = []
    folders = args.audio or [find_material()]
    clips = [clip for folder in folders for clip in load_clips(find_material(folder), args.language)]
    for clip in clips:
        for start in range(0, max(1, min(FIRST_S, len(clip.audio) // SAMPLE_RATE)), STEP_S):
            first, last = start * SAMPLE_RATE, round((start + args.seconds) * SAMPLE_RATE)
            name = f"{clip.name} at {start} s"
            job = Job(job_id=name, stream_id=name, audio=clip.audio[first:last], options=options)
            one, other = (engine.transcribe([job])[0] for engine in engines)
            assert isinstance(one, Result)
            assert isinstance(other, Result)
            windows += 1
            if [word.text for word in one.words] != [word.text for word in other.words]:
                differ += 1
                likely = [result.average_log_probability for result in (one, other)]
                ties += abs(likely[0] - likely[1]) < TIE
                print(f"{name}: other words, mean logarithms {likely[0]:.4f} and {likely[1]:.4f}")
                continue
            words += len(one.words)
            for word, same in zip(one.words, other.words, strict=True):
                gaps = [abs(word.start_s - same.start_s), abs(word.end_s - same.end_s)]
                apart_s += gaps
                if max(gaps) > NEAR_S + 1e-6:
                    print(f"{name}: {word.text!r} {max(gaps):.2f} s apart")
    gaps = np.array(apart_s)
    print(f"{args.model}: {windows} windows, {differ} with other words ({ties} ties); {words} equal words")
    if len(gaps):
        print(
            f"times: {np.mean(gaps < 1e-6):.1%} equal, {np.mean(gaps <= NEAR_S + 1e-6):.1%} within {NEAR_S} s, "
            f"at most {gaps.max():.2f} s apart"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
