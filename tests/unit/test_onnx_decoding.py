"""Decoding of ragged batches, on a small model of random numbers, against a plain forward pass over the whole text."""

from __future__ import annotations

from collections.abc import Sequence
from math import erf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_whisper_streaming.engines.backend import Source
from ray_whisper_streaming.engines.loops import is_looping
from ray_whisper_streaming.engines.mel import HOP
from ray_whisper_streaming.engines.onnx import memory
from ray_whisper_streaming.engines.onnx.beam import Request, Transcript, decode_with_beams
from ray_whisper_streaming.engines.onnx.sessions import CrossCache, Decoder, Encoder
from ray_whisper_streaming.engines.weights import WhisperWeights

WIDTH, HEADS, SIZE, LAYERS, VOCABULARY, BANDS = 32, 2, 16, 2, 50, 8
FRAMES = 40
START, END_OF_TEXT = 45, 40
LENGTHS = (FRAMES, FRAMES - 6, FRAMES, 12, FRAMES - 2)
"""Frames of the windows decoded."""
SUPPRESSED = np.array([3, 7])
BLANKS = np.array([1, END_OF_TEXT])
ALIGNMENT_HEADS = ((0, 1), (1, 0), (1, 1))


def small_model(seed: int = 0) -> WhisperWeights:
    generator = np.random.default_rng(seed)

    def numbers(*shape: int, spread: float = 0.25) -> np.ndarray:
        return generator.normal(scale=spread, size=shape).astype(np.float32)

    tensors: dict[str, np.ndarray] = {
        "encoder/conv1/weight": numbers(WIDTH, BANDS, 3),
        "encoder/conv1/bias": numbers(WIDTH),
        "encoder/conv2/weight": numbers(WIDTH, WIDTH, 3),
        "encoder/conv2/bias": numbers(WIDTH),
        "encoder/position_encodings/encodings": numbers(FRAMES, WIDTH),
        "decoder/position_encodings/encodings": numbers(64, WIDTH, spread=1.0),
        # Exact in 16 bits, as the numbers of real models are.
        "decoder/embeddings/weight": numbers(VOCABULARY, WIDTH, spread=1.0)
        .astype(np.float16)
        .astype(np.float32),
    }
    tensors["decoder/projection/weight"] = tensors["decoder/embeddings/weight"]
    for part in ("encoder", "decoder"):
        blocks = {"self_attention": (3, 1), "ffn": (4, 1)} | (
            {"attention": (1, 2, 1)} if part == "decoder" else {}
        )
        for layer in range(LAYERS):
            for block, sizes in blocks.items():
                name = f"{part}/layer_{layer}/{block}"
                tensors[f"{name}/layer_norm/gamma"] = 1 + numbers(WIDTH)
                tensors[f"{name}/layer_norm/beta"] = numbers(WIDTH)
                inputs = WIDTH
                for index, size in enumerate(sizes):
                    tensors[f"{name}/linear_{index}/weight"] = numbers(size * WIDTH, inputs)
                    tensors[f"{name}/linear_{index}/bias"] = numbers(size * WIDTH)
                    inputs = 4 * WIDTH if block == "ffn" else WIDTH
        tensors[f"{part}/layer_norm/gamma"] = 1 + numbers(WIDTH)
        tensors[f"{part}/layer_norm/beta"] = numbers(WIDTH)
    return WhisperWeights(tensors, HEADS, HEADS, ALIGNMENT_HEADS, (), tuple(int(token) for token in BLANKS))


WEIGHTS = small_model()
T = WEIGHTS.tensors


def norm(value: np.ndarray, name: str) -> np.ndarray:
    centred = value - value.mean(axis=-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * T[f"{name}/layer_norm/gamma"]
        + T[f"{name}/layer_norm/beta"]
    )


def linear(value: np.ndarray, name: str) -> np.ndarray:
    return value @ T[f"{name}/weight"].T + T[f"{name}/bias"]


def softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def gelu(value: np.ndarray) -> np.ndarray:
    return value * 0.5 * (1 + np.vectorize(erf)(value / 2**0.5))


def heads_of(value: np.ndarray) -> np.ndarray:
    return value.reshape(len(value), HEADS, SIZE).transpose(1, 0, 2)


def attend(
    query: np.ndarray, keys: np.ndarray, values: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    shares = softmax(heads_of(query) @ keys / SIZE**0.5 + mask)
    return (shares @ values).transpose(1, 0, 2).reshape(len(query), WIDTH), shares


def plain_encoder(mel: np.ndarray, past: Sequence[np.ndarray] = ()) -> tuple[np.ndarray, list[np.ndarray]]:
    """Spectrogram of shape (bands, frames) to the encoder's output, and what went into each layer and comes out.

    ``past``: what it was at the first positions in an earlier pass, and stays.
    """
    states: list[np.ndarray] = []
    hidden = mel.T
    for index, stride in ((1, 1), (2, 2)):
        weight, padded = T[f"encoder/conv{index}/weight"], np.pad(hidden, ((1, 1), (0, 0)))
        hidden = gelu(
            np.stack(
                [np.einsum("kc,ock->o", padded[at : at + 3], weight) for at in range(0, len(hidden), stride)]
            )
            + T[f"encoder/conv{index}/bias"]
        )
    hidden = hidden + T["encoder/position_encodings/encodings"][: len(hidden)]
    for layer in range(LAYERS + 1):
        if past:
            hidden = np.concatenate((past[layer], hidden[len(past[layer]) :]))
        states.append(hidden)
        if layer == LAYERS:
            break
        name = f"encoder/layer_{layer}"
        query, key, value = np.split(
            linear(norm(hidden, f"{name}/self_attention"), f"{name}/self_attention/linear_0"), 3, axis=1
        )
        attended, _ = attend(query, heads_of(key).transpose(0, 2, 1), heads_of(value), np.zeros(1))
        hidden = hidden + linear(attended, f"{name}/self_attention/linear_1")
        inner = gelu(linear(norm(hidden, f"{name}/ffn"), f"{name}/ffn/linear_0"))
        hidden = hidden + linear(inner, f"{name}/ffn/linear_1")
    return norm(hidden, "encoder"), states


def plain_decoder(tokens: Sequence[int], cross: CrossCache, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Chances behind each token, and the alignment heads' attention."""
    count = len(tokens)
    hidden = T["decoder/embeddings/weight"][list(tokens)] + T["decoder/position_encodings/encodings"][:count]
    causal = np.where(np.tri(count, dtype=bool), 0.0, -np.inf)
    seen: dict[tuple[int, int], np.ndarray] = {}
    for layer in range(LAYERS):
        name = f"decoder/layer_{layer}"
        query, key, value = np.split(
            linear(norm(hidden, f"{name}/self_attention"), f"{name}/self_attention/linear_0"), 3, axis=1
        )
        attended, _ = attend(query, heads_of(key).transpose(0, 2, 1), heads_of(value), causal)
        hidden = hidden + linear(attended, f"{name}/self_attention/linear_1")
        query = linear(norm(hidden, f"{name}/attention"), f"{name}/attention/linear_0")
        length = LENGTHS[row] // 2
        keys, values = cross.keys[layer][row, :, :, :length], cross.values[layer][row, :, :length]
        attended, shares = attend(query, keys, values, np.zeros(1))
        seen |= {(layer, head): shares[head] for head in range(HEADS)}
        hidden = hidden + linear(attended, f"{name}/attention/linear_2")
        inner = gelu(linear(norm(hidden, f"{name}/ffn"), f"{name}/ffn/linear_0"))
        hidden = hidden + linear(inner, f"{name}/ffn/linear_1")
    chances = softmax(norm(hidden, "decoder") @ T["decoder/projection/weight"].T)
    return chances, np.stack([seen[place] for place in ALIGNMENT_HEADS])


def plainly(request: Request, cross: CrossCache, row: int) -> list[int]:
    """Greedy decoding with a whole forward pass for each token."""
    answer = list(request.prefix[: request.max_tokens])
    while len(answer) < request.max_tokens:
        chances = plain_decoder([*request.prompt, *answer], cross, row)[0][-1]
        chances[SUPPRESSED] = 0
        chances[END_OF_TEXT + 1 :] = 0
        if len(answer) == len(request.prefix):
            chances[BLANKS] = 0
        best = int(chances.argmax())
        if best == END_OF_TEXT:
            break
        answer.append(best)
        if answer[-6:] == answer[-1:] * 6:
            break
    return answer


def searched(request: Request, cross: CrossCache, row: int, beam_size: int) -> dict[tuple[int, ...], float]:
    """All answers that a beam search with whole forward passes ends with, and the score of each."""
    forced = len(request.prefix)
    live: list[tuple[float, list[int]]] = [(0.0, list(request.prefix[: request.max_tokens]))]
    ended: list[tuple[float, list[int]]] = []

    def mean(score: float, tokens: int) -> float:
        return score / max(1, tokens)

    if forced >= request.max_tokens:
        return {tuple(live[0][1]): 0.0}
    while True:
        after: list[tuple[float, list[int]]] = []
        for score, answer in live:
            chances = plain_decoder([*request.prompt, *answer], cross, row)[0][-1]
            chances[SUPPRESSED] = 0
            chances[END_OF_TEXT + 1 :] = 0
            if len(answer) == forced:
                chances[BLANKS] = 0
            chances /= chances.sum()
            after += [
                (score + float(np.log(chances[token])), [*answer, int(token)])
                for token in np.flatnonzero(chances)
            ]
        after.sort(key=lambda one: -one[0])
        live = []
        for rank, (score, answer) in enumerate(after):
            if answer[-1] == END_OF_TEXT:
                if rank < beam_size:
                    ended.append((mean(score, len(answer) - 1 - forced), answer[:-1]))
            elif is_looping(answer) or len(answer) == request.max_tokens:
                if len(ended) < beam_size:
                    ended.append((mean(score, len(answer) - forced), answer))
            else:
                live.append((score, answer))
            if len(live) == beam_size:
                break
        best = max((score for score, _ in ended), default=-np.inf)
        if len(ended) >= beam_size or not live or mean(live[0][0], request.max_tokens - forced) <= best:
            return {tuple(answer): score for score, answer in ended}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(WEIGHTS, threads=1, quantise=False)


@pytest.fixture(scope="module")
def decoder_in_bytes() -> Decoder:
    return Decoder(WEIGHTS, threads=1, quantise=True)


@pytest.fixture(scope="module")
def windows() -> CrossCache:
    generator = np.random.default_rng(5)
    mels = [generator.normal(size=(BANDS, length)).astype(np.float32) for length in LENGTHS]
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
) -> list[Transcript]:
    return decode_with_beams(
        decoder,
        copied(cross, rows),
        requests,
        beam_size=beam_size,
        end_of_text=END_OF_TEXT,
        suppressed=SUPPRESSED,
        blanks=BLANKS,
    )


words = st.lists(st.integers(8, END_OF_TEXT - 1), max_size=9)
requests = st.builds(
    lambda context, prefix, cap: Request([*context, START, 46], len(context), prefix, cap),
    words,
    words,
    st.integers(1, 14),
)


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
    monkeypatch.setattr(memory, "SETTLED", 4)
    monkeypatch.setattr(memory, "WHOLE_BELOW", 11)
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
        assert transcript.tokens == plainly(request, windows, row)
        fed = [*request.prompt, *request.prefix, *transcript.tokens[len(request.prefix) :]]
        chances, attention = plain_decoder(fed, windows, row)
        np.testing.assert_allclose(transcript.start_chances, chances[request.start], atol=1e-5)
        seen = np.concatenate(transcript.attention, axis=1)
        assert seen.shape[1] <= len(fed) - request.start
        wanted = attention[:, request.start :][:, : seen.shape[1]]
        np.testing.assert_allclose(seen[:, :, : LENGTHS[row] // 2], wanted, atol=1e-5)
        assert not seen[:, :, LENGTHS[row] // 2 :].any()
        for place in range(len(request.prefix), len(transcript.tokens)):
            behind = chances[len(request.prompt) + place - 1]
            wanted_chance = behind[transcript.tokens[place]] / behind[:END_OF_TEXT].sum()
            assert transcript.probabilities[place] == pytest.approx(wanted_chance, abs=1e-5)


@settings(max_examples=25)
@given(asked=st.lists(requests, min_size=2, max_size=5), order=st.randoms())
def test_in_8_bits_too_each_row_is_the_same_alone_and_in_any_batch(
    decoder_in_bytes: Decoder, windows: CrossCache, asked: list[Request], order
):
    rows = list(range(len(asked)))
    order.shuffle(rows)
    together = decode(decoder_in_bytes, windows, rows, [asked[row] for row in rows])
    for row, transcript in zip(rows, together, strict=True):
        [alone] = decode(decoder_in_bytes, windows, [row], [asked[row]])
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
        scores = searched(request, windows, row, beam_size)
        # Of two that are equal but for rounding, either is right.
        assert scores[tuple(transcript.tokens)] == pytest.approx(max(scores.values()), abs=1e-5)
        fed = [*request.prompt, *request.prefix, *transcript.tokens[len(request.prefix) :]]
        chances, attention = plain_decoder(fed, windows, row)
        # Each beam has its own past and the attention of that.
        seen = np.concatenate(transcript.attention, axis=1)
        wanted = attention[:, request.start :][:, : seen.shape[1]]
        np.testing.assert_allclose(seen[:, :, : LENGTHS[row] // 2], wanted, atol=1e-5)
        assert not seen[:, :, LENGTHS[row] // 2 :].any()
        for place in range(len(request.prefix), len(transcript.tokens)):
            behind = chances[len(request.prompt) + place - 1]
            wanted_chance = behind[transcript.tokens[place]] / behind[:END_OF_TEXT].sum()
            assert transcript.probabilities[place] == pytest.approx(wanted_chance, abs=1e-5)


@settings(max_examples=25)
@given(asked=st.lists(requests, min_size=2, max_size=5), order=st.randoms())
def test_beams_of_a_row_are_the_same_alone_and_in_any_batch(
    decoder_in_bytes: Decoder, windows: CrossCache, asked: list[Request], order
):
    rows = list(range(len(asked)))
    order.shuffle(rows)
    together = decode(decoder_in_bytes, windows, rows, [asked[row] for row in rows], beam_size=3)
    for row, transcript in zip(rows, together, strict=True):
        [alone] = decode(decoder_in_bytes, windows, [row], [asked[row]], beam_size=3)
        assert transcript.tokens == alone.tokens
        assert transcript.finished == alone.finished
        np.testing.assert_allclose(transcript.probabilities, alone.probabilities, atol=1e-4)


def test_a_row_that_loops_is_stopped(decoder: Decoder, windows: CrossCache):
    [found] = decode(decoder, windows, [0], [Request([START, 46], 0, [9] * 8, 40)])
    # The forced loop alone does not end it at once: the first new token is still asked for.
    assert len(found.tokens) <= 40
    looping = [10, 11] * 6
    [found] = decode(decoder, windows, [0], [Request([START, 46], 0, looping, 40)])
    assert found.tokens[: len(looping)] == looping
