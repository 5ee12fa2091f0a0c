"""The messages of the native protocol, as they stand in JSON. `docs/protocol.md` is their specification.

Times are seconds of the audio of a channel, rounded to milliseconds. Text messages carry one JSON object each, told
apart by ``type``; audio comes in binary messages (see `wire.native`).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from ray_whisper_streaming.core.options import AUTO, EndpointingOptions, StreamOptions, TrimmingOptions

__all__ = [
    "Acknowledged",
    "ClientMessage",
    "Close",
    "Closed",
    "Committed",
    "Draining",
    "Endpointing",
    "Error",
    "EventMessage",
    "Final",
    "Flush",
    "Flushed",
    "KeepAlive",
    "Language",
    "Limits",
    "Options",
    "Partial",
    "Ready",
    "Resume",
    "ServerMessage",
    "Slowed",
    "SpeechEnded",
    "SpeechStarted",
    "TimedWord",
]

MAX_ID_CHARS = 128
"""Length of a flush id, which is kept and sent back."""

MAX_TEXT_CHARS = 2_000
"""Length of prompt and hotwords; Whisper takes about 224 tokens of context."""

_DEFAULTS = StreamOptions()
_ENDPOINTING = EndpointingOptions()


# ---------------------------------------------------------------- from the client


class Endpointing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When speech begins and ends; see `EndpointingOptions`."""

    threshold: float = _ENDPOINTING.threshold
    min_speech: float = _ENDPOINTING.min_speech_s
    min_silence: float = _ENDPOINTING.min_silence_s
    sentence_silence: float | None = _ENDPOINTING.sentence_silence_s

    def stream_options(self) -> EndpointingOptions:
        """The same for a stream. Raises `ConfigurationError`."""
        return EndpointingOptions(
            threshold=self.threshold,
            release=min(_ENDPOINTING.release, self.threshold),
            min_speech_s=self.min_speech,
            min_silence_s=self.min_silence,
            sentence_silence_s=self.sentence_silence,
            # Padding longer than the silence would reach into what is said next.
            end_padding_s=max(0.0, min(_ENDPOINTING.end_padding_s, self.min_silence)),
        )


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="options"):
    """The first message of a new session. Everything has a default."""

    encoding: Literal["s16le", "f32le", "mulaw", "alaw", "opus", "container"] = "s16le"
    sample_rate: int = 16_000
    channels: int = 1
    split_channels: bool = False
    model: str | None = None
    language: str = AUTO
    languages: tuple[str, ...] = ()
    task: Literal["transcribe", "translate"] = "transcribe"
    prompt: str = ""
    hotwords: str | tuple[str, ...] = ""
    context: bool = _DEFAULTS.context
    policy: Literal["hybrid", "cutoff", "agreement"] = _DEFAULTS.policy
    commit_delay: float = _DEFAULTS.commit_delay_s
    update_interval: float = _DEFAULTS.update_interval_s
    beam_size: int | None = _DEFAULTS.beam_size
    temperature: float = _DEFAULTS.temperature
    voice_activity: bool = True
    endpointing: Endpointing = Endpointing()
    trim_at: Literal["word", "segment", "sentence"] = "word"
    max_utterance: float = _DEFAULTS.max_utterance_s
    word_times: bool = True
    partial_words: bool = False

    def stream_options(self) -> StreamOptions:
        """The same for a stream.

        Raises:
            ConfigurationError: an option has a value it can't have.
        """
        hotwords = self.hotwords if isinstance(self.hotwords, str) else ", ".join(self.hotwords)
        return StreamOptions(
            model=self.model,
            language=self.language,
            allowed_languages=self.languages,
            task=self.task,
            prompt=self.prompt[:MAX_TEXT_CHARS],
            hotwords=hotwords[:MAX_TEXT_CHARS],
            context=self.context,
            policy=self.policy,
            commit_delay_s=self.commit_delay,
            update_interval_s=self.update_interval,
            beam_size=self.beam_size,
            temperature=self.temperature,
            voice_activity=self.voice_activity,
            endpointing=self.endpointing.stream_options(),
            trimming=TrimmingOptions(at=self.trim_at),
            max_utterance_s=self.max_utterance,
        )


class Resume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="resume"):
    """The first message on a new connection of a session whose connection was lost.

    Attributes:
        session_id: from `Ready`.
        after: number of the last event received; -1 for none.
    """

    session_id: str
    after: int = -1


class Flush(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="flush"):
    """Have all audio sent before decoded and committed; `Flushed` with the same id says when."""

    id: str = ""


class KeepAlive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="keep_alive"):
    """The client is there, although it sends nothing."""


class Close(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="close"):
    """No more audio will come; `Closed` follows once all is decoded."""


ClientMessage: TypeAlias = Options | Resume | Flush | KeepAlive | Close


# ---------------------------------------------------------------- from the server


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the server allows: bytes of a message, and seconds."""

    message_bytes: int
    idle: float
    session: float
    resume: float


class TimedWord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One word; ``id`` is its running number in the channel, absent where the word may still change."""

    text: str
    start: float
    end: float
    probability: float
    id: int | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What all events of a session have: their running number, and the channel they are of."""

    n: int = -1
    channel: int = 0


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The session is open, or goes on.

    Attributes:
        next_audio: the sequence number that the server expects next.
        streams: one, or one per channel.
        closing: the client's ``close`` was received, and so was all that it sent before.
    """

    session_id: str
    model: str
    next_audio: int
    streams: int
    limits: Limits
    resumed: bool = False
    closing: bool = False
    protocol: int = 1


class Partial(Event, frozen=True, kw_only=True, tag="partial"):
    """The text behind the committed words, understood now, with its leading space. Replaces the one before."""

    text: str
    words: tuple[TimedWord, ...] = ()


class Committed(Event, frozen=True, kw_only=True, tag="committed"):
    """Words that never change again: the new ones only; ``text`` with its leading space."""

    text: str
    first_id: int
    count: int
    start: float
    end: float
    words: tuple[TimedWord, ...] = ()


class Final(Event, frozen=True, kw_only=True, tag="final"):
    """An utterance is complete; its words were committed before. ``start`` is absent where there were none."""

    utterance: int
    text: str
    start: float | None = None
    end: float | None = None
    end_of_stream: bool = False


class SpeechStarted(Event, frozen=True, kw_only=True, tag="speech_started"):
    """Voice began."""

    at: float


class SpeechEnded(Event, frozen=True, kw_only=True, tag="speech_ended"):
    """Voice ended, and silence followed."""

    at: float


class Language(Event, frozen=True, kw_only=True, tag="language"):
    """The language is certain, and kept."""

    language: str
    probability: float


class Flushed(Event, frozen=True, kw_only=True, tag="flushed"):
    """All audio before the flush is decoded and committed, in every channel."""

    id: str
    at: float


class Acknowledged(Event, frozen=True, kw_only=True, tag="acknowledged"):
    """The audio before ``sample`` (of each channel, at the client's rate) is done with: safe to forget.

    Attributes:
        sample: of Opus and containers at 16 kHz, decoded.
        at: the same in seconds.
        next_audio: of Opus and containers: the audio messages before this number are done with, and ``sample`` is
            where it begins.
    """

    sample: int
    at: float
    next_audio: int | None = None


class Slowed(Event, frozen=True, kw_only=True, tag="slowed"):
    """Text comes later than it should; nothing is lost.

    Attributes:
        reason: ``overload``, ``failure`` (a pass failed and runs again), ``recovered``: it is over.
        lag: seconds of audio that wait.
    """

    reason: Literal["overload", "failure", "recovered"]
    lag: float


class Draining(Event, frozen=True, kw_only=True, tag="draining"):
    """The server goes down: close, or go on elsewhere, within so many seconds."""

    within: float


class Error(Event, frozen=True, kw_only=True, tag="error"):
    """Something is wrong. After a fatal one the connection is closed."""

    code: str
    message: str
    fatal: bool
    retry_after: float | None = None


class Closed(Event, frozen=True, kw_only=True, tag="closed"):
    """The session is over, everything decoded; the last message.

    Attributes:
        reason: ``client``, or why the server ended it.
        audio: seconds received, of each channel.
        words: committed, over all channels.
    """

    reason: str
    audio: float
    words: int


EventMessage: TypeAlias = (
    Partial
    | Committed
    | Final
    | SpeechStarted
    | SpeechEnded
    | Language
    | Flushed
    | Acknowledged
    | Slowed
    | Draining
    | Error
    | Closed
)
"""What is numbered, kept and sent again to clients that resume."""

ServerMessage: TypeAlias = Ready | EventMessage
