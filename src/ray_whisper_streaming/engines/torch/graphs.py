"""Runs the steps of a decode: one after the other, or on a GPU as CUDA graphs.

A step is hundreds of small kernels; started one by one from Python, a GPU waits for most of them. A graph is recorded
once for each shape and started by one call. It reads and writes the addresses it was recorded with, so whatever changes
between steps must stand in buffers that stay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from ray_whisper_streaming.engines.torch.runtime import Tensor, torch

__all__ = ["CapturedSteps", "PlainSteps", "StepRunner"]


_recording = threading.Lock()
"""CUDA records one graph of a process at a time."""


class StepRunner(Protocol):
    """Runs what makes tensors from buffers that stay."""

    def run(self, shape: Hashable, step: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The step's tensors, good until the next run.

        Args:
            shape: what tells steps apart: two of one shape do the same with the same buffers.
            step: may be run more than once.
        """
        ...


class PlainSteps:
    """Runs each step as it comes."""

    def run(self, shape: Hashable, step: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """See `StepRunner.run`."""
        return step()


class CapturedSteps:
    """Records each shape when it comes first."""

    def __init__(self) -> None:
        self._graphs: dict[Hashable, tuple[Any, tuple[Tensor, ...]]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, shape: Hashable, step: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """See `StepRunner.run`."""
        if shape not in self._graphs:
            with _recording:
                self._graphs[shape] = self._recorded(step)
        graph, outputs = self._graphs[shape]
        graph.replay()
        return outputs

    def _recorded(self, step: Callable[[], tuple[Tensor, ...]]) -> tuple[Any, tuple[Tensor, ...]]:
        # Libraries set themselves up in a first run, which must not be recorded.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = step()
        return graph, outputs
