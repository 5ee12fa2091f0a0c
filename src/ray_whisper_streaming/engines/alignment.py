"""Word times from cross-attention: the cheapest monotone path through it. Pure.

The method of Whisper's authors: the attention of a few heads, known to follow the speech, is normalised over the
tokens, smoothed over time and averaged; dynamic time warping then gives each token its stretch of audio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.engines.backend import FRAMES_PER_POSITION, SECONDS_PER_POSITION
from ray_whisper_streaming.engines.mel import Float32
from ray_whisper_streaming.engines.search import Transcript
from ray_whisper_streaming.engines.words import Alignment

__all__ = [
    "LEAST_DEVIATION",
    "SMOOTHED_POSITIONS",
    "aligned_text",
    "attention_costs",
    "first_positions",
    "token_positions",
]

SMOOTHED_POSITIONS = 7
"""Width of the median filter over time (0.14 s)."""

LEAST_DEVIATION = 1e-10
"""Keeps the normalisation finite where all tokens attend alike."""

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


def aligned_text(
    transcript: Transcript,
    text: Sequence[int],
    *,
    start_tokens: int,
    frames: int,
    costs: Callable[[Any, int, int], Float64] | None = None,
) -> Alignment:
    """When each token of a text was said.

    Args:
        transcript: that the text was decoded in.
        text: its tokens, or what is left of them once loops are cut.
        start_tokens: of the start sequence.
        frames: how many mel frames of the window are audio.
        costs: `attention_costs` for the attention of another runtime.
    """
    kept = _places(transcript.tokens, text)
    # A token stands where the one before it, which it was predicted from, attended to. The last row is for the end of
    # text; there is none where the token cap came first.
    first = start_tokens
    rows = [*range(first), *(first + place for place in kept), first + kept[-1] + 1]
    rows = [row for row in rows if row < transcript.attention.shape[1]]
    positions = max(1, frames // FRAMES_PER_POSITION)
    found = first_positions((costs or attention_costs)(transcript.attention[:, rows], first, positions))
    if len(found) == len(text):
        found = np.append(found, positions)
    probabilities = np.array(transcript.probabilities)[kept]
    return Alignment(found.astype(np.float64) * SECONDS_PER_POSITION, probabilities)


def token_positions(attention: Float32, first_row: int, positions: int) -> Int64:
    """The first position of audio of each token: rising, shape (tokens - first_row,); see `attention_costs`."""
    return first_positions(attention_costs(attention, first_row, positions))


def attention_costs(attention: Float32, first_row: int, positions: int) -> Float64:
    """What it costs to say that a token was said at a position.

    Args:
        attention: shape (alignment heads, tokens, positions of the window), each row a distribution.
        first_row: the first token that is asked for; those before it take part in the normalisation only.
        positions: how many of the window's positions are audio.

    Returns:
        shape (tokens - first_row, positions).
    """
    real = attention[:, :, :positions].astype(np.float32)
    real = real / np.maximum(real.sum(axis=2, keepdims=True), LEAST_DEVIATION)
    centred = real - real.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axis=1, keepdims=True))
    normalised = centred / np.maximum(deviation, LEAST_DEVIATION)
    return -_smoothed(normalised[:, first_row:]).mean(axis=0, dtype=np.float64)


def first_positions(costs: Float64) -> Int64:
    """The column where the cheapest path enters each row.

    A path goes from the first corner to the last, each step to the next row, the next column or both, and costs what it
    stands on.

    Args:
        costs: shape (rows, columns), at least one of each.
    """
    rows, columns = costs.shape
    # Where in its row a path that stands on (row, column) entered it, and whether from the column before.
    entries = np.zeros((rows, columns), np.int64)
    diagonal = np.zeros((rows, columns), bool)
    totals = np.cumsum(costs[0])
    index: Int64 = np.arange(columns, dtype=np.int64)
    for row in range(1, rows):
        above_left = np.concatenate(([np.inf], totals[:-1]))
        diagonal[row] = above_left < totals
        entering = np.minimum(above_left, totals)
        # Walking on in a row costs the sum of what is walked over: with the sums up to each column taken off, the best
        # place to have entered is the least value so far.
        walked = np.cumsum(costs[row])
        rest = entering - (walked - costs[row])
        best = np.minimum.accumulate(rest)
        entries[row] = np.maximum.accumulate(np.where(rest == best, index, 0))
        totals = walked + best
    found = np.zeros(rows, np.int64)
    column = columns - 1
    for row in range(rows - 1, 0, -1):
        found[row] = entries[row, column]
        column = found[row] - 1 if diagonal[row, found[row]] else found[row]
    return found


def _smoothed(values: Float32) -> Float32:
    """Median over `SMOOTHED_POSITIONS` along the last axis, mirrored at its ends; unchanged where that is shorter."""
    reach = SMOOTHED_POSITIONS // 2
    if values.shape[-1] <= reach:
        return values
    padded = np.pad(values, ((0, 0), (0, 0), (reach, reach)), mode="reflect")
    count = values.shape[-1]
    shifted = [padded[..., offset : offset + count] for offset in range(SMOOTHED_POSITIONS)]
    # Of more than half of the values the least and the greatest can't be the median: they go, the next value comes.
    # (Sorting every window took ten times as long.)
    kept, waiting = shifted[: reach + 2], shifted[reach + 2 :]
    while True:
        kept = _extremes_outside(kept)[1:-1]
        if not waiting:
            return kept[0]
        kept.append(waiting.pop())


def _extremes_outside(values: list[Float32]) -> list[Float32]:
    """The values with the least in front and the greatest behind, element by element."""
    moved = list(values)
    for place in range(len(moved) - 1):
        low, high = np.minimum(moved[place], moved[place + 1]), np.maximum(moved[place], moved[place + 1])
        moved[place], moved[place + 1] = low, high
    for place in range(len(moved) - 2, 0, -1):
        low, high = np.minimum(moved[place - 1], moved[place]), np.maximum(moved[place - 1], moved[place])
        moved[place - 1], moved[place] = low, high
    return moved


def _places(tokens: Sequence[int], text: Sequence[int]) -> list[int]:
    """Where in ``tokens`` each token of ``text``, which is a part of them in the same order, stands first."""
    found: list[int] = []
    place = -1
    for token in text:
        place = next(later for later in range(place + 1, len(tokens)) if tokens[later] == token)
        found.append(place)
    return found
