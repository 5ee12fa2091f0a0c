"""`engines.alignment` for a batch, on the device: on a CPU, one by one, it took longer than the decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.engines.alignment import LEAST_DEVIATION, SMOOTHED_POSITIONS, median_of_shifted
from ray_whisper_streaming.engines.torch.runtime import Tensor, functional, on_cpu, to_device, torch

__all__ = ["Int64", "attention_costs", "cheapest_paths", "first_positions"]

Int64 = npt.NDArray[np.int64]


def first_positions(
    queries: Tensor,
    keys: Tensor,
    *,
    tokens: Sequence[int],
    window_positions: Sequence[int],
    positions: Sequence[int],
    first_row: int,
) -> list[Int64]:
    """The first position of audio of each token: rising, shape (tokens - first row,) for each text.

    Args:
        queries: of the alignment heads, shape (texts, tokens, heads, size).
        keys: of the windows, shape (texts, heads, positions, size).
        tokens: of each text.
        window_positions: of each window.
        positions: so many of them are audio.
        first_row: the first token that is asked for.
    """
    device = queries.device
    counts, lengths, audio = to_device(np.array([tokens, window_positions, positions]), device)
    queries = queries.transpose(1, 2) * queries.shape[-1] ** -0.5
    scores = (queries @ keys.transpose(-1, -2)).float()
    outside = torch.arange(keys.shape[2], device=device) >= lengths[:, None]
    attention = scores.masked_fill(outside[:, None, None], float("-inf")).softmax(dim=-1)
    costs = attention_costs(attention[..., : max(positions)], counts, audio, first_row)
    found = on_cpu(cheapest_paths(costs, counts - first_row, audio))
    return [row[: count - first_row] for row, count in zip(found, tokens, strict=True)]


def attention_costs(attention: Tensor, tokens: Tensor, positions: Tensor, first_row: int) -> Tensor:
    """See `engines.alignment.attention_costs`.

    Args:
        attention: shape (texts, heads, tokens, positions), each row a distribution or a part of one.
        tokens: of each text, shape (texts,).
        positions: of each text that are audio, shape (texts,).
        first_row: the first token that is asked for.

    Returns:
        shape (texts, tokens - first row, positions), float64; of no meaning behind a text's own.
    """
    columns = torch.arange(attention.shape[-1], device=attention.device)
    real = attention.masked_fill((columns >= positions[:, None])[:, None, None], 0.0)
    real = real / real.sum(dim=-1, keepdim=True).clamp_min(LEAST_DEVIATION)
    absent = (torch.arange(attention.shape[2], device=attention.device) >= tokens[:, None])[:, None, :, None]
    count = tokens[:, None, None, None]
    mean = real.masked_fill(absent, 0.0).sum(dim=2, keepdim=True) / count
    centred = (real - mean).masked_fill(absent, 0.0)
    deviation = (centred.square().sum(dim=2, keepdim=True) / count).sqrt()
    normalised = (centred / deviation.clamp_min(LEAST_DEVIATION))[:, :, first_row:]
    return -_smoothed(normalised, positions).mean(dim=1, dtype=torch.float64)


def cheapest_paths(costs: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """See `engines.alignment.first_positions`, for texts side by side.

    Args:
        costs: shape (texts, rows, columns), float64.
        rows: of each text, shape (texts,).
        columns: of each text, shape (texts,).

    Returns:
        shape (texts, rows); of no meaning behind a text's own.
    """
    if costs.device.type == "cuda":
        from ray_whisper_streaming.engines.torch import kernels

        return kernels.cheapest_paths(costs, rows, columns)
    texts, most, width = costs.shape
    index = torch.arange(width, device=costs.device).expand(texts, width)
    walked = costs.cumsum(dim=2)
    before = walked - costs
    totals = walked[:, 0]
    entries, diagonals = [torch.zeros_like(index)], [torch.zeros_like(index, dtype=torch.bool)]
    for row in range(1, most):
        above_left = functional.pad(totals[:, :-1], (1, 0), value=float("inf"))
        diagonals.append(above_left < totals)
        rest = torch.minimum(above_left, totals) - before[:, row]
        best = rest.cummin(dim=1).values
        entries.append(torch.where(rest == best, index, 0).cummax(dim=1).values)
        totals = walked[:, row] + best
    found = torch.zeros((texts, most), device=costs.device, dtype=torch.int64)
    column = (columns - 1)[:, None]
    for row in range(most - 1, 0, -1):
        inside = (row < rows)[:, None]
        entered = entries[row].gather(1, column)
        left = entered - diagonals[row].gather(1, entered).long()
        found[:, row : row + 1] = entered
        column = torch.where(inside, left, column)
    return found


def _smoothed(values: Tensor, positions: Tensor) -> Tensor:
    """Median over `SMOOTHED_POSITIONS` along the last axis, mirrored at each text's ends; unchanged where that is
    shorter.
    """
    reach = SMOOTHED_POSITIONS // 2
    width = values.shape[-1]
    last = (positions - 1)[:, None]
    places = torch.arange(-reach, width + reach, device=values.device).abs().expand(len(values), -1)
    mirrored = torch.where(places > last, 2 * last - places, places).clamp(0, width - 1)
    shape = (*values.shape[:-1], width + 2 * reach)
    padded = values.gather(-1, mirrored[:, None, None].expand(shape))
    shifted = [padded[..., offset : offset + width] for offset in range(SMOOTHED_POSITIONS)]
    medians = median_of_shifted(shifted, torch.minimum, torch.maximum)
    return torch.where((positions > reach)[:, None, None, None], medians, values)
