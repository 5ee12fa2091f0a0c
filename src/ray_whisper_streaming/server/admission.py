"""Who gets a session now: refused at the door, never taken out of a running one.

A session needs room with its model (`room.Room`), and within the limits of its key. Those are kept per process: behind
several replicas each of them grants the full limit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ray_whisper_streaming.server.access import Principal
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.refusal import Refusal
from ray_whisper_streaming.server.room import Room

__all__ = ["Admission", "Lease"]

MINUTE_S, HOUR_S = 60.0, 3600.0

DRAINING_RETRY_S = 1.0
"""The hint while the server goes down: another one takes its place, or is there."""

ENDING_RETRY_S = 5.0
"""The hint where another session must end first: nobody knows when that will be."""


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
    """The right to some streams of a model, until it is released."""

    def __init__(self, admission: Admission, principal: Principal, room: Room, streams: int) -> None:
        self.principal = principal
        self.room = room
        self.streams = streams
        self._admission: Admission | None = admission

    def pass_on(self, room: Room) -> Lease:
        """The same right for whoever goes on in its holder's place; this lease is spent.

        Nothing is asked but whether there is room, and that only in another model's.

        Raises:
            Refusal: ``not_ready`` or ``overloaded``; then the lease is still good. ``draining``: its session was
                closed, as all are at the end.
        """
        if self._admission is None:
            raise Refusal("draining", "the server is going down")
        moves = room is not self.room
        if moves and (refusal := room.refusal(self.streams)) is not None:
            raise refusal
        heir = Lease(self._admission, self.principal, room, self.streams)
        if moves:
            self.room.leave(self, self.streams)
            room.enter(heir, self.streams)
        self._admission = None
        return heir

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
        draining: set when the server is going down.
        streams: let in that have not ended.
    """

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.draining = False
        self._config = config
        self._clock = clock
        self.streams = 0
        self._usage: dict[str, _Usage] = {}

    def check(self, principal: Principal, rooms: Sequence[Room], streams: int = 1) -> None:
        """Say at once what `admit` would say now, of the best of these rooms; takes nothing. Raises `Refusal`."""
        if self.draining:
            raise Refusal("draining", "the server is going down", retry_after_s=DRAINING_RETRY_S)
        self._check_key(principal, streams, self._clock())
        limit = self._config.max_streams
        if limit is not None and self.streams + streams > limit:
            raise Refusal("overloaded", "all streams are taken", retry_after_s=ENDING_RETRY_S)
        refusals = [refusal for room in rooms if (refusal := room.refusal(streams)) is not None]
        if len(refusals) == len(rooms):
            raise min(refusals, key=lambda refusal: refusal.retry_after_s or 0.0)

    def admit(self, principal: Principal, room: Room, streams: int = 1) -> Lease:
        """Let streams in; release the lease when they have ended.

        Args:
            principal: whose they are.
            room: of their model.
            streams: how many.

        Raises:
            Refusal: ``draining``, ``not_ready``, ``overloaded``, ``too_many_streams``, ``too_many_sessions``,
                ``audio_quota``.
        """
        self.check(principal, [room], streams)
        lease = Lease(self, principal, room, streams)
        usage = self._usage.setdefault(principal.tenant, _Usage())
        usage.streams += streams
        usage.begun_at.append(self._clock())
        self.streams += streams
        room.enter(lease, streams)
        return lease

    def give_back(self, lease: Lease) -> None:
        """Called by the lease."""
        self.streams -= lease.streams
        lease.room.leave(lease, lease.streams)
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
                "too_many_streams", f"this key may have {limit} streams at once", retry_after_s=ENDING_RETRY_S
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

    def _audio_limit_s(self, principal: Principal) -> float | None:
        own = principal.limits.audio_minutes_per_hour
        minutes = own if own is not None else self._config.max_audio_minutes_per_hour
        return None if minutes is None else minutes * MINUTE_S
