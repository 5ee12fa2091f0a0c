"""The path through the attention, against the textbook's loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ray_whisper_streaming.engines.alignment import _smoothed, first_positions, token_positions


def cheapest(costs: np.ndarray) -> float:
    """Cost of the cheapest path, cell by cell."""
    totals = np.full(costs.shape, np.inf)
    totals[0, 0] = costs[0, 0]
    for row in range(costs.shape[0]):
        for column in range(costs.shape[1]):
            if row or column:
                before = [
                    totals[row - up, column - left]
                    for up, left in ((1, 1), (1, 0), (0, 1))
                    if row >= up and column >= left
                ]
                totals[row, column] = costs[row, column] + min(before)
    return totals[-1, -1]


def cost_along(costs: np.ndarray, firsts: np.ndarray) -> float:
    """The cheapest that a path can be that enters its rows where it is said."""
    rows, columns = costs.shape
    total = 0.0
    for row, first in enumerate(firsts):
        if row + 1 == rows:
            return total + costs[row, first:columns].sum()
        following = firsts[row + 1]
        # Into the next row straight down or by a step to the right as well.
        ends = [end for end in (following - 1, following) if end >= first]
        total += min(costs[row, first : end + 1].sum() for end in ends)
    raise AssertionError


matrices = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 9), st.integers(1, 12)),
    elements=st.floats(-4, 4, width=16),
)


@given(matrices)
def test_no_path_is_cheaper(costs: np.ndarray):
    firsts = first_positions(costs)
    assert firsts[0] == 0
    assert (np.diff(firsts) >= 0).all()
    assert (firsts < costs.shape[1]).all()
    assert cost_along(costs, firsts) == pytest.approx(cheapest(costs), abs=1e-9)


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.just(2), st.integers(1, 3), st.integers(4, 30)),
        elements=st.floats(-9, 9, width=16),
    )
)
def test_the_median_is_the_median(values: np.ndarray):
    padded = np.pad(values, ((0, 0), (0, 0), (3, 3)), mode="reflect")
    wanted = np.median(np.lib.stride_tricks.sliding_window_view(padded, 7, axis=-1), axis=-1)
    np.testing.assert_array_equal(_smoothed(values), wanted)


def test_tokens_stand_where_the_heads_look():
    starts = [0, 10, 30, 45, 60]
    attention = np.full((3, len(starts) + 2, 100), 1e-3, np.float32)
    attention[:, :2, 90:] = 1.0
    for row, (first, end) in enumerate(zip(starts, [*starts[1:], 80], strict=True)):
        attention[:, row + 2, first:end] = 1.0
    attention /= attention.sum(axis=2, keepdims=True)
    found = token_positions(attention, 2, 80)
    assert np.abs(found - starts).max() <= 1
    # What lies behind the audio, however loud, is not looked at.
    attention[:, 4:, 80:] = 5.0
    assert np.abs(token_positions(attention, 2, 80) - starts).max() <= 1


@pytest.mark.parametrize("positions", [1, 2, 3, 5])
def test_a_few_positions_are_enough(positions: int):
    attention = np.full((2, 6, 50), 1 / 50, np.float32)
    found = token_positions(attention, 2, positions)
    assert found.shape == (4,)
    assert (found < positions).all()
