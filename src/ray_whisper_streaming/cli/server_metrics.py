"""A server's metrics, read from the text it shows to Prometheus, and what happened between two readings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client.parser import text_string_to_metric_families

from ray_whisper_streaming.errors import ProtocolError

__all__ = ["Reading", "Span", "percentile_s"]

PREFIX = "ray_whisper_"
SESSIONS = PREFIX + "sessions"
"""A metric that every server has, however new."""

Labels: TypeAlias = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Reading:
    """All samples at one moment.

    Attributes:
        at_s: the moment, monotonic seconds.
        samples: values by the name of the metric, without our prefix, and its labels.
    """

    at_s: float
    samples: Mapping[str, Mapping[Labels, float]]

    @classmethod
    def parse(cls, text: str, at_s: float) -> Reading:
        """Read Prometheus' text format.

        Raises:
            ProtocolError: it is none, or not of a server of ours.
        """
        samples: dict[str, dict[Labels, float]] = {}
        try:
            families = list(text_string_to_metric_families(text))
        except ValueError:
            raise ProtocolError("this is no Prometheus text") from None
        for family in families:
            for sample in family.samples:
                name = sample.name.removeprefix(PREFIX)
                samples.setdefault(name, {})[frozenset(sample.labels.items())] = sample.value
        if not any(family.name == SESSIONS for family in families):
            raise ProtocolError("these are metrics, but not of a ray-whisper server")
        return cls(at_s, samples)

    def value(self, name: str, **labels: str) -> float:
        """The sum over all that have these labels; 0 where there is none yet."""
        found = self.samples.get(name, {})
        return sum(value for its_labels, value in found.items() if labels.items() <= its_labels)

    def values_of(self, label: str, name: str) -> list[str]:
        """What a label of a metric says, sorted."""
        return sorted({text for labels in self.samples.get(name, {}) for key, text in labels if key == label})

    def by_label(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """`value` for each that a label says, without those that are 0."""
        values = {text: self.value(name, **labels, **{label: text}) for text in self.values_of(label, name)}
        return {text: value for text, value in values.items() if value}

    def buckets(self, name: str) -> dict[float, float]:
        """A histogram, over all labels: how many were at most so much."""
        bounds = self.values_of("le", f"{name}_bucket")
        return {float(bound): self.value(f"{name}_bucket", le=bound) for bound in bounds}


@dataclass(frozen=True, slots=True)
class Span:
    """What happened from one reading to another."""

    first: Reading
    last: Reading

    def rate(self, counter: str, **labels: str) -> float:
        """How much a counter rose, per second. A server that was started anew counts from 0."""
        return self.rise(counter, **labels) / max(self.last.at_s - self.first.at_s, 1e-9)

    def rise(self, counter: str, **labels: str) -> float:
        """How much a counter rose."""
        now, before = self.last.value(counter, **labels), self.first.value(counter, **labels)
        return now - before if now >= before else now

    def ratio(self, above: str, below: str, **labels: str) -> float | None:
        """How much one counter rose for each unit of another; None where that one stood still."""
        divisor = self.rise(below, **labels)
        return self.rise(above, **labels) / divisor if divisor else None

    def buckets(self, name: str) -> dict[float, float]:
        """A histogram of what came in between; of all since the start, where nothing did."""
        before, now = self.first.buckets(name), self.last.buckets(name)
        between = {bound: count - before.get(bound, 0.0) for bound, count in now.items()}
        return between if between.get(math.inf, 0.0) > 0 else now


def percentile_s(buckets: Mapping[float, float], percent: float) -> float | None:
    """A percentile of a cumulative histogram, evenly spread inside its bucket; None where it is empty.

    Beyond the last finite bound it is that bound: more is not known.
    """
    total = buckets.get(math.inf, 0.0)
    if total <= 0:
        return None
    wanted, lower, below = total * percent / 100, 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= wanted:
            if math.isinf(bound):
                return lower
            share = (wanted - below) / (count - below) if count > below else 1.0
            return lower + (bound - lower) * share
        lower, below = bound, count
    return lower
