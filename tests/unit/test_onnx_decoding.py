"""Decoding of ragged batches, on a small model of random numbers, against a plain forward pass over the whole text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.small_whisper import (
    BANDS,
    END_OF_TEXT,
    FRAMES,
    LAYERS,
    RULES,
    START,
    WEIGHTS,
    check_transcript,
    heads_of,
    linear,
    plain_encoder,
    plainly,
    requests,
    searched,
    small_windows,
)

from ray_whisper_streaming.engines import remembering
from ray_whisper_streaming.engines.backend import Source
from ray_whisper_streaming.engines.mel import HOP
from ray_whisper_streaming.engines.onnx.sessions import CrossCache, Decoder, Encoder
from ray_whisper_streaming.engines.onnx.steps import OnnxSteps
from ray_whisper_streaming.engines.search import Request, Transcript, decode_with_beams

HEARD = [plain_encoder(mel)[0] for mel in small_windows()]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(WEIGHTS, threads=1, quantise=False)


@pytest.fixture(scope="module")
def decoder_in_bytes() -> Decoder:
    return Decoder(WEIGHTS, threads=1, quantise=True)


@pytest.fixture(scope="module")
def windows() -> CrossCache:
    mels = small_windows()
    return Encoder(WEIGHTS, threads=2, quantise=False).run(mels, [None] * len(mels))


def copied(cross: CrossCache, rows: Sequence[int]) -> CrossCache:
    chosen = list(rows)
    return CrossCache(
        [part[chosen] for part in cross.keys], [part[chosen] for part in cross.values], cross.mask[chosen]
    )


def decode(
    decoder: Decoder,
    cross: CrossCache,
    rows: Sequence[int],
    requests: Sequence[Request],
    *,
    beam_size: int = 1,
    temperature: float = 0.0,
) -> list[Transcript]:
    return decode_with_beams(
        OnnxSteps(decoder, copied(cross, rows), RULES),
        requests,
        beam_size=beam_size,
        end_of_text=END_OF_TEXT,
        temperature=temperature,
    )


def together_and_alone(
    decoder: Decoder, windows: CrossCache, asked: Sequence[Request], order: Random, **how: Any
) -> list[tuple[Transcript, Transcript]]:
    """Of each request what comes of it in a batch of all, whose order is another, and by itself."""
    rows = list(range(len(asked)))
    order.shuffle(rows)
    together = decode(decoder, windows, rows, [asked[row] for row in rows], **how)
    return [
        (together[rows.index(row)], decode(decoder, windows, [row], [request], **how)[0])
        for row, request in enumerate(asked)
    ]


def test_the_encoder_gives_keys_and_values_of_each_window():
    generator = np.random.default_rng(3)
    mels = [generator.normal(size=(BANDS, length)).astype(np.float32) for length in (FRAMES - 8, FRAMES, 14)]
    found = Encoder(WEIGHTS, threads=2, quantise=False).run(mels, [None] * 3)
    assert found.rows == 3
    for row, mel in enumerate(mels):
        output, _ = plain_encoder(mel)
        check_cross(found, row, output)
        length = len(output)
        assert (found.mask[row, 0, 0, :length] == 0).all()
        assert (found.mask[row, 0, 0, length:] < -1e8).all()
        assert found.mask.shape[-1] == 32


def check_cross(found: CrossCache, row: int, output: np.ndarray, *, atol: float = 1e-4) -> None:
    length = len(output)
    for layer in range(LAYERS):
        key, value = np.split(linear(output, f"decoder/layer_{layer}/attention/linear_1"), 2, axis=1)
        keys, values = found.keys[layer][row], found.values[layer][row]
        np.testing.assert_allclose(keys[:, :, :length], heads_of(key).transpose(0, 2, 1), atol=atol)
        np.testing.assert_allclose(values[:, :length], heads_of(value), atol=atol)
        assert not keys[:, :, length:].any()
        assert not values[:, length:].any()


def test_a_growing_window_is_encoded_from_where_the_pass_before_left_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remembering, "SETTLED", 4)
    monkeypatch.setattr(remembering, "WHOLE_BELOW", 11)
    generator = np.random.default_rng(4)
    encoder = Encoder(WEIGHTS, threads=1, quantise=False)
    audio = generator.integers(-9999, 9999, FRAMES * HOP).astype(np.int16)
    past: list[np.ndarray] = []
    known = 0
    heard = np.empty((BANDS, 0), np.float32)
    # The window grows, from one too short to be remembered; then one with nothing new; then another begins elsewhere.
    for frames, start in ((20, 0), (26, 0), (36, 0), (36, 0), (30, 9)):
        mel = generator.normal(size=(BANDS, FRAMES)).astype(np.float32)
        if start:
            past, known = [], 0
        mel[:, : 2 * known] = heard[:, : 2 * known]
        heard = mel
        output, states = plain_encoder(mel, past)
        source = Source("stream", start, audio[: frames * HOP])
        # What is remembered has 8 bits: half a step of numbers up to 3 is 0.012, and layers add theirs up.
        check_cross(encoder.run([mel], [source]), 0, output, atol=0.05 if known else 1e-4)
        known = frames // 2 - 4 if frames // 2 >= 11 else 0
        past = [state[:known] for state in states]


@settings(max_examples=40)
@given(asked=st.lists(requests, min_size=1, max_size=5))
def test_ragged_batches_are_decoded_like_whole_forward_passes(
    decoder: Decoder, windows: CrossCache, asked: list[Request]
):
    found = decode(decoder, windows, range(len(asked)), asked)
    for row, (request, transcript) in enumerate(zip(asked, found, strict=True)):
        # Where the two best are equal but for rounding, either is right: none of these numbers is that close.
        assert transcript.tokens == plainly(request, HEARD[row])
        check_transcript(transcript, request, HEARD[row], row)


@settings(max_examples=25)
@given(asked=st.lists(requests, min_size=2, max_size=5), order=st.randoms())
def test_in_8_bits_too_each_row_is_the_same_alone_and_in_any_batch(
    decoder_in_bytes: Decoder, windows: CrossCache, asked: list[Request], order
):
    for transcript, alone in together_and_alone(decoder_in_bytes, windows, asked, order):
        assert transcript.tokens == alone.tokens
        assert transcript.finished == alone.finished
        np.testing.assert_allclose(transcript.probabilities, alone.probabilities, atol=1e-4)


@settings(max_examples=25)
@given(asked=st.lists(requests, min_size=1, max_size=4), beam_size=st.integers(1, 5))
def test_beams_are_those_of_a_search_with_whole_forward_passes(
    decoder: Decoder, windows: CrossCache, asked: list[Request], beam_size: int
):
    found = decode(decoder, windows, range(len(asked)), asked, beam_size=beam_size)
    for row, (request, transcript) in enumerate(zip(asked, found, strict=True)):
        scores = searched(request, HEARD[row], beam_size)
        # Of two that are equal but for rounding, either is right.
        assert scores[tuple(transcript.tokens)] == pytest.approx(max(scores.values()), abs=1e-5)
        check_transcript(transcript, request, HEARD[row], row)


@settings(max_examples=25)
@given(asked=st.lists(requests, min_size=2, max_size=5), order=st.randoms())
def test_beams_of_a_row_are_the_same_alone_and_in_any_batch(
    decoder_in_bytes: Decoder, windows: CrossCache, asked: list[Request], order
):
    for transcript, alone in together_and_alone(decoder_in_bytes, windows, asked, order, beam_size=3):
        assert transcript.tokens == alone.tokens
        assert transcript.finished == alone.finished
        np.testing.assert_allclose(transcript.probabilities, alone.probabilities, atol=1e-4)


@settings(max_examples=25)
@given(asked=st.lists(requests, min_size=2, max_size=5), order=st.randoms())
def test_samples_of_a_row_are_the_same_alone_and_in_any_batch_and_attend_as_one_forward_pass_does(
    decoder: Decoder, windows: CrossCache, asked: list[Request], order
):
    seeded = [replace(request, seed=row) for row, request in enumerate(asked)]
    pairs = together_and_alone(decoder, windows, seeded, order, beam_size=5, temperature=1.0)
    for row, (transcript, alone) in enumerate(pairs):
        assert transcript.tokens == alone.tokens
        assert transcript.path == alone.path
        check_transcript(transcript, asked[row], HEARD[row], row)


def test_a_row_that_loops_is_stopped(decoder: Decoder, windows: CrossCache):
    [found] = decode(decoder, windows, [0], [Request([START, 46], 0, [9] * 8, 40)])
    # The forced loop alone does not end it at once: the first new token is still asked for.
    assert len(found.tokens) <= 40
    looping = [10, 11] * 6
    [found] = decode(decoder, windows, [0], [Request([START, 46], 0, looping, 40)])
    assert found.tokens[: len(looping)] == looping
