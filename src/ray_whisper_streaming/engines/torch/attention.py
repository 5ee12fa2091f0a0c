"""Attention without padding: of windows one behind the other, and of single tokens over what a `Cache` holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ray_whisper_streaming.engines.torch.layers import attend, joined, split
from ray_whisper_streaming.engines.torch.runtime import Tensor, packed_attention, to_device, torch

__all__ = ["Spans", "attend_one", "attend_within"]


@dataclass(frozen=True, slots=True)
class Spans:
    """Where windows stand that are one behind the other.

    Attributes:
        lengths: of each.
        bounds: where each begins and, last, where the last one ends, shape (windows + 1,), on the device.
    """

    lengths: Sequence[int]
    bounds: Tensor = field(repr=False)

    @classmethod
    def of(cls, lengths: Sequence[int], device: Tensor) -> Spans:
        """The spans of windows of these lengths."""
        return cls(lengths, to_device(np.cumsum([0, *lengths]).astype(np.int32), device))


def attend_within(
    queries: Tensor, keys: Tensor, values: Tensor, asking: Spans, seen: Spans, heads: int
) -> Tensor:
    """What each position attends to within its own window.

    Args:
        queries: shape (positions that ask, of all windows, width), as what comes back.
        keys: shape (positions that are seen, width), as values.
        values: what is attended to.
        asking: of the windows, in the queries.
        seen: of the same windows, in keys and values.
        heads: of the attention.
    """
    if queries.device.type == "cuda" and queries.dtype.itemsize == 2:
        queries, keys, values = (part.unflatten(-1, (heads, -1)) for part in (queries, keys, values))
        bounds, longest = (asking.bounds, seen.bounds), (max(asking.lengths), max(seen.lengths))
        return packed_attention(queries, keys, values, bounds, longest).flatten(1)
    windows = zip(
        queries.split(asking.lengths), keys.split(seen.lengths), values.split(seen.lengths), strict=True
    )
    return torch.cat(
        [joined(attend(*(split(part[None], heads) for part in window)))[0] for window in windows]
    )


def attend_one(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    *,
    beams: int = 1,
    new: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """What one token per row attends to.

    Args:
        queries: shape (rows, width).
        keys: shape (slots, heads, positions, size), as many slots as rows need or more.
        values: as keys.
        lengths: how many positions of a slot count, shape (slots,).
        beams: rows of each slot.
        new: key and value of the token itself, as queries: put behind the others, and attended to. (With one row per
            slot.)

    Returns:
        shape (rows, width).
    """
    if queries.device.type == "cuda":
        from ray_whisper_streaming.engines.torch import kernels

        return kernels.attend_one(queries, keys, values, lengths, beams=beams, new=new)
    rows = len(queries)
    slots, heads = rows // beams, keys.shape[1]
    lengths = lengths[:slots]
    if new is not None:
        every = torch.arange(rows, device=queries.device)
        for held, added in zip((keys, values), new, strict=True):
            held[every, :, lengths] = added.unflatten(-1, (heads, -1))
        lengths = lengths + 1
    inside = torch.arange(int(lengths.max()), device=queries.device) < lengths[:, None]
    looked_at = slice(inside.shape[1])
    attended = attend(
        queries.view(slots, beams, heads, -1).transpose(1, 2),
        keys[:slots, :, looked_at],
        values[:slots, :, looked_at],
        inside[:, None, None],
    )
    return attended.transpose(1, 2).reshape(rows, -1)
