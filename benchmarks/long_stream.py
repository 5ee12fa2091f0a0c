"""Hours of one stream in a few seconds, to see that its memory stays flat and no word is lost.

    python benchmarks/long_stream.py --hours 1

The clock is simulated and the engine scripted: no model, no waiting. Ends with status 1 if a word is lost,
doubled or out of order, if a word is committed later than `COMMIT_LIMIT_S` after its end, if more audio is held
than the longest window and what comes in meanwhile, or if the memory held after the first mark grows by more than
`GROWTH_LIMIT_MB`.
"""

from __future__ import annotations

import argparse
import sys
import tracemalloc
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ray_whisper_streaming import StreamOptions
from ray_whisper_streaming.bench.machine import write_report
from ray_whisper_streaming.bench.report import COMMIT_LIMIT_S
from ray_whisper_streaming.bench.simulation import Mark, Speech, simulate

GROWTH_LIMIT_MB = 1.0
"""What may come and go with the moment a mark falls on: half a window of audio is 0.4 MB."""

ARRIVING_S = 2.0
"""Audio that may come in while the longest window waits and is decoded: an interval, an inference, and room."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--mark-every-s", type=float, default=600.0)
    parser.add_argument("--pause-s", type=float, default=Speech().pause_s, help="silence between sentences")
    parser.add_argument("--policy", choices=("hybrid", "cutoff", "agreement"), default="cutoff")
    parser.add_argument("--no-vad", dest="vad", action="store_false")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)

    options = StreamOptions(language="en", policy=args.policy, voice_activity=args.vad)
    marks: list[Mark] = []
    table = Table("hours", "held MB", "resident MB", "buffered s", "lag s", "words", "wrong words")
    tracemalloc.start()
    try:
        for mark in simulate(args.hours * 3600, args.mark_every_s, options, Speech(pause_s=args.pause_s)):
            marks.append(mark)
            table.add_row(
                f"{mark.at_s / 3600:.2f}",
                f"{mark.traced_mb:.2f}",
                f"{mark.resident_mb:.0f}",
                f"{mark.buffered_s:.1f}",
                f"{mark.lag_s:.2f}",
                str(mark.committed),
                str(mark.wrong),
            )
    finally:
        tracemalloc.stop()
    Console().print(table)
    # The first mark stands at the very beginning; the second one has everything that is made once.
    growth_mb = max(mark.traced_mb or 0.0 for mark in marks[1:]) - (
        marks[min(1, len(marks) - 1)].traced_mb or 0.0
    )
    longest_s = options.trimming.hard_limit_s + ARRIVING_S
    late = max(mark.lag_s for mark in marks) > COMMIT_LIMIT_S
    hoarded = max(mark.buffered_s for mark in marks) > longest_s
    if args.json:
        write_report(args.json, [asdict(mark) for mark in marks], growth_mb=growth_mb)
    return int(marks[-1].wrong > 0 or growth_mb > GROWTH_LIMIT_MB or late or hoarded)


if __name__ == "__main__":
    sys.exit(main())
