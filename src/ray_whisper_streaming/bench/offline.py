"""The same recordings in one go, with the same model: what it can do, and what live text is measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from faster_whisper import WhisperModel

from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.core.audio import as_float32
from ray_whisper_streaming.core.jobs import Task
from ray_whisper_streaming.engines.ctranslate2 import COMPUTE_TYPE, has_gpu
from ray_whisper_streaming.engines.models import resolve_model
from ray_whisper_streaming.errors import ModelNotFound

__all__ = ["BEAM_SIZE", "load_whisper", "transcribe_offline"]

BEAM_SIZE = 5
"""As faster-whisper, and Whisper's paper, have it."""


def load_whisper(model: str, device: str = "auto", compute_type: str = "auto") -> WhisperModel:
    """The model in faster-whisper. Arguments as of `engine_factory_for`. Raises `ModelNotFound`."""
    if device == "auto":
        device = "cuda" if has_gpu() else "cpu"
    if compute_type == "auto":
        compute_type = COMPUTE_TYPE[device]
    try:
        return WhisperModel(str(resolve_model(model)), device=device, compute_type=compute_type)
    except (RuntimeError, ValueError) as error:  # such as for a folder of Hugging Face's
        raise ModelNotFound("model", model, f"one faster-whisper can load ({error})") from error


def transcribe_offline(
    model: WhisperModel,
    clips: Sequence[Clip],
    language: str,
    heard: Callable[[float], None] | None = None,
    *,
    beam_size: int = BEAM_SIZE,
    task: Task = "transcribe",
) -> list[str]:
    """The text of each clip, with faster-whisper's defaults: its own fallbacks, no voice filter.

    Args:
        model: see `load_whisper`.
        clips: what is transcribed, one after the other.
        language: of all of them.
        heard: called with the length of each clip, in seconds, when it is done.
        beam_size: of the search; 1 is greedy.
        task: ``"translate"``: into English.
    """
    whisper: Any = model  # its types leave some unknown
    texts: list[str] = []
    for clip in clips:
        segments, _ = whisper.transcribe(
            as_float32(clip.audio), language=language, task=task, beam_size=beam_size
        )
        texts.append("".join(segment.text for segment in segments))
        if heard is not None:
            heard(clip.seconds)
    return texts
