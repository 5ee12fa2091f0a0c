"""A pool that another process keeps in the Ray cluster, for any number of processes that use it."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import ray as untyped_ray
from ray.exceptions import GetTimeoutError, RayError

from ray_whisper_streaming.errors import PoolError, StartupTimeout, StreamClosed
from ray_whisper_streaming.pool.ray_client import GONE_AFTER_S, RayPoolHandle
from ray_whisper_streaming.pool.ray_session import NAMESPACE, session, without_connecting

__all__ = ["SharedPool"]

LOOK_S = 0.5
"""How often it is looked for a pool that is not there (yet)."""

ADDRESS_VARIABLE = "RAY_ADDRESS"
ANY_RAY = "auto"
"""Ray's word for the cluster that this machine belongs to."""

_log = logging.getLogger(__name__)

ray: Any = untyped_ray


class SharedPool(RayPoolHandle):
    """A `Recognizer` that uses the pool of this name, once it is there, and its successor when it was ended and started
    anew: what is unanswered is submitted again. Closing it leaves the pool as it is.

    Args:
        name: what the pool was started under (`RayPool`, in the namespace "ray-whisper").
        address: of the Ray cluster; None: ``RAY_ADDRESS``, or the one that this machine belongs to.
    """

    def __init__(self, name: str, *, address: str | None = None) -> None:
        super().__init__(None)
        self._name = name
        self._address = address
        self._in_session = False

    def start(self, timeout_s: float = 300.0) -> None:
        """See `Recognizer`. Waits for the pool, which others start.

        Raises:
            PoolError: there is no Ray cluster.
            StartupTimeout: there was no pool of this name, or none of its workers was ready.
            StreamClosed: it was closed.
        """
        give_up_at = time.monotonic() + timeout_s
        if not self._in_session:
            try:
                session.enter(self._address or os.environ.get(ADDRESS_VARIABLE) or ANY_RAY, NAMESPACE)
            except ConnectionError as error:
                raise PoolError(f"there is no Ray cluster to find the pool {self._name!r} in") from error
            self._in_session = True
        told = False
        while not (self._look() and self._workers()):
            if self._closed:
                raise StreamClosed("the pool was closed while it was waited for")
            if time.monotonic() > give_up_at:
                raise StartupTimeout(f"no pool {self._name!r} with a ready worker within {timeout_s:g} s")
            if not told:
                _log.warning("waiting for the pool %r (ray-whisper pool starts it)", self._name)
                told = True
            time.sleep(LOOK_S)
        self._connect()

    def close(self) -> None:
        """See `Recognizer`."""
        super().close()
        if self._in_session:
            self._in_session = False
            session.leave()

    def _look(self) -> bool:
        """Take the dispatcher that has the name now."""
        try:
            self._dispatcher = without_connecting(ray.get_actor)(self._name, NAMESPACE)
        except (ValueError, RayError):
            return False
        return True

    def _workers(self) -> int:
        try:
            return without_connecting(ray.get)(self._dispatcher.stats.remote(), timeout=LOOK_S).workers
        except (GetTimeoutError, RayError):
            return 0

    def _find_another(self) -> bool:
        lost_at = time.monotonic()
        while not self._closed:
            if self._look() and self._workers():
                _log.warning("the pool %r is there again", self._name)
                return True
            if time.monotonic() - lost_at > GONE_AFTER_S:
                for job in self._pending.jobs():
                    self._pending.fail(job.job_id, PoolError(f"the pool {self._name!r} has gone"))
            time.sleep(LOOK_S)
        return False
