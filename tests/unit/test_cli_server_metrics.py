"""What `ray-whisper top` makes of a server's metrics."""

from __future__ import annotations

import io
import math
import socket
import threading

import pytest
from rich.console import Console

from ray_whisper_streaming import ConfigurationError, PoolStats, WorkerStats
from ray_whisper_streaming.cli.server_metrics import Reading, Span, percentile_s
from ray_whisper_streaming.cli.top import fetch, metrics_url, view
from ray_whisper_streaming.errors import ProtocolError, Unreachable
from ray_whisper_streaming.server.load import Load
from ray_whisper_streaming.server.metrics import Metrics
from ray_whisper_streaming.server.refusal import Refusal

START = PoolStats(
    workers=2, jobs_done=10, batches=10, batch_size_mean=1.0, queue_wait_s=0.1, inference_s=0.2, audio_s=100.0
)
LATER = PoolStats(
    workers=2,
    queued=3,
    in_flight=4,
    jobs_done=50,
    jobs_failed=2,
    batches=20,
    batch_size_mean=2.5,
    queue_wait_s=0.3,
    inference_s=0.3,
    audio_s=200.0,
    workers_by_id={
        "gpu-0": WorkerStats(jobs_done=30, batches=12, inference_s=3.0, audio_s=75.0),
        "gpu-1": WorkerStats(jobs_done=20, batches=8, inference_s=1.0, audio_s=50.0),
    },
)


def reading(metrics: Metrics, stats: PoolStats, at_s: float) -> Reading:
    metrics.load_measured("tiny.en", stats, Load(ready=True, queue_wait_s=0.0, lag_s=1.5))
    metrics.load_measured("large", PoolStats(workers=1, queued=7), Load(ready=True, lag_s=6.0))
    return Reading.parse(metrics.render().decode(), at_s)


@pytest.fixture
def span() -> Span:
    metrics = Metrics()
    first = reading(metrics, START, 100.0)
    for code in ("overloaded", "overloaded", "unauthorized"):
        metrics.refused(Refusal(code, "no"))
    metrics.sessions.labels("native", "tiny.en").inc(5)
    metrics.sessions.labels("native", "large").inc(2)
    for latency_s in (0.4, 0.6, 0.9, 2.5):
        metrics.commit_latency_s.labels("tiny.en").observe(latency_s)
    return Span(first, reading(metrics, LATER, 104.0))


def test_figures_are_of_the_time_between_two_readings(span: Span) -> None:
    assert span.rate("pool_jobs_done_total") == 10.0
    assert span.ratio("pool_jobs_batched_total", "pool_batches_total") == pytest.approx(4.0)
    assert span.ratio("pool_queue_wait_seconds_total", "pool_jobs_batched_total") == pytest.approx(14 / 40)
    assert span.ratio("pool_inference_seconds_total", "pool_audio_decoded_seconds_total") == pytest.approx(
        0.04
    )
    assert span.rate("refusals_total", code="overloaded") == 0.5
    assert span.last.by_label("code", "refusals_total") == {"overloaded": 2, "unauthorized": 1}
    assert span.last.value("sessions") == 7
    assert span.last.value("sessions", model="large") == 2
    assert span.last.by_label("model", "sessions") == {"large": 2, "tiny.en": 5}
    assert span.last.buckets("commit_latency_seconds")[1.0] == 3


def test_a_server_that_was_started_anew_counts_from_nothing(span: Span) -> None:
    again = Span(span.last, reading(Metrics(), START, 105.0))
    assert again.rise("pool_jobs_done_total") == 10
    assert again.rate("refusals_total") == 0


def test_percentiles_of_buckets() -> None:
    assert percentile_s({}, 50) is None
    assert percentile_s({math.inf: 0.0}, 50) is None
    buckets = {1.0: 50.0, 2.0: 100.0, math.inf: 100.0}
    assert percentile_s(buckets, 50) == 1.0
    assert percentile_s(buckets, 75) == 1.5
    assert percentile_s({1.0: 1.0, math.inf: 10.0}, 95) == 1.0


def test_the_view_shows_them(span: Span) -> None:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        console.print(view("http://[fd00::1]:8000/metrics", span))
    shown = " ".join(capture.get().split())
    for part in (
        "http://[fd00::1]:8000 serving",
        "sessions 7",
        "7 native",
        "model large tiny.en",
        "sessions 2 5",
        "workers ready 1 2",
        "jobs/s 0.0 10.0",
        "7, 0 3, 4",
        "jobs per batch - 4.0",
        "queue wait - 350 ms",
        "lag (one in ten exceeds) 6.0 s 1.5 s",
        "real-time factor - 0.040",
        "gpu-0 tiny.en 30 7.5 2.5 75 % 0.040",
        "overloaded 2 0.5",
        "tiny.en 2 0.5",
    ):
        assert part in shown


@pytest.mark.parametrize("text", ["<html>", "up 1\n", "# TYPE a counter\na_total x\n"])
def test_what_is_no_server_of_ours(text: str) -> None:
    with pytest.raises(ProtocolError):
        Reading.parse(text, 0.0)


def test_addresses() -> None:
    assert metrics_url("ws://127.0.0.1:8000") == "http://127.0.0.1:8000/metrics"
    assert metrics_url("https://example.org/asr/") == "https://example.org/asr/metrics"
    assert metrics_url("http://127.0.0.1:1/metrics") == "http://127.0.0.1:1/metrics"
    for wrong in ("127.0.0.1:8000", "http://[::1", "http://127.0.0.1:99999", "http://:80"):
        with pytest.raises(ConfigurationError):
            metrics_url(wrong)


def test_what_is_no_web_server() -> None:
    def greet() -> None:
        peer, _ = listening.accept()
        with peer:
            peer.sendall(b"220 mail.example.org\r\n")
            peer.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(Unreachable):
            fetch(f"http://127.0.0.1:{listening.getsockname()[1]}/metrics", None)
        thread.join()
