"""Rows, the search for the largest number of streams, and the table."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from ray_whisper_streaming.bench.capacity import find_max
from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.bench.report import holds, make_row, make_table, pool_use
from ray_whisper_streaming.bench.scoring import Shown, StreamLog
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.pool.base import PoolStats


def make_stream(latency_s: float, words: int = 30) -> tuple[Clip, StreamLog]:
    """A word a second, each committed so much later."""
    spoken = tuple(Word(f" w{i}", i + 0.2, i + 0.8) for i in range(words))
    text = "".join(word.text for word in spoken).strip()
    clip = Clip(name="clip", audio=np.zeros(words * SAMPLE_RATE, np.int16), text=text, words=spoken)
    shown = [Shown(word.end_s + latency_s, True, (word,)) for word in spoken]
    return clip, StreamLog(shown=shown, ended_at_s=words + latency_s, late_s=[0.001])


def make_streams(*latencies_s: float):
    clips, logs = zip(*(make_stream(latency_s) for latency_s in latencies_s), strict=True)
    return make_row(clips, logs)


def test_a_row_of_two_streams():
    row = make_streams(1.0, 2.0)
    assert row["streams"] == 2
    assert row["audio_s"] == 60
    assert row["partials_per_s"] == pytest.approx(1.0)
    assert row["commit_latency_s"]["p50"] == pytest.approx(1.5)
    assert row["commit_latency_s"]["p99"] == pytest.approx(2.0)
    assert row["first_shown_latency_s"]["p95"] == pytest.approx(2.0)
    assert row["wer"] == 0.0
    assert row["end_delay_s"]["p50"] == pytest.approx(1.5)
    assert (row["tail_words"], row["tail_words_lost"], row["failures"]) == (6, 0, 0)
    assert row["latency_reference"] == "word times of the recordings"
    assert holds(row)


def test_a_late_a_failed_or_a_lagging_row_does_not_hold():
    assert not holds(make_streams(1.0, 3.5))
    clip, log = make_stream(1.0)
    log.failure = "unfinished"
    row = make_row([clip], [log])
    assert row["failures"] == 1
    assert row["failure_kinds"] == ["unfinished"]
    assert not holds(row)
    clip, log = make_stream(0.0)
    log.shown = [Shown(s.at_s + s.at_s / 20, True, s.words) for s in log.shown]
    assert make_row([clip], [log])["lag_grows"]


def test_clips_without_word_times_are_scored_by_the_systems_own():
    clip, log = make_stream(1.0)
    row = make_row([Clip(name="bare", audio=clip.audio, text=clip.text)], [log])
    assert row["commit_latency_s"]["p50"] == pytest.approx(1.0)
    assert row["latency_reference"] == "the system's own word ends"
    assert row["tail_words_lost"] is None


def test_what_the_pool_did_is_counted_from_the_first_snapshot():
    before = PoolStats(
        workers=1, jobs_done=10, batches=10, batch_size_mean=1.0, queue_wait_s=5.0, inference_s=1.0
    )
    # Then 10 calls more of 4 jobs each: 2 s a call, 0.5 s in the queue.
    after = PoolStats(
        workers=1, jobs_done=50, batches=20, batch_size_mean=2.5, queue_wait_s=70 / 50, inference_s=1.5
    )
    use = pool_use(before, after, wall_s=40.0, audio_s=80.0)
    assert use["batch_size_mean"] == pytest.approx(4.0)
    assert use["inference_s"] == pytest.approx(2.0)
    assert use["queue_wait_s"] == pytest.approx(0.5)
    assert use["jobs_per_s"] == pytest.approx(1.0)
    assert use["real_time_factor"] == pytest.approx(0.25)
    assert use["worker_busy"] == pytest.approx(0.5)


def test_a_pool_that_did_nothing_has_no_means():
    use = pool_use(PoolStats(), PoolStats(workers=1), wall_s=1.0, audio_s=1.0)
    assert use["batch_size_mean"] is None
    assert use["real_time_factor"] == 0.0


class TestFindMax:
    @pytest.mark.parametrize("most", [0, 1, 2, 5, 8, 13, 16, 20])
    @pytest.mark.parametrize("measured", [(), (1,), (1, 2, 4, 8), (16,), (3, 20)])
    async def test_finds_it_from_whatever_is_known(self, most: int, measured: tuple[int, ...]):
        tried: list[int] = []

        async def live(streams: int) -> bool:
            tried.append(streams)
            return streams <= most

        assert await find_max(live, {n: n <= most for n in measured}, limit=20) == most
        assert len(tried) == len(set(tried))
        assert not set(tried) & set(measured)
        assert len(tried) <= 9

    async def test_never_tries_more_than_the_limit(self):
        async def live(streams: int) -> bool:
            assert streams <= 6
            return True

        assert await find_max(live, {}, limit=6) == 6


def test_the_table_fits_a_terminal_and_shows_the_baseline_under_its_row():
    offline = {"offline_greedy_wer": 0.06, "offline_wer": 0.05}
    row = {**make_streams(1.0), "peak_rss_mb": 512.3, "real_time_factor": 0.123, **offline}
    row["baseline"] = {**make_streams(8.0), "peak_rss_mb": 1511.0}
    out = io.StringIO()
    Console(file=out, width=80).print(make_table([row], "a trial"))
    lines = out.getvalue().splitlines()
    (ours,) = (line for line in lines if line.lstrip().startswith("this"))
    (theirs,) = (line for line in lines if line.lstrip().startswith("orig."))
    assert "1.0/1.0" in ours
    assert "512" in ours
    assert "0.12" in ours
    assert "6.0/5.0" in ours
    assert "8.0/8.0" in theirs
    assert lines.index(theirs) == lines.index(ours) + 1
