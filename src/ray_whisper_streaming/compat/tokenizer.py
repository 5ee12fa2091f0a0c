"""Sentence splitting for sentence trimming."""

from __future__ import annotations

from typing import Any, Protocol, cast

from ray_whisper_streaming.core.languages import check_language

__all__ = ["SentenceSplitter", "create_tokenizer"]


class SentenceSplitter(Protocol):
    """What `OnlineASRProcessor` asks of a tokenizer."""

    def split(self, text: str) -> list[str]:
        """The sentences of ``text``, outer white space removed."""
        ...


class _Sentencex:
    def __init__(self, language: str) -> None:
        self._language = language

    def split(self, text: str) -> list[str]:
        import sentencex

        segment = cast(Any, sentencex).segment
        return [sentence.strip() for sentence in segment(self._language, text) if sentence.strip()]


def create_tokenizer(lan: str) -> SentenceSplitter:
    """A sentence splitter for one of Whisper's languages, by the library sentencex.

    Raises:
        ConfigurationError: Whisper doesn't know the language.
    """
    return _Sentencex(check_language("lan", lan))
