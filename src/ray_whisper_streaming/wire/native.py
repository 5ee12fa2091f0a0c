"""The native protocol of ``/v1/stream`` without its socket: messages in, commands out; events in, messages out.

What a server may receive, by state:

    ===========  =====================  =============  ========================================
    state        message                next state     what it means
    ===========  =====================  =============  ========================================
    expecting    options                open           open a session
    expecting    resume                 open           go on with one: `ServerSide.continue_from`
    open         audio, in sequence     open           push it
    open         audio, seen before     open           nothing: sent again after a lost connection
    open         flush, keep_alive      open           flush; count it as alive
    open         close                  closing        no more audio will come
    closing      keep_alive             closing        nothing
    closing      close                  closing        nothing: a client that resumed can't know whether it was heard
    any          anything else          over           `ProtocolError`: tell the client, close
    ===========  =====================  =============  ========================================

A binary message is a sequence number (32 bits, unsigned, little-endian; 0, 1, 2 ...) and the audio behind it.
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from ray_whisper_streaming.core import events as core
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import ProtocolError
from ray_whisper_streaming.wire import native_messages as messages
from ray_whisper_streaming.wire.native_messages import ClientMessage, EventMessage, Options, ServerMessage

__all__ = [
    "HEADER_BYTES",
    "Audio",
    "Command",
    "ServerSide",
    "decode_server_message",
    "encode",
    "encode_audio",
    "error_message",
    "event_message",
    "numbered",
]

_HEADER = struct.Struct("<I")
HEADER_BYTES = _HEADER.size

MAX_MESSAGE_CHARS = 300
"""Length of an error's text: it may quote what was received."""

MAX_ID_CHARS = messages.MAX_ID_CHARS

_encoder = msgspec.json.Encoder()
_client_decoder = msgspec.json.Decoder(ClientMessage)
_server_decoder = msgspec.json.Decoder(ServerMessage)

E = TypeVar("E", bound=messages.Event)


class Audio(NamedTuple):
    """Audio in the format agreed, cut anywhere."""

    sequence: int
    data: bytes


Command: TypeAlias = ClientMessage | Audio


class ServerSide:
    """The server's side of one session's messages."""

    def __init__(self) -> None:
        self.state: Literal["expecting", "open", "closing"] = "expecting"
        self.next_audio = 0

    def receive(self, message: str | bytes) -> Command | None:
        """Take a message: text as str, binary as bytes.

        Returns:
            what to do; None: nothing.

        Raises:
            ProtocolError: the message is malformed or out of order. Tell the client its ``code``, and close.
        """
        command = self._read_audio(message) if isinstance(message, bytes) else _read_text(message)
        if self.state == "expecting":
            if not isinstance(command, (Options, messages.Resume)):
                raise ProtocolError("the first message must be options or resume", code="options_first")
            self.state = "open"
        elif isinstance(command, (Options, messages.Resume)):
            raise ProtocolError("options were given before", code="options_twice")
        elif self.state == "closing":
            if isinstance(command, messages.Close):
                return None
            if not isinstance(command, messages.KeepAlive):
                raise ProtocolError("close was said before", code="after_close")
        elif isinstance(command, messages.Close):
            self.state = "closing"
        elif isinstance(command, Audio):
            return self._in_sequence(command)
        return command

    def _read_audio(self, message: bytes) -> Audio:
        if len(message) <= HEADER_BYTES:
            raise ProtocolError(
                f"a binary message of {len(message)} bytes has no room for its sequence number and audio",
                code="bad_audio_message",
            )
        (sequence,) = _HEADER.unpack_from(message)
        return Audio(sequence, message[HEADER_BYTES:])

    def _in_sequence(self, audio: Audio) -> Audio | None:
        if audio.sequence > self.next_audio:
            raise ProtocolError(
                f"audio message {audio.sequence} came where {self.next_audio} was expected", code="audio_gap"
            )
        if audio.sequence < self.next_audio:
            return None
        self.next_audio += 1
        return audio


def _read_text(message: str) -> ClientMessage:
    try:
        command = _client_decoder.decode(message)
    except msgspec.ValidationError as error:
        raise ProtocolError(_short(str(error)), code="bad_message") from None
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        raise ProtocolError("the message is not JSON", code="bad_json") from None
    if isinstance(command, messages.Flush) and len(command.id) > MAX_ID_CHARS:
        raise ProtocolError(f"an id may have {MAX_ID_CHARS} characters", code="bad_message")
    return command


# ---------------------------------------------------------------- both ways


def encode(message: ClientMessage | ServerMessage) -> bytes:
    """The JSON of a message, to be sent as text."""
    return _encoder.encode(message)


def encode_audio(sequence: int, data: bytes) -> bytes:
    """The binary message of some audio; the first of a session has number 0, each the next."""
    return _HEADER.pack(sequence) + data


def decode_server_message(message: str | bytes) -> ServerMessage:
    """What a client received. Raises `ProtocolError`."""
    try:
        return _server_decoder.decode(message)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ProtocolError(_short(str(error)), code="bad_message") from None


def numbered(message: E, n: int) -> E:
    """The event with its running number."""
    return msgspec.structs.replace(message, n=n)


# ---------------------------------------------------------------- events


def error_message(
    code: str, text: str, *, fatal: bool = True, retry_after: float | None = None
) -> messages.Error:
    """An error, its text cut to a sane length."""
    return messages.Error(code=code, message=_short(text), fatal=fatal, retry_after=retry_after)


def event_message(event: core.Event, channel: int, options: Options, lag_s: float = 0.0) -> EventMessage:
    """What a client is told of an event of its stream.

    Args:
        event: of the stream.
        channel: it is of.
        options: which say how much is told.
        lag_s: of the session now.
    """
    match event:
        case core.Partial():
            words = _timed(event.words) if options.partial_words else ()
            return messages.Partial(channel=channel, text=event.spaced_text, words=words)
        case core.Committed():
            return messages.Committed(
                channel=channel,
                text=event.spaced_text,
                first_id=event.first_index,
                count=len(event.words),
                start=_ms(event.words[0].start_s),
                end=_ms(event.words[-1].end_s),
                words=_timed(event.words, event.first_index) if options.word_times else (),
            )
        case core.Final():
            start_s, end_s = event.start_s, event.end_s
            return messages.Final(
                channel=channel,
                utterance=event.utterance,
                text=event.text,
                start=None if start_s is None else _ms(start_s),
                end=None if end_s is None else _ms(end_s),
                end_of_stream=event.end_of_stream,
            )
        case core.SpeechStarted():
            return messages.SpeechStarted(channel=channel, at=_ms(event.at_s))
        case core.SpeechEnded():
            return messages.SpeechEnded(channel=channel, at=_ms(event.at_s))
        case core.LanguageDetected():
            return messages.Language(
                channel=channel, language=event.language, probability=_ms(event.probability)
            )
        case core.Flushed():
            return messages.Flushed(id=event.flush_id, at=_ms(event.at_s))
        case core.JobFailed():
            return messages.Slowed(channel=channel, reason="failure", lag=_ms(lag_s))
        case core.StreamFailed():
            failed = error_message("stream_failed", str(event.error))
            return msgspec.structs.replace(failed, channel=channel)


def _timed(words: tuple[Word, ...], first_id: int | None = None) -> tuple[messages.TimedWord, ...]:
    return tuple(
        messages.TimedWord(
            text=word.text,
            start=_ms(word.start_s),
            end=_ms(word.end_s),
            probability=_ms(word.probability),
            id=None if first_id is None else first_id + index,
        )
        for index, word in enumerate(words)
    )


def _ms(value: float) -> float:
    return round(value, 3)


def _short(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"
