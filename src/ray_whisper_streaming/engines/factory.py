"""Which engine a name stands for."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Literal, TypeAlias, get_args

from ray_whisper_streaming.engines.base import Engine, EngineFactory
from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["EngineName", "engine_factory_for"]

EngineName: TypeAlias = Literal["auto", "ctranslate2", "onnxruntime", "torch"]

TORCH_INSTALL_HINT = "pip install 'ray-whisper-streaming[torch]'"


def engine_factory_for(
    engine: EngineName, *, model: str, device: str = "auto", compute_type: str = "auto"
) -> EngineFactory:
    """What makes the engine in a worker. Nothing of its runtime is imported before it is needed.

    Args:
        engine: ``"ctranslate2"``: on CPUs and CUDA GPUs. ``"onnxruntime"``: on CPUs, in less time. ``"torch"``: on
            CUDA GPUs, with the extra ``torch``; on CPUs for trials. ``"auto"``: ONNX Runtime on a CPU, unless it does
            not know the ``compute_type``; CTranslate2 where the worker has a GPU, until PyTorch was measured on one.
        model: name, path or hub id.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
        compute_type: the numbers computed with; ``"auto"`` is the engine's choice.

    Raises:
        ConfigurationError: an unknown engine, or a device it can't use.
    """
    if engine not in get_args(EngineName):
        raise ConfigurationError("engine", engine, " or ".join(get_args(EngineName)))
    if engine == "onnxruntime":
        if device not in ("auto", "cpu"):
            raise ConfigurationError("device", device, "auto or cpu with the engine onnxruntime")
        from ray_whisper_streaming.engines.onnx.engine import OnnxEngine

        return partial(OnnxEngine, model=model, compute_type=compute_type)
    if engine == "torch":
        return partial(_torch_engine, model, device, compute_type)
    if engine == "auto":
        return partial(_fitting_engine, model, device, compute_type)
    from ray_whisper_streaming.engines.ctranslate2 import CTranslate2Engine

    return partial(CTranslate2Engine, model=model, device=device, compute_type=compute_type)


def _torch_engine(model: str, device: str, compute_type: str) -> Engine:
    """Asked for by name. Whether PyTorch is there is the worker's affair."""
    if not find_spec("torch"):
        raise ConfigurationError("engine", "torch", f"another one here, or installed: {TORCH_INSTALL_HINT}")
    from ray_whisper_streaming.engines.torch.engine import TorchEngine

    return TorchEngine(model, device, compute_type)


def _fitting_engine(model: str, device: str, compute_type: str) -> Engine:
    """The engine for the machine this runs on: the worker's, whose GPUs the caller need not have."""
    from ray_whisper_streaming.engines.ctranslate2 import CTranslate2Engine, has_gpu

    if device == "cpu" or (device == "auto" and not has_gpu()):
        from ray_whisper_streaming.engines.onnx.engine import COMPUTE_TYPES, OnnxEngine

        if compute_type in COMPUTE_TYPES:
            return OnnxEngine(model, compute_type)
    return CTranslate2Engine(model, device, compute_type)
