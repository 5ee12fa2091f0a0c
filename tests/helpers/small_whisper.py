"""A Whisper model of random numbers, and what it computes, written plainly: no batch, no cache."""

from __future__ import annotations

from collections.abc import Sequence
from math import erf

import numpy as np
import pytest
from hypothesis import strategies as st

from ray_whisper_streaming.engines.loops import is_looping
from ray_whisper_streaming.engines.search import Request, TokenRules, Transcript
from ray_whisper_streaming.engines.weights import WhisperWeights

WIDTH, HEADS, SIZE, LAYERS, VOCABULARY, BANDS = 32, 2, 16, 2, 50, 8
FRAMES = 40
START, END_OF_TEXT = 45, 40
LENGTHS = (FRAMES, FRAMES - 6, FRAMES, 12, FRAMES - 2)
"""Frames of the windows decoded."""
SUPPRESSED = np.array([3, 7])
BLANKS = np.array([1, END_OF_TEXT])
NO_SPEECH = 44
RULES = TokenRules(END_OF_TEXT, NO_SPEECH, SUPPRESSED, BLANKS)
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


def plain_decoder(tokens: Sequence[int], heard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chances behind each token, and the alignment heads' attention; ``heard``: what the encoder made of the window."""
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
        key, value = np.split(linear(heard, f"{name}/attention/linear_1"), 2, axis=1)
        attended, shares = attend(query, heads_of(key).transpose(0, 2, 1), heads_of(value), np.zeros(1))
        seen |= {(layer, head): shares[head] for head in range(HEADS)}
        hidden = hidden + linear(attended, f"{name}/attention/linear_2")
        inner = gelu(linear(norm(hidden, f"{name}/ffn"), f"{name}/ffn/linear_0"))
        hidden = hidden + linear(inner, f"{name}/ffn/linear_1")
    chances = softmax(norm(hidden, "decoder") @ T["decoder/projection/weight"].T)
    return chances, np.stack([seen[place] for place in ALIGNMENT_HEADS])


def plainly(request: Request, heard: np.ndarray) -> list[int]:
    """Greedy decoding with a whole forward pass for each token."""
    answer = list(request.prefix[: request.max_tokens])
    while len(answer) < request.max_tokens:
        chances = plain_decoder([*request.prompt, *answer], heard)[0][-1]
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


def searched(request: Request, heard: np.ndarray, beam_size: int) -> dict[tuple[int, ...], float]:
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
            chances = plain_decoder([*request.prompt, *answer], heard)[0][-1]
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


def small_windows() -> list[np.ndarray]:
    """Spectrograms as long as `LENGTHS` says."""
    generator = np.random.default_rng(5)
    return [generator.normal(size=(BANDS, length)).astype(np.float32) for length in LENGTHS]


words = st.lists(st.integers(8, END_OF_TEXT - 1), max_size=9)
requests = st.builds(
    lambda context, prefix, cap: Request([*context, START, 46], len(context), prefix, cap),
    words,
    words,
    st.integers(1, 14),
)


def check_transcript(transcript: Transcript, request: Request, heard: np.ndarray, row: int) -> None:
    """That probabilities and attention are those of one forward pass over the whole text."""
    fed = [*request.prompt, *request.prefix, *transcript.tokens[len(request.prefix) :]]
    chances, attention = plain_decoder(fed, heard)
    assert transcript.no_speech_probability == pytest.approx(chances[request.start, NO_SPEECH], abs=1e-5)
    # Each beam has its own past and the attention of that.
    seen = np.asarray(transcript.attention)
    assert len(request.prompt) - request.start <= seen.shape[1] <= len(fed) - request.start
    wanted = attention[:, request.start :][:, : seen.shape[1]]
    np.testing.assert_allclose(seen[:, :, : LENGTHS[row] // 2], wanted, atol=1e-5)
    assert not seen[:, :, LENGTHS[row] // 2 :].any()
    for place in range(len(request.prefix), len(transcript.tokens)):
        behind = chances[len(request.prompt) + place - 1]
        wanted_chance = behind[transcript.tokens[place]] / behind[:END_OF_TEXT].sum()
        assert transcript.probabilities[place] == pytest.approx(wanted_chance, abs=1e-5)
