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


CERTAIN_PROBABILITY = 0.7
"""One detection at least this sure, from at least `CERTAIN_AUDIO_S` of audio, settles the language, if it agrees with
the ones before it."""

CERTAIN_AUDIO_S = 1.9
"""Detection from less audio than this is often wrong however sure it is. (A pass of two seconds is a little shorter:
voice activity works in frames.)"""

CERTAIN_SHARE = 0.6
"""Share of a language in all detections so far, by probability and length of audio, from which on they agree: a single
odd window settles nothing. (`benchmarks/languages.py`, base, 121 streams in six languages: 99 % end in the right one.
In windows no longer than they must be 98 %; there with the last detection alone and a limit of 0.8 95 %.)"""

DECIDE_AFTER_S = 6.0
"""With this much speech heard the likeliest language so far is taken, sure or not."""


class LanguageTracker:
    """Settles the language of a stream from detections over growing audio, once and for all."""

    def __init__(self, language: str | None) -> None:
        self.language = language
        self.probability = 1.0 if language else 0.0
        self._weights: dict[str, float] = {}
        # Of the window that grows now, and of all before it.
        self._audio_s = self._audio_before_s = 0.0

    @property
    def settled(self) -> bool:
        """Whether the language is known."""
        return self.language is not None

    def receive(self, language: str, probability: float, audio_s: float) -> bool:
        """Take one detection from ``audio_s`` seconds; return whether it settled the language.

        A window shorter than the one before is a new one: short utterances add up.
        """
        if self.settled:
            return False
        if audio_s < self._audio_s:
            self._audio_before_s += self._audio_s
        self._audio_s = audio_s
        self._weights[language] = self._weights.get(language, 0.0) + probability * audio_s
        share = self._weights[language] / (sum(self._weights.values()) or 1.0)
        agreed = audio_s >= CERTAIN_AUDIO_S and share >= CERTAIN_SHARE
        # An English-only model answers 1.0: there is nothing to wait for.
        if probability >= 1.0 or (probability >= CERTAIN_PROBABILITY and agreed):
            self.language, self.probability = language, probability
        elif self._audio_before_s + audio_s >= DECIDE_AFTER_S:
            self.language = max(self._weights, key=lambda code: self._weights[code])
            self.probability = self._weights[self.language] / (sum(self._weights.values()) or 1.0)
        return self.settled
