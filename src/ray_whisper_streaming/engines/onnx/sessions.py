"""ONNX Runtime sessions: the encoder, one window after the other or side by side, and the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from ray_whisper_streaming.engines.backend import FRAMES_PER_POSITION, Source
from ray_whisper_streaming.engines.mel import Float32
from ray_whisper_streaming.engines.onnx.decoder import decoder_graph
from ray_whisper_streaming.engines.onnx.encoder import encoder_graph
from ray_whisper_streaming.engines.onnx.memory import EncoderMemory, Parts
from ray_whisper_streaming.engines.remembering import OVERLAP, Known
from ray_whisper_streaming.engines.weights import WhisperWeights

__all__ = [
    "MASKED",
    "WHOLE_SUMS",
    "CrossCache",
    "Decoder",
    "DecoderOutput",
    "Encoder",
    "Int64",
]

Int64 = npt.NDArray[np.int64]

MASKED = np.float32(-1e9)
"""Added to the score of what must not be attended to. (Infinity would give padding that sees nothing no numbers.)"""

WHOLE_SUMS = 16
"""Padded lengths are a multiple of this. The runtime adds up some numbers side by side and the rest one by one: so the
order stays the same however far a window or a prompt is padded, and its words do not change with its company. (With
8 bits, rounding is enough to change a comma: it did in a test where prompts were padded by any number.)"""

_ort: Any = onnxruntime
_Session = Any


@dataclass(frozen=True, slots=True)
class CrossCache:
    """What the decoder attends to of some windows, layer by layer.

    Attributes:
        keys: shape (windows, heads, size, positions) each.
        values: shape (windows, heads, positions, size) each.
        mask: added to the scores: windows shorter than the longest are padded; shape (windows, 1, 1, positions).
    """

    keys: list[Float32] = field(repr=False)
    values: list[Float32] = field(repr=False)
    mask: Float32 = field(repr=False)

    @property
    def rows(self) -> int:
        """How many windows."""
        return len(self.mask)

    def take(self, rows: Sequence[int]) -> CrossCache:
        """Some windows; the first ones in order are a view."""
        chosen = slice(len(rows)) if list(rows) == list(range(len(rows))) else list(rows)
        return CrossCache(
            [part[chosen] for part in self.keys], [part[chosen] for part in self.values], self.mask[chosen]
        )

    def close_up(self, staying: Sequence[int]) -> CrossCache:
        """The rows that stay, in their order at the front. In place: a copy of all would cost several steps."""
        for part in (*self.keys, *self.values, self.mask):
            for place, old in enumerate(staying):
                if place != old:
                    part[place] = part[old]
        return self.take(range(len(staying)))


class Encoder:
    """Encodes windows. Each by itself, so that none depends on its neighbours; but from where the stream's last pass
    left off, if the window begins at the same place.

    Where there are as many windows as threads, each thread takes a window: nothing waits for the other threads at the
    end of every operator. What is left over is computed by all threads together.
    """

    def __init__(self, weights: WhisperWeights, *, threads: int, quantise: bool) -> None:
        graph = encoder_graph(weights, quantise=quantise)
        self._threads = threads
        self._together = _session(graph, threads)
        self._beside = _session(graph, 1) if threads > 1 else self._together
        self._layers = range(weights.layers("decoder"))
        self._heads = weights.decoder_heads
        self._width = weights.width
        tensors = weights.layers("encoder") + weights.layers("decoder")
        self._memory = EncoderMemory(tensors, 2 * weights.width, 2 * weights.encoder_heads)
        # Its threads end with it.
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")

    def run(self, mels: Sequence[Float32], sources: Sequence[Source | None]) -> CrossCache:
        """Encode spectrograms of shape (bands, frames); frames even.

        ``sources``: what each was made of, its padding aside; None forbids to go by earlier passes.
        """
        known = [self._memory.recall(source) for source in sources]
        windows = list(zip(mels, known, strict=True))
        beside = len(windows) - len(windows) % self._threads if self._threads > 1 else 0
        jobs = [self._pool.submit(self._encode, self._beside, *window) for window in windows[:beside]]
        encoded = [job.result() for job in jobs]
        encoded += [self._encode(self._together, *window) for window in windows[beside:]]
        for source, before, outputs in zip(sources, known, encoded, strict=True):
            self._memory.keep(source, before, Parts(outputs["fresh"], outputs["steps"]))
        return self._side_by_side(encoded)

    def _encode(self, session: _Session, mel: Float32, known: Known[Parts] | None) -> dict[str, Any]:
        """The graph's outputs by name."""
        positions = mel.shape[1] // FRAMES_PER_POSITION
        first = known.positions if known else 0
        overlap = min(OVERLAP, first)
        binding = session.io_binding()
        binding.bind_cpu_input(
            "mel", np.ascontiguousarray(mel[None, :, (first - overlap) * FRAMES_PER_POSITION :])
        )
        binding.bind_cpu_input("overlap", np.array([overlap]))
        binding.bind_cpu_input("first", np.array([first]))
        past = known.held if known else self._memory.nothing
        binding.bind_cpu_input("past", past.numbers[:first])
        binding.bind_cpu_input("past_steps", past.steps[:first])
        outputs: dict[str, npt.NDArray[Any]] = {
            "fresh": np.empty((positions - first, *past.numbers.shape[1:]), np.int8),
            "steps": np.empty((positions - first, *past.steps.shape[1:]), np.float16),
        }
        size = self._width // self._heads
        for layer in self._layers:
            outputs[f"key_{layer}"] = np.empty((1, self._heads, size, positions), np.float32)
            outputs[f"value_{layer}"] = np.empty((1, self._heads, positions, size), np.float32)
        for name, output in outputs.items():
            binding.bind_output(name, "cpu", 0, output.dtype, output.shape, output.ctypes.data)
        session.run_with_iobinding(binding)
        return outputs

    def _side_by_side(self, encoded: Sequence[dict[str, Any]]) -> CrossCache:
        """All windows in one batch, padded to the longest; a single one too, to `WHOLE_SUMS`."""
        lengths = [window["key_0"].shape[-1] for window in encoded]
        positions = -(-max(lengths) // WHOLE_SUMS) * WHOLE_SUMS
        size = self._width // self._heads
        shape = (len(encoded), self._heads)
        cross = CrossCache(
            [np.zeros((*shape, size, positions), np.float32) for _ in self._layers],
            [np.zeros((*shape, positions, size), np.float32) for _ in self._layers],
            np.zeros((len(encoded), 1, 1, positions), np.float32),
        )
        for row, (window, length) in enumerate(zip(encoded, lengths, strict=True)):
            cross.mask[row, ..., length:] = MASKED
            for layer in self._layers:
                cross.keys[layer][row, :, :, :length] = window[f"key_{layer}"][0]
                cross.values[layer][row, :, :length] = window[f"value_{layer}"][0]
        return cross


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
            "cross_mask": cross.mask,
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
