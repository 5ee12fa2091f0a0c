"""This process's connection to Ray, which the pools in it share."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import ray as untyped_ray

__all__ = ["NAMESPACE", "RaySession", "session", "session_name", "without_connecting"]

NAMESPACE = "ray-whisper"
"""Where pools that have a name of the user's are found in Ray."""

ray: Any = untyped_ray


class RaySession:
    """The Ray connection of this process, as far as it is the pools' own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools = 0
        self._ours = False

    def enter(self, address: str | None, namespace: str | None) -> None:
        """A pool begins: connect, if nobody did yet.

        Raises:
            ConnectionError: there is no Ray at ``address``.
        """
        with self._lock:
            if not ray.is_initialized():
                ray.init(
                    address=address,
                    namespace=namespace,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,  # warnings of its own start say nothing to our users
                )
                self._ours, self._pools = True, 0
            self._pools += 1

    def leave(self) -> None:
        """A pool has ended: the last one ends the connection, unless somebody else made it."""
        with self._lock:
            self._pools -= 1
            if self._ours and self._pools <= 0:
                self._ours = False
                ray.shutdown()


def session_name() -> str:
    """Of the Ray that this process is connected to, which no other has; "" without one.

    Asks nothing of Ray's core: where Ray was shut down a moment ago, that would end the process.
    """
    node = ray.get_runtime_context().worker.node
    return node.session_name if node else ""


def without_connecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of Ray's (``ray.get`` ...) that raises `RayError` where Ray is not, or no longer, connected.

    Ray's own would connect anew: where Ray was shut down a moment ago, to the cluster that is going, for which Ray ends
    the process a minute later. So it is for whatever a pool's threads call.
    """
    return getattr(function, "__wrapped__", function)


session = RaySession()
"""Of this process."""
