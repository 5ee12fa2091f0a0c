"""From what the streams saw to one row of figures, and from rows to a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.bench.scoring import (
    StreamLog,
    measure_lag,
    percentiles,
    score_stream,
)
from ray_whisper_streaming.bench.text_errors import word_error_rate
from ray_whisper_streaming.pool.base import PoolStats

__all__ = ["COMMIT_LIMIT_S", "holds", "make_row", "make_table", "pool_use"]

COMMIT_LIMIT_S = 3.0
"""Commit latency (95th percentile) up to which a live transcript counts as live."""

FROM_WORD_TIMES = "word times of the recordings"
FROM_OWN_TIMES = "the system's own word ends"

Row = dict[str, Any]


def make_row(
    materials: Sequence[Clip], logs: Sequence[StreamLog], *, language: str = "en", texts: bool = False
) -> Row:
    """What the logs of streams that ran together tell. Keys and units: ``benchmarks/README.md``.

    With ``texts`` it also holds, for each stream, what was said and what was committed.
    """
    timed = all(clip.words for clip in materials)
    audio_s = [clip.seconds for clip in materials]
    scores = [
        score_stream(clip.words if timed else (), log, clip.seconds, language)
        for clip, log in zip(materials, logs, strict=True)
    ]
    commits = [pair for score in scores for pair in score.commit_latencies]
    first_shown = [latency for score in scores for latency in score.first_shown_latencies_s]
    lag = measure_lag(commits, max(audio_s))
    ends = [log.ended_at_s - s for log, s in zip(logs, audio_s, strict=True) if log.ended_at_s is not None]
    late_s = [late for log in logs for late in log.late_s]
    row: Row = {
        "streams": len(logs),
        "audio_s": sum(audio_s),
        "partials_per_s": statistics.mean(
            score.updates / s for score, s in zip(scores, audio_s, strict=True)
        ),
        "commit_latency_s": percentiles([latency for _, latency in commits], 50, 95, 99),
        "first_shown_latency_s": percentiles(first_shown, 50, 95),
        "latency_reference": FROM_WORD_TIMES if timed else FROM_OWN_TIMES,
        "words_scored": len(commits),
        "wer": word_error_rate([clip.text for clip in materials], [log.text for log in logs], language),
        "tail_words": sum(score.tail_words for score in scores) if timed else None,
        "tail_words_lost": sum(score.tail_words_lost for score in scores) if timed else None,
        "words_lost_at_end": sum(score.words_lost_at_end for score in scores) if timed else None,
        "lag_growth_s_per_min": lag.slope_s_per_min,
        "lag_growth_s": lag.growth_s,
        "lag_grows": lag.grows,
        "end_delay_s": percentiles(ends, 50, 95),
        "failures": sum(bool(log.failure) for log in logs),
        "failure_kinds": sorted({log.failure for log in logs if log.failure}),
        "failed_jobs": sum(log.failed_jobs for log in logs),
        "packet_delay_s": percentiles(late_s, 95, 100),
    }
    if texts:
        row["texts"] = [
            {"said": clip.text, "committed": log.text} for clip, log in zip(materials, logs, strict=True)
        ]
    return row


def pool_use(before: PoolStats, after: PoolStats, *, wall_s: float, audio_s: float) -> Row:
    """What the pool did between two snapshots.

    Args:
        before: taken when the streams began.
        after: taken when the last one had ended.
        wall_s: time between them.
        audio_s: audio of all streams together.
    """
    batches = after.batches - before.batches
    jobs = after.jobs_done - before.jobs_done
    batched = after.batches * after.batch_size_mean - before.batches * before.batch_size_mean
    busy_s = after.batches * after.inference_s - before.batches * before.inference_s
    waited_s = (
        after.batches * after.batch_size_mean * after.queue_wait_s
        - before.batches * before.batch_size_mean * before.queue_wait_s
    )
    return {
        "real_time_factor": busy_s / audio_s,
        "worker_busy": busy_s / (wall_s * max(1, after.workers)),
        "jobs_per_s": jobs / wall_s,
        "batch_size_mean": batched / batches if batches else None,
        "queue_wait_s": waited_s / batched if batched else None,
        "inference_s": busy_s / batches if batches else None,
        "wall_s": wall_s,
    }


def holds(row: Row) -> bool:
    """Whether a row's streams were live: in time (`COMMIT_LIMIT_S`), not later and later, none failed."""
    p95 = row["commit_latency_s"]["p95"]
    return p95 is not None and p95 <= COMMIT_LIMIT_S and not row["lag_grows"] and not row["failures"]


def make_table(rows: Sequence[Row], title: str) -> Table:
    """The rows as a table for people, 80 columns wide; a row that holds others, of other ways, has them below it."""
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("", "N", *_COLUMNS):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in rows:
        _add(table, "this", row)
        for key, system in (("whisper_online", "w_o"), ("baseline", "orig.")):
            if key in row:
                _add(table, system, row[key])
    return table


_COLUMNS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "upd.\n/s": [("partials_per_s",)],
    "commit s\np50/p95": [("commit_latency_s", "p50"), ("commit_latency_s", "p95")],
    "shown\np95 s": [("first_shown_latency_s", "p95")],
    "WER\n%": [("wer",)],
    "offline\nWER %": [("offline_greedy_wer",), ("offline_wer",)],
    "RTF": [("real_time_factor",)],
    "RSS\nMB": [("peak_rss_mb",)],
    "tail\nlost": [("tail_words_lost",)],
    "lag\nup": [("lag_grows",)],
    "\nfail": [("failures",)],
}


def _add(table: Table, system: str, row: Row) -> None:
    cells: list[str] = []
    for heading, paths in _COLUMNS.items():
        values = [_lookup(row, path) for path in paths]
        cells.append(
            "/".join(_format(100 * value if value and "%" in heading else value) for value in values)
        )
    table.add_row(system, str(row["streams"]), *cells, style=None if holds(row) else "dim")


def _lookup(row: Row, path: Sequence[str]) -> Any:
    value: Any = row
    for key in path:
        value = value.get(key)
        if value is None:
            return None
    return value


def _format(value: float | bool | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"
