"""ONNX Runtime sessions: the encoder, one window after the other or side by side, and the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from ray_whisper_streaming.engines.mel import Float32
from ray_whisper_streaming.engines.onnx.decoder import decoder_graph
from ray_whisper_streaming.engines.onnx.encoder import encoder_graph
from ray_whisper_streaming.engines.weights import WhisperWeights

__all__ = ["CrossCache", "Decoder", "DecoderOutput", "Encoder", "Int64"]

Int64 = npt.NDArray[np.int64]

_ort: Any = onnxruntime
_Session = Any


@dataclass(frozen=True, slots=True)
class CrossCache:
    """What the decoder attends to of some windows, layer by layer.

    Attributes:
        keys: shape (windows, heads, size, positions) each.
        values: shape (windows, heads, positions, size) each.
    """

    keys: list[Float32] = field(repr=False)
    values: list[Float32] = field(repr=False)

    @property
    def rows(self) -> int:
        """How many windows."""
        return len(self.keys[0])

    @property
    def positions(self) -> int:
        """Positions of the encoder's output."""
        return self.keys[0].shape[-1]

    def take(self, rows: Sequence[int]) -> CrossCache:
        """Some windows; the first ones in order are a view."""
        chosen = slice(len(rows)) if list(rows) == list(range(len(rows))) else list(rows)
        return CrossCache([part[chosen] for part in self.keys], [part[chosen] for part in self.values])


class Encoder:
    """Encodes windows. Each by itself, so that none depends on its neighbours.

    Where there are as many windows as threads, each thread takes a window: nothing waits for the other threads at the
    end of every operator. What is left over is computed by all threads together.
    """

    def __init__(self, weights: WhisperWeights, *, threads: int, quantise: bool) -> None:
        graph = encoder_graph(weights, quantise=quantise)
        self._threads = threads
        self._together = _session(graph, threads)
        self._beside = _session(graph, 1) if threads > 1 else self._together
        self._layers = weights.layers("decoder")
        self._heads = weights.decoder_heads
        self._size = weights.width // weights.decoder_heads
        # Its threads end with it.
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")

    def run(self, mel: Float32) -> CrossCache:
        """Encode spectrograms of shape (batch, bands, frames)."""
        count, _, frames = mel.shape
        positions = (frames + 1) // 2
        shape = (count, self._heads, self._size, positions)
        cache = CrossCache(
            [np.empty(shape, np.float32) for _ in range(self._layers)],
            [np.empty((count, self._heads, positions, self._size), np.float32) for _ in range(self._layers)],
        )
        beside = count - count % self._threads if self._threads > 1 else 0
        jobs = [
            self._pool.submit(self._encode, self._beside, mel[row : row + 1], cache, row)
            for row in range(beside)
        ]
        for job in jobs:
            job.result()
        for row in range(beside, count):
            self._encode(self._together, mel[row : row + 1], cache, row)
        return cache

    def _encode(self, session: _Session, mel: Float32, cache: CrossCache, row: int) -> None:
        binding = session.io_binding()
        binding.bind_cpu_input("mel", np.ascontiguousarray(mel))
        for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
            for name, target in ((f"key_{layer}", keys), (f"value_{layer}", values)):
                # Written where it will be read: the rows of a batch lie one after the other.
                part = target[row : row + 1]
                binding.bind_output(name, "cpu", 0, np.float32, part.shape, part.ctypes.data)
        session.run_with_iobinding(binding)


@dataclass(frozen=True, slots=True)
class DecoderOutput:
    """What one pass of the decoder gives.

    Attributes:
        chances: of each token to come next, shape (wanted, vocabulary).
        attention: of the alignment heads, shape (windows, alignment heads, beams * tokens, positions).
        cache: keys and values of all tokens so far, shape (batch, heads, tokens, size) each.
    """

    chances: Float32
    attention: Float32
    cache: list[Float32]


class Decoder:
    """Runs the decoder over some tokens behind those in a cache."""

    def __init__(self, weights: WhisperWeights, *, threads: int, quantise: bool) -> None:
        self._session = _session(decoder_graph(weights, quantise=quantise), threads)
        # As they came: half the memory, and widened for the few tokens of a call.
        self._embeddings = weights.tensors["decoder/embeddings/weight"].astype(np.float16)
        self._positions = weights.tensors["decoder/position_encodings/encodings"]
        self._layers = range(weights.layers("decoder"))
        heads = weights.decoder_heads
        self._empty = (heads, 0, weights.width // heads)
        self._outputs = [
            "chances",
            "attention",
            *(f"present_{kind}_{layer}" for layer in self._layers for kind in ("key", "value")),
        ]

    def empty_cache(self, rows: int) -> list[Float32]:
        """The cache in front of the first token."""
        return [np.empty((rows, *self._empty), np.float32) for _ in self._layers for _ in ("key", "value")]

    def run(
        self,
        tokens: Int64,
        positions: Int64,
        mask: Float32,
        wanted: Int64,
        past: Sequence[Float32],
        cross: CrossCache,
    ) -> DecoderOutput:
        """One pass.

        Args:
            tokens: shape (batch, tokens), for a batch of equally many beams of each window, window by window.
            positions: of each token in its own text, shape (batch, tokens).
            mask: added to the scores of the self-attention, shape (batch, 1, tokens, past + tokens).
            wanted: behind which of all (batch * tokens) the next token is asked for.
            past: the cache of the pass before.
            cross: of the windows.
        """
        feed: dict[str, Any] = {
            "hidden": self._embeddings[tokens].astype(np.float32) + self._positions[positions],
            "mask": mask,
            "wanted": wanted,
        }
        for layer in self._layers:
            feed[f"past_key_{layer}"], feed[f"past_value_{layer}"] = past[2 * layer : 2 * layer + 2]
            feed[f"key_{layer}"], feed[f"value_{layer}"] = cross.keys[layer], cross.values[layer]
        chances, attention, *cache = self._session.run(self._outputs, feed)
        return DecoderOutput(chances, attention, cache)


def _session(graph: bytes, threads: int) -> _Session:
    options = _ort.SessionOptions()
    options.intra_op_num_threads = threads
    # The graphs hold the fused operators already; what the higher levels would fuse besides is slower here (an addition
    # and a norm in one operator takes four times as long as in two).
    options.graph_optimization_level = _ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # Threads wait actively inside a call only: other processes and the other session get the cores between calls.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return _ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
