"""The languages Whisper knows, by the codes its tokens carry."""

from __future__ import annotations

from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["LANGUAGES", "LanguageTracker", "check_language"]

# fmt: off
LANGUAGES = frozenset((
    "af", "am", "ar", "as", "az", "ba", "be", "bg", "bn", "bo", "br", "bs", "ca", "cs", "cy", "da", "de", "el",
    "en", "es", "et", "eu", "fa", "fi", "fo", "fr", "gl", "gu", "ha", "haw", "he", "hi", "hr", "ht", "hu", "hy",
    "id", "is", "it", "ja", "jw", "ka", "kk", "km", "kn", "ko", "la", "lb", "ln", "lo", "lt", "lv", "mg", "mi",
    "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn", "no", "oc", "pa", "pl", "ps", "pt", "ro", "ru",
    "sa", "sd", "si", "sk", "sl", "sn", "so", "sq", "sr", "su", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl",
    "tr", "tt", "uk", "ur", "uz", "vi", "yi", "yo", "zh", "yue",
))
# fmt: on
"""Whisper's language codes (large-v3 knows all of them, older models all but ``yue``)."""


def check_language(field: str, language: str) -> str:
    """Return ``language`` if Whisper knows it.

    Raises:
        ConfigurationError: it does not.
    """
    if language not in LANGUAGES:
        raise ConfigurationError(field, language, "a language code of Whisper such as 'en', 'de' or 'zh'")
    return language


CERTAIN_PROBABILITY = 0.8
"""One detection at least this sure, from at least `CERTAIN_AUDIO_S` of audio, settles the language."""

CERTAIN_AUDIO_S = 2.0
"""Detection from less audio than this is often wrong however sure it is."""

DECIDE_AFTER_S = 6.0
"""With this much audio heard the likeliest language so far is taken, sure or not."""


class LanguageTracker:
    """Settles the language of a stream from detections over growing audio, once and for all."""

    def __init__(self, language: str | None) -> None:
        self.language = language
        self.probability = 1.0 if language else 0.0
        self._weights: dict[str, float] = {}

    @property
    def settled(self) -> bool:
        """Whether the language is known."""
        return self.language is not None

    def receive(self, language: str, probability: float, audio_s: float) -> bool:
        """Take one detection from ``audio_s`` seconds; return whether it settled the language."""
        if self.settled:
            return False
        self._weights[language] = self._weights.get(language, 0.0) + probability
        # An English-only model answers 1.0: there is nothing to wait for.
        certain = probability >= 1.0 or (probability >= CERTAIN_PROBABILITY and audio_s >= CERTAIN_AUDIO_S)
        if certain:
            self.language, self.probability = language, probability
        elif audio_s >= DECIDE_AFTER_S:
            self.language = max(self._weights, key=lambda code: self._weights[code])
            self.probability = self._weights[self.language] / sum(self._weights.values())
        return self.settled
