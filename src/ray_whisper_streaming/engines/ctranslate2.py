"""The engine for GPUs, and for CPUs too: Whisper in CTranslate2.

CTranslate2 is called directly and not through faster-whisper's `transcribe`, which decodes one audio per
call; the tokenizer and the model formats are faster-whisper's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import ctranslate2
import numpy as np

from ray_whisper_streaming.core.jobs import Task
from ray_whisper_streaming.engines.backend import SECONDS_PER_POSITION, Generated, Source, spectrograms
from ray_whisper_streaming.engines.mel import MelCache
from ray_whisper_streaming.engines.models import resolve_model
from ray_whisper_streaming.engines.search import candidate_count
from ray_whisper_streaming.engines.tokenizers import VOCABULARY, Vocabulary
from ray_whisper_streaming.engines.tokens import TextTokenizer
from ray_whisper_streaming.engines.window_engine import LoadedModel, WindowEngine
from ray_whisper_streaming.engines.words import Alignment
from ray_whisper_streaming.errors import ConfigurationError, ModelNotFound

__all__ = ["CTranslate2Engine", "has_gpu"]

NAME = "ctranslate2"

MAX_BATCH_SIZE = {"cpu": 8, "cuda": 32}
"""Larger batches bring nothing: two CPU cores are saturated by four windows; on one H100 (base) 32 windows
gave 205 jobs a second and 64 gave 316, but at twice the wait."""

COMPUTE_TYPE = {"cpu": "int8", "cuda": "float16"}
"""What ``"auto"`` means: the fastest type that keeps Whisper's accuracy."""

# The package's extension module has no types.
_ct2: Any = ctranslate2
_Storage: TypeAlias = Any
"""A `ctranslate2.StorageView`."""


class CTranslate2Engine(WindowEngine[_Storage]):
    """Decodes batches of windows of different streams with CTranslate2. Satisfies `engines.base.Engine`.

    Args:
        model: name, path or hub id; see `resolve_model`.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: a GPU if there is one.
        compute_type: CTranslate2's name of a number type, or ``"auto"``: int8 on a CPU, float16 on a GPU.
        cpu_threads: threads of one model call on a CPU; 0 is one per core. (Given explicitly because Ray
            tells OpenMP to use one thread in actors.)
        max_batch_size: windows decoded in one call; None is what suits the device.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        model: str = "tiny.en",
        device: str = "auto",
        compute_type: str = "auto",
        cpu_threads: int = 0,
        max_batch_size: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(NAME, model, clock=clock)
        self._device = device
        self._compute_type = compute_type
        self._cpu_threads = cpu_threads
        self._max_batch_size = max_batch_size

    def _load(self) -> LoadedModel[_Storage]:
        device = self._device
        if device == "auto":
            device = "cuda" if has_gpu() else "cpu"
        if device not in COMPUTE_TYPE:
            raise ConfigurationError("device", device, f"auto, {' or '.join(COMPUTE_TYPE)}")
        if device == "cuda" and not has_gpu():
            raise ConfigurationError("device", device, "cpu: CTranslate2 sees no GPU")
        compute_type = COMPUTE_TYPE[device] if self._compute_type == "auto" else self._compute_type
        supported: set[str] = _ct2.get_supported_compute_types(device)
        if compute_type not in ("default", *supported):
            raise ConfigurationError("compute_type", compute_type, " or ".join(["auto", *sorted(supported)]))
        folder = resolve_model(self._model)
        if device == "cuda":
            _preload_cublas()
        if not (folder / VOCABULARY).is_file():
            raise ModelNotFound("model", self._model, f"a folder that holds {VOCABULARY}")
        try:
            whisper: Any = _ct2.models.Whisper(
                str(folder),
                device=device,
                compute_type=compute_type,
                intra_threads=self._cpu_threads or os.cpu_count() or 1,
            )
            vocabulary = Vocabulary(folder, multilingual=whisper.is_multilingual)
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelNotFound("model", self._model, f"one CTranslate2 can load ({error})") from error
        backend = _Backend(whisper, vocabulary)
        return LoadedModel(
            backend=backend,
            device=device,
            languages=frozenset(vocabulary.language_tokens),
            max_batch_size=self._max_batch_size or MAX_BATCH_SIZE[device],
        )


def has_gpu() -> bool:
    """Whether this process sees a CUDA GPU. A driver that fails is none."""
    try:
        return bool(_ct2.get_cuda_device_count())
    except RuntimeError:
        return False


class _Backend:
    """`window_decoder.Backend` over CTranslate2."""

    ragged = False

    def __init__(self, whisper: Any, vocabulary: Vocabulary) -> None:
        self._whisper = whisper
        self._vocabulary = vocabulary
        self.multilingual: bool = whisper.is_multilingual
        self._mel = MelCache(whisper.n_mels)

    def encode(
        self, sources: Sequence[Source], padded_frames: Sequence[int], *, anew: bool = False
    ) -> _Storage:
        mels = np.stack(spectrograms(self._mel, sources, padded_frames))
        return self._whisper.encode(_ct2.StorageView.from_array(mels))

    def take(self, encoded: _Storage, rows: Sequence[int]) -> _Storage:
        if list(rows) == list(range(encoded.shape[0])):
            return encoded
        # By way of the CPU: the binding can neither slice nor join, and this happens in mixed batches only
        # (several languages, or contexts of different length). An encoder output is a few MB at most.
        on_cpu = encoded.to_device(_ct2.Device.cpu) if encoded.device != "cpu" else encoded
        return _ct2.StorageView.from_array(np.array(on_cpu)[list(rows)])

    def detect_languages(self, encoded: _Storage) -> list[dict[str, float]]:
        return [
            {token[2:-2]: probability for token, probability in row}
            for row in self._whisper.detect_language(encoded)
        ]

    def generate(
        self,
        encoded: _Storage,
        prompts: Sequence[Sequence[int]],
        prefixes: Sequence[Sequence[int]],
        *,
        max_tokens: Sequence[int],
        beam_size: int,
        suppress_blank: bool,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[Generated]:
        """See `Backend.generate`. CTranslate2 has one random generator per thread: the seeds have no effect, and what
        is drawn depends on the other rows and on the calls before.
        """
        # CTranslate2 stops at min(max_length / 2, max_length - tokens before the last of the prompt): this
        # makes both at least the most that a row may have.
        most = max(max_tokens)
        max_length = max(2 * most, len(prompts[0]) + most)
        # With one beam and several hypotheses each is a sample of its own; they come best by length first.
        sampling = {
            "beam_size": 1,
            "num_hypotheses": beam_size,
            "sampling_topk": candidate_count(beam_size),
            "sampling_temperature": temperature,
        }
        answers = self._whisper.generate(
            encoded,
            [[*prompt, *prefix] for prompt, prefix in zip(prompts, prefixes, strict=True)],
            **(sampling if temperature > 0 else {"beam_size": beam_size}),
            max_length=max_length,
            return_no_speech_prob=True,
            suppress_blank=suppress_blank,
            suppress_tokens=self._vocabulary.suppressed,
        )
        return [Generated(list(answer.sequences_ids[0]), answer.no_speech_prob) for answer in answers]

    def align(
        self,
        encoded: _Storage,
        start_sequence: Sequence[int],
        texts: Sequence[Sequence[int]],
        frames: Sequence[int],
    ) -> list[Alignment]:
        answers = self._whisper.align(
            encoded, list(start_sequence), [list(text) for text in texts], list(frames)
        )
        return [_alignment(answer) for answer in answers]

    def tokenizer(self, language: str, task: Task) -> TextTokenizer:
        return self._vocabulary.tokenizer(language, task)


def _preload_cublas() -> None:
    """Load cuBLAS 12 from the package ``nvidia-cublas-cu12``, if that is where it is.

    CTranslate2 asks the loader for it by name, and the loader doesn't look into packages.
    """
    spec = find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for library in ("libcublasLt.so.12", "libcublas.so.12"):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(Path(folder) / "cublas" / "lib" / library), mode=ctypes.RTLD_GLOBAL)


def _alignment(answer: Any) -> Alignment:
    """The first position aligned to each token, in seconds, from CTranslate2's path of (token, position)
    pairs.
    """
    path = np.array(answer.alignments)
    first = np.append(True, np.diff(path[:, 0]) > 0)
    # In windows of a few frames the path can start before them.
    positions = np.maximum(path[first, 1], 0)
    return Alignment(positions * SECONDS_PER_POSITION, np.array(answer.text_token_probs))
