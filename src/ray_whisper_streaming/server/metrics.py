"""What Prometheus sees. Labels are protocols, models, codes and workers; never a session, a key or a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ray_whisper_streaming.api import AsyncLiveStream
from ray_whisper_streaming.core.events import Committed, Event, Final, JobFailed, Partial, StreamFailed
from ray_whisper_streaming.pool.base import PoolStats, WorkerStats
from ray_whisper_streaming.server.load import Load
from ray_whisper_streaming.server.refusal import Refusal
from ray_whisper_streaming.server.session import Session

__all__ = ["Metrics"]

PREFIX = "ray_whisper"

SESSION_LABELS = ("protocol", "model")

LATENCY_BUCKETS_S = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 30.0)
"""Around the 1 to 3 s that committing takes when all is well."""


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._pools = _PoolCollector()
        self.registry.register(self._pools)
        self.sessions = self._gauge("sessions", "Sessions open", *SESSION_LABELS)
        self.streams = self._gauge("streams", "Streams open", *SESSION_LABELS)
        self.sessions_opened = self._counter("sessions_opened", "Sessions let in", *SESSION_LABELS)
        self.ended = self._counter("sessions_ended", "Sessions ended, by whom or why", "reason")
        self.refusals = self._counter("refusals", "Clients turned away", "code")
        self.errors = self._counter("errors", "Errors, by type", "type")
        self.partials = self._counter("partials", "Partials made", *SESSION_LABELS)
        self.words = self._counter("words_committed", "Words committed", *SESSION_LABELS)
        self.utterances = self._counter("utterances", "Utterances completed", *SESSION_LABELS)
        self.audio_s = self._counter("audio_seconds", "Audio received, in seconds", *SESSION_LABELS)
        self.commit_latency_s = Histogram(
            "commit_latency_seconds",
            "From the end of a word until it was committed, live sessions",
            ["model"],
            namespace=PREFIX,
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.queue_wait_s = self._gauge(
            "queue_wait_seconds", "Mean wait of the jobs begun in the last second", "model"
        )
        self.lag_s = self._gauge("lag_seconds", "Lag that one in ten live sessions exceeds", "model")
        self.draining = self._gauge("draining", "1 while the server is going down")

    def render(self) -> bytes:
        """The text that Prometheus fetches."""
        return generate_latest(self.registry)

    def session_opened(self, session: Session) -> None:
        """A session was let in."""
        labels = _labels(session)
        self.sessions.labels(*labels).inc()
        self.streams.labels(*labels).inc(len(session.streams))
        self.sessions_opened.labels(*labels).inc()

    def session_closed(self, session: Session) -> None:
        """A session is over."""
        labels = _labels(session)
        self.sessions.labels(*labels).dec()
        self.streams.labels(*labels).dec(len(session.streams))
        self.ended.labels(session.ending or "client").inc()
        self.audio_s.labels(*labels).inc(session.received_s * len(session.streams))

    def refused(self, refusal: Refusal) -> None:
        """A client was turned away."""
        self.refusals.labels(refusal.code).inc()

    def error(self, error: BaseException) -> None:
        """An error that a client was told of."""
        self.errors.labels(type(error).__name__).inc()

    def event(self, session: Session, stream: AsyncLiveStream, event: Event) -> None:
        """A stream said something."""
        if isinstance(event, Partial):
            self.partials.labels(*_labels(session)).inc()
        elif isinstance(event, Committed):
            self.words.labels(*_labels(session)).inc(len(event.words))
            if session.is_live:
                now_s, latency_s = stream.received_s, self.commit_latency_s.labels(session.model)
                for word in event.words:
                    latency_s.observe(max(0.0, now_s - word.end_s))
        elif isinstance(event, Final):
            self.utterances.labels(*_labels(session)).inc()
        elif isinstance(event, (JobFailed, StreamFailed)):
            self.error(event.error)

    def load_measured(self, model: str, stats: PoolStats, load: Load) -> None:
        """The gateway looked at a model's pool."""
        self._pools.stats[model] = stats
        self.queue_wait_s.labels(model).set(load.queue_wait_s)
        self.lag_s.labels(model).set(load.lag_s)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace=PREFIX, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=PREFIX, registry=self.registry)


Measure: TypeAlias = Callable[[PoolStats], float]


def _batched(stats: PoolStats) -> float:
    return stats.batch_size_mean * stats.batches


def _inference_s(stats: PoolStats) -> float:
    return stats.inference_s * stats.batches


POOL_GAUGES: tuple[tuple[str, str, Measure], ...] = (
    ("workers", "Workers ready", lambda stats: stats.workers),
    ("jobs_waiting", "Jobs waiting for a worker", lambda stats: stats.queued),
    ("jobs_running", "Jobs being decoded", lambda stats: stats.in_flight),
    ("batch_size", "Jobs per batch, mean since the start", lambda stats: stats.batch_size_mean),
    (
        "real_time_factor",
        "Seconds of inference per second of audio decoded, since the start",
        lambda stats: _inference_s(stats) / stats.audio_s if stats.audio_s else 0.0,
    ),
)

POOL_COUNTERS: tuple[tuple[str, str, Measure], ...] = (
    ("jobs_done", "Jobs answered with a result", lambda stats: stats.jobs_done),
    ("jobs_failed", "Jobs answered with an error", lambda stats: stats.jobs_failed),
    ("jobs_retried", "Jobs run again after their worker died", lambda stats: stats.jobs_retried),
    ("batches", "Engine calls", lambda stats: stats.batches),
    ("jobs_batched", "Jobs begun", _batched),
    (
        "queue_wait_seconds",
        "Waiting of all jobs begun, in seconds",
        lambda stats: stats.queue_wait_s * _batched(stats),
    ),
    ("inference_seconds", "Engine calls, in seconds", _inference_s),
    ("audio_decoded_seconds", "Audio decoded, in seconds", lambda stats: stats.audio_s),
)


WORKER_COUNTERS: tuple[tuple[str, str, Callable[[WorkerStats], float]], ...] = (
    ("jobs_done", "Jobs done by each worker", lambda counts: counts.jobs_done),
    ("batches", "Engine calls of each worker", lambda counts: counts.batches),
    ("inference_seconds", "Engine calls of each worker, in seconds", lambda counts: counts.inference_s),
    ("audio_decoded_seconds", "Audio decoded by each worker, in seconds", lambda counts: counts.audio_s),
)


def _labels(session: Session) -> tuple[str, str]:
    return session.protocol, session.model


class _PoolCollector(Collector):
    """The pools' own counters, as they were when the gateway looked last."""

    def __init__(self) -> None:
        self.stats: dict[str, PoolStats] = {}

    def collect(self) -> Iterable[Metric]:
        for name, text, measure in POOL_GAUGES:
            yield self._family(GaugeMetricFamily(f"{PREFIX}_pool_{name}", text, labels=["model"]), measure)
        for name, text, measure in POOL_COUNTERS:
            yield self._family(CounterMetricFamily(f"{PREFIX}_pool_{name}", text, labels=["model"]), measure)
        for name, text, of_worker in WORKER_COUNTERS:
            workers = CounterMetricFamily(f"{PREFIX}_worker_{name}", text, labels=["model", "worker"])
            for model, stats in self.stats.items():
                for worker, counts in stats.workers_by_id.items():
                    workers.add_metric([model, worker], of_worker(counts))
            yield workers

    def _family(self, family: GaugeMetricFamily | CounterMetricFamily, measure: Measure) -> Metric:
        for model, stats in self.stats.items():
            family.add_metric([model], measure(stats))
        return family
