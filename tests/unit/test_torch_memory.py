"""What fits a GPU, as far as arithmetic can tell. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.small_whisper import WEIGHTS

from ray_whisper_streaming.engines.torch.memory import (
    RESERVE_BYTES,
    MemoryPlan,
    ModelShape,
    plan_memory,
    shape_of,
)
from ray_whisper_streaming.errors import ConfigurationError

LARGE = ModelShape(
    parameters=1_543_490_560,
    width=1280,
    heads=20,
    encoder_heads=20,
    encoder_layers=32,
    decoder_layers=32,
    vocabulary=51866,
    alignment_heads=10,
)
GIB = 2**30


def test_the_shape_is_that_of_the_weights():
    shape = shape_of(WEIGHTS)
    assert (shape.width, shape.heads, shape.decoder_layers, shape.vocabulary) == (32, 2, 2, 50)
    assert shape.alignment_heads == 3
    table = WEIGHTS.tensors["decoder/embeddings/weight"]
    # Embeddings and projection are one.
    assert shape.parameters == sum(tensor.size for tensor in WEIGHTS.tensors.values()) - table.size


def test_large_v3_fits_a_card_of_16_gib_in_a_small_batch_and_one_of_80_in_a_full_one():
    small = plan_memory(LARGE, number_bytes=2, max_batch_size=64, limit_bytes=16 * GIB)
    large = plan_memory(LARGE, number_bytes=2, max_batch_size=64, limit_bytes=72 * GIB)
    assert 8 <= small.slots < 64
    assert large.slots == 64
    # What the decoder keeps of a window of 30 s: 246 MB (and a little that rounds its length up).
    each = replace(LARGE, alignment_heads=0)
    one, two = (plan_memory(each, number_bytes=2, max_batch_size=count).cache_bytes for count in (1, 2))
    assert (two - one) / 1e6 == pytest.approx(246, rel=0.01)


def needed_bytes(plan: MemoryPlan) -> int:
    return plan.total_bytes - plan.remembered_bytes


@given(limit=st.integers(0, 80 * GIB), batch=st.integers(1, 70), beam_size=st.integers(1, 8))
def test_a_plan_is_within_its_limit_and_the_next_larger_is_not(limit: int, batch: int, beam_size: int):
    least = needed_bytes(plan_memory(LARGE, number_bytes=2, max_batch_size=1, beam_size=beam_size))
    if limit < least:
        with pytest.raises(ConfigurationError, match=f"memory_limit_bytes.*{least}"):
            plan_memory(LARGE, number_bytes=2, max_batch_size=batch, beam_size=beam_size, limit_bytes=limit)
        return
    plan = plan_memory(LARGE, number_bytes=2, max_batch_size=batch, beam_size=beam_size, limit_bytes=limit)
    assert RESERVE_BYTES < plan.total_bytes <= limit
    assert plan.rows >= plan.slots * beam_size
    if plan.slots < batch:
        more = plan_memory(LARGE, number_bytes=2, max_batch_size=plan.slots + 1, beam_size=beam_size)
        assert needed_bytes(more) > limit


def test_half_of_what_is_left_goes_to_the_encoders_memory():
    without = plan_memory(LARGE, number_bytes=2, max_batch_size=64)
    limit = 72 * GIB
    plan = plan_memory(LARGE, number_bytes=2, max_batch_size=64, limit_bytes=limit)
    assert plan.remembered_bytes == pytest.approx((limit - needed_bytes(without)) / 2, rel=1e-5)
    # A position: keys and values of 32 layers in 8 bits, a step of 16 bits for each of their heads, and the output.
    assert plan.remembered_bytes == plan.remembered_positions * (32 * 2 * (1280 + 20 * 2) + 1280 * 2)


def test_a_batch_of_none_is_refused():
    with pytest.raises(ConfigurationError, match="max_batch_size"):
        plan_memory(LARGE, number_bytes=2, max_batch_size=0)
