"""What a step of the decoder spends most of its time on, as kernels for GPUs (Triton comes with PyTorch there).

A step of one token per row is bound by memory: each of these reads once what PyTorch's own operations go through
several times, and, of a row, only as much as there is. Lengths are read on the device, so that a recorded step holds
for any. `layers`, `attention` and `steps` hold the same for CPUs, in plain PyTorch.
"""

# A kernel is written in Triton's language, which only looks like Python to a type checker.
# pyright: basic, reportInvalidTypeForm=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any

import triton as _triton  # pyright: ignore[reportMissingImports]
import triton.language as _language  # pyright: ignore[reportMissingImports]

from ray_whisper_streaming.engines.torch.runtime import Tensor, torch

__all__ = ["add_and_normalise", "attend_one", "cheapest_paths", "choose"]

triton: Any = _triton
tl: Any = _language

NORM_EPSILON = 1e-5
"""PyTorch's."""

POSITIONS_AT_ONCE, ATTENTION_WARPS = 128, 4
"""The quickest of four pairs tried on an H200, for windows of 100 to 1500 positions."""

TOKENS_AT_ONCE, CHOICE_WARPS = 8192, 16

LOWEST: Any = tl.constexpr(-1e30)
"""Less than any score, but a number: the difference of two is one too."""


@triton.jit
def _attend_one(
    queries,
    keys,
    values,
    lengths,
    new_keys,
    new_values,
    attended,
    scale,
    row_stride,
    slot_stride,
    head_stride,
    position_stride,
    beams: tl.constexpr,
    size: tl.constexpr,
    block: tl.constexpr,
    append: tl.constexpr,
):
    row = tl.program_id(0)
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    slot = row // beams
    length = tl.load(lengths + slot).to(tl.int32)
    numbers = tl.arange(0, size)
    here = row * row_stride + head * size + numbers
    query = tl.load(queries + here).to(tl.float32) * scale
    past = slot.to(tl.int64) * slot_stride + head * head_stride
    if append:
        key = tl.load(new_keys + here)
        value = tl.load(new_values + here)
        tl.store(keys + past + length * position_stride + numbers, key)
        tl.store(values + past + length * position_stride + numbers, value)
        most = tl.sum(query * key.to(tl.float32), 0)
        total = 1.0
        sums = value.to(tl.float32)
    else:
        most = LOWEST + 0.0
        total = 0.0
        sums = tl.zeros((size,), tl.float32)
    for first in range(0, length, block):
        places = first + tl.arange(0, block)
        inside = places < length
        cells = past + places[:, None] * position_stride + numbers[None, :]
        past_key = tl.load(keys + cells, mask=inside[:, None], other=0.0).to(tl.float32)
        scores = tl.where(inside, tl.sum(past_key * query[None, :], 1), LOWEST)
        past_value = tl.load(values + cells, mask=inside[:, None], other=0.0).to(tl.float32)
        higher = tl.maximum(most, tl.max(scores, 0))
        shares = tl.exp(scores - higher)
        before = tl.exp(most - higher)
        sums = sums * before + tl.sum(past_value * shares[:, None], 0)
        total = total * before + tl.sum(shares, 0)
        most = higher
    out = (row * heads + head) * size + numbers
    tl.store(attended + out, (sums / total).to(attended.dtype.element_ty))


def attend_one(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    *,
    beams: int = 1,
    new: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """See `attention.attend_one`."""
    rows, width = queries.shape
    _, heads, _, size = keys.shape
    attended = torch.empty((rows, width), device=queries.device, dtype=queries.dtype)
    new_keys, new_values = new or (queries, queries)
    _attend_one[(rows, heads)](
        queries,
        keys,
        values,
        lengths,
        new_keys,
        new_values,
        attended,
        size**-0.5,
        queries.stride(0),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        beams=beams,
        size=size,
        block=POSITIONS_AT_ONCE,
        append=new is not None,
        num_warps=ATTENTION_WARPS,
    )
    return attended


@triton.jit
def _add_and_normalise(hidden, change, weight, bias, total, normalised, width, epsilon, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, block)
    inside = places < width
    here = row * width + places
    one = tl.load(hidden + here, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(change + here, mask=inside, other=0.0).to(tl.float32)
    # Rounded as it is kept.
    both = (one + other).to(total.dtype.element_ty)
    tl.store(total + here, both, mask=inside)
    numbers = both.to(tl.float32)
    mean = tl.sum(numbers, 0) / width
    centred = tl.where(inside, numbers - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + epsilon)
    gain = tl.load(weight + places, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(bias + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(
        normalised + here, (centred * scale * gain + offset).to(normalised.dtype.element_ty), mask=inside
    )


def add_and_normalise(hidden: Tensor, change: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """See `layers.added_and_normalised`."""
    hidden, change = hidden.contiguous(), change.contiguous()
    total, normalised = torch.empty_like(hidden), torch.empty_like(hidden)
    width = hidden.shape[-1]
    _add_and_normalise[(hidden.numel() // width,)](
        hidden,
        change,
        weight,
        bias,
        total,
        normalised,
        width,
        NORM_EPSILON,
        block=triton.next_power_of_2(width),
        num_warps=4,
    )
    return total, normalised


@triton.jit
def _choose(scores, forbidden, best, vocabulary, words, block: tl.constexpr):
    row = tl.program_id(0)
    rows = tl.num_programs(0)
    base = row.to(tl.int64) * vocabulary
    most_of_words = LOWEST + 0.0
    sum_of_words = 0.0
    most_of_free = LOWEST + 0.0
    sum_of_free = 0.0
    token = 0
    for first in range(0, vocabulary, block):
        places = first + tl.arange(0, block)
        inside = places < vocabulary
        numbers = tl.load(scores + base + places, mask=inside, other=LOWEST).to(tl.float32)
        free = inside & (tl.load(forbidden + places, mask=inside, other=1) == 0)
        of_words = tl.where(places < words, numbers, LOWEST)
        higher = tl.maximum(most_of_words, tl.max(of_words, 0))
        sum_of_words = sum_of_words * tl.exp(most_of_words - higher) + tl.sum(tl.exp(of_words - higher), 0)
        most_of_words = higher
        of_free = tl.where(free, numbers, LOWEST)
        here = tl.max(of_free, 0)
        token = tl.where(here > most_of_free, first + tl.argmax(of_free, 0), token)
        higher = tl.maximum(most_of_free, here)
        sum_of_free = sum_of_free * tl.exp(most_of_free - higher) + tl.sum(tl.exp(of_free - higher), 0)
        most_of_free = higher
    tl.store(best + row, token.to(tl.float32))
    tl.store(best + rows + row, tl.exp(most_of_free - most_of_words - tl.log(sum_of_words)))
    tl.store(best + 2 * rows + row, -tl.log(sum_of_free))


def choose(scores: Tensor, forbidden: Tensor, words: int) -> Tensor:
    """The likeliest token of each row; see `steps.Chooser.best`.

    Args:
        scores: shape (rows, vocabulary).
        forbidden: true where a token may not be chosen.
        words: so many tokens, the first ones, are words.

    Returns:
        shape (3, rows, 1), float32.
    """
    rows, vocabulary = scores.shape
    best = torch.empty((3, rows, 1), device=scores.device, dtype=torch.float32)
    _choose[(rows,)](
        scores.contiguous(), forbidden, best, vocabulary, words, block=TOKENS_AT_ONCE, num_warps=CHOICE_WARPS
    )
    return best


@triton.jit
def _least(one, other):
    return tl.minimum(one, other)


@triton.jit
def _greatest(one, other):
    return tl.maximum(one, other)


@triton.jit
def _cheapest_path(costs, rows, columns, totals, entries, diagonals, found, most, width, block: tl.constexpr):
    text = tl.program_id(0)
    count = tl.load(rows + text).to(tl.int32)
    places = tl.arange(0, block)
    inside = places < width
    base = text.to(tl.int64) * most * width
    total = tl.cumsum(tl.load(costs + base + places, mask=inside, other=0.0), 0)
    beside = totals + text * width + places
    for row in range(1, count):
        here = base + row * width + places
        # By way of memory: a value moves on to its neighbour.
        tl.store(beside, total, mask=inside)
        tl.debug_barrier()
        above_left = tl.load(beside - 1, mask=inside & (places > 0), other=float("inf"))
        tl.debug_barrier()
        cost = tl.load(costs + here, mask=inside, other=0.0)
        walked = tl.cumsum(cost, 0)
        rest = tl.minimum(above_left, total) - (walked - cost)
        best = tl.associative_scan(rest, 0, _least)
        entered = tl.associative_scan(tl.where(rest == best, places, 0), 0, _greatest)
        tl.store(entries + here, entered, mask=inside)
        tl.store(diagonals + here, (above_left < total).to(tl.int32), mask=inside)
        total = walked + best
    tl.debug_barrier()
    column = tl.load(columns + text).to(tl.int32) - 1
    for back in range(1, count):
        here = base + (count - back) * width
        start = tl.load(entries + here + column)
        tl.store(found + text * most + count - back, start)
        column = start - tl.load(diagonals + here + start)


def cheapest_paths(costs: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """See `alignment.cheapest_paths`; one kernel instead of a dozen for each row."""
    costs = costs.contiguous()
    texts, most, width = costs.shape
    entries, diagonals = (torch.empty(costs.shape, device=costs.device, dtype=torch.int32) for _ in range(2))
    found = torch.zeros((texts, most), device=costs.device, dtype=torch.int32)
    _cheapest_path[(texts,)](
        costs,
        rows,
        columns,
        torch.empty((texts, width), device=costs.device, dtype=costs.dtype),
        entries,
        diagonals,
        found,
        most,
        width,
        block=triton.next_power_of_2(width),
        num_warps=8,
    )
    return found
