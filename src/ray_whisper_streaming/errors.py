"""Every error this library raises, in one tree.

::

    RayWhisperError
    ├── ConfigurationError        an option has a value it can't have (also a ValueError)
    │   └── ModelNotFound         no model of that name here; says what to install
    ├── AudioError                samples or files that can't be read as audio (also a ValueError)
    ├── ProtocolError             a message that breaks a protocol: ours or the peer's fault
    ├── Overloaded                a bounded queue is full; carries a retry hint
    ├── TranscriptionError        one job failed; carries job_id and whether a retry may help
    │   ├── EngineError           the engine raised
    │   ├── EngineTimeout         no answer within the time allowed (also a TimeoutError)
    │   └── WorkerDied            the worker process went away
    ├── DeviceLost                an engine's GPU fails for good: only another process can use it again
    ├── InvalidState              the caller's mistake: a call out of order
    │   └── StreamClosed          the stream or pool was closed before
    ├── Unreachable               a server can't be reached, or not any more (also a ConnectionError)
    ├── Refused                   a server says no; carries its code, and a retry hint where there is one
    │   └── Unauthorized          because of the key, or for want of one
    └── PoolError                 the pool itself
        ├── StartupTimeout        workers were not ready in time (also a TimeoutError)
        └── NotReady              used before it was started

Facts stand on attributes, the sentence in ``str()``. No error ever carries audio or transcribed text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = [
    "AudioError",
    "ConfigurationError",
    "DeviceLost",
    "EngineError",
    "EngineTimeout",
    "InvalidState",
    "ModelNotFound",
    "NotReady",
    "Overloaded",
    "PoolError",
    "ProtocolError",
    "RayWhisperError",
    "Refused",
    "StartupTimeout",
    "StreamClosed",
    "TranscriptionError",
    "Unauthorized",
    "Unreachable",
    "WorkerDied",
]


class RayWhisperError(Exception):
    """The root of the tree: catch it to catch everything this library raises on purpose."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle by state, not by constructor arguments: errors travel between processes."""
        return _rebuild, (type(self), str(self), dict(self.__dict__))


def _rebuild(kind: type[RayWhisperError], message: str, facts: dict[str, Any]) -> RayWhisperError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(facts)
    return error


class ConfigurationError(RayWhisperError, ValueError):
    """An option has a value it can't have.

    Attributes:
        field: the option's name.
        value: what was given.
        allowed: what may be given, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} is {value!r}; it must be {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


class ModelNotFound(ConfigurationError):
    """No model of that name, path or hub id can be had on this machine."""


class AudioError(RayWhisperError, ValueError):
    """Samples of the wrong kind, or a file that holds no audio we can decode."""


class ProtocolError(RayWhisperError):
    """A message breaks a protocol.

    Attributes:
        code: what is wrong, for programs: a name of the protocol's own documentation.
    """

    def __init__(self, message: str, *, code: str = "bad_message") -> None:
        super().__init__(message)
        self.code = code


class Overloaded(RayWhisperError):
    """A bounded queue is full: nothing was taken, try again later.

    Attributes:
        limit: what the queue holds at most.
        current: what it holds now.
        retry_after_s: a hint, in seconds.
    """

    def __init__(self, what: str, *, limit: float, current: float, retry_after_s: float) -> None:
        super().__init__(f"{what} is full ({current:g} of {limit:g}); try again in {retry_after_s:.1f} s")
        self.limit = limit
        self.current = current
        self.retry_after_s = retry_after_s


class TranscriptionError(RayWhisperError):
    """One job failed; the stream it belongs to is as it was before.

    Attributes:
        job_id: the job that failed.
        retryable: whether the same job may succeed on another try.
    """

    def __init__(self, message: str, *, job_id: str, retryable: bool = True) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.retryable = retryable


class EngineError(TranscriptionError):
    """The engine raised while it decoded the job."""


class EngineTimeout(TranscriptionError, TimeoutError):
    """No answer came within the time allowed."""


class WorkerDied(TranscriptionError):
    """The worker that held the job went away, and the job's tries are used up."""


class DeviceLost(RayWhisperError):
    """The device an engine computes on fails at whatever this process asks of it from now on.

    Engines raise it instead of failing job by job; pools then run the jobs again on another worker.
    """


class InvalidState(RayWhisperError):
    """A call out of order: the caller's mistake."""


class StreamClosed(InvalidState):
    """The stream (or pool) was closed before this call."""


class Unreachable(RayWhisperError, ConnectionError):
    """A server can't be reached, or was lost for longer than allowed."""


class Refused(RayWhisperError):
    """A server says no: to its load, to a limit, or to what was asked for.

    Attributes:
        code: why, for programs: a code of the protocol's documentation.
        retry_after_s: when to try again, in seconds; None where the server gives no hint.
    """

    def __init__(self, message: str, *, code: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class Unauthorized(Refused):
    """The key is unknown, revoked or not meant for this; or there is none where one is wanted."""


class PoolError(RayWhisperError):
    """The pool could not be started or kept up."""


class StartupTimeout(PoolError, TimeoutError):
    """The workers did not load and warm up in the time allowed."""


class NotReady(PoolError):
    """The pool was used before it was started."""
