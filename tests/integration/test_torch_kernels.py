"""The kernels for GPUs, against the same in plain PyTorch: on a GPU, or else in Triton's interpreter where it runs."""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `torch`")

from tests.helpers.small_whisper import RULES, VOCABULARY

from ray_whisper_streaming.engines.torch.alignment import cheapest_paths
from ray_whisper_streaming.engines.torch.attention import Spans, attend_one, attend_within
from ray_whisper_streaming.engines.torch.layers import Norm, added_and_normalised
from ray_whisper_streaming.engines.torch.runtime import Tensor, has_gpu, torch
from ray_whisper_streaming.engines.torch.steps import Chooser

if not has_gpu():
    os.environ["TRITON_INTERPRET"] = "1"

kernels = pytest.importorskip(
    "ray_whisper_streaming.engines.torch.kernels", reason="needs Triton", exc_type=ImportError
)

pytestmark = pytest.mark.skipif(
    not has_gpu() and np.lib.NumpyVersion(np.__version__) >= "2.4.0",
    reason="needs a GPU, or an older numpy: Triton's interpreter takes arrays of one number for numbers",
)

DEVICE = torch.device("cuda" if has_gpu() else "cpu")
HEADS, SIZE, POSITIONS = 5, 64, 304


def numbers(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).half()


def close(found: Tensor, wanted: Tensor) -> None:
    error = (found.cpu().double() - wanted.double()).norm() / wanted.double().norm()
    assert float(error) < 2e-3


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("slots", [1, 7])
def test_attention_to_windows_of_any_lengths(slots: int, beams: int):
    # Positions before heads, keys before values, as they stand in the cache.
    held = numbers(9, POSITIONS, 2, HEADS, SIZE) + 1
    keys, values = (held[:, :, half].transpose(1, 2) for half in range(2))
    queries = numbers(slots * beams, HEADS * SIZE)
    lengths = torch.tensor([1, 2, 127, 128, 129, 250, POSITIONS, 5, 6])
    wanted = attend_one(queries.float(), keys.float(), values.float(), lengths, beams=beams)
    there = held.to(DEVICE)
    keys, values = (there[:, :, half].transpose(1, 2) for half in range(2))
    found = kernels.attend_one(queries.to(DEVICE), keys, values, lengths.to(DEVICE), beams=beams)
    close(found, wanted)


def test_attention_to_a_text_and_its_new_token():
    keys, values = numbers(6, HEADS, POSITIONS, SIZE), numbers(6, HEADS, POSITIONS, SIZE) + 1
    parts = numbers(6, 3 * HEADS * SIZE)
    queries, *new = parts.chunk(3, dim=1)
    places = torch.tensor([0, 1, 127, 128, 200, POSITIONS - 1])
    held = keys.float(), values.float()
    wanted = attend_one(queries.float(), *held, places, new=(new[0].float(), new[1].float()))
    there = keys.to(DEVICE), values.to(DEVICE)
    queries, *new = parts.to(DEVICE).chunk(3, dim=1)
    close(kernels.attend_one(queries, *there, places.to(DEVICE), new=tuple(new)), wanted)
    for kept, expected in zip(there, held, strict=True):
        assert torch.equal(kept.cpu().float(), expected)


@pytest.mark.parametrize("width", [384, 512, 1280])
def test_a_sum_and_its_norm(width: int):
    norm = Norm(numbers(width) + 1, numbers(width))
    hidden, change = numbers(3, 11, width), numbers(11, 3, width).transpose(0, 1)
    wanted = added_and_normalised(hidden, change, norm)
    there = (part.to(DEVICE) for part in (hidden, change, norm.weight, norm.bias))
    for one, other in zip(kernels.add_and_normalise(*there), wanted, strict=True):
        close(one, other)


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 51_866])
@pytest.mark.parametrize("blanks", [True, False])
def test_the_likeliest_token(vocabulary: int, blanks: bool):
    scores = 5 * numbers(5, vocabulary)
    # All but one are forbidden or far less likely.
    scores[0] = -60_000
    scores[0, 9] = 0
    chooser = Chooser(RULES, vocabulary, torch.device("cpu"))
    wanted = chooser.best(scores, 1, blanks=blanks)
    forbidden = chooser.forbidden(blanks=blanks).to(DEVICE)
    found = kernels.choose(scores.to(DEVICE), forbidden, RULES.end_of_text).cpu()
    assert torch.equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1:], wanted[1:], atol=2e-4, rtol=1e-3)


def test_cheapest_paths():
    generator = torch.Generator().manual_seed(1)
    costs = torch.rand(5, 30, 300, generator=generator, dtype=torch.float64)
    rows, columns = torch.tensor([30, 1, 2, 17, 29]), torch.tensor([300, 3, 1, 255, 200])
    wanted = cheapest_paths(costs, rows, columns)
    found = kernels.cheapest_paths(*(part.to(DEVICE) for part in (costs, rows, columns))).cpu()
    for text, count in enumerate(rows.tolist()):
        assert torch.equal(found[text, :count].long(), wanted[text, :count])


@pytest.mark.skipif(not has_gpu(), reason="needs a GPU: the kernel is PyTorch's own")
@pytest.mark.parametrize(
    ("asking", "seen"), [([1], [1]), ([64, 5, 130], [64, 5, 130]), ([3, 5, 60], [64, 5, 1130])]
)
def test_attention_within_windows(asking: list[int], seen: list[int]):
    queries, keys_values = numbers(sum(asking), HEADS * SIZE), numbers(sum(seen), 2 * HEADS * SIZE)

    def attended(queries: Tensor, keys_values: Tensor) -> Tensor:
        keys, values = keys_values.chunk(2, dim=1)
        queries_at, keys_at = (Spans.of(lengths, queries.device) for lengths in (asking, seen))
        return attend_within(queries, keys, values, queries_at, keys_at, HEADS)

    close(
        attended(queries.to(DEVICE), keys_values.to(DEVICE)), attended(queries.float(), keys_values.float())
    )
