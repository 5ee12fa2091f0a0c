"""What a stream tells its listener. All times are seconds of the stream's audio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ray_whisper_streaming.core.transcript import Word, join_text
from ray_whisper_streaming.errors import RayWhisperError

__all__ = [
    "Committed",
    "Event",
    "Final",
    "Flushed",
    "JobFailed",
    "LanguageDetected",
    "Partial",
    "SpeechEnded",
    "SpeechStarted",
    "StreamFailed",
]


class _Said:
    """Words, and the text that they make."""

    __slots__ = ()
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The words as one text."""
        return join_text(self.words)

    @property
    def spaced_text(self) -> str:
        """The same with the space in front of it, where its script has one: appended to the text before, it fits."""
        return "".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial(_Said):
    """The words behind the committed ones, as understood now. Replaces the partial before it.

    Attributes:
        words: may all change; empty when everything is committed.
    """

    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed(_Said):
    """Words that never change again.

    Attributes:
        words: the new ones only, in order.
        first_index: running number of the first of them in the stream, from 0: the words' ids.
    """

    words: tuple[Word, ...]
    first_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Final(_Said):
    """An utterance is complete; all its words were committed before.

    Attributes:
        utterance: running number of the utterance in the stream, from 0.
        words: all its words; empty if nothing was understood.
        end_of_stream: the last event of a stream that ended well.
    """

    utterance: int
    words: tuple[Word, ...]
    end_of_stream: bool = False

    @property
    def start_s(self) -> float | None:
        """Start of the first word."""
        return self.words[0].start_s if self.words else None

    @property
    def end_s(self) -> float | None:
        """End of the last word."""
        return self.words[-1].end_s if self.words else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStarted:
    """Voice began at ``at_s``.

    Attributes:
        at_s: second of the audio.
        flushes: how many flushes of the stream were asked for before this audio; a client of a server isn't told.
    """

    at_s: float
    flushes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechEnded:
    """Voice ended at ``at_s``, and enough silence followed to be sure. The `Final` follows once it is decoded."""

    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageDetected:
    """The language is certain now, and kept."""

    language: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Flushed:
    """Everything received before the flush ``flush_id`` is decoded and committed."""

    flush_id: str
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed:
    """One job failed; nothing is lost, the same audio is tried again in ``retry_in_s`` seconds."""

    error: RayWhisperError
    retry_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFailed:
    """The stream is over because of ``error``. What was committed before stays. The last event."""

    error: RayWhisperError


Event: TypeAlias = (
    Partial
    | Committed
    | Final
    | SpeechStarted
    | SpeechEnded
    | LanguageDetected
    | Flushed
    | JobFailed
    | StreamFailed
)
