"""Word times from cross-attention: the cheapest monotone path through it. Pure.

The method of Whisper's authors: the attention of a few heads, known to follow the speech, is normalised over the
tokens, smoothed over time and averaged; dynamic time warping then gives each token its stretch of audio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

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
    "alignment_of",
    "attended_rows",
    "attention_costs",
    "audio_positions",
    "first_positions",
    "median_of_shifted",
    "token_positions",
]

SMOOTHED_POSITIONS = 7
"""Width of the median filter over time (0.14 s)."""

LEAST_DEVIATION = 1e-10
"""Keeps the normalisation finite where all tokens attend alike."""

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_Array = TypeVar("_Array")
_Pairwise: TypeAlias = Callable[[_Array, _Array], _Array]


def aligned_text(
    transcript: Transcript,
    text: Sequence[int],
    *,
    start_tokens: int,
    frames: int,
) -> Alignment:
    """When each token of a text was said.

    Args:
        transcript: that the text was decoded in.
        text: its tokens, or what is left of them once loops are cut.
        start_tokens: of the start sequence.
        frames: how many mel frames of the window are audio.
    """
    rows, kept = attended_rows(transcript, text, start_tokens, transcript.attention.shape[1])
    positions = audio_positions(frames)
    found = token_positions(transcript.attention[:, rows], start_tokens, positions)
    return alignment_of(transcript, kept, found, positions)


def audio_positions(frames: int) -> int:
    """How many positions of a window are audio, given its mel frames."""
    return max(1, frames // FRAMES_PER_POSITION)


def attended_rows(
    transcript: Transcript, text: Sequence[int], start_tokens: int, available: int
) -> tuple[list[int], list[int]]:
    """Which rows of a transcript's attention a text is aligned by, and where in the transcript its tokens stand.

    Args:
        transcript: that the text was decoded in.
        text: a part of its tokens, in their order; at least one.
        start_tokens: of the start sequence.
        available: rows of the attention.
    """
    kept = _places(transcript.tokens, text)
    # A token stands where the one before it, which it was predicted from, attended to. The last row is for the end of
    # text; there is none where the token cap came first.
    rows = [*range(start_tokens), *(start_tokens + place for place in (*kept, kept[-1] + 1))]
    return [row for row in rows if row < available], kept


def alignment_of(transcript: Transcript, kept: Sequence[int], found: Int64, positions: int) -> Alignment:
    """When tokens were said that begin at the positions found.

    Args:
        transcript: that they were decoded in.
        kept: where in it each of them stands.
        found: of each, and of the end of text if it was looked for.
        positions: of the audio.
    """
    if len(found) == len(kept):
        found = np.append(found, positions)
    probabilities = np.array(transcript.probabilities)[list(kept)]
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
    return median_of_shifted(shifted, np.minimum, np.maximum)


def median_of_shifted(
    shifted: Sequence[_Array], minimum: _Pairwise[_Array], maximum: _Pairwise[_Array]
) -> _Array:
    """The median of an odd number of arrays, element by element, by a runtime's own minimum and maximum of two."""
    reach = len(shifted) // 2
    # Of more than half of the values the least and the greatest can't be the median: they go, the next value comes.
    # (Sorting every window took ten times as long.)
    kept, waiting = list(shifted[: reach + 2]), list(shifted[reach + 2 :])
    while True:
        kept = _extremes_outside(kept, minimum, maximum)[1:-1]
        if not waiting:
            return kept[0]
        kept.append(waiting.pop())


def _extremes_outside(
    values: Sequence[_Array], minimum: _Pairwise[_Array], maximum: _Pairwise[_Array]
) -> list[_Array]:
    """The values with the least in front and the greatest behind, element by element."""
    moved = list(values)
    for place in range(len(moved) - 1):
        low, high = minimum(moved[place], moved[place + 1]), maximum(moved[place], moved[place + 1])
        moved[place], moved[place + 1] = low, high
    for place in range(len(moved) - 2, 0, -1):
        low, high = minimum(moved[place - 1], moved[place]), maximum(moved[place - 1], moved[place])
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
