"""Loops in Whisper's tokens are cut; speech that repeats itself is not."""

import pytest

from ray_whisper_streaming.engines.loops import (
    cut_loops,
    is_looping,
)

NO, COMMA = 1, 2
SENTENCE = [10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize(
    "speech",
    [
        [],
        [5],
        [NO, COMMA, NO, COMMA, NO],
        [NO, COMMA] * 4,
        [7, 8, 9] * 3,
        [*SENTENCE, *SENTENCE],
        [1, 2, 3, 4] * 2 + [5] + [1, 2, 3, 4] * 2,
    ],
)
def test_real_repetition_survives(speech: list[int]):
    assert cut_loops(speech) == speech


@pytest.mark.parametrize(
    ("looping", "cut"),
    [
        ([NO, COMMA] * 20, [NO, COMMA]),
        ([3] * 50, [3]),
        ([1, *SENTENCE * 3], [1, *SENTENCE]),
        ([1, *SENTENCE * 3, *SENTENCE[:4]], [1, *SENTENCE]),
        ([1, *[4, 5] * 9, 6, 7], [1, 4, 5, 6, 7]),
        ([*range(20)] * 3 + [0, 1], [*range(20)]),
        ([8] * 9 + [9] * 9, [8, 9]),
    ],
)
def test_a_loop_shrinks_to_its_first_copy(looping: list[int], cut: list[int]):
    assert cut_loops(looping) == cut


def test_cutting_twice_changes_nothing_more():
    looping = [1, 2, *[3, 4, 5] * 8, 6, *[7] * 30]
    assert cut_loops(cut_loops(looping)) == cut_loops(looping)


@pytest.mark.parametrize(
    ("tokens", "looping"),
    [
        ([], False),
        ([5], False),
        ([NO, COMMA] * 4, False),
        ([8, *[NO, COMMA] * 5], False),
        ([8, *[NO, COMMA] * 6], True),
        ([8, *[NO] * 6], True),
        (SENTENCE * 2, False),
        ([*SENTENCE * 2, *SENTENCE[:-1]], False),
        (SENTENCE * 3, True),
        ([*SENTENCE * 3, 7], False),
        (list(range(40)) * 3, False),
    ],
)
def test_a_decoder_is_told_when_nothing_but_a_loop_comes(tokens: list[int], looping: bool):
    assert is_looping(tokens) == looping
    if looping:
        assert len(cut_loops(tokens)) < len(tokens)
