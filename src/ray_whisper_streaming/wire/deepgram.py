"""Deepgram's streaming protocol (``/v1/listen``), the server's side.

The shell opens a session as the query has it, before it lets the client in. Then it gives the client's messages
(`receive_message`), the channels' events (`receive_event`) and how far each channel was heard (`receive_progress`), and
after each asks what to do (`actions`) and what to send (`messages`), until `close` is set.

Words that are committed become a ``Results`` with ``is_final``, words that may still change one without; each tells
only what no final result told before. A pause ends the utterance with ``speech_final``. Events given between two calls
of `messages` are told together, so that an utterance's last words and its end are one message.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from ray_whisper_streaming.core.events import (
    Committed,
    Event,
    Final,
    Flushed,
    Partial,
    SpeechEnded,
    SpeechStarted,
    StreamFailed,
)
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.wire.actions import Action, FeedAudio, FinishStream, FlushStream
from ray_whisper_streaming.wire.deepgram_query import ListenQuery

__all__ = ["DATA_ERROR", "ListenProtocol", "error_message", "handshake_error"]

DATA_ERROR = "DATA-0000"
"""The reason the connection is closed with when the audio can't be decoded."""

ARCH = "whisper"
VERSION = "1"

EDGES = re.compile(r"^[\W_]+|[\W_]+$")
"""Punctuation at a word's edges; inside (``don't``, ``3.5``) it is part of the word."""


@dataclass(slots=True)
class _Channel:
    """What is known of one channel's stream."""

    told_until_s: float = 0.0
    """The end of the last final result."""
    words: list[Word] = field(default_factory=list[Word])
    """Committed, not told yet."""
    partial: Partial | None = None
    pauses: deque[bool] = field(default_factory=deque[bool])
    """Of each utterance that ended but is not decoded: whether a pause ended it, or the client."""
    starts: deque[float] = field(default_factory=deque[float])
    """Of each utterance that is not decoded to its end."""
    last_word_end_s: float | None = None
    """Since the last ``UtteranceEnd``."""
    over: bool = False


class ListenProtocol:
    """One connection.

    Args:
        request_id: names the connection.
        query: what it wants.
        created: when it began, as ISO 8601 in UTC.
    """

    def __init__(self, request_id: str, query: ListenQuery, created: str) -> None:
        self.request_id = request_id
        self.query = query
        self._created = created
        self._actions: list[Action] = []
        self._messages: list[bytes] = []
        count = query.audio.channels if query.audio.separate else 1
        self._channels = [_Channel() for _ in range(count)]
        self._fed = False
        self._ending = False
        self._end: tuple[int, str] = (1000, "")
        self._finalizing: set[str] = set()
        self._finalize_count = 0
        self._sha256 = hashlib.sha256()
        self._heard_s = 0.0
        self.close: tuple[int, str] | None = None
        """Once set: nothing more comes, close the connection with this code and reason."""

    # ---------------------------------------------------------------- out

    def actions(self) -> list[Action]:
        """What to do, in order, each once; flush and finish concern all channels."""
        asked, self._actions = self._actions, []
        return asked

    def messages(self) -> list[bytes]:
        """Text messages to send, in order; each once. Call it when no event waits."""
        for index, channel in enumerate(self._channels):
            if channel.words:
                self._tell_final(index)
            if channel.partial is not None:
                words, channel.partial = channel.partial.words, None
                if words and self.query.interim_results:
                    self._results(index, words, is_final=False)
        if self._ending and self.close is None and all(channel.over for channel in self._channels):
            self._metadata()
            self.close = self._end
        ready, self._messages = self._messages, []
        return ready

    # ---------------------------------------------------------------- the client

    def receive_message(self, message: str | bytes) -> None:
        """Take one WebSocket message of the client: audio if it is binary, else a JSON command."""
        if self._ending:
            return
        if isinstance(message, bytes):
            if not message:  # how clients ended their audio before there was CloseStream
                self._finish()
                return
            self._sha256.update(message)
            self._fed = True
            self._actions.append(FeedAudio(message))
            return
        try:
            command: object = msgspec.json.decode(message)
            kind = cast("dict[str, object]", command).get("type") if isinstance(command, dict) else None
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            kind = None
        if kind == "KeepAlive":
            pass  # that it came is all
        elif kind == "Finalize":
            self._finalize_count += 1
            flush_id = f"finalize-{self._finalize_count}"
            self._finalizing.add(flush_id)
            self._actions.append(FlushStream(flush_id))
        elif kind == "CloseStream":
            self._finish()
        elif kind == "Configure":
            self._send(
                {
                    "type": "ConfigureFailure",
                    "request_id": self.request_id,
                    "code": "CONFIGURE_KEYTERMS_NOT_SUPPORTED",
                    "description": "options can't be changed once the connection is open",
                }
            )
        else:
            self._error("SchemaError", "not a message of this protocol")

    def receive_ending(self, code: int, reason: str) -> None:
        """The server ends the streams; once their last events are there, close with this code and reason."""
        self._ending = True
        self._end = (code, reason)

    def receive_bad_audio(self, why: str) -> None:
        """The audio can't be decoded, so the shell closed the streams: tell, and end the connection."""
        self._error("DataError", why)
        self._ending = True
        self.close = (1008, DATA_ERROR)

    # ---------------------------------------------------------------- the streams

    def receive_progress(self, index: int, heard_s: float, *, settled: bool) -> None:
        """Channel ``index`` has audio up to ``heard_s``; ``settled``: all of it is decoded or silence."""
        self.receive_duration(heard_s)
        channel = self._channels[index]
        if settled and not channel.starts:
            self._tell_silence(index, heard_s)

    def receive_duration(self, heard_s: float) -> None:
        """So much audio came; the closing metadata tell it."""
        self._heard_s = max(self._heard_s, heard_s)

    def receive_event(self, index: int, event: Event) -> None:
        """Take the next event of channel ``index``; `Flushed` once for all channels, when the last one is."""
        channel = self._channels[index]
        if isinstance(event, Partial):
            channel.partial = event
        elif isinstance(event, Committed):
            channel.words += event.words
            if event.words:
                channel.last_word_end_s = event.words[-1].end_s
        elif isinstance(event, SpeechStarted):
            self._speech_started(index, event.at_s)
        elif isinstance(event, SpeechEnded):
            # While the client has something finalized, or ends, the end of speech is its doing.
            channel.pauses.append(not self._finalizing and not self._ending)
        elif isinstance(event, Final):
            self._final(index, event)
        elif isinstance(event, Flushed):
            self._finalizing.discard(event.flush_id)
            for number in range(len(self._channels)):
                self._tell_final(number, from_finalize=True)
        elif isinstance(event, StreamFailed):
            channel.over = True
            if channel.words:
                self._tell_final(index)
            self._error("TranscriptionError", "the transcription failed")
            self._ending = True
            self.close = (1011, "the transcription failed")

    def _speech_started(self, index: int, at_s: float) -> None:
        starts = self._channels[index].starts
        if not starts:
            self._tell_silence(index, at_s)
        starts.append(at_s)
        if self.query.vad_events:
            self._send({"type": "SpeechStarted", "channel": self._place(index), "timestamp": _round(at_s)})

    def _final(self, index: int, event: Final) -> None:
        channel = self._channels[index]
        paused = channel.pauses.popleft() if channel.pauses else False
        if channel.starts:
            channel.starts.popleft()
        channel.over = channel.over or event.end_of_stream
        if self._finalizing and not paused:
            return  # its words are told with `Flushed`, which is right behind
        if channel.words or (paused and self.query.endpointing and event.words):
            self._tell_final(index, speech_final=paused and self.query.endpointing)
        if channel.starts:  # audio came faster than it is decoded
            self._tell_silence(index, channel.starts[0])

    # ---------------------------------------------------------------- inside

    def _finish(self) -> None:
        self._ending = True
        if self._fed:
            self._actions.append(FinishStream())
            return
        for channel in self._channels:  # there is nothing to wait for
            channel.over = True

    def _tell_final(self, index: int, *, speech_final: bool = False, from_finalize: bool = False) -> None:
        channel = self._channels[index]
        words, channel.words = channel.words, []
        self._results(index, words, is_final=True, speech_final=speech_final, from_finalize=from_finalize)
        if words:
            channel.told_until_s = max(channel.told_until_s, words[-1].end_s)

    def _results(
        self,
        index: int,
        words: Sequence[Word],
        *,
        is_final: bool,
        speech_final: bool = False,
        from_finalize: bool = False,
    ) -> None:
        start_s = self._channels[index].told_until_s
        end_s = max(start_s, words[-1].end_s) if words else start_s
        confidence = sum(word.probability for word in words) / len(words) if words else 0.0
        shown = [_shown(word, self.query.punctuate) for word in words]
        self._send(
            {
                "type": "Results",
                "channel_index": self._place(index),
                "duration": _round(end_s - start_s),
                "start": _round(start_s),
                "is_final": is_final,
                "speech_final": speech_final,
                "from_finalize": from_finalize,
                "channel": {
                    "alternatives": [
                        {
                            "transcript": "".join(text for text, _ in shown).strip(),
                            "confidence": _round(confidence),
                            "words": [facts for _, facts in shown if facts],
                        }
                    ]
                },
                "metadata": {
                    "request_id": self.request_id,
                    "model_info": {"name": self.query.model, "version": VERSION, "arch": ARCH},
                    "model_uuid": self.query.model,
                },
            }
        )

    def _tell_silence(self, index: int, until_s: float) -> None:
        """Nothing was said since the last word, up to ``until_s``: tell, if that is long enough."""
        channel, wait_s = self._channels[index], self.query.utterance_end_s
        end_s = channel.last_word_end_s
        if wait_s is None or end_s is None or until_s - end_s < wait_s:
            return
        channel.last_word_end_s = None
        if channel.words:
            self._tell_final(index)
        self._send({"type": "UtteranceEnd", "channel": self._place(index), "last_word_end": _round(end_s)})

    def _metadata(self) -> None:
        self._send(
            {
                "type": "Metadata",
                "transaction_key": "deprecated",
                "request_id": self.request_id,
                "sha256": self._sha256.hexdigest(),
                "created": self._created,
                "duration": _round(self._heard_s),
                "channels": len(self._channels),
                "models": [self.query.model],
                "model_info": {
                    self.query.model: {"name": self.query.model, "version": VERSION, "arch": ARCH}
                },
            }
        )

    def _error(self, variant: str, description: str) -> None:
        self._messages.append(error_message(variant, description))

    def _place(self, index: int) -> list[int]:
        return [index, len(self._channels)]

    def _send(self, message: dict[str, Any]) -> None:
        self._messages.append(msgspec.json.encode(message))


def error_message(variant: str, description: str) -> bytes:
    """An ``Error`` message."""
    return msgspec.json.encode(
        {"type": "Error", "variant": variant, "description": description, "message": description}
    )


def handshake_error(request_id: str, code: str, message: str) -> dict[str, str]:
    """The body of the HTTP answer that refuses a connection."""
    return {"err_code": code, "err_msg": message, "request_id": request_id}


def _shown(word: Word, punctuate: bool) -> tuple[str, dict[str, Any] | None]:
    """A word's text in the transcript, and its entry; none for what is punctuation alone."""
    written = word.text.strip()
    bare = EDGES.sub("", written).lower()
    if not bare:
        return (word.text if punctuate else ""), None
    space = word.text[: len(word.text) - len(word.text.lstrip())]
    facts: dict[str, Any] = {
        "word": bare,
        "start": _round(word.start_s),
        "end": _round(word.end_s),
        "confidence": _round(word.probability),
    }
    if punctuate:
        facts["punctuated_word"] = written
    return (word.text if punctuate else space + bare), facts


def _round(value: float) -> float:
    return round(value, 4)
