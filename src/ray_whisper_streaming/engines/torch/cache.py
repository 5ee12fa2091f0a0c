"""What the decoder remembers of a batch, in buffers made once: captured graphs hold their addresses, and a long run
can't break the memory up.

A slot holds a window: what the encoder made of it, for all layers. A row holds a beam: the keys and values of its own
tokens, the first at the front. The rows of slot ``s`` are ``s * beams`` and those behind it. What stands behind a row's
last token is left over from others; it is masked, and overwritten before it is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ray_whisper_streaming.engines.torch.layers import split
from ray_whisper_streaming.engines.torch.memory import MAX_POSITIONS, MAX_STEPS, TEXT_POSITIONS, ModelShape
from ray_whisper_streaming.engines.torch.runtime import Tensor, to_device, torch

__all__ = ["Cache", "Window"]


@dataclass(frozen=True, slots=True)
class Window:
    """What the decoder attends to of some slots.

    Attributes:
        keys: of each layer, shape (slots, heads, positions, size).
        values: as keys.
        mask: true where a window is, shape (slots, 1, 1, positions).
    """

    keys: list[Tensor] = field(repr=False)
    values: list[Tensor] = field(repr=False)
    mask: Tensor = field(repr=False)


class Cache:
    """Room for a batch.

    Args:
        shape: of the model.
        slots: windows.
        rows: beams of all of them.
        device: where it is.
        number_type: of keys and values.
    """

    def __init__(
        self, shape: ModelShape, *, slots: int, rows: int, device: Tensor, number_type: Tensor
    ) -> None:
        self.slots, self.rows = slots, rows
        self.device = device
        layers, heads = range(shape.decoder_layers), shape.heads
        size = shape.width // heads

        def room(count: int, tokens: int) -> list[Tensor]:
            # Zeros, not whatever was there: what is masked has a share of 0, and 0 times infinity is no number.
            return [torch.zeros(count, heads, tokens, size, device=device, dtype=number_type) for _ in layers]

        self.own_keys, self.own_values = room(rows, TEXT_POSITIONS), room(rows, TEXT_POSITIONS)
        # Keys and values of a position stand behind each other, as they are computed.
        self._windows = [
            torch.zeros(slots, MAX_POSITIONS, 2 * shape.width, device=device, dtype=number_type)
            for _ in layers
        ]
        halves = [split(window, 2 * heads).split(heads, dim=1) for window in self._windows]
        self.keys = [keys for keys, _ in halves]
        self.values = [values for _, values in halves]
        # At least one: where nothing at all may be seen, attention gives no numbers, and they would spread.
        self.lengths = torch.ones(slots, device=device, dtype=torch.int64)
        self._columns = torch.arange(MAX_POSITIONS, device=device)
        # The last token of each row, and where in its text it stands.
        self.tokens = torch.zeros(rows, device=device, dtype=torch.int64)
        self.places = torch.zeros(rows, device=device, dtype=torch.int64)
        # What the alignment heads asked for at each step.
        self.queries = torch.zeros(
            MAX_STEPS, rows, shape.alignment_heads, size, device=device, dtype=number_type
        )

    @property
    def tensors(self) -> Iterator[Tensor]:
        """All of its buffers."""
        yield from (*self.own_keys, *self.own_values, *self._windows)
        yield from (self.lengths, self._columns, self.tokens, self.places, self.queries)

    def fill(self, keys_values: Iterable[Tensor], lengths: Sequence[int]) -> None:
        """Put windows into the first slots.

        Args:
            keys_values: of each layer, the windows one behind the other, keys before values; shape (positions of all,
                twice the width).
            lengths: positions of each window.
        """
        filled = np.arange(MAX_POSITIONS) < np.array(lengths)[:, None]
        rows = to_device(np.flatnonzero(filled), self.device)
        for window, computed in zip(self._windows, keys_values, strict=True):
            window.flatten(0, 1).index_copy_(0, rows, computed)
        self.lengths[: len(lengths)] = to_device(np.array(lengths), self.device)

    def window(self, slots: int, positions: int) -> Window:
        """The first slots, cut to so many positions: views."""
        return Window(
            [keys[:slots, :, :positions] for keys in self.keys],
            [values[:slots, :, :positions] for values in self.values],
            (self._columns[:positions] < self.lengths[:slots, None])[:, None, None],
        )

    def follow(self, sources: Sequence[int], targets: Sequence[int], tokens: int) -> None:
        """Copy the first ``tokens`` of some rows to others, as if all at once."""
        if sources:
            taken, given = to_device(np.array([sources, targets]), self.device)
            for part in (*self.own_keys, *self.own_values):
                part[given, :, :tokens] = part[taken, :, :tokens]

    def move(self, sources: Sequence[int], targets: Sequence[int], *, beams: int, tokens: int) -> None:
        """Copy the windows of some slots, and the first ``tokens`` of their rows, to other slots."""
        if not sources:
            return
        self.follow(
            [slot * beams + beam for slot in sources for beam in range(beams)],
            [slot * beams + beam for slot in targets for beam in range(beams)],
            tokens,
        )
        taken, given = to_device(np.array([sources, targets]), self.device)
        for part in (*self._windows, self.lengths):
            part[given] = part[taken]
