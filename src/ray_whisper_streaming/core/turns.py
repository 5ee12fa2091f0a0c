"""Whether what was heard up to a pause is a whole sentence: an estimate of the end of a turn, from its text alone."""

from __future__ import annotations

from collections.abc import Mapping

from ray_whisper_streaming.core.transcript import SENTENCE_ENDINGS, normalise

__all__ = ["ends_sentence"]


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


CLOSERS = "\"'”’»›)]）】」』"
"""What may stand behind the end of a sentence and belongs to it."""

TRAILING_OFF = ("...", "…", "。。", "..")
"""How Whisper writes that somebody breaks off."""

FULL_STOP = "."
"""The one ending that is also written behind abbreviations and numbers, and by Whisper where audio just stops."""

ABBREVIATIONS: Mapping[str, frozenset[str]] = {
    "en": _listed("mr mrs ms dr prof st vs eg ie"),
    "de": _listed("hr fr dr prof st nr bzw ca zb dh"),
    "es": _listed("sr sra srta dr dra ud uds"),
    "fr": _listed("mm mme mlle dr pr st ste"),
}
"""By language: what is written with a full stop in the middle of a sentence, normalised. Names or numbers follow."""

DANGLING: Mapping[str, frozenset[str]] = {
    "en": _listed("a an the and or but nor because if although unless my your our their every"),
    "de": _listed("und oder aber weil dass ob wenn im am zum zur vom beim"),
    "es": _listed("el la los las un y e o pero porque que si del al de en con mi tu su"),
    "fr": _listed("le la les un une des du au aux et ou mais car que de mon ma mes ton ta tes"),
}
"""By language: articles, possessives, conjunctions and the like that a sentence hardly ever ends with, normalised."""


def ends_sentence(text: str, language: str | None = None) -> bool:
    """Whether the text ends like a whole sentence, so that a pause behind it is likely the end of a turn.

    It does if its last character is a sentence's, quotes and brackets aside, and no ellipsis. A full stop says less
    than the others: behind an initial, an abbreviation, a number (which may go on: a decimal, a telephone number),
    or a word that sentences don't end with, it ends none.

    Args:
        text: what was heard, with its punctuation; its last word is enough.
        language: Whisper's code, for the words that can't end a sentence; of None, or a language without a list, none
            are known.
    """
    text = text.rstrip().rstrip(CLOSERS)
    if not text.endswith(SENTENCE_ENDINGS) or text.endswith(TRAILING_OFF):
        return False
    if not text.endswith(FULL_STOP):
        return True
    last = normalise(text.split()[-1])
    initial = len(last) == 1 and last.isascii() and last != "i"
    number = last[-1].isdigit()
    code = language or ""
    return not (initial or number or last in ABBREVIATIONS.get(code, ()) or last in DANGLING.get(code, ()))
