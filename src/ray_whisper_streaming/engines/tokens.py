"""What goes into Whisper's decoder before the first new token, and what its tokens mean. Pure.

A prompt is: previous text (context), start of transcript, language and task (multilingual models only), no
timestamps, forced prefix. Batches need the start of transcript at the same position in every prompt, so the
context comes in few exact lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = [
    "CONTEXT_BUCKETS",
    "LANGUAGES_WITHOUT_SPACES",
    "TextTokenizer",
    "context_tokens",
    "prefix_tokens",
    "suppressed_tokens",
    "token_cap",
    "whole_characters",
]

CONTEXT_BUCKETS = (64, 32, 0)
"""Lengths of context in tokens, longest first. Exact: shorter context falls to the next lower one."""

LANGUAGES_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces between words: a word is whatever decodes to whole characters."""

TOKENS_PER_S = 8.0
"""Most tokens a second of audio can hold. Recorded speech in seven languages needs 3.2 to 5.2."""

TOKENS_PER_S_BYTES = 32.0
"""The same for scripts that Whisper's vocabulary spells byte by byte: a letter takes two or three tokens."""

_INDIC = {"as", "bn", "gu", "hi", "kn", "ml", "mr", "ne", "pa", "sa", "sd", "si", "ta", "te", "ur"}
_OTHER_SCRIPTS = {"am", "bo", "he", "hy", "ka", "km", "lo", "mn", "my", "ps", "sn", "tg", "th", "tt", "yi"}
BYTE_LANGUAGES = frozenset(_INDIC | _OTHER_SCRIPTS)
"""Languages whose letters take a token or more each in Whisper's multilingual vocabulary."""

SPARE_TOKENS = 8
"""Tokens allowed on top, so that the shortest audio can hold a short sentence."""

MAX_TOKENS = 224
"""What Whisper's decoder makes at most: half its 448 positions; the other half is for context."""

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_LONGEST_CHARACTER_TOKENS = 3
"""Tokens at the end that may belong to an unfinished character: UTF-8 takes four bytes at most."""


class TextTokenizer(Protocol):
    """The parts of faster-whisper's tokenizer (of one language and task) that are used here."""

    @property
    def eot(self) -> int:
        """End of text; every id from here on is a special token."""
        ...

    @property
    def sot_prev(self) -> int:
        """Stands before the previous text."""
        ...

    @property
    def no_timestamps(self) -> int:
        """Ends the task tokens."""
        ...

    @property
    def sot_sequence(self) -> list[int]:
        """Start of transcript, then language and task where the model knows more than one."""
        ...

    @property
    def language_code(self) -> str:
        """Whisper's code of the language."""
        ...

    @property
    def non_speech_tokens(self) -> Sequence[int]:
        """Symbols that annotate rather than transcribe."""
        ...

    def encode(self, text: str) -> list[int]:
        """Text to tokens."""
        ...

    def decode(self, tokens: list[int]) -> str:
        """Tokens to text, special ones left out."""
        ...

    def split_to_word_tokens(self, tokens: list[int]) -> tuple[list[str], list[list[int]]]:
        """Words and the tokens of each."""
        ...


def context_tokens(tokenizer: TextTokenizer, hotwords: str, context: str) -> list[int]:
    """The tokens before the start of transcript: none, or exactly one of `CONTEXT_BUCKETS` and their opening
    token.

    Hotwords stand first and keep their head, at most half of the bucket where there is context too; the
    context keeps its tail. Hotwords too few for the shortest bucket are filled up with blanks, which changes
    no more than another length would; context too short is left out, which costs nothing. (Trial with the
    base model, 80 windows: 196 errors without hotwords, 258 with, 270 with blanks. 48 windows: 108 errors
    without a few words of context, 130 with, 136 with blanks.)
    """
    terms = tokenizer.encode(" " + hotwords.strip()) if hotwords.strip() else []
    text = tokenizer.encode(" " + context.strip()) if context.strip() else []
    length = next(bucket for bucket in CONTEXT_BUCKETS if len(terms) + len(text) >= bucket)
    if not length and not terms:
        return []
    if not length:
        blanks = tokenizer.encode(" ") * (min(filter(None, CONTEXT_BUCKETS)) - len(terms) - len(text))
        return [tokenizer.sot_prev, *blanks, *terms, *text]
    terms = terms[: max(length // 2, length - len(text))]
    return [tokenizer.sot_prev, *terms, *text[len(text) + len(terms) - length :]]


def prefix_tokens(tokenizer: TextTokenizer, prefix: str) -> list[int]:
    """The tokens an answer must begin with."""
    bare = prefix.strip()
    if not bare:
        return []
    return tokenizer.encode(bare if tokenizer.language_code in LANGUAGES_WITHOUT_SPACES else " " + bare)


def token_cap(language: str, audio_s: float) -> int:
    """How many tokens, prefix included, the answer to ``audio_s`` seconds may have."""
    per_s = TOKENS_PER_S_BYTES if language in BYTE_LANGUAGES else TOKENS_PER_S
    return min(MAX_TOKENS, SPARE_TOKENS + round(per_s * audio_s))


def suppressed_tokens(tokenizer: TextTokenizer, special: Sequence[int]) -> list[int]:
    """Tokens the decoder must never choose: annotations, and special tokens but the end of text."""
    return sorted({*tokenizer.non_speech_tokens, *special})


def whole_characters(tokenizer: TextTokenizer, tokens: Sequence[int]) -> list[int]:
    """The text tokens, without those of a character that is cut off at the end."""
    kept = [token for token in tokens if token < tokenizer.eot]
    for _ in range(_LONGEST_CHARACTER_TOKENS):
        if not kept or not tokenizer.decode(kept).endswith(_INCOMPLETE):
            break
        kept.pop()
    return kept
