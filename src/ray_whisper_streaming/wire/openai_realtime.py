"""OpenAI's Realtime protocol, transcription sessions, the server's side.

The shell gives it the client's messages (`receive_message`) and the streams' events (`receive_event`), and after each
asks what to do (`actions`) and what to send (`messages`). Whatever a client sends, nothing is raised: what is wrong is
answered with an ``error`` event, and the session goes on.

A turn becomes an item. With ``server_vad`` a turn is an utterance::

    speech_started - delta* - speech_stopped - committed - item.added - item.done - delta* - completed | failed

Without turn detection a turn is what the client commits; its deltas come as soon as there are words, under the id
that the commit will have::

    delta* - (commit) - committed - item.added - item.done - delta* - completed | failed
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
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.wire.actions import Action, FeedAudio, FinishStream, FlushStream, OpenStream
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


@dataclass(slots=True)
class _Item:
    """A turn on its way: from its first audio to its transcript."""

    item_id: str
    start_s: float
    end_s: float | None = None
    flush_id: str = ""
    """The flush that ends it; without one, its utterance's end does."""
    committed: bool = False
    dropped: bool = False
    awaited: bool = False
    """Committed by the client before its speech was noticed: the next speech before ``end_s`` is its."""
    words: list[Word] = field(default_factory=list[Word])


@dataclass(frozen=True, slots=True)
class _Span:
    """One stream of the session: where it begins on the session's time line, and who ends its turns."""

    offset_s: float
    voice_activity: bool


class RealtimeProtocol:
    """One session.

    Args:
        session_id: names the session, and its events and items.
        config: what holds before the client's first update.
    """

    def __init__(self, session_id: str, config: SessionConfig) -> None:
        self.session_id = session_id
        self.config = config
        self._language = config.language
        self._actions: list[Action] = []
        self._messages: list[bytes] = []
        self._items: deque[_Item] = deque()
        self._spans: deque[_Span] = deque()
        self._open = False
        self._received_s = 0.0
        self._turn_start_s = 0.0
        self._cleared_s = 0.0
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
        if not self.config.voice_activity and not self._has_manual_turn():
            self._items.append(self._new_item(self._received_s))
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
        flush_id = f"commit-{next(self._flush_numbers)}"
        item = self._items[-1] if self._items and self._items[-1].end_s is None else None
        if item is None:  # with server_vad, while nobody was heard to speak
            item = self._new_item(self._turn_start_s)
            item.awaited = True
            self._items.append(item)
        item.end_s = self._received_s
        if item.awaited or not self.config.voice_activity:
            item.flush_id = flush_id
        self._say_committed(item)
        self._ensure_open()
        self._actions.append(FlushStream(flush_id))

    def _clear(self) -> None:
        if self._received_s > self._turn_start_s:
            flush_id = f"clear-{next(self._flush_numbers)}"
            if self._items and self._items[-1].end_s is None:
                item = self._items[-1]
                item.dropped, item.end_s = True, self._received_s
                if not self.config.voice_activity:
                    item.flush_id = flush_id
            self._turn_start_s = self._cleared_s = self._received_s
            self._ensure_open()
            self._actions.append(FlushStream(flush_id))
        self._send("input_audio_buffer.cleared")

    def _update(self, change: object) -> None:
        config = self.config.updated(change)
        if self._open and (config.stream_options(), config.audio_format) != (
            self.config.stream_options(),
            self.config.audio_format,
        ):
            if config.voice_activity and not self.config.voice_activity and self._has_manual_turn():
                # Nobody would commit it any more.
                item = self._items[-1]
                item.end_s, item.flush_id = self._received_s, f"commit-{next(self._flush_numbers)}"
                self._say_committed(item)
                self._actions.append(FlushStream(item.flush_id))
            self._actions.append(FinishStream())
            self._open = False
        self.config = config
        self._language = config.language
        self._send("session.updated", session=config.public(self.session_id))

    # ---------------------------------------------------------------- the stream

    def receive_event(self, event: Event) -> None:
        """Take the next event of the streams, in the order they were opened."""
        if not self._spans:
            return
        span = self._spans[0]
        if isinstance(event, SpeechStarted):
            if span.voice_activity:
                self._speech_started(span.offset_s + event.at_s)
        elif isinstance(event, SpeechEnded):
            if span.voice_activity:
                self._speech_ended(span.offset_s + event.at_s)
        elif isinstance(event, Committed):
            self._words(event.words)
        elif isinstance(event, LanguageDetected):
            self._language = event.language
        elif isinstance(event, Flushed):
            if self._items and self._items[0].flush_id == event.flush_id:
                self._complete(self._items.popleft())
        elif isinstance(event, Final):
            # An item that waits for its flush has its end there.
            if span.voice_activity and self._is_due() and not self._items[0].flush_id:
                self._complete(self._items.popleft())
            if event.end_of_stream:
                self._end_span()
        elif isinstance(event, StreamFailed):
            self._fail("the transcription failed")
            self._end_span()

    def _speech_started(self, at_s: float) -> None:
        for item in self._items:
            if item.awaited and item.end_s is not None and at_s < item.end_s:
                item.awaited, item.flush_id = False, ""
                return
        item = self._new_item(at_s)
        item.dropped = at_s < self._cleared_s
        self._items.append(item)
        if not item.dropped:
            self._send(
                "input_audio_buffer.speech_started", audio_start_ms=round(at_s * 1000), item_id=item.item_id
            )

    def _speech_ended(self, at_s: float) -> None:
        item = next((each for each in self._items if each.end_s is None), None)
        if item is None:  # the client committed or cleared it
            return
        item.end_s = at_s
        if item.dropped:
            return
        self._send("input_audio_buffer.speech_stopped", audio_end_ms=round(at_s * 1000), item_id=item.item_id)
        self._say_committed(item)

    def _words(self, words: tuple[Word, ...]) -> None:
        if not self._items:
            return
        item = self._items[0]
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
        if not item.committed:
            item.end_s = item.end_s or self._received_s
            self._say_committed(item)
        length_s = max(0.0, (item.end_s or item.start_s) - item.start_s)
        self._send(
            "conversation.item.input_audio_transcription.completed",
            item_id=item.item_id,
            content_index=0,
            transcript="".join(word.text for word in item.words).strip(),
            usage={"type": "duration", "seconds": round(length_s, 3)},
            languages=[{"code": self._language}] if self._language else [],
            **self._logprobs(item.words),
        )

    def _fail(self, message: str) -> None:
        error = {"type": "server_error", "code": "transcription_failed", "message": message, "param": None}
        told = False
        while self._is_due():
            item = self._items.popleft()
            if item.committed and not item.dropped:
                told = True
                self._send(
                    "conversation.item.input_audio_transcription.failed",
                    item_id=item.item_id,
                    content_index=0,
                    error=error,
                )
        if not told:
            self.say_error(message, code="transcription_failed")
        if len(self._spans) < 2:  # its audio is gone: a commit of nothing more is one of nothing
            self._turn_start_s = self._received_s

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
        self._spans.append(_Span(self._received_s, self.config.voice_activity))
        self._actions.append(OpenStream(options=self.config.stream_options(), audio=self.config.audio_format))

    def _is_due(self) -> bool:
        """Whether the item in front began before the next stream."""
        if not self._items:
            return False
        return len(self._spans) < 2 or self._items[0].start_s < self._spans[1].offset_s

    def _has_manual_turn(self) -> bool:
        return bool(self._items) and self._items[-1].end_s is None

    def _new_item(self, start_s: float) -> _Item:
        return _Item(f"item_{self.session_id}_{next(self._item_numbers)}", start_s)

    def _say_committed(self, item: _Item) -> None:
        item.committed = True
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
