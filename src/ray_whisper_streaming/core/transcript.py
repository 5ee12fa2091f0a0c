"""Words and what is made of them. All times are seconds on the time line of the stream (0 = its first sample)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["SENTENCE_ENDINGS", "Segment", "Word", "join_text", "normalise", "segment_words"]

SENTENCE_ENDINGS = (".", "?", "!", "。", "？", "！", "…", "।", "؟", "۔", "։")
"""Characters that end a sentence in the scripts Whisper writes."""

SEGMENT_PAUSE_S = 1.0
"""A pause between two words that starts a new segment even where no punctuation says so."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word as Whisper wrote it.

    Attributes:
        text: with its leading space and punctuation, so that joining words without a separator gives the text.
        start_s: where it starts, seconds on the stream's time line.
        end_s: where it ends; never before ``start_s``.
        probability: mean probability of its tokens, 0 to 1.
    """

    text: str
    start_s: float
    end_s: float
    probability: float = 1.0

    def shifted(self, offset_s: float) -> Word:
        """The same word, ``offset_s`` seconds later."""
        return Word(self.text, self.start_s + offset_s, self.end_s + offset_s, self.probability)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of words that belong together: about a sentence.

    Attributes:
        words: its words, in order; never empty.
    """

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The words as one text, without the leading space."""
        return join_text(self.words)

    @property
    def start_s(self) -> float:
        """Start of the first word."""
        return self.words[0].start_s

    @property
    def end_s(self) -> float:
        """End of the last word."""
        return self.words[-1].end_s


def join_text(words: Iterable[Word]) -> str:
    """The words as one text, outer white space removed."""
    return "".join(word.text for word in words).strip()


def normalise(text: str) -> str:
    """What two spellings of one word have in common: letters and digits, case folded.

    Apostrophes, punctuation and white space go; a word of punctuation alone keeps its characters, so that it
    never equals the empty string.
    """
    bare = "".join(filter(str.isalnum, text.casefold()))
    return bare or text.strip()


def segment_words(words: Sequence[Word], pause_s: float = SEGMENT_PAUSE_S) -> list[Segment]:
    """Split words into segments at sentence endings and at pauses longer than ``pause_s`` seconds."""
    segments: list[Segment] = []
    current: list[Word] = []
    for word in words:
        if current and word.start_s - current[-1].end_s > pause_s:
            segments.append(Segment(tuple(current)))
            current = []
        current.append(word)
        if word.text.rstrip().endswith(SENTENCE_ENDINGS):
            segments.append(Segment(tuple(current)))
            current = []
    if current:
        segments.append(Segment(tuple(current)))
    return segments
