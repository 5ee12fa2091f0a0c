"""What is wrong in a text: words in place of others, missing, or too many.

Both sides go through Whisper's own text normaliser, as in its paper (Radford et al., 2022, appendix C): case,
punctuation and, in English, spelling and contractions are no errors. Scripts without spaces are compared letter by
letter, as there; what is called a word here is a letter then.
"""

from __future__ import annotations

import bisect
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from ray_whisper_streaming.engines.tokens import LANGUAGES_WITHOUT_SPACES

__all__ = [
    "Edit",
    "EditKind",
    "ErrorCount",
    "check_extra",
    "count_errors",
    "counts_letters",
    "errors_by_place",
    "extra",
    "find_edits",
    "split_text",
    "word_error_rate",
]

EditKind: TypeAlias = Literal["equal", "substitution", "deletion", "insertion"]

CHINESE = ("zh", "yue")
"""Whisper writes them in either script, whatever the reference has: both sides are mapped to simplified characters."""

PLACES = (1, 6, 16, 31, 61, 101)
"""First words of the parts that `errors_by_place` tells apart."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A stretch of the reference, and what was heard in its place.

    Attributes:
        kind: what happened to it.
        said: words of the reference, normalised; none of an insertion.
        heard: words of the text; none of a deletion, and as many as ``said`` of a substitution.
    """

    kind: EditKind
    said: tuple[str, ...]
    heard: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """Errors of some texts together. Counts can be added.

    Attributes:
        words: in the references.
        substitutions: words heard as others.
        deletions: words not heard.
        insertions: words too many.
    """

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: ErrorCount) -> ErrorCount:
        return ErrorCount(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def errors(self) -> int:
        """All of them."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors per word of the references; None if nothing was said."""
        return self.errors / self.words if self.words else None


def counts_letters(language: str) -> bool:
    """Whether the language is written without spaces, so that letters are counted and not words."""
    return language in LANGUAGES_WITHOUT_SPACES


def split_text(text: str, language: str = "en") -> list[str]:
    """The words (letters, see `counts_letters`) that count, normalised."""
    return _normaliser(language)(text).split()


def find_edits(said: str, heard: str, language: str = "en") -> list[Edit]:
    """What happened to each word of the reference ``said``, in order, with the fewest errors possible."""
    reference, hypothesis = split_text(said, language), split_text(heard, language)
    chunks = extra("jiwer").process_words(" ".join(reference), " ".join(hypothesis)).alignments[0]
    kinds: dict[str, EditKind] = {
        "equal": "equal",
        "substitute": "substitution",
        "delete": "deletion",
        "insert": "insertion",
    }
    return [
        Edit(
            kinds[chunk.type],
            tuple(reference[chunk.ref_start_idx : chunk.ref_end_idx]),
            tuple(hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in chunks
    ]


def count_errors(edits: Iterable[Edit]) -> ErrorCount:
    """How many words and errors there are."""
    words, found = 0, {"substitution": 0, "deletion": 0, "insertion": 0, "equal": 0}
    for edit in edits:
        words += len(edit.said)
        found[edit.kind] += max(len(edit.said), len(edit.heard))
    return ErrorCount(words, found["substitution"], found["deletion"], found["insertion"])


def word_error_rate(
    references: Sequence[str], hypotheses: Sequence[str], language: str = "en"
) -> float | None:
    """Errors per word of the reference over all texts together; None if nothing was said."""
    pairs = zip(references, hypotheses, strict=True)
    counts = (count_errors(find_edits(said, heard, language)) for said, heard in pairs)
    return sum(counts, ErrorCount()).rate


def errors_by_place(
    references: Sequence[str], hypotheses: Sequence[str], language: str = "en"
) -> dict[str, float | None]:
    """`word_error_rate` of the words from the 1st, the 6th ... of each text on, up to the next of `PLACES`.

    A word too many counts where the word before which it stands does.
    """
    words, errors = [0] * len(PLACES), [0] * len(PLACES)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        edits = find_edits(reference, hypothesis, language)
        count = sum(len(edit.said) for edit in edits)
        if not count:
            continue
        place = 0
        for edit in edits:
            for _ in edit.said:
                part = bisect.bisect(PLACES, place + 1) - 1
                words[part] += 1
                errors[part] += edit.kind != "equal"
                place += 1
            if edit.kind == "insertion":
                errors[bisect.bisect(PLACES, min(place + 1, count)) - 1] += len(edit.heard)
    return {
        str(first): wrong / of if of else None for first, wrong, of in zip(PLACES, errors, words, strict=True)
    }


def check_extra() -> None:
    """Raise `ModuleNotFoundError`, which says what to install, unless all of the extra ``bench`` is here."""
    for module in ("jiwer", "opencc", "psutil", "whisper_normalizer.basic"):
        extra(module)


def extra(module: str) -> Any:
    """A module of the extra ``bench``. Raises `ModuleNotFoundError`, which says what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        hint = "scores need the extra `bench`: pip install 'ray-whisper-streaming[bench]'"
        raise ModuleNotFoundError(hint, name=module) from error


@cache
def _normaliser(language: str) -> Callable[[str], str]:
    if language == "en":
        return extra("whisper_normalizer.english").EnglishTextNormalizer()
    basic = extra("whisper_normalizer.basic").BasicTextNormalizer(split_letters=counts_letters(language))
    if language in CHINESE:
        simplified = extra("opencc").OpenCC("t2s").convert
        return lambda text: basic(simplified(text))
    return basic
