"""The engine for GPUs: Whisper in PyTorch. It runs on CPUs too, where others are quicker."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from ray_whisper_streaming.engines.models import resolve_model
from ray_whisper_streaming.engines.tokenizers import VOCABULARY, Vocabulary
from ray_whisper_streaming.engines.torch.backend import EncodedWindows, TorchBackend
from ray_whisper_streaming.engines.torch.memory import plan_memory, shape_of
from ray_whisper_streaming.engines.torch.runtime import gpu_lost, has_gpu, torch
from ray_whisper_streaming.engines.weights import read_weights
from ray_whisper_streaming.engines.window_engine import LoadedModel, WindowEngine
from ray_whisper_streaming.errors import ConfigurationError, ModelNotFound

__all__ = ["COMPUTE_TYPES", "TorchEngine", "memory_limit"]

_log = logging.getLogger(__name__)

NAME = "torch"

MAX_BATCH_SIZE = {"cpu": 4, "cuda": 64}
"""A step of 64 costs a GPU little more than one of a single window; a CPU is busy with a few."""

COMPUTE_TYPES = ("auto", "float32", "float16", "bfloat16")

COMPUTE_TYPE = {"cpu": "float32", "cuda": "float16"}
"""What ``"auto"`` means."""

FREE_SHARE = 0.9
"""Of a GPU's free memory, what is taken where no limit is given: its driver and others need a little."""


class TorchEngine(WindowEngine[EncodedWindows]):
    """Decodes batches of windows of different streams with PyTorch. Satisfies `engines.base.Engine`.

    Args:
        model: name, path or hub id; see `resolve_model`.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: a GPU if there is one.
        compute_type: ``"float32"``, ``"float16"``, ``"bfloat16"``, or ``"auto"``: float32 on a CPU, float16 on a GPU.
        cpu_threads: threads of the process's PyTorch on a CPU; 0 is one per core.
        max_batch_size: windows decoded in one call, if memory allows; None is what suits the device.
        memory_limit_bytes: what it may take of the device's memory; None is no limit on a CPU, and on a GPU nearly all
            that is free.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        model: str = "tiny.en",
        device: str = "auto",
        compute_type: str = "auto",
        cpu_threads: int = 0,
        max_batch_size: int | None = None,
        memory_limit_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(NAME, model, clock=clock)
        self._device = device
        self._compute_type = compute_type
        self._cpu_threads = cpu_threads
        self._max_batch_size = max_batch_size
        self._memory_limit_bytes = memory_limit_bytes

    def _device_lost(self) -> bool:
        return self._device != "cpu" and gpu_lost()

    def _load(self) -> LoadedModel[EncodedWindows]:
        if self._compute_type not in COMPUTE_TYPES:
            raise ConfigurationError("compute_type", self._compute_type, " or ".join(COMPUTE_TYPES))
        device = self._device
        if device == "auto":
            device = "cuda" if has_gpu() else "cpu"
        if device not in COMPUTE_TYPE:
            raise ConfigurationError("device", device, f"auto, {' or '.join(COMPUTE_TYPE)}")
        if device == "cuda" and not has_gpu():
            raise ConfigurationError("device", device, "cpu: PyTorch sees no GPU")
        if device == "cuda":
            torch.cuda.current_stream().synchronize()  # one that is lost fails here, before the weights are read
        compute_type = COMPUTE_TYPE[device] if self._compute_type == "auto" else self._compute_type
        number_type = getattr(torch, compute_type)
        folder = resolve_model(self._model)
        if not (folder / VOCABULARY).is_file():
            raise ModelNotFound("model", self._model, f"a folder that holds {VOCABULARY}")
        weights = read_weights(folder)
        try:
            vocabulary = Vocabulary(folder, multilingual=weights.multilingual)
        except ValueError as error:
            raise ModelNotFound("model", self._model, f"one with a vocabulary ({error})") from error
        if device == "cpu":
            torch.set_num_threads(self._cpu_threads or os.cpu_count() or 1)
        plan = plan_memory(
            shape_of(weights),
            number_bytes=number_type.itemsize,
            max_batch_size=MAX_BATCH_SIZE[device] if self._max_batch_size is None else self._max_batch_size,
            limit_bytes=memory_limit(device, self._memory_limit_bytes),
        )
        backend = TorchBackend(
            weights, vocabulary, plan, device=torch.device(device), number_type=number_type
        )
        started = self._clock()
        shapes = backend.warm_up(beam_size=1)
        _log.info("recorded %d shapes of a step in %.1f s; %s", shapes, self._clock() - started, plan)
        return LoadedModel(
            backend=backend,
            device=device,
            languages=frozenset(vocabulary.language_tokens),
            max_batch_size=plan.slots,
        )


def memory_limit(device: str, asked: int | None = None) -> int | None:
    """What may be used of the device's memory, in bytes; None is no limit. Asks a GPU what is free."""
    if asked is not None or device == "cpu":
        return asked
    free, _ = torch.cuda.mem_get_info()
    return int(FREE_SHARE * free)
