"""Who gets a session now: refused at the door, never taken out of a running one.

Load is measured, not counted: how long jobs wait for a worker, and how far live sessions lag behind their speakers.
What was let in shows in these figures only after a while; until then its number is limited. The limits of keys are
kept per process: behind several replicas each of them grants the full limit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ray_whisper_streaming.server.access import Principal
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.refusal import Refusal

__all__ = ["Admission", "Lease", "Load"]

SETTLE_S = 2.0
"""After so many seconds a new stream has sent its first jobs, and its load is part of what is measured."""

MINUTE_S, HOUR_S = 60.0, 3600.0

RETRY_RANGE_S = (1.0, 30.0)
"""Bounds of the retry hint."""

KEY_RETRY_S = 5.0
"""The hint where a session of the same key must end first: nobody knows when that will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What was measured last.

    Attributes:
        ready: whether workers are there and warm.
        queue_wait_s: mean of the jobs that were begun lately; or how long nothing moved, if jobs wait.
        lag_s: the lag that one in ten live sessions exceeds.
    """

    ready: bool = True
    queue_wait_s: float = 0.0
    lag_s: float = 0.0


@dataclass(slots=True)
class _Usage:
    """What one key uses."""

    streams: int = 0
    begun_at: deque[float] = field(default_factory=deque[float])
    audio: deque[tuple[float, float]] = field(default_factory=deque[tuple[float, float]])

    def forget(self, now: float) -> None:
        while self.begun_at and self.begun_at[0] <= now - MINUTE_S:
            self.begun_at.popleft()
        while self.audio and self.audio[0][0] <= now - HOUR_S:
            self.audio.popleft()

    def is_idle(self) -> bool:
        return not (self.streams or self.begun_at or self.audio)

    def audio_s(self) -> float:
        return sum(seconds for _, seconds in self.audio)


class Lease:
    """The right to some streams, until it is released."""

    def __init__(self, admission: Admission, principal: Principal, streams: int) -> None:
        self.principal = principal
        self.streams = streams
        self._admission: Admission | None = admission

    def release(self) -> None:
        """Give the right back. Safe to call twice."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.give_back(self)


class Admission:
    """Lets sessions in while there is room for them.

    Args:
        config: the limits.
        clock: monotonic seconds.

    Attributes:
        load: set by whoever measures it.
        draining: set when the server is going down.
    """

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.load = Load(ready=False)
        self.draining = False
        self._config = config
        self._clock = clock
        self._streams = 0
        self._new: dict[Lease, float] = {}
        self._usage: dict[str, _Usage] = {}

    @property
    def streams(self) -> int:
        """Streams let in that have not ended."""
        return self._streams

    def check(self, principal: Principal, streams: int = 1) -> None:
        """Say at once what `admit` would say now; takes nothing. Raises `Refusal`."""
        now = self._clock()
        if self.draining:
            raise Refusal("draining", "the server is going down", retry_after_s=RETRY_RANGE_S[0])
        if not self.load.ready:
            raise Refusal("not_ready", "no worker is ready", retry_after_s=KEY_RETRY_S)
        self._check_key(principal, streams, now)
        self._check_load(streams, now)

    def admit(self, principal: Principal, streams: int = 1) -> Lease:
        """Let streams in; release the lease when they have ended.

        Raises:
            Refusal: ``draining``, ``not_ready``, ``overloaded``, ``too_many_streams``, ``too_many_sessions``,
                ``audio_quota``.
        """
        self.check(principal, streams)
        now = self._clock()
        lease = Lease(self, principal, streams)
        usage = self._usage.setdefault(principal.tenant, _Usage())
        usage.streams += streams
        usage.begun_at.append(now)
        self._streams += streams
        self._new[lease] = now
        return lease

    def give_back(self, lease: Lease) -> None:
        """Called by the lease."""
        self._streams -= lease.streams
        self._new.pop(lease, None)
        self._usage[lease.principal.tenant].streams -= lease.streams

    def charge(self, principal: Principal, audio_s: float) -> bool:
        """Count audio that a key sent.

        Returns:
            whether its limit is kept.
        """
        now = self._clock()
        usage = self._usage.setdefault(principal.tenant, _Usage())
        # One entry per minute is fine enough for an hour's sum.
        if usage.audio and usage.audio[-1][0] > now - MINUTE_S:
            started_at, before_s = usage.audio.pop()
            usage.audio.append((started_at, before_s + audio_s))
        else:
            usage.audio.append((now, audio_s))
        usage.forget(now)
        limit = self._audio_limit_s(principal)
        return limit is None or usage.audio_s() <= limit

    def sweep(self) -> None:
        """Forget keys that use nothing; call it now and then."""
        now = self._clock()
        for usage in self._usage.values():
            usage.forget(now)
        self._usage = {tenant: usage for tenant, usage in self._usage.items() if not usage.is_idle()}

    def _check_key(self, principal: Principal, streams: int, now: float) -> None:
        usage = self._usage.get(principal.tenant)
        if usage is None:
            usage = _Usage()
        usage.forget(now)
        own, config = principal.limits, self._config
        limit = own.streams if own.streams is not None else config.max_streams_per_key
        if limit is not None and usage.streams + streams > limit:
            raise Refusal(
                "too_many_streams", f"this key may have {limit} streams at once", retry_after_s=KEY_RETRY_S
            )
        rate = own.sessions_per_minute
        rate = rate if rate is not None else config.max_sessions_per_minute
        if rate is not None and len(usage.begun_at) >= rate:
            wait_s = usage.begun_at[-rate] + MINUTE_S - now if rate else MINUTE_S
            raise Refusal(
                "too_many_sessions", f"this key may open {rate} sessions per minute", retry_after_s=wait_s
            )
        quota_s = self._audio_limit_s(principal)
        if quota_s is not None and usage.audio_s() >= quota_s:
            wait_s = usage.audio[0][0] + HOUR_S - now if usage.audio else HOUR_S
            raise Refusal("audio_quota", "the audio that this key may send is used up", retry_after_s=wait_s)

    def _check_load(self, streams: int, now: float) -> None:
        config, load = self._config, self.load
        shortest_s, longest_s = RETRY_RANGE_S
        if config.max_streams is not None and self._streams + streams > config.max_streams:
            raise Refusal("overloaded", "all streams are taken", retry_after_s=KEY_RETRY_S)
        if load.queue_wait_s > config.max_queue_wait_s or load.lag_s > config.max_lag_s:
            wait_s = min(max(load.queue_wait_s, load.lag_s, shortest_s), longest_s)
            raise Refusal("overloaded", "the workers are busy", retry_after_s=wait_s)
        self._new = {lease: at for lease, at in self._new.items() if at > now - SETTLE_S}
        if sum(lease.streams for lease in self._new) + streams > config.max_new_streams:
            raise Refusal(
                "overloaded",
                "too many sessions begin at the same time",
                retry_after_s=max(SETTLE_S, shortest_s),
            )

    def _audio_limit_s(self, principal: Principal) -> float | None:
        own = principal.limits.audio_minutes_per_hour
        minutes = own if own is not None else self._config.max_audio_minutes_per_hour
        return None if minutes is None else minutes * MINUTE_S
