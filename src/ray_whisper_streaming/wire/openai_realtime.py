"""OpenAI's Realtime protocol, transcription sessions, the server's side.

The shell gives it the client's messages (`receive_message`) and the streams' events (`receive_event`), and after each
asks what to do (`actions`) and what to send (`messages`). Whatever a client sends, nothing is raised: what is wrong is
answered with an ``error`` event, and the session goes on.

A turn becomes an item. With ``server_vad`` a turn is an utterance::

    speech_started - delta* - speech_stopped - committed - item.added - item.done - delta* - completed | failed

Without turn detection a turn is what the client commits; its deltas come as soon as there are words, under the id
that the commit will have::

    delta* - (commit) - committed - item.added - item.done - delta* - completed | failed

A stream decodes in the order of its audio, so its items wait in that order, and the first of them gets the words. An
utterance that voice activity ended has its end with its `Final`; what the client ended (a commit, also with
``server_vad``, or a clear) holds whatever the stream was sent until then, and has its end with its `Flushed`.
"""

from __future__ import annotations

import base64
import binascii
import itertools
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
    LanguageDetected,
    SpeechEnded,
    SpeechStarted,
    StreamFailed,
)
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.wire.actions import (
    Action,
    AudioFormat,
    FeedAudio,
    FinishStream,
    FlushStream,
    OpenStream,
)
from ray_whisper_streaming.wire.openai_common import BadParameter, logprobs
from ray_whisper_streaming.wire.openai_session import SessionConfig

__all__ = ["RealtimeProtocol", "error_event"]

MAX_APPEND_BYTES = 15 * 1024 * 1024
"""Audio in one append at most, before base64: the protocol's own limit."""

MIN_COMMIT_S = 0.1
"""Less audio than this can't be committed: the protocol's own limit."""

MAX_EVENT_ID = 512
"""Characters of a client's event id that are echoed."""

CONVERSATION_EVENTS = frozenset(
    {
        "conversation.item.create",
        "conversation.item.delete",
        "conversation.item.retrieve",
        "conversation.item.truncate",
        "output_audio_buffer.clear",
        "response.cancel",
        "response.create",
    }
)
"""What the protocol has, but no transcription session."""


@dataclass(slots=True, eq=False)
class _Item:
    """A turn on its way: from its first audio to its transcript."""

    item_id: str
    start_s: float
    end_s: float | None = None
    """Where it ended; None: it is under way."""
    flush_id: str = ""
    """The flush that the client ended it with."""
    dropped: bool = False
    """Nothing more is told of it."""
    words: list[Word] = field(default_factory=list[Word])


@dataclass(slots=True)
class _Span:
    """One stream of the session: where it begins on the session's time line, and who ends its turns."""

    offset_s: float
    voice_activity: bool
    language: str | None
    items: deque[_Item] = field(default_factory=deque[_Item])
    """Those that end in it, or are its utterance under way, in the order they are decoded."""
    flushes: int = 0
    """How often the client ended a turn of it."""

    @property
    def utterance(self) -> _Item | None:
        """The one under way."""
        return self.items[-1] if self.items and self.items[-1].end_s is None else None


class RealtimeProtocol:
    """One session.

    Args:
        session_id: names the session, and its events and items.
        config: what holds before the client's first update.
    """

    def __init__(self, session_id: str, config: SessionConfig) -> None:
        self.session_id = session_id
        self.config = config
        self._actions: list[Action] = []
        self._messages: list[bytes] = []
        self._turn: _Item | None = None  # the client's, under way; it goes on over updates
        self._spans: deque[_Span] = deque()
        self._open = False
        self._received_s = 0.0
        self._turn_start_s = 0.0
        self._last_item: str | None = None
        self._event_numbers = itertools.count(1)
        self._item_numbers = itertools.count(1)
        self._flush_numbers = itertools.count(1)
        self._send("session.created", session=config.public(session_id))

    # ---------------------------------------------------------------- out

    def actions(self) -> list[Action]:
        """What to do, in order; each once."""
        asked, self._actions = self._actions, []
        return asked

    def messages(self) -> list[bytes]:
        """Text messages to send, in order; each once."""
        ready, self._messages = self._messages, []
        return ready

    def say_error(
        self,
        message: str,
        *,
        code: str,
        kind: str = "server_error",
        param: str | None = None,
        event_id: str | None = None,
    ) -> None:
        """Queue an ``error`` event; for what the shell itself finds wrong, too."""
        error = {"type": kind, "code": code, "message": message, "param": param, "event_id": event_id}
        self._send("error", error=error)

    # ---------------------------------------------------------------- the client

    def receive_message(self, message: str | bytes) -> None:
        """Take one WebSocket message of the client."""
        event_id: str | None = None
        try:
            event = _decoded(message)
            if isinstance(given := event.get("event_id"), str):
                event_id = given[:MAX_EVENT_ID]
            self._receive(event)
        except RecursionError:
            self.say_error(
                "the message is nested too deeply",
                code="invalid_event",
                kind="invalid_request_error",
                event_id=event_id,
            )
        except BadParameter as error:
            self.say_error(
                str(error),
                code=error.code,
                kind="invalid_request_error",
                param=error.param,
                event_id=event_id,
            )

    def _receive(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "input_audio_buffer.append":
            self._append(event.get("audio"))
        elif kind == "input_audio_buffer.commit":
            self._commit()
        elif kind == "input_audio_buffer.clear":
            self._clear()
        elif kind == "session.update":
            self._update(event.get("session"))
        elif kind is None:
            raise BadParameter("type is missing", param="type", code="missing_required_parameter")
        elif isinstance(kind, str) and kind in CONVERSATION_EVENTS:
            raise BadParameter(f"{kind} has no place in a transcription session", param="type")
        else:
            raise BadParameter(
                "type must be one of session.update and input_audio_buffer.append, .commit, .clear",
                param="type",
            )

    def _append(self, audio: object) -> None:
        if not isinstance(audio, str):
            raise BadParameter("audio must be a base64 string", param="audio", code="invalid_type")
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError):
            raise BadParameter("audio is not base64", param="audio") from None
        if len(data) > MAX_APPEND_BYTES:
            raise BadParameter(f"audio is longer than {MAX_APPEND_BYTES} bytes", param="audio")
        if not data:
            return
        self._ensure_open()
        if not self.config.voice_activity and self._turn is None:
            self._turn = self._new_item(self._received_s)
        self._received_s += len(data) / self.config.bytes_per_s
        self._actions.append(FeedAudio(data))

    def _commit(self) -> None:
        length_s = self._received_s - self._turn_start_s
        if length_s < MIN_COMMIT_S:
            raise BadParameter(
                f"the buffer is too small: a turn takes at least {MIN_COMMIT_S * 1000:.0f} ms of audio, "
                f"and it holds {length_s * 1000:.0f} ms",
                param=None,
                code="input_audio_buffer_commit_empty",
            )
        self._commit_turn()

    def _commit_turn(self) -> None:
        self._ensure_open()
        self._say_committed(self._end_turn(self._spans[-1], "commit"))

    def _clear(self) -> None:
        if self._received_s > self._turn_start_s:
            self._ensure_open()
            last = self._spans[-1]
            for span in self._spans:
                # In what an earlier one was sent, speech may be yet to be noticed.
                if span.voice_activity or span is last:
                    self._end_turn(span, "clear").dropped = True
            self._turn_start_s = self._received_s
        self._send("input_audio_buffer.cleared")

    def _end_turn(self, span: _Span, why: str) -> _Item:
        """End what is under way in ``span``: it is complete once all that the stream was sent is decoded."""
        last = span is self._spans[-1]
        turn = self._turn if last else None
        item = turn or span.utterance or self._new_item(self._turn_start_s)
        if item is not span.utterance:
            span.items.append(item)
        item.end_s = self._received_s
        item.flush_id = f"{why}-{next(self._flush_numbers)}"
        span.flushes += 1
        if last:  # the others are finished already: their ends are the ends of their items
            self._turn = None
            self._actions.append(FlushStream(item.flush_id))
        return item

    def _update(self, change: object) -> None:
        before, self.config = self.config, self.config.updated(change)
        if self._open and _stream_of(before) != _stream_of(self.config):
            if self.config.voice_activity and self._turn is not None:
                self._commit_turn()  # nobody would do it any more
            self._actions.append(FinishStream())
            self._open = False
            self._ensure_open()
        self._send("session.updated", session=self.config.public(self.session_id))

    # ---------------------------------------------------------------- the stream

    def receive_event(self, event: Event) -> None:
        """Take the next event of the streams, in the order they were opened."""
        if not self._spans:
            return
        span = self._spans[0]
        if isinstance(event, SpeechStarted):
            # What began before the client ended a turn belongs to that.
            if span.voice_activity and event.flushes >= span.flushes:
                self._speech_started(span, span.offset_s + event.at_s)
        elif isinstance(event, SpeechEnded):
            if span.voice_activity and span.utterance is not None:
                self._speech_ended(span.utterance, span.offset_s + event.at_s)
        elif isinstance(event, Committed):
            self._words(event.words)
        elif isinstance(event, LanguageDetected):
            span.language = event.language
        elif isinstance(event, Flushed):
            if span.items and span.items[0].flush_id == event.flush_id:
                self._complete(span.items.popleft())
        elif isinstance(event, Final):
            if span.voice_activity and span.items and not span.items[0].flush_id:
                self._complete(span.items.popleft())
            if event.end_of_stream:
                while span.items:
                    self._complete(span.items.popleft())
                self._end_span()
        elif isinstance(event, StreamFailed):
            self._fail(span, "the transcription failed")
            self._end_span()

    def _speech_started(self, span: _Span, at_s: float) -> None:
        item = self._new_item(at_s)
        span.items.append(item)
        self._send(
            "input_audio_buffer.speech_started", audio_start_ms=round(at_s * 1000), item_id=item.item_id
        )

    def _speech_ended(self, item: _Item, at_s: float) -> None:
        item.end_s = at_s
        self._send("input_audio_buffer.speech_stopped", audio_end_ms=round(at_s * 1000), item_id=item.item_id)
        self._say_committed(item)

    def _words(self, words: tuple[Word, ...]) -> None:
        # A turn of the client may have its beginning in one stream and its end in another.
        item = next((item for span in self._spans for item in span.items), self._turn)
        if item is None:
            return
        text = "".join(word.text for word in words)
        if not item.words:
            text = text.lstrip()
        item.words += words
        if not item.dropped and text:
            self._send(
                "conversation.item.input_audio_transcription.delta",
                item_id=item.item_id,
                content_index=0,
                delta=text,
                **self._logprobs(words),
            )

    def _complete(self, item: _Item) -> None:
        if item.dropped:
            return
        if item.end_s is None:
            item.end_s = self._received_s
            self._say_committed(item)
        language = self._spans[0].language
        self._send(
            "conversation.item.input_audio_transcription.completed",
            item_id=item.item_id,
            content_index=0,
            transcript="".join(word.text for word in item.words).strip(),
            usage={"type": "duration", "seconds": round(max(0.0, item.end_s - item.start_s), 3)},
            languages=[{"code": language}] if language else [],
            **self._logprobs(item.words),
        )

    def _fail(self, span: _Span, message: str) -> None:
        error = {"type": "server_error", "code": "transcription_failed", "message": message, "param": None}
        told = False
        for item in self._items_of(span):
            if item.end_s is not None and not item.dropped:
                told = item.dropped = True
                self._send(
                    "conversation.item.input_audio_transcription.failed",
                    item_id=item.item_id,
                    content_index=0,
                    error=error,
                )
        if not told:
            self.say_error(message, code="transcription_failed")
        # Its audio is gone: what is under way begins behind it, and a commit of nothing more is one of nothing.
        behind_s = self._spans[1].offset_s if len(self._spans) > 1 else self._received_s
        self._turn_start_s = max(self._turn_start_s, behind_s)
        if self._turn is not None and self._turn.start_s < behind_s:
            self._turn = self._new_item(behind_s) if len(self._spans) > 1 else None

    def _items_of(self, span: _Span) -> list[_Item]:
        """All that wait for words of the stream in front, the client's turn that ends in a later one among them."""
        following = next((item for later in list(self._spans)[1:] for item in later.items), None)
        crosses = following is not None and following.start_s < self._spans[1].offset_s
        return [*span.items, following] if following is not None and crosses else [*span.items]

    def _end_span(self) -> None:
        """The stream in front is over; if it was the one that is fed, the next audio opens another."""
        self._spans.popleft()
        if not self._spans:
            self._open = False

    # ---------------------------------------------------------------- inside

    def _ensure_open(self) -> None:
        if self._open:
            return
        self._open = True
        self._spans.append(_Span(self._received_s, self.config.voice_activity, self.config.language))
        self._actions.append(OpenStream(options=self.config.stream_options(), audio=self.config.audio_format))

    def _new_item(self, start_s: float) -> _Item:
        return _Item(f"item_{self.session_id}_{next(self._item_numbers)}", start_s)

    def _say_committed(self, item: _Item) -> None:
        self._turn_start_s = max(self._turn_start_s, item.end_s or 0.0)
        before, self._last_item = self._last_item, item.item_id
        self._send("input_audio_buffer.committed", item_id=item.item_id, previous_item_id=before)
        shown = {
            "id": item.item_id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        self._send("conversation.item.added", item=shown, previous_item_id=before)
        self._send("conversation.item.done", item=shown, previous_item_id=before)

    def _logprobs(self, words: Sequence[Word]) -> dict[str, Any]:
        return {"logprobs": logprobs(words)} if self.config.logprobs else {}

    def _send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": f"event_{self.session_id}_{next(self._event_numbers)}", **fields}
        self._messages.append(msgspec.json.encode(event))


def error_event(message: str, *, code: str, kind: str, param: str | None = None) -> bytes:
    """An ``error`` event of a connection that became no session."""
    error = {"type": kind, "code": code, "message": message, "param": param, "event_id": None}
    return msgspec.json.encode({"type": "error", "event_id": "event_0", "error": error})


def _stream_of(config: SessionConfig) -> tuple[StreamOptions, AudioFormat, bool]:
    """What another stream is needed for, where it changes."""
    return config.stream_options(), config.audio_format, config.voice_activity


def _decoded(message: str | bytes) -> dict[str, Any]:
    if isinstance(message, bytes):
        raise BadParameter(
            "messages are JSON texts; audio goes into input_audio_buffer.append",
            param=None,
            code="invalid_event",
        )
    try:
        event: object = msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise BadParameter("the message is not JSON", param=None, code="invalid_event") from None
    if not isinstance(event, dict):
        raise BadParameter("the message is not a JSON object", param=None, code="invalid_event")
    return cast("dict[str, Any]", event)
