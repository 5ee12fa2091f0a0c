"""What Whisper is told before it listens."""

from __future__ import annotations

from ray_whisper_streaming.core.hallucination import COMPRESSION_RATIO_LIMIT, compression_ratio

__all__ = ["CONTEXT_CHARACTERS", "ContextText"]

CONTEXT_CHARACTERS = 200
"""How much committed text is kept for the context, in characters: about 50 tokens (whisper_streaming's value)."""


class ContextText:
    """The committed text that was trimmed away with its audio, as far as Whisper is told of it."""

    def __init__(self, *, carry: bool) -> None:
        self._carry = carry
        self._past = ""

    def append(self, text: str) -> None:
        """Add text whose audio is gone."""
        if self._carry:
            past = self._past + text
            if len(past) > CONTEXT_CHARACTERS:
                past = past[-CONTEXT_CHARACTERS:]
                past = past[past.find(" ") + 1 :] if " " in past else past  # never begin inside a word
            self._past = past

    def reset(self) -> None:
        """Forget it: after a loop, so that the loop can't carry on."""
        self._past = ""

    def __str__(self) -> str:
        """The text, or nothing while it repeats itself: Whisper would go on with it over silence and noise."""
        return "" if compression_ratio(self._past) > COMPRESSION_RATIO_LIMIT else self._past.strip()
