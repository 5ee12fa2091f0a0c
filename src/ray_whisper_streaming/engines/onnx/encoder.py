"""Whisper's encoder as a graph, with the keys and values that the decoder attends to.

It goes on from what it made of a window before, so that only the audio at the end of a growing window is encoded anew.
"""

from __future__ import annotations

import numpy as np

from ray_whisper_streaming.engines.mel import Float32
from ray_whisper_streaming.engines.onnx.graph import FUSED, Graph, Rows
from ray_whisper_streaming.engines.remembering import LEAST_RANGE, LEVELS
from ray_whisper_streaming.engines.weights import WhisperWeights

__all__ = ["encoder_graph"]

KERNEL = 3
"""Frames under one output of a convolution."""

FAR = np.iinfo(np.int64).max
"""The end of whatever is sliced."""


def encoder_graph(weights: WhisperWeights, *, quantise: bool) -> bytes:
    """Mel frames in; each decoder layer's cross-attention keys and values out.

    One window by itself: in 8 bits, the rows of a layer norm or of an attention share one scale. (With a scale for
    each, the keys and values of six windows were off by 6.4 % instead of 6.9 % with tiny.en, equally with base; with
    one scale behind a GELU too it was 20 % instead of 11 % with base.)

    Inputs:
        mel: of the new positions and, if there are others before them, of `OVERLAP` more in front; shape (1, bands,
            frames), frames even.
        overlap: how many positions to drop, shape (1,).
        first: where the first new position stands in the window, shape (1,).
        past: keys and values of the positions before, shape (past, tensors, 2 * width), as `fresh` gave them.
        past_steps: what `steps` gave for them, shape (past, tensors, 2 * heads).

    Outputs:
        key_0, ...: of the decoder's attention, all positions, shape (1, heads, size, positions).
        value_0, ...: shape (1, heads, positions, size).
        fresh: keys and values of the new positions, in each of the encoder's own attentions and of the decoder's,
            in 8 bits, shape (positions, tensors, 2 * width).
        steps: what one of those 8 bits' numbers stands for, in the key and in the value of each head, in half
            precision, shape (positions, tensors, 2 * heads).
    """
    graph = Graph(quantise=quantise, narrow=True)
    tensors = weights.tensors
    width, heads = weights.width, weights.encoder_heads
    mel = graph.input("mel", np.float32, [1, weights.mel_bands, "frames"])
    overlap, first = (graph.input(name, np.int64, [1]) for name in ("overlap", "first"))
    hidden = graph.gelu(
        _convolved(graph, graph.transpose(mel, 0, 2, 1), tensors["encoder/conv1/weight"], 1, "alike"),
        tensors["encoder/conv1/bias"],
    )
    hidden = graph.gelu(
        _convolved(graph, hidden, tensors["encoder/conv2/weight"], 2, "gelu"), tensors["encoder/conv2/bias"]
    )
    hidden = graph.add("Slice", hidden, overlap, graph.ints(FAR), graph.ints(1))
    end = graph.add("Add", first, graph.add("Shape", hidden, start=1, end=2))
    encodings = graph.constant(tensors["encoder/position_encodings/encodings"])
    encodings = graph.add("Slice", encodings, first, end, graph.ints(0))
    hidden = graph.add("Add", hidden, encodings)
    names = [f"encoder/layer_{layer}" for layer in range(weights.layers("encoder"))]

    count, parts, size = len(names) + weights.layers("decoder"), 2 * heads, width // heads
    past = graph.input("past", np.int8, ["past", count, 2 * width])
    past_steps = graph.input("past_steps", np.float16, ["past", count, parts])
    kept: list[tuple[str, str]] = []

    def behind_past(new: str) -> str:
        """The keys and values of all positions, given those of the new ones, which are kept."""
        which = graph.ints(len(kept))
        # Here and not for all tensors at the end, where all of them would have to wait in 32 bits.
        kept.append(_in_bytes(graph, graph.reshape(new, -1, 1, parts, size)))
        numbers, steps = (
            graph.reshape(graph.cast(graph.add("Gather", each, which, axis=1), np.float32), -1, parts, length)
            for each, length in ((past, size), (past_steps, 1))
        )
        before = graph.reshape(graph.add("Mul", numbers, steps), 1, -1, 2 * width)
        return graph.add("Concat", before, new, axis=1)

    normed = graph.norm(
        hidden,
        tensors[f"{names[0]}/self_attention/layer_norm/gamma"],
        tensors[f"{names[0]}/self_attention/layer_norm/beta"],
    )
    for name, following in zip(names, [*names[1:], None], strict=True):
        attention, feed = f"{name}/self_attention", f"{name}/ffn"
        query, new = graph.add_many(
            "Split",
            graph.linear(normed, tensors[f"{attention}/linear_0/weight"], rows="alike"),
            graph.ints(width, 2 * width),
            names=["", ""],
            axis=-1,
        )
        attended = graph.add(
            "MultiHeadAttention",
            query,
            *graph.halves(behind_past(new)),
            graph.constant(tensors[f"{attention}/linear_0/bias"]),
            domain=FUSED,
            num_heads=heads,
        )
        hidden, normed = graph.add_and_norm(
            hidden,
            graph.linear(attended, tensors[f"{attention}/linear_1/weight"], rows="alike"),
            tensors[f"{attention}/linear_1/bias"],
            tensors[f"{feed}/layer_norm/gamma"],
            tensors[f"{feed}/layer_norm/beta"],
        )
        inner = graph.gelu(
            graph.linear(normed, tensors[f"{feed}/linear_0/weight"], rows="alike"),
            tensors[f"{feed}/linear_0/bias"],
        )
        norm = f"{following}/self_attention/layer_norm" if following else "encoder/layer_norm"
        hidden, normed = graph.add_and_norm(
            hidden,
            graph.linear(inner, tensors[f"{feed}/linear_1/weight"], rows="gelu"),
            tensors[f"{feed}/linear_1/bias"],
            tensors[f"{norm}/gamma"],
            tensors[f"{norm}/beta"],
        )
    size = width // weights.decoder_heads
    for layer in range(weights.layers("decoder")):
        name = f"decoder/layer_{layer}/attention/linear_1"
        both = graph.add(
            "Add",
            graph.linear(normed, tensors[f"{name}/weight"], rows="alike"),
            graph.constant(tensors[f"{name}/bias"]),
        )
        key, value = graph.halves(behind_past(both))
        shape = (0, 0, weights.decoder_heads, size)
        graph.output(graph.transpose(graph.reshape(key, *shape), 0, 2, 3, 1), f"key_{layer}")
        graph.output(graph.transpose(graph.reshape(value, *shape), 0, 2, 1, 3), f"value_{layer}")
    numbers, steps = (graph.add("Concat", *each, axis=1) for each in zip(*kept, strict=True))
    graph.output(graph.reshape(numbers, -1, count, 2 * width), "fresh", np.int8)
    graph.output(graph.reshape(steps, -1, count, parts), "steps", np.float16)
    return graph.serialised("encoder")


def _in_bytes(graph: Graph, value: str) -> tuple[str, str]:
    """A value in 8 bits, and what one step stands for: the same for all numbers along the last axis."""
    ranges = graph.add("ReduceMax", graph.add("Abs", value), graph.ints(-1))
    steps = graph.add(
        "Mul", graph.add("Max", ranges, graph.constant(LEAST_RANGE)), graph.constant(1 / LEVELS)
    )
    numbers = graph.add(
        "QuantizeLinear", graph.add("Div", value, steps), graph.constant(1.0), graph.constant(0, np.int8)
    )
    return numbers, graph.cast(steps, np.float16)


def _convolved(graph: Graph, value: str, weight: Float32, stride: int, rows: Rows) -> str:
    """A convolution over frames as a linear layer: each output sees three neighbouring frames side by side.

    Shape (batch, frames, channels) to (batch, frames / stride, outputs).
    """
    padded = graph.add("Pad", value, graph.ints(0, 1, 0, 0, 1, 0))
    # The last slice must end where the padded frames do, the others so much before.
    pieces = [
        graph.add(
            "Slice",
            padded,
            graph.ints(offset),
            graph.ints(FAR if offset == KERNEL - 1 else offset - KERNEL + 1),
            graph.ints(1),
            graph.ints(stride),
        )
        for offset in range(KERNEL)
    ]
    beside = graph.add("Concat", *pieces, axis=-1)
    outputs = weight.shape[0]
    return graph.linear(
        beside, np.ascontiguousarray(weight.transpose(0, 2, 1)).reshape(outputs, -1), rows=rows
    )
