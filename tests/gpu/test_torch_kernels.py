"""The kernels for GPUs, against the same in plain PyTorch."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra `torch`")

import numpy as np
from tests.helpers.small_whisper import RULES, VOCABULARY

from ray_whisper_streaming.engines.torch.attention import attend_one
from ray_whisper_streaming.engines.torch.layers import Norm, added_and_normalised
from ray_whisper_streaming.engines.torch.runtime import Tensor, has_gpu, torch
from ray_whisper_streaming.engines.torch.steps import Chooser

pytestmark = pytest.mark.skipif(not has_gpu(), reason="needs a GPU")

HEADS, SIZE, POSITIONS = 5, 64, 304


def numbers(*shape: int, number_type: str = "float16") -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(getattr(torch, number_type))


def close(found: Tensor, wanted: Tensor) -> None:
    error = (found.cpu().double() - wanted.double()).norm() / wanted.double().norm()
    assert float(error) < 2e-3


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("slots", [1, 7])
def test_attention_to_windows_of_any_lengths(slots: int, beams: int):
    keys, values = numbers(9, HEADS, POSITIONS, SIZE), numbers(9, HEADS, POSITIONS, SIZE) + 1
    queries = numbers(slots * beams, HEADS * SIZE)
    lengths = torch.tensor([1, 2, 127, 128, 129, 250, POSITIONS, 5, 6])
    wanted = attend_one(queries.float(), keys.float(), values.float(), lengths, beams=beams)
    found = attend_one(*(part.cuda() for part in (queries, keys, values, lengths)), beams=beams)
    close(found, wanted)


def test_attention_to_a_text_and_its_new_token():
    keys, values = numbers(6, HEADS, POSITIONS, SIZE), numbers(6, HEADS, POSITIONS, SIZE) + 1
    queries, new_keys, new_values = numbers(6, 3 * HEADS * SIZE).chunk(3, dim=1)
    places = torch.tensor([0, 1, 127, 128, 200, POSITIONS - 1])
    held = keys.float(), values.float()
    wanted = attend_one(queries.float(), *held, places, new=(new_keys.float(), new_values.float()))
    there = keys.cuda(), values.cuda()
    side_by_side = torch.cat((queries, new_keys, new_values), dim=1).cuda().chunk(3, dim=1)
    found = attend_one(side_by_side[0], *there, places.cuda(), new=side_by_side[1:])
    close(found, wanted)
    for kept, expected in zip(there, held, strict=True):
        assert torch.equal(kept.cpu().float(), expected)


@pytest.mark.parametrize("width", [384, 512, 1280])
def test_a_sum_and_its_norm(width: int):
    norm = Norm(numbers(width) + 1, numbers(width))
    hidden, change = numbers(3, 11, width), numbers(11, 3, width).transpose(0, 1)
    wanted = added_and_normalised(hidden, change, norm)
    there = Norm(norm.weight.cuda(), norm.bias.cuda())
    found = added_and_normalised(hidden.cuda(), change.cuda(), there)
    for one, other in zip(found, wanted, strict=True):
        close(one, other)


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 51_866])
@pytest.mark.parametrize("blanks", [True, False])
def test_the_likeliest_token(vocabulary: int, blanks: bool):
    scores = 5 * numbers(33, vocabulary)
    # All but one are forbidden or far less likely.
    scores[0] = -60_000
    scores[0, 9] = 0
    wanted = Chooser(RULES, vocabulary, torch.device("cpu")).best(scores, 1, blanks=blanks)
    found = Chooser(RULES, vocabulary, torch.device("cuda")).best(scores.cuda(), 1, blanks=blanks).cpu()
    assert torch.equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1:], wanted[1:], atol=2e-4, rtol=1e-3)
