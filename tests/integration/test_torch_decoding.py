"""The PyTorch engine's encoder, cache, steps and search on a small model, against whole forward passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the extra `torch`")

from tests.helpers.small_whisper import (
    BANDS,
    END_OF_TEXT,
    LENGTHS,
    RULES,
    VOCABULARY,
    WEIGHTS,
    check_transcript,
    plain_encoder,
    plainly,
    requests,
    searched,
    small_windows,
)

from ray_whisper_streaming.engines import alignment
from ray_whisper_streaming.engines.search import Request, Transcript, decode_with_beams
from ray_whisper_streaming.engines.torch.alignment import attention_costs
from ray_whisper_streaming.engines.torch.cache import Cache
from ray_whisper_streaming.engines.torch.decoder import Decoder
from ray_whisper_streaming.engines.torch.encoder import Encoder
from ray_whisper_streaming.engines.torch.graphs import PlainSteps
from ray_whisper_streaming.engines.torch.layers import Parameters
from ray_whisper_streaming.engines.torch.memory import plan_memory, shape_of
from ray_whisper_streaming.engines.torch.runtime import Tensor, torch
from ray_whisper_streaming.engines.torch.steps import Chooser, Stepper, TorchSteps

HEARD = [plain_encoder(mel)[0] for mel in small_windows()]
CPU = torch.device("cpu")
PLAN = plan_memory(shape_of(WEIGHTS), number_bytes=4, max_batch_size=len(LENGTHS), beam_size=5)


class Small:
    """All parts of the engine over the small model, kept from test to test as a worker keeps them from job to job."""

    def __init__(self) -> None:
        # For so small a model, threads would only wait for each other.
        torch.set_num_threads(1)
        with torch.inference_mode():
            parameters = Parameters(WEIGHTS, CPU, torch.float32)
            self.encoder = Encoder(parameters, batch=2)
            self.decoder = Decoder(parameters)
            self.cache = Cache(
                shape_of(WEIGHTS), slots=PLAN.slots, rows=PLAN.rows, device=CPU, number_type=torch.float32
            )
            self.stepper = Stepper(self.decoder, self.cache, Chooser(RULES, VOCABULARY, CPU), PlainSteps())
            self.outputs: list[Tensor] = self.encoder.run(small_windows())

    def decode(
        self, rows: Sequence[int], asked: Sequence[Request], *, beam_size: int = 1
    ) -> list[Transcript]:
        outputs = [self.outputs[row] for row in rows]
        with torch.inference_mode():
            return decode_with_beams(
                TorchSteps(self.stepper, outputs, suppress_blank=True),
                asked,
                beam_size=beam_size,
                end_of_text=END_OF_TEXT,
            )


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    batch=st.integers(1, 5),
)
def test_windows_are_encoded_side_by_side_as_each_would_be_alone(lengths: list[int], batch: int):
    generator = np.random.default_rng(sum(lengths))
    mels = [generator.normal(size=(BANDS, 2 * length)).astype(np.float32) for length in lengths]
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = Encoder(Parameters(WEIGHTS, CPU, torch.float32), batch=batch).run(mels)
    for mel, output in zip(mels, found, strict=True):
        np.testing.assert_allclose(output.numpy(), plain_encoder(mel)[0], atol=2e-5)


@settings(max_examples=40)
@given(asked=st.lists(requests, min_size=1, max_size=5))
def test_ragged_batches_are_decoded_like_whole_forward_passes(small: Small, asked: list[Request]):
    found = small.decode(range(len(asked)), asked)
    for row, (request, transcript) in enumerate(zip(asked, found, strict=True)):
        # Where the two best are equal but for rounding, either is right: none of these numbers is that close.
        assert transcript.tokens == plainly(request, HEARD[row])
        check_transcript(transcript, request, HEARD[row], row)


@settings(max_examples=25)
@given(asked=st.lists(requests, min_size=1, max_size=5), beam_size=st.integers(1, 5))
def test_beams_are_those_of_a_search_with_whole_forward_passes(
    small: Small, asked: list[Request], beam_size: int
):
    found = small.decode(range(len(asked)), asked, beam_size=beam_size)
    for row, (request, transcript) in enumerate(zip(asked, found, strict=True)):
        scores = searched(request, HEARD[row], beam_size)
        # Of two that are equal but for rounding, either is right.
        assert scores[tuple(transcript.tokens)] == pytest.approx(max(scores.values()), abs=1e-5)
        check_transcript(transcript, request, HEARD[row], row)


@settings(max_examples=20)
@given(
    asked=st.lists(requests, min_size=2, max_size=5), order=st.randoms(), beam_size=st.sampled_from([1, 3])
)
def test_each_row_is_the_same_alone_and_in_any_batch(
    small: Small, asked: list[Request], order, beam_size: int
):
    rows = list(range(len(asked)))
    order.shuffle(rows)
    together = small.decode(rows, [asked[row] for row in rows], beam_size=beam_size)
    for row, transcript in zip(rows, together, strict=True):
        [alone] = small.decode([row], [asked[row]], beam_size=beam_size)
        assert transcript.tokens == alone.tokens
        assert transcript.finished == alone.finished
        np.testing.assert_allclose(transcript.probabilities, alone.probabilities, atol=1e-5)
        np.testing.assert_allclose(transcript.attention, alone.attention, atol=1e-5)


@given(heads=st.integers(1, 4), tokens=st.integers(1, 12), length=st.integers(1, 40), first=st.integers(0, 3))
def test_the_costs_of_an_alignment_are_those_of_the_other_engines(
    heads: int, tokens: int, length: int, first: int
):
    first = min(first, tokens - 1)
    generator = np.random.default_rng(heads * tokens * length)
    attention = generator.random((heads, tokens, 40)).astype(np.float32)
    wanted = alignment.attention_costs(attention, first, length)
    found = attention_costs(torch.from_numpy(attention), first, length)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_step_of_every_shape_can_be_taken_before_any_text_is_there():
    with torch.inference_mode():
        fresh = Small().stepper
        # 1, 2, 4 and all 5 slots; 4 lengths of texts, 6 of windows.
        assert fresh.warm_up(beams=2) == 4 * 4 * 6


def test_the_plan_counts_the_buffers_to_the_byte(small: Small):
    assert sum(tensor.nbytes for tensor in small.cache.tensors) == PLAN.cache_bytes
    held = {id(tensor): tensor.nbytes for tensor in WEIGHTS.tensors.values()}
    assert sum(held.values()) == PLAN.weight_bytes
