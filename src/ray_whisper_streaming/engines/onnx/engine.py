"""The engine for CPUs: Whisper in ONNX Runtime."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ray_whisper_streaming.engines.models import resolve_model
from ray_whisper_streaming.engines.onnx.backend import EncodedWindows, OnnxBackend
from ray_whisper_streaming.engines.tokenizers import VOCABULARY, Vocabulary
from ray_whisper_streaming.engines.weights import read_weights
from ray_whisper_streaming.engines.window_engine import LoadedModel, WindowEngine
from ray_whisper_streaming.errors import ConfigurationError, ModelNotFound

__all__ = ["COMPUTE_TYPES", "OnnxEngine"]

NAME = "onnxruntime"

MAX_BATCH_SIZE = 2
"""Larger batches bring nothing on a CPU: each window is encoded by itself, and a small batch is answered sooner."""

BEAM_SIZE = 8
"""For jobs that name none. Only new words are stepped, so beams are cheap."""

HURRIED_BEAM_SIZE = 4
"""For those that are hurried: a job takes a fifth less time."""

COMPUTE_TYPES = ("auto", "int8", "float32")


class OnnxEngine(WindowEngine[EncodedWindows]):
    """Decodes batches of windows of different streams on a CPU with ONNX Runtime. Satisfies `engines.base.Engine`.

    Args:
        model: name, path or hub id; see `resolve_model`. The files are those of CTranslate2.
        compute_type: ``"int8"``, ``"float32"``, or ``"auto"``: int8.
        cpu_threads: threads of one call; 0 is one per core.
        max_batch_size: windows decoded in one call; None is what suits the device.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        model: str = "tiny.en",
        compute_type: str = "auto",
        cpu_threads: int = 0,
        max_batch_size: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(NAME, model, clock=clock)
        self._compute_type = compute_type
        self._cpu_threads = cpu_threads
        self._max_batch_size = max_batch_size

    def _load(self) -> LoadedModel[EncodedWindows]:
        if self._compute_type not in COMPUTE_TYPES:
            raise ConfigurationError("compute_type", self._compute_type, " or ".join(COMPUTE_TYPES))
        folder = resolve_model(self._model)
        if not (folder / VOCABULARY).is_file():
            raise ModelNotFound("model", self._model, f"a folder that holds {VOCABULARY}")
        weights = read_weights(folder)
        try:
            vocabulary = Vocabulary(folder, multilingual=weights.multilingual)
        except ValueError as error:
            raise ModelNotFound("model", self._model, f"one with a vocabulary ({error})") from error
        backend = OnnxBackend(
            weights,
            vocabulary,
            threads=self._cpu_threads or os.cpu_count() or 1,
            quantise=self._compute_type != "float32",
        )
        return LoadedModel(
            backend=backend,
            device="cpu",
            languages=frozenset(vocabulary.language_tokens),
            max_batch_size=self._max_batch_size or MAX_BATCH_SIZE,
            beam_size=BEAM_SIZE,
            hurried_beam_size=HURRIED_BEAM_SIZE,
        )
