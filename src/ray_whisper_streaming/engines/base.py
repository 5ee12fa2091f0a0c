"""What a pool asks of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from ray_whisper_streaming.core.jobs import Job, Outcome

__all__ = ["Engine", "EngineCapabilities", "EngineFactory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCapabilities:
    """What an engine can do, for those who adapt to it.

    Attributes:
        name: of the engine, for reports (``"ctranslate2"``).
        device: ``"cpu"`` or ``"cuda"``.
        multilingual: whether languages other than English and translation are possible.
        max_batch_size: how many jobs one call takes at most.
        max_window_s: the longest window in seconds.
        ragged: whether windows of different length may share a batch.
    """

    name: str
    device: str
    multilingual: bool
    max_batch_size: int
    max_window_s: int = 30
    ragged: bool = False


@runtime_checkable
class Engine(Protocol):
    """Decodes batches. Used by one thread at a time.

    The constructor does no IO; `warm_up` loads the model and runs every shape once.
    """

    @property
    def capabilities(self) -> EngineCapabilities:
        """Known after `warm_up`."""
        ...

    def warm_up(self) -> None:
        """Load the model and decode something, so that the first real job is not slow.

        Raises:
            ModelNotFound: the model is not on this machine.
            EngineError: it decodes nothing.
            DeviceLost: see `transcribe`.
        """
        ...

    def transcribe(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Decode the jobs of one batch: one outcome per job, in their order.

        One bad job fails alone, as a `Failure`; the others' results are what they would be without it.

        Raises:
            DeviceLost: the device fails for good. The engine is of no use any more; another one, in another process,
                may decode these jobs.
        """
        ...

    def close(self) -> None:
        """Free the model. Safe to call twice."""
        ...


EngineFactory: TypeAlias = Callable[[], Engine]
"""Makes an engine inside the worker that will use it; must be picklable for Ray."""
