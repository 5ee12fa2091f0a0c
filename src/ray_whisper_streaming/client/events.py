"""What a stream of a server tells its listener.

The events of the library, with the channel they are of: ``isinstance(event, ray_whisper_streaming.Committed)`` holds
for both, so that a program can take its events from either. What only a server has to say stands below them. All times
are seconds of the stream's audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ray_whisper_streaming.core import events as core
from ray_whisper_streaming.core.transcript import Word, join_text

__all__ = [
    "AudioRejected",
    "ClientEvent",
    "Closed",
    "Committed",
    "Draining",
    "Ending",
    "Final",
    "Flushed",
    "LanguageDetected",
    "Partial",
    "Reconnected",
    "Slowed",
    "SpeechEnded",
    "SpeechStarted",
    "StreamFailed",
    "Word",
]


class _Written:
    """The text of what may have come without its words."""

    __slots__ = ()
    words: tuple[Word, ...]
    written: str

    @property
    def text(self) -> str:
        """The words as one text."""
        return join_text(self.words) if self.words else self.written.strip()

    @property
    def spaced_text(self) -> str:
        """The same with the space in front of it, where its script has one: appended to the text before, it fits."""
        return "".join(word.text for word in self.words) or self.written


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial(_Written, core.Partial):
    """See `core.events.Partial`. Of a session of somebody else, ``words`` may be missing; ``text`` never is."""

    channel: int = 0
    written: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed(_Written, core.Committed):
    """See `core.events.Committed`. Of a session of somebody else, ``words`` may be missing; ``text`` never is."""

    channel: int = 0
    written: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Final(_Written, core.Final):
    """See `core.events.Final`. Of a session followed from its middle, ``words`` may be missing; ``text`` never is."""

    channel: int = 0
    written: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStarted(core.SpeechStarted):
    """See `core.events.SpeechStarted`."""

    channel: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechEnded(core.SpeechEnded):
    """See `core.events.SpeechEnded`."""

    channel: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageDetected(core.LanguageDetected):
    """See `core.events.LanguageDetected`."""

    channel: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flushed(core.Flushed):
    """See `core.events.Flushed`; it is of all channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFailed(core.StreamFailed):
    """See `core.events.StreamFailed`."""

    channel: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowed:
    """Text comes late, ``lag_s`` seconds of audio wait; nothing is lost.

    Attributes:
        reason: ``"overload"``; ``"failure"``: a pass failed and runs again; ``"recovered"``: it is over.
    """

    reason: Literal["overload", "failure", "recovered"]
    lag_s: float
    channel: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioRejected:
    """Samples that the server could not read as audio were left out; the stream goes on."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining:
    """The server goes down within so many seconds. The stream goes on in another session then, if it can."""

    within_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The server ends the session: ``"idle"``, ``"session_limit"``, ``"audio_quota"``, ``"unauthorized"`` (the key was
    revoked or has expired) or ``"draining"``.

    The words of what it received follow.
    """

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnected:
    """The connection was lost for ``after_s`` seconds, and is back.

    Attributes:
        resumed: the same session goes on. Otherwise it was gone, and a new one took over with the audio from
            ``from_s`` on.
    """

    after_s: float
    resumed: bool
    from_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Everything is decoded; the last event.

    Attributes:
        reason: ``"client"``, or why the server ended the session.
        audio_s: seconds of audio that the server took, of each channel.
        words: committed, over all channels.
    """

    reason: str
    audio_s: float
    words: int


ClientEvent: TypeAlias = (
    Partial
    | Committed
    | Final
    | SpeechStarted
    | SpeechEnded
    | LanguageDetected
    | Flushed
    | StreamFailed
    | Slowed
    | AudioRejected
    | Draining
    | Ending
    | Reconnected
    | Closed
)
