"""The Silero voice activity network for many streams at once, built from the weights of the published file.

The published graph takes one stream: its recurrent layer has a batch of one. And its convolutions, over four positions
and less, cost several times what they compute. Here each of them is one matrix over all its positions (`_unrolled`), so
that a call is five products over the frames of all streams, and the recurrent layer takes the streams as its batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from ray_whisper_streaming.engines.mel import Float32
from ray_whisper_streaming.engines.onnx.graph import Graph
from ray_whisper_streaming.engines.vad import CELLS, CONTEXT_SAMPLES, VAD_FRAME_SAMPLES
from ray_whisper_streaming.errors import ModelNotFound

__all__ = ["voice_network"]

SIGHT = CONTEXT_SAMPLES + VAD_FRAME_SAMPLES
"""Samples that the network sees for a frame."""

SPECTRUM_SAMPLES, SPECTRUM_HOP, SPECTRA, BINS = 256, 128, 4, 129
"""Four short spectra of a frame; the last one reaches 64 samples beyond, where the frame is mirrored."""

CONVOLUTIONS = ((4, 1), (4, 2), (2, 2), (1, 1))
"""Of the encoder: positions that come in, and stride. All have three taps and one position of zeros on each side."""


def voice_network(path: Path) -> bytes:
    """The network, for ONNX Runtime.

    Inputs are ``frames``, float32 of shape (frames of each stream, streams, 64 + 512), and the state, ``hidden`` and
    ``cell``, of shape (1, streams, 128); outputs ``probabilities`` of shape (frames, streams), and the state after
    them, ``next_hidden`` and ``next_cell``.

    Args:
        path: Silero's own file, of version 6.

    Raises:
        ModelNotFound: the file holds another network.
    """
    try:
        return _network(_weights(path))
    except KeyError:
        raise ModelNotFound(
            "voice activity network", path.name, "version 6, as faster-whisper 1.2 has it"
        ) from None


def _network(weights: dict[str, Float32]) -> bytes:
    graph = Graph(quantise=False)
    frames = graph.input("frames", np.float32, ["steps", "streams", SIGHT])
    hidden = graph.input("hidden", np.float32, [1, "streams", CELLS])
    cell = graph.input("cell", np.float32, [1, "streams", CELLS])

    pieces = graph.add("Gather", frames, graph.constant(_mirrored_pieces(), np.int64), axis=2)
    basis = weights["encoder.feature_extractor.forward_basis_buffer"][:, 0]
    parts = graph.add("MatMul", graph.reshape(pieces, -1, SPECTRUM_SAMPLES), graph.constant(basis.T))
    squares = graph.add("Mul", parts, parts)
    real, imaginary = graph.add_many("Split", squares, graph.ints(BINS, BINS), names=["", ""], axis=1)
    value = graph.reshape(graph.add("Sqrt", graph.add("Add", real, imaginary)), -1, SPECTRA * BINS)
    for number, (positions, stride) in enumerate(CONVOLUTIONS):
        weight = _unrolled(weights[f"encoder.conv_layers.{number}.weight"], positions, stride)
        bias = weights[f"encoder.conv_layers.{number}.bias"]
        biases = np.tile(bias, weight.shape[1] // len(bias))
        product = graph.add("MatMul", value, graph.constant(weight))
        value = graph.add("Relu", graph.add("Add", product, graph.constant(biases)))

    streams = graph.add("Shape", frames, start=1, end=2)
    steps = graph.add("Concat", graph.ints(-1), streams, graph.ints(CELLS), axis=0)
    steps = graph.add("Reshape", value, steps)
    recurrent = [graph.constant(weights[f"onnx::LSTM_{number}"]) for number in (209, 210, 211)]
    outputs, next_hidden, next_cell = graph.add_many(
        "LSTM", steps, *recurrent, "", hidden, cell, names=["", "", ""], hidden_size=CELLS
    )
    heard = graph.add("Relu", graph.add("Squeeze", outputs, graph.ints(1)))
    last = graph.constant(weights["decoder.conv1d.weight"][0, :, 0])
    score = graph.add("Add", graph.add("MatMul", heard, last), graph.constant(weights["decoder.conv1d.bias"]))
    graph.output(graph.add("Sigmoid", score), "probabilities")
    graph.output(next_hidden, "next_hidden")
    graph.output(next_cell, "next_cell")
    return graph.serialised("voice")


def _weights(path: Path) -> dict[str, Float32]:
    loader: Any = onnx
    arrays: Any = numpy_helper
    return {each.name: arrays.to_array(each) for each in loader.load(str(path)).graph.initializer}


def _mirrored_pieces() -> npt.NDArray[np.int64]:
    """Where in a frame the samples of its spectra stand, one spectrum behind the other."""
    starts = np.arange(SPECTRA)[:, None] * SPECTRUM_HOP
    places = (starts + np.arange(SPECTRUM_SAMPLES)).reshape(-1)
    return np.where(places < SIGHT, places, 2 * (SIGHT - 1) - places)


def _unrolled(weight: Float32, positions: int, stride: int) -> Float32:
    """A convolution of three taps as one matrix.

    Args:
        weight: shape (channels out, channels in, 3).
        positions: that come in.
        stride: of the convolution.

    Returns:
        from (positions, channels in) to (positions out, channels out), each as one row.
    """
    wide, narrow, taps = weight.shape
    out = (positions - 1) // stride + 1
    matrix = np.zeros((positions, narrow, out, wide), np.float32)
    for place in range(out):
        for tap in range(taps):
            source = place * stride + tap - 1
            if 0 <= source < positions:
                matrix[source, :, place] = weight[:, :, tap].T
    return matrix.reshape(positions * narrow, out * wide)
