"""Voice activity: Silero VAD v6, with a state per stream.

The network's weights ship inside faster-whisper, which runs it without state over whole recordings. Here the recurrent
state and the few samples a frame overlaps with the one before are kept per stream, and many streams are scored in one
call of a network of our own shape (`engines.onnx.voice`): 0.03 ms a frame of 32 ms where there are a few, a third of
what the published graph takes for three frames of one stream.
"""

from __future__ import annotations

from collections import defaultdict
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

__all__ = ["CELLS", "CONTEXT_SAMPLES", "FRAMES_PER_CALL", "VAD_FRAME_SAMPLES", "SileroVad", "VadState"]

Float32: TypeAlias = npt.NDArray[np.float32]

VAD_FRAME_SAMPLES = 512
"""Samples of one frame (32 ms at 16 kHz): one probability each."""

CONTEXT_SAMPLES = 64
"""Samples before a frame that the network sees with it."""

CELLS = 128
"""Width of the recurrent layer."""

FRAMES_PER_CALL = 256
"""Of all streams together, unless one has more: beyond it nothing is gained, and memory grows."""

_SCALES = {np.dtype(np.int16): np.float32(1 / 32768), np.dtype(np.float32): np.float32(1)}
"""What samples are multiplied by to be -1 to 1."""

FAINT_DB = -50.0
"""Frames of a stream whose loudest was fainter of late (mean power, full scale 0 dB) are amplified up to it.
The network finds no voice below about -65 dB, which is what a microphone with its gain turned down gives. (`ray-whisper
evaluate --condition quiet=20`, nine recordings: 11.9 % word errors instead of 22.4, no voice undecoded instead of 20 s;
docs/decisions/2026-11-27-faint-streams.md has what else was tried.)"""

MAX_GAIN_DB = 30.0
"""It is amplified by this at most: below -80 dB there is little but rounding in 16 bits."""

FALL_DB = 3.0 * VAD_FRAME_SAMPLES / 16_000
"""How fast the loudest is forgotten, in decibels a frame (3 a second): pauses of speech stay as faint as they are."""

_SILENCE_DB = -200.0

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
        loudest_db: how loud it was of late, see `FAINT_DB`.
    """

    hidden: Float32 = field(default_factory=_cells, repr=False)
    cell: Float32 = field(default_factory=_cells, repr=False)
    context: Float32 = field(default_factory=_silence, repr=False)
    loudest_db: float = _SILENCE_DB


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
        scores = [np.empty(0, np.float32)] * len(chunks)
        for frames, alike in _of_one_length(chunks):
            found = self._advance(
                frames, [states[index] for index in alike], [chunks[index] for index in alike]
            )
            for index, probabilities in zip(alike, found, strict=True):
                scores[index] = probabilities
        return scores

    def _advance(
        self, frames: int, states: Sequence[VadState], chunks: Sequence[Int16Samples | Float32]
    ) -> Sequence[Float32]:
        """Score chunks of so many frames."""
        signals = np.empty((len(chunks), CONTEXT_SAMPLES + frames * VAD_FRAME_SAMPLES), np.float32)
        for signal, state, chunk in zip(signals, states, chunks, strict=True):
            signal[:CONTEXT_SAMPLES] = state.context
            np.multiply(chunk, _SCALES[chunk.dtype], out=signal[CONTEXT_SAMPLES:])
        width = CONTEXT_SAMPLES + VAD_FRAME_SAMPLES
        windows = np.lib.stride_tricks.sliding_window_view(signals, width, axis=1)
        windows = windows[:, ::VAD_FRAME_SAMPLES].swapaxes(0, 1)
        loudest_db = _loudest_db(windows[:, :, CONTEXT_SAMPLES:], [state.loudest_db for state in states])
        gain_db = np.clip(FAINT_DB - loudest_db, 0.0, MAX_GAIN_DB)
        gain = (10 ** (gain_db / 20)).astype(np.float32)
        inputs = {
            "frames": np.multiply(windows, gain[:, :, None], order="C"),
            "hidden": np.concatenate([state.hidden for state in states], axis=1),
            "cell": np.concatenate([state.cell for state in states], axis=1),
        }
        probabilities, hidden, cell = _network().run(None, inputs)
        for index, (state, loudest) in enumerate(zip(states, loudest_db[-1].tolist(), strict=True)):
            # Copies: a part of an array keeps all of it.
            state.hidden = hidden[:, index : index + 1].copy()
            state.cell = cell[:, index : index + 1].copy()
            state.context = signals[index, -CONTEXT_SAMPLES:].copy()
            state.loudest_db = loudest
        scores: Float32 = np.ascontiguousarray(probabilities.T)
        return list(scores)


def _loudest_db(frames: Float32, before_db: Sequence[float]) -> npt.NDArray[np.floating[Any]]:
    """For each frame the level of the loudest one up to it, less what was forgotten since; shape (frames, streams).

    Args:
        frames: without their contexts, shape (frames, streams, 512).
        before_db: the same of the frame before the first, for each stream.
    """
    power = np.einsum("fsk,fsk->fs", frames, frames) / VAD_FRAME_SAMPLES
    level_db = 10 * np.log10(np.maximum(power, 10 ** (_SILENCE_DB / 10)))
    # What is forgotten grows evenly: with it added back, the loudest is the greatest so far.
    forgotten_db = FALL_DB * np.arange(len(level_db) + 1)[:, None]
    greatest_db = np.maximum.accumulate(np.vstack([before_db, level_db]) + forgotten_db)
    return (greatest_db - forgotten_db)[1:]


@cache
def _network() -> Any:
    # Found without importing faster-whisper, which would load CTranslate2 and FFmpeg into a gateway.
    spec = find_spec("faster_whisper")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders or not (Path(folders[0]) / _FILE).is_file():
        raise ModelNotFound(
            "voice activity network", _FILE.name, "in the assets of faster-whisper 1.2 or later"
        )
    # Here, so that importing the library loads no runtime.
    import onnxruntime

    from ray_whisper_streaming.engines.onnx.voice import voice_network

    onnx: Any = onnxruntime
    options = onnx.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnx.InferenceSession(
        voice_network(Path(folders[0]) / _FILE), options, providers=["CPUExecutionProvider"]
    )


def _of_one_length(chunks: Sequence[npt.NDArray[Any]]) -> list[tuple[int, list[int]]]:
    """Numbers of frames with the indices of chunks that hold so many, but at least one; as many as go into one call."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, chunk in enumerate(chunks):
        by_length[_count_frames(chunk)].append(index)
    by_length.pop(0, None)
    calls: list[tuple[int, list[int]]] = []
    for frames, indices in by_length.items():
        most = max(1, FRAMES_PER_CALL // frames)
        calls += [(frames, indices[start : start + most]) for start in range(0, len(indices), most)]
    return calls


def _count_frames(chunk: npt.NDArray[Any]) -> int:
    if chunk.ndim != 1 or len(chunk) % VAD_FRAME_SAMPLES:
        raise AudioError(
            f"voice activity takes whole frames of {VAD_FRAME_SAMPLES} samples, not shape {chunk.shape}"
        )
    if chunk.dtype not in _SCALES:
        raise AudioError(f"voice activity takes int16 or float32 samples, not {chunk.dtype}")
    return len(chunk) // VAD_FRAME_SAMPLES
