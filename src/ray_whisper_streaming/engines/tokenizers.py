"""The vocabulary of a model on disk, and faster-whisper's tokenizer over it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import tokenizers
from faster_whisper.tokenizer import Tokenizer

from ray_whisper_streaming.core.jobs import Task
from ray_whisper_streaming.engines.tokens import TextTokenizer, suppressed_tokens

__all__ = ["VOCABULARY", "Vocabulary"]

VOCABULARY = "tokenizer.json"
"""The tokenizer, beside the weights. (faster-whisper would fetch one from the hub instead.)"""

NO_SPEECH_TOKENS = ("<|nospeech|>", "<|nocaptions|>")
"""Names of one token in different models."""

SPECIAL_TOKENS = (
    "<|transcribe|>",
    "<|translate|>",
    "<|startoftranscript|>",
    "<|startofprev|>",
    "<|startoflm|>",
    *NO_SPEECH_TOKENS,
)
"""Never part of an answer."""

_LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")


class _Tokenizer(Tokenizer):
    """faster-whisper's, which splits texts into words token by token: what each of them says is kept."""

    def __init__(
        self,
        vocabulary: tokenizers.Tokenizer,
        *,
        multilingual: bool,
        task: Task,
        language: str,
        pieces: dict[int, str],
    ) -> None:
        super().__init__(vocabulary, multilingual, task=task, language=language)
        self._pieces = pieces

    def decode_with_timestamps(self, tokens: list[int]) -> str:
        if len(tokens) != 1:
            return super().decode_with_timestamps(tokens)
        [token] = tokens
        if token not in self._pieces:
            self._pieces[token] = super().decode_with_timestamps(tokens)
        return self._pieces[token]


class Vocabulary:
    """A model's tokens and their names.

    Args:
        folder: of the model; it holds `VOCABULARY`.
        multilingual: whether the model knows more than English.

    Raises:
        ValueError: the file is no vocabulary. (The package that reads it raises nothing more exact.)
    """

    def __init__(self, folder: Path, *, multilingual: bool) -> None:
        try:
            self._vocabulary = tokenizers.Tokenizer.from_file(str(folder / VOCABULARY))
        except Exception as error:
            raise ValueError(f"{VOCABULARY}: {error}") from error
        self._multilingual = multilingual
        self._tokenizers: dict[tuple[str, Task], TextTokenizer] = {}
        self._pieces: dict[int, str] = {}
        self._names: dict[str, int] = self._vocabulary.get_vocab(with_added_tokens=True)
        matches = map(_LANGUAGE_TOKEN.fullmatch, self._names)
        self.language_tokens = {match[1]: self._names[match[0]] for match in matches if match}
        """The token of each language, by its code."""
        special = [self._names[name] for name in SPECIAL_TOKENS if name in self._names]
        self.suppressed = suppressed_tokens(self.tokenizer("en", "transcribe"), special)
        """Tokens the decoder must never choose."""

    @property
    def no_speech(self) -> int:
        """The token whose probability at the start of transcript says that nobody speaks."""
        return next(self._names[name] for name in NO_SPEECH_TOKENS if name in self._names)

    def tokenizer(self, language: str, task: Task) -> TextTokenizer:
        """The tokenizer for a language and task."""
        if (language, task) not in self._tokenizers:
            made = _Tokenizer(
                self._vocabulary,
                multilingual=self._multilingual,
                task=task,
                language=language,
                pieces=self._pieces,
            )
            self._tokenizers[language, task] = cast(TextTokenizer, made)
        return self._tokenizers[language, task]
