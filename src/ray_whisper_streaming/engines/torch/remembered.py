"""What the encoder remembers of streams, on the device: a pass encodes only what is new in a window.

Positions are kept one by one in buffers made once, so that nothing can break the memory up: a window has as many of
their rows as it remembers positions, wherever they are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ray_whisper_streaming.engines.alignment import Int64
from ray_whisper_streaming.engines.backend import Source
from ray_whisper_streaming.engines.remembering import LEAST_RANGE, LEVELS, Known, KnownWindows
from ray_whisper_streaming.engines.torch.memory import ModelShape
from ray_whisper_streaming.engines.torch.runtime import Tensor, torch

__all__ = ["Remembered", "Rows"]

NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Rows:
    """Where a window is remembered.

    Attributes:
        known: rows of the positions remembered so far, in order.
        new: rows for those that follow them.
    """

    known: Int64 = field(default_factory=lambda: NO_ROWS, repr=False)
    new: Int64 = field(default_factory=lambda: NO_ROWS, repr=False)


class Remembered:
    """Keys and values of the encoder's own attentions in 8 bits, and what comes out of the encoder.

    Args:
        shape: of the model.
        positions: of all windows together.
        device: where they are.
        number_type: of what is computed with.
    """

    def __init__(self, shape: ModelShape, positions: int, *, device: Tensor, number_type: Tensor) -> None:
        self._number_type = number_type
        self._parts = 2 * shape.encoder_heads
        size = (positions, shape.encoder_layers)
        # Never read before it was written.
        self._numbers = torch.empty(*size, 2 * shape.width, device=device, dtype=torch.int8)
        self._steps = torch.empty(*size, self._parts, device=device, dtype=torch.float16)
        self._outputs = torch.empty(positions, shape.width, device=device, dtype=number_type)
        # A stack of rows, and how many of it are free.
        self._rows, self._free = np.arange(positions), positions
        self._freed: list[Int64] = []
        self._windows = KnownWindows[Int64](positions, self._freed.append)

    @property
    def tensors(self) -> Sequence[Tensor]:
        """All of its buffers."""
        return self._numbers, self._steps, self._outputs

    def recall(self, source: Source) -> Known[Int64] | None:
        """What is known of a window: its rows."""
        return self._windows.recall(source)

    def settle(self, source: Source, known: Known[Int64] | None) -> Rows:
        """Rows for what is to be remembered of a window that is encoded now. They count as written from now on: if the
        pass fails, `forget` it.
        """
        before = known.held if known else NO_ROWS
        after = self._windows.settle(source, known)
        more = after - len(before)
        if after and more <= self._free:
            self._free -= more
            taken = self._rows[self._free : self._free + more].copy()
            self._windows.keep(source, after, np.concatenate([before, taken]))
            return Rows(before, taken)
        return Rows(before)

    def forget(self, sources: Sequence[Source]) -> None:
        """Forget windows."""
        for source in sources:
            self._windows.forget(source.stream_id)

    def release(self) -> None:
        """Give others the rows of what was forgotten. Not while a pass may still read them."""
        while self._freed:
            rows = self._freed.pop()
            self._rows[self._free : self._free + len(rows)] = rows
            self._free += len(rows)

    def put(self, layer: int, rows: Tensor, keys_values: Tensor) -> None:
        """Write keys and values of some positions, shape (rows, twice the width)."""
        parts = keys_values.unflatten(-1, (self._parts, -1)).float()
        steps = parts.abs().amax(dim=-1).clamp_min(LEAST_RANGE) / LEVELS
        numbers = (parts / steps[..., None]).round().to(torch.int8)
        self._numbers[:, layer].index_copy_(0, rows, numbers.flatten(1))
        self._steps[:, layer].index_copy_(0, rows, steps.half())

    def get(self, layer: int, rows: Tensor) -> Tensor:
        """Read keys and values: shape (rows, twice the width)."""
        numbers = self._numbers[:, layer].index_select(0, rows).unflatten(-1, (self._parts, -1))
        steps = self._steps[:, layer].index_select(0, rows)
        return (numbers.to(self._number_type) * steps.to(self._number_type)[..., None]).flatten(1)

    def put_outputs(self, rows: Tensor, outputs: Tensor) -> None:
        """Write what came out for some positions, shape (rows, width)."""
        self._outputs.index_copy_(0, rows, outputs)

    def outputs(self, rows: Tensor) -> Tensor:
        """Read it: shape (rows, width)."""
        return self._outputs.index_select(0, rows)
