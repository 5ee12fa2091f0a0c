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
    FRAMES,
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

from ray_whisper_streaming.engines import alignment, remembering
from ray_whisper_streaming.engines.backend import Source
from ray_whisper_streaming.engines.mel import HOP, MelCache
from ray_whisper_streaming.engines.search import Request, Transcript, decode_with_beams
from ray_whisper_streaming.engines.torch.alignment import attention_costs, cheapest_paths
from ray_whisper_streaming.engines.torch.cache import Cache
from ray_whisper_streaming.engines.torch.decoder import Decoder
from ray_whisper_streaming.engines.torch.encoder import Encoder
from ray_whisper_streaming.engines.torch.graphs import CapturedSteps, PlainSteps
from ray_whisper_streaming.engines.torch.layers import Parameters
from ray_whisper_streaming.engines.torch.memory import plan_memory, shape_of
from ray_whisper_streaming.engines.torch.passes import Part
from ray_whisper_streaming.engines.torch.remembered import Remembered
from ray_whisper_streaming.engines.torch.runtime import Tensor, has_gpu, torch
from ray_whisper_streaming.engines.torch.steps import Asked, Chooser, Stepper, TorchSteps

HEARD = [plain_encoder(mel)[0] for mel in small_windows()]
DEVICES = ["cpu", *(["cuda"] if has_gpu() else [])]
PLAN = plan_memory(shape_of(WEIGHTS), number_bytes=4, max_batch_size=len(LENGTHS), beam_size=5)


class Small:
    """All parts of the engine over the small model, kept from test to test as a worker keeps them from job to job."""

    def __init__(self, name: str) -> None:
        device = torch.device(name)
        # For so small a model, threads would only wait for each other.
        torch.set_num_threads(1)
        with torch.inference_mode():
            parameters = Parameters(WEIGHTS, device, torch.float32)
            self.encoder = Encoder(parameters, batch=2)
            self.decoder = Decoder(parameters)
            self.cache = Cache(
                shape_of(WEIGHTS), slots=PLAN.slots, rows=PLAN.rows, device=device, number_type=torch.float32
            )
            self.stepper = Stepper(
                self.decoder,
                self.cache,
                Chooser(RULES, VOCABULARY, device),
                CapturedSteps() if name == "cuda" else PlainSteps(),
            )
            self.outputs: list[Tensor] = [
                self.encoder(torch.from_numpy(mel).to(device)[None], [Part(mel.shape[1])])[0]
                for mel in small_windows()
            ]

    def decode(
        self, rows: Sequence[int], asked: Sequence[Request], *, beam_size: int = 1
    ) -> list[Transcript]:
        outputs = [self.outputs[row] for row in rows]
        with torch.inference_mode():
            found = decode_with_beams(
                TorchSteps(self.stepper, outputs, suppress_blank=True),
                asked,
                beam_size=beam_size,
                end_of_text=END_OF_TEXT,
            )
            for transcript, output in zip(found, outputs, strict=True):
                transcript.attention = self.attention(transcript.attention, output)
        return found

    def attention(self, asked: Asked, output: Tensor) -> Tensor:
        """What the alignment heads attended to; shape (heads, tokens, positions)."""
        queries = asked.queries[asked.row, : asked.tokens].transpose(0, 1)
        scores = queries @ self.decoder.alignment_keys(output[None])[0].transpose(1, 2)
        return (scores * queries.shape[-1] ** -0.5).softmax(dim=-1).cpu()


@pytest.fixture(scope="module", params=DEVICES)
def small(request: pytest.FixtureRequest) -> Small:
    return Small(request.param)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=15)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 38 * HOP), st.integers(0, 5)), min_size=1, max_size=5),
    batch=st.integers(1, 5),
)
def test_windows_are_encoded_side_by_side_as_each_would_be_alone(
    device: str, lengths: list[tuple[int, int]], batch: int
):
    generator = np.random.default_rng(len(lengths))
    sources = [
        Source(str(row), 0, generator.integers(-30_000, 30_000, samples).astype(np.int16))
        for row, (samples, _) in enumerate(lengths)
    ]
    padded = [
        min(FRAMES, -(-source.frames // 2) * 2 + 2 * more) or 2
        for source, (_, more) in zip(sources, lengths, strict=True)
    ]
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = Encoder(Parameters(WEIGHTS, torch.device(device), torch.float32), batch=batch).run(
            sources, padded
        )
    for source, frames, output in zip(sources, padded, found, strict=True):
        mel = MelCache(BANDS).padded(source.stream_id, 0, source.audio, frames)
        np.testing.assert_allclose(output.cpu().numpy(), plain_encoder(mel)[0], atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [1, 5])
def test_growing_windows_are_encoded_from_where_the_passes_before_left_off(
    device: str, batch: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remembering, "SETTLED", 4)
    monkeypatch.setattr(remembering, "WHOLE_BELOW", 11)
    generator = np.random.default_rng(batch)
    torch.set_num_threads(1)
    placed = {"device": torch.device(device), "number_type": torch.float32}
    memory = Remembered(shape_of(WEIGHTS), 3 * FRAMES // 2, **placed)
    with torch.inference_mode():
        encoder = Encoder(Parameters(WEIGHTS, *placed.values()), batch=batch, memory=memory)
    audios = generator.integers(-9999, 9999, (3, 2 * FRAMES * HOP)).astype(np.int16)
    past: dict[tuple[int, int], list[np.ndarray]] = {}
    # Three streams, frames and start of the window in each pass. They grow at their own pace, from windows too short to
    # be remembered; one has nothing new once, one begins elsewhere and must not get what others still need.
    passes = [
        [(20, 0), (36, 0), (8, 0)],
        [(26, 0), (36, 0), (24, 0)],
        [(36, 0), (30, 9), (30, 0)],
        [(38, 0), (34, 9), (40, 0)],
        [(38, 0), (30, 12), (40, 0)],
    ]
    went_on = 0
    for windows in passes:
        sources = [
            Source(str(stream), start, audios[stream, start * HOP : (start + frames) * HOP])
            for stream, (frames, start) in enumerate(windows)
        ]
        padded = [min(FRAMES, source.frames + 2) for source in sources]
        with torch.inference_mode():
            found = encoder.run(sources, padded)
            whole = encoder.run(sources, padded, anew=True)
        for stream, (source, frames) in enumerate(zip(sources, padded, strict=True)):
            mel = MelCache(BANDS).padded(source.stream_id, 0, source.audio, frames)
            window = stream, source.start_sample
            known = past.get(window, [])
            wanted, states = plain_encoder(mel, known)
            # What is remembered has 8 bits: half a step of numbers up to 3 is 0.012, and layers add theirs up.
            np.testing.assert_allclose(found[stream].cpu(), wanted, atol=0.05 if known else 1e-4)
            np.testing.assert_allclose(whole[stream].cpu(), plain_encoder(mel)[0], atol=1e-4)
            went_on += bool(known)
            settled = source.frames // 2 - 4 if source.frames // 2 >= 11 else 0
            past[window] = [state[:settled] for state in states] if settled else []
    assert went_on == 8


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


@pytest.mark.parametrize("device", DEVICES)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 40)), min_size=1, max_size=4),
    heads=st.integers(1, 4),
    first=st.integers(0, 3),
)
def test_texts_are_aligned_side_by_side_as_the_other_engines_align_each(
    device: str, shapes: list[tuple[int, int]], heads: int, first: int
):
    first = min(first, *(tokens - 1 for tokens, _ in shapes), 3)
    generator = np.random.default_rng(len(shapes) * heads)
    # What stands behind a text's last token or position has no meaning, and no effect.
    attention = generator.random((len(shapes), heads, 12, 40)).astype(np.float32)
    tokens, positions = (torch.tensor(numbers, device=device) for numbers in zip(*shapes, strict=True))
    costs = attention_costs(torch.from_numpy(attention).to(device), tokens, positions, first)
    starts = cheapest_paths(costs, tokens - first, positions).cpu()
    for row, (count, length) in enumerate(shapes):
        wanted = alignment.attention_costs(attention[row, :, :count], first, length)
        found = costs[row, : count - first, :length].cpu().numpy()
        # Two tokens' attention may be equal but for rounding; what is left is divided by their spread.
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        np.testing.assert_array_equal(starts[row, : count - first], alignment.first_positions(found))


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_of_every_shape_can_be_taken_before_any_text_is_there(device: str):
    with torch.inference_mode():
        fresh = Small(device).stepper
        # 1, 2, 4 and all 5 slots.
        assert fresh.warm_up(beams=2) == 4


def test_the_plan_counts_the_buffers_to_the_byte(small: Small):
    assert sum(tensor.nbytes for tensor in small.cache.tensors) == PLAN.cache_bytes
    held = {id(tensor): tensor.nbytes for tensor in WEIGHTS.tensors.values()}
    assert sum(held.values()) == PLAN.weight_bytes
