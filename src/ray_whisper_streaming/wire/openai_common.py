"""What OpenAI's protocols have in common: how they name models and languages, log probabilities, and bad parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ray_whisper_streaming.core.options import AUTO, EndpointingOptions
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import ProtocolError

__all__ = [
    "MAX_TEXT",
    "BadParameter",
    "endpointing_fields",
    "is_foreign_model",
    "language_code",
    "logprobs",
    "mean_logprob",
]

MAX_TEXT = 4_000
"""Characters of a prompt, and of all keywords: more than Whisper's context takes."""

FOREIGN_MODELS = re.compile(r"whisper-1|gpt-.*(transcribe|whisper|realtime).*")
"""Names of models that OpenAI runs and we can't: programs written for it name them; they get the default model."""

RELEASE_MARGIN = 0.15
"""How far below the threshold voice must fall to end speech: Silero's own rule."""

UNSPOKEN = 1e-10
"""The smallest probability a logarithm is taken of."""


class BadParameter(ProtocolError):
    """A field of a client's message that can't be so.

    Attributes:
        param: its path, such as ``session.audio.input.format``.
    """

    def __init__(self, message: str, *, param: str | None, code: str = "invalid_value") -> None:
        super().__init__(message, code=code)
        self.param = param


def is_foreign_model(name: str) -> bool:
    """Whether a model's name is one of OpenAI's own."""
    return FOREIGN_MODELS.fullmatch(name) is not None


def language_code(language: str) -> str:
    """Whisper's code of a language tag: ``pt-BR`` is ``pt``."""
    return re.split("[-_]", language, maxsplit=1)[0].lower() or AUTO


def endpointing_fields(
    base: EndpointingOptions,
    *,
    threshold: float | None = None,
    silence_ms: float | None = None,
    padding_ms: float | None = None,
) -> dict[str, float]:
    """The fields of `EndpointingOptions` that the protocol's ``server_vad`` changes."""
    fields: dict[str, float] = {}
    if threshold is not None:
        fields |= {"threshold": threshold, "release": max(0.0, threshold - RELEASE_MARGIN)}
    if silence_ms is not None:
        silence_s = silence_ms / 1000
        fields |= {"min_silence_s": silence_s, "end_padding_s": min(base.end_padding_s, silence_s)}
    if padding_ms is not None:
        fields["start_padding_s"] = padding_ms / 1000
    return fields


def logprobs(words: Iterable[Word]) -> list[dict[str, Any]]:
    """A log probability per word: the words are what is known, not Whisper's tokens."""
    return [
        {
            "token": word.text,
            "bytes": list(word.text.encode()),
            "logprob": round(_logprob(word), 4),
        }
        for word in words
    ]


def mean_logprob(words: Sequence[Word]) -> float:
    """The mean of the words' log probabilities."""
    return sum(map(_logprob, words)) / len(words)


def _logprob(word: Word) -> float:
    return math.log(max(word.probability, UNSPOKEN))
