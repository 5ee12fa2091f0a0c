"""Whisper's decoder as a graph: one for many tokens at once and for one token more."""

from __future__ import annotations

import numpy as np

from ray_whisper_streaming.engines.onnx.graph import FUSED, Graph
from ray_whisper_streaming.engines.weights import WhisperWeights

__all__ = ["decoder_graph"]


def decoder_graph(weights: WhisperWeights, *, quantise: bool) -> bytes:
    """Embedded tokens in; what may come next, attention and the longer cache out.

    Several rows of a batch may be beams of one window: as many for each window, side by side. They share what the
    encoder made of it.

    Inputs, for tokens behind ``past`` others:
        hidden: embeddings of tokens and their positions, shape (batch, tokens, width).
        mask: added to the self-attention's scores, shape (batch, 1, tokens, past + tokens).
        wanted: behind which of all (batch * tokens) the next token is asked for, shape (wanted,).
        past_key_0, past_value_0, ...: shape (batch, heads, past, size).
        key_0, value_0, ...: of the encoder's graph, for the windows.
        cross_mask: added to the scores of the attention to them, shape (windows, 1, 1, positions).

    Outputs:
        chances: probability of each token to come next, shape (wanted, vocabulary).
        attention: of the alignment heads over the encoder's positions, shape (windows, alignment heads,
            beams * tokens, positions).
        present_key_0, present_value_0, ...: shape (batch, heads, past + tokens, size).
    """
    graph = Graph(quantise=quantise)
    tensors, heads, width = weights.tensors, weights.decoder_heads, weights.width
    size = width // heads
    layers = weights.layers("decoder")
    hidden = graph.input("hidden", np.float32, ["batch", "tokens", width])
    mask = graph.input("mask", np.float32, ["batch", 1, "tokens", "all"])
    wanted = graph.input("wanted", np.int64, ["wanted"])
    cross_mask = graph.input("cross_mask", np.float32, ["windows", 1, 1, "positions"])
    # The beams of a window stand where its tokens do: (batch, tokens) becomes (windows, beams * tokens) and back.
    windows = graph.add("Shape", "key_0", end=1)
    by_window = graph.add("Concat", windows, graph.ints(-1, heads, size), axis=0)
    by_beam = graph.add("Shape", hidden)
    attentions: list[str] = []
    normed = graph.norm(
        hidden,
        tensors["decoder/layer_0/self_attention/layer_norm/gamma"],
        tensors["decoder/layer_0/self_attention/layer_norm/beta"],
    )
    for layer in range(layers):
        name = f"decoder/layer_{layer}"
        own, cross, feed = f"{name}/self_attention", f"{name}/attention", f"{name}/ffn"
        query, key, value = graph.add_many(
            "Split",
            graph.linear(normed, tensors[f"{own}/linear_0/weight"]),
            names=["", "", ""],
            axis=-1,
            num_outputs=3,
        )
        past = [
            graph.input(f"past_{kind}_{layer}", np.float32, ["batch", heads, "past", size])
            for kind in ("key", "value")
        ]
        attended, present_key, present_value = graph.add_many(
            "MultiHeadAttention",
            query,
            key,
            value,
            graph.constant(tensors[f"{own}/linear_0/bias"]),
            "",
            mask,
            *past,
            names=["", "", ""],
            domain=FUSED,
            num_heads=heads,
        )
        graph.output(present_key, f"present_key_{layer}")
        graph.output(present_value, f"present_value_{layer}")
        hidden, normed = graph.add_and_norm(
            hidden,
            graph.linear(attended, tensors[f"{own}/linear_1/weight"]),
            tensors[f"{own}/linear_1/bias"],
            tensors[f"{cross}/layer_norm/gamma"],
            tensors[f"{cross}/layer_norm/beta"],
        )
        # The scores' scale goes into the query, which is the smallest of what it could be applied to.
        scale = np.float32(size**-0.5)
        query = graph.add(
            "Add",
            graph.linear(normed, tensors[f"{cross}/linear_0/weight"] * scale),
            graph.constant(tensors[f"{cross}/linear_0/bias"] * scale),
        )
        query = graph.transpose(graph.add("Reshape", query, by_window), 0, 2, 1, 3)
        keys = graph.input(f"key_{layer}", np.float32, ["windows", heads, size, "positions"])
        values = graph.input(f"value_{layer}", np.float32, ["windows", heads, "positions", size])
        scores = graph.add("Add", graph.add("MatMul", query, keys), cross_mask)
        shares = graph.add("Softmax", scores, axis=-1)
        chosen = [head for aligned, head in weights.alignment_heads if aligned == layer]
        if chosen:
            attentions.append(graph.add("Gather", shares, graph.ints(*chosen), axis=1))
        attended = graph.transpose(graph.add("MatMul", shares, values), 0, 2, 1, 3)
        hidden, normed = graph.add_and_norm(
            hidden,
            graph.linear(graph.add("Reshape", attended, by_beam), tensors[f"{cross}/linear_2/weight"]),
            tensors[f"{cross}/linear_2/bias"],
            tensors[f"{feed}/layer_norm/gamma"],
            tensors[f"{feed}/layer_norm/beta"],
        )
        inner = graph.gelu(
            graph.linear(normed, tensors[f"{feed}/linear_0/weight"]), tensors[f"{feed}/linear_0/bias"]
        )
        following = f"decoder/layer_{layer + 1}/self_attention" if layer + 1 < layers else "decoder"
        hidden, normed = graph.add_and_norm(
            hidden,
            graph.linear(inner, tensors[f"{feed}/linear_1/weight"], rows="gelu"),
            tensors[f"{feed}/linear_1/bias"],
            tensors[f"{following}/layer_norm/gamma"],
            tensors[f"{following}/layer_norm/beta"],
        )
    graph.output(graph.add("Concat", *attentions, axis=1), "attention")
    rows = graph.add("Gather", graph.reshape(normed, -1, width), wanted, axis=0)
    logits = graph.linear(rows, tensors["decoder/projection/weight"])
    graph.output(graph.add("Softmax", logits, axis=-1), "chances")
    return graph.serialised("decoder")
