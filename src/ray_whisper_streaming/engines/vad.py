"""Voice activity: Silero VAD v6, with a state per stream.

The network's file ships inside faster-whisper, which runs it without state over whole recordings. Here the
recurrent state and the few samples a frame overlaps with the one before are kept per stream.

Streams are scored one after the other, although `SileroVad.score` takes many: the file's recurrent layer
takes one stream only, and its convolutions gain nothing from larger batches (55 microseconds a frame of 32 ms
on one core from 16 frames up, 105 for a single frame; so 1.7 ms per second of audio). The same network in
numpy needs half of that where BLAS has one thread, and up to fifty times as much where its threads compete
with others for the cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.core.jobs import Int16Samples
from ray_whisper_streaming.errors import AudioError, ModelNotFound

__all__ = ["VAD_FRAME_SAMPLES", "SileroVad", "VadState"]

Float32: TypeAlias = npt.NDArray[np.float32]

VAD_FRAME_SAMPLES = 512
"""Samples of one frame (32 ms at 16 kHz): one probability each."""

CONTEXT_SAMPLES = 64
"""Samples before a frame that the network sees with it."""

CELLS = 128
"""Width of the recurrent layer."""

_FILE = Path("assets") / "silero_vad_v6.onnx"


def _cells() -> Float32:
    return np.zeros((1, 1, CELLS), np.float32)


def _silence() -> Float32:
    return np.zeros(CONTEXT_SAMPLES, np.float32)


@dataclass(slots=True)
class VadState:
    """What the network remembers of one stream. A new one stands for silence before the stream's start.

    Attributes:
        hidden: output of the recurrent layer, shape (1, 1, 128).
        cell: its memory, shape (1, 1, 128).
        context: the last samples seen, shape (64,).
    """

    hidden: Float32 = field(default_factory=_cells, repr=False)
    cell: Float32 = field(default_factory=_cells, repr=False)
    context: Float32 = field(default_factory=_silence, repr=False)


class SileroVad:
    """Scores the audio of many streams. Holds no stream's state, so one serves all, as one network serves the process.

    Thread-safe, as long as two calls at once don't share a `VadState`. Uses one core per call.
    """

    def load(self) -> None:
        """Load the network now rather than at the first call of `score`.

        Raises:
            ModelNotFound: it is not where faster-whisper keeps it.
        """
        _network()

    def score(self, states: Sequence[VadState], chunks: Sequence[Int16Samples | Float32]) -> list[Float32]:
        """Speech probability of each frame of each stream.

        Args:
            states: one per stream; moved on past its chunk.
            chunks: the stream's next samples at 16 kHz, int16, or float32 in -1 to 1; shape (n * 512,), where
                n may differ between streams and be 0.

        Returns:
            for each stream its probabilities, 0 to 1, shape (n,). How audio is cut into chunks changes
            nothing (but for rounding, about 1e-6).

        Raises:
            AudioError: a chunk is not a whole number of frames, or not int16 or float32. No state is moved
            then. ModelNotFound: the network can't be loaded.
        """
        signals = [
            np.concatenate((state.context, _as_float(chunk)))
            for state, chunk in zip(states, chunks, strict=True)
        ]
        return [self._advance(state, signal) for state, signal in zip(states, signals, strict=True)]

    def _advance(self, state: VadState, signal: Float32) -> Float32:
        """Score one stream's samples, its context in front of them."""
        width = CONTEXT_SAMPLES + VAD_FRAME_SAMPLES
        if len(signal) < width:
            return np.empty(0, np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(signal, width)[::VAD_FRAME_SAMPLES]
        inputs = {"input": np.ascontiguousarray(frames), "h": state.hidden, "c": state.cell}
        probabilities, state.hidden, state.cell = _network().run(None, inputs)
        state.context = signal[-CONTEXT_SAMPLES:].copy()
        return probabilities


@cache
def _network() -> Any:
    # Found without importing faster-whisper, which would load CTranslate2 and FFmpeg into a gateway.
    spec = find_spec("faster_whisper")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders or not (Path(folders[0]) / _FILE).is_file():
        raise ModelNotFound(
            "voice activity network", _FILE.name, "in the assets of faster-whisper 1.2 or later"
        )
    import onnxruntime  # here, so that importing the library loads no runtime

    onnx: Any = onnxruntime
    options = onnx.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnx.InferenceSession(str(Path(folders[0]) / _FILE), options, providers=["CPUExecutionProvider"])


def _as_float(chunk: npt.NDArray[Any]) -> Float32:
    if chunk.ndim != 1 or len(chunk) % VAD_FRAME_SAMPLES:
        raise AudioError(
            f"voice activity takes whole frames of {VAD_FRAME_SAMPLES} samples, not shape {chunk.shape}"
        )
    if chunk.dtype == np.int16:
        return chunk.astype(np.float32) / 32768.0
    if chunk.dtype == np.float32:
        return chunk
    raise AudioError(f"voice activity takes int16 or float32 samples, not {chunk.dtype}")
