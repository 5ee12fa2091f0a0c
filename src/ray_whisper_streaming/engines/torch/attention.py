"""Attention of single tokens over what a `Cache` holds."""

from __future__ import annotations

from ray_whisper_streaming.engines.torch.layers import attend
from ray_whisper_streaming.engines.torch.runtime import Tensor, torch

__all__ = ["attend_one"]


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
