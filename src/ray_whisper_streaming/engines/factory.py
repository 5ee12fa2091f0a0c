"""Which engine a name stands for."""

from __future__ import annotations

from functools import partial
from typing import Literal, TypeAlias, get_args

from ray_whisper_streaming.engines.base import EngineFactory
from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["EngineName", "engine_factory_for"]

EngineName: TypeAlias = Literal["auto", "ctranslate2", "onnxruntime"]


def engine_factory_for(
    engine: EngineName, *, model: str, device: str = "auto", compute_type: str = "auto"
) -> EngineFactory:
    """What makes the engine in a worker. Nothing of its runtime is imported before it is needed.

    Args:
        engine: ``"ctranslate2"``: on CPUs and CUDA GPUs, all options. ``"onnxruntime"``: on CPUs, greedy decoding
            alone. ``"auto"``: CTranslate2.
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
    from ray_whisper_streaming.engines.ctranslate2 import CTranslate2Engine

    return partial(CTranslate2Engine, model=model, device=device, compute_type=compute_type)
