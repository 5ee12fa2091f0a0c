"""What a model's workers have room for.

Load is measured, not counted: how long jobs wait for a worker, and how far live sessions lag behind their speakers.
What was let in shows in these figures only after a while; until then its number is limited.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.load import Load
from ray_whisper_streaming.server.refusal import Refusal

__all__ = ["Room"]

SETTLE_S = 2.0
"""After so many seconds a new stream has sent its first jobs, and its load is part of what is measured."""

RETRY_RANGE_S = (1.0, 30.0)
"""Bounds of the hint when to try again."""

WORKER_RETRY_S = 5.0
"""The hint where there is no worker: they load, or are started anew."""


class Room:
    """The room of one pool.

    Args:
        config: the limits.
        clock: monotonic seconds.

    Attributes:
        load: set by whoever measures it.
        streams: let in that have not ended.
    """

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.load = Load(ready=False)
        self.streams = 0
        self._config = config
        self._clock = clock
        self._new: dict[object, tuple[float, int]] = {}

    def refusal(self, streams: int = 1) -> Refusal | None:
        """Why so many streams would not be let in now; None: there is room."""
        config, load = self._config, self.load
        shortest_s, longest_s = RETRY_RANGE_S
        if not load.ready:
            return Refusal("not_ready", "no worker is ready", retry_after_s=WORKER_RETRY_S)
        if load.queue_wait_s > config.max_queue_wait_s or load.lag_s > config.max_lag_s:
            wait_s = min(max(load.queue_wait_s, load.lag_s, shortest_s), longest_s)
            return Refusal("overloaded", "the workers are busy", retry_after_s=wait_s)
        settled_at = self._clock() - SETTLE_S
        self._new = {who: (at, count) for who, (at, count) in self._new.items() if at > settled_at}
        if sum(count for _, count in self._new.values()) + streams > config.max_new_streams:
            return Refusal(
                "overloaded",
                "too many sessions begin at the same time",
                retry_after_s=max(SETTLE_S, shortest_s),
            )
        return None

    def enter(self, who: object, streams: int) -> None:
        """Streams were let in."""
        self.streams += streams
        self._new[who] = (self._clock(), streams)

    def leave(self, who: object, streams: int) -> None:
        """They have ended."""
        self.streams -= streams
        self._new.pop(who, None)
