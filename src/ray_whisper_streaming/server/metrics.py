"""What Prometheus sees. Labels are protocols, codes and workers; never a session, a key or a text."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ray_whisper_streaming.api import AsyncLiveStream
from ray_whisper_streaming.core.events import Committed, Event, Final, JobFailed, Partial, StreamFailed
from ray_whisper_streaming.pool.base import PoolStats
from ray_whisper_streaming.server.admission import Load
from ray_whisper_streaming.server.refusal import Refusal
from ray_whisper_streaming.server.session import Session

__all__ = ["Metrics"]

PREFIX = "ray_whisper"

LATENCY_BUCKETS_S = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 30.0)
"""Around the 1 to 3 s that committing takes when all is well."""


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._pool = _PoolCollector()
        self.registry.register(self._pool)
        self.sessions = self._gauge("sessions", "Sessions open", "protocol")
        self.streams = self._gauge("streams", "Streams open", "protocol")
        self.sessions_opened = self._counter("sessions_opened", "Sessions let in", "protocol")
        self.ended = self._counter("sessions_ended", "Sessions ended, by whom or why", "reason")
        self.refusals = self._counter("refusals", "Clients turned away", "code")
        self.errors = self._counter("errors", "Errors, by type", "type")
        self.partials = self._counter("partials", "Partials made", "protocol")
        self.words = self._counter("words_committed", "Words committed", "protocol")
        self.utterances = self._counter("utterances", "Utterances completed", "protocol")
        self.audio_s = self._counter("audio_seconds", "Audio received, in seconds", "protocol")
        self.commit_latency_s = Histogram(
            "commit_latency_seconds",
            "From the end of a word until it was committed, live sessions",
            namespace=PREFIX,
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.queue_wait_s = self._gauge(
            "queue_wait_seconds", "Mean wait of the jobs begun in the last second"
        )
        self.lag_s = self._gauge("lag_seconds", "Lag that one in ten live sessions exceeds")
        self.draining = self._gauge("draining", "1 while the server is going down")

    def render(self) -> bytes:
        """The text that Prometheus fetches."""
        return generate_latest(self.registry)

    def session_opened(self, session: Session) -> None:
        """A session was let in."""
        self.sessions.labels(session.protocol).inc()
        self.streams.labels(session.protocol).inc(len(session.streams))
        self.sessions_opened.labels(session.protocol).inc()

    def session_closed(self, session: Session) -> None:
        """A session is over."""
        self.sessions.labels(session.protocol).dec()
        self.streams.labels(session.protocol).dec(len(session.streams))
        self.ended.labels(session.ending or "client").inc()
        self.audio_s.labels(session.protocol).inc(session.received_s * len(session.streams))

    def refused(self, refusal: Refusal) -> None:
        """A client was turned away."""
        self.refusals.labels(refusal.code).inc()

    def error(self, error: BaseException) -> None:
        """An error that a client was told of."""
        self.errors.labels(type(error).__name__).inc()

    def event(self, session: Session, stream: AsyncLiveStream, event: Event) -> None:
        """A stream said something."""
        if isinstance(event, Partial):
            self.partials.labels(session.protocol).inc()
        elif isinstance(event, Committed):
            self.words.labels(session.protocol).inc(len(event.words))
            if session.is_live:
                now_s = stream.received_s
                for word in event.words:
                    self.commit_latency_s.observe(max(0.0, now_s - word.end_s))
        elif isinstance(event, Final):
            self.utterances.labels(session.protocol).inc()
        elif isinstance(event, (JobFailed, StreamFailed)):
            self.error(event.error)

    def load_measured(self, stats: PoolStats, load: Load) -> None:
        """The gateway looked at the pool."""
        self._pool.stats = stats
        self.queue_wait_s.set(load.queue_wait_s)
        self.lag_s.set(load.lag_s)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace=PREFIX, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=PREFIX, registry=self.registry)


class _PoolCollector(Collector):
    """The pool's own counters, as they were when the gateway looked last."""

    def __init__(self) -> None:
        self.stats = PoolStats()

    def collect(self) -> Iterable[Metric]:
        stats = self.stats
        batched = stats.batch_size_mean * stats.batches
        inference_s = stats.inference_s * stats.batches
        gauges = {
            "workers": ("Workers ready", stats.workers),
            "jobs_waiting": ("Jobs waiting for a worker", stats.queued),
            "jobs_running": ("Jobs being decoded", stats.in_flight),
            "batch_size": ("Jobs per batch, mean since the start", stats.batch_size_mean),
            "real_time_factor": (
                "Seconds of inference per second of audio decoded, since the start",
                inference_s / stats.audio_s if stats.audio_s else 0.0,
            ),
        }
        counters = {
            "jobs_done": ("Jobs answered with a result", stats.jobs_done),
            "jobs_failed": ("Jobs answered with an error", stats.jobs_failed),
            "jobs_retried": ("Jobs run again after their worker died", stats.jobs_retried),
            "batches": ("Engine calls", stats.batches),
            "jobs_batched": ("Jobs begun", batched),
            "queue_wait_seconds": ("Waiting of all jobs begun, in seconds", stats.queue_wait_s * batched),
            "inference_seconds": ("Engine calls, in seconds", inference_s),
            "audio_decoded_seconds": ("Audio decoded, in seconds", stats.audio_s),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"{PREFIX}_pool_{name}", text, value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"{PREFIX}_pool_{name}", text, value)
        workers = CounterMetricFamily(
            f"{PREFIX}_worker_jobs_done", "Jobs done by each worker", labels=["worker"]
        )
        for worker, done in stats.workers_by_id.items():
            workers.add_metric([worker], done)
        yield workers
