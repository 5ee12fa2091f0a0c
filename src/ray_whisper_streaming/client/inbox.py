"""The server's messages as events of one stream, however many sessions it took. Pure: no socket, no clock.

A resumed session sends nothing twice: its events are numbered. A session that took over from one that was gone begins a
little before the end of what that one committed: its times, word ids and utterances are shifted to go on, and the words
that were there already are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_whisper_streaming.client import events
from ray_whisper_streaming.client.events import ClientEvent
from ray_whisper_streaming.core.transcript import Word, join_text
from ray_whisper_streaming.errors import EngineError
from ray_whisper_streaming.wire import native_messages as messages
from ray_whisper_streaming.wire.native_messages import EventMessage, TimedWord

__all__ = ["Inbox"]

STREAM_FAILED, BAD_AUDIO = "stream_failed", "bad_audio"
DRAINING = "draining"


@dataclass(slots=True)
class _Channel:
    next_index: int = 0
    index_shift: int = 0
    next_utterance: int = 0
    utterance_shift: int = 0
    committed_until_s: float = 0.0
    catching_up: bool = False
    speaking: bool = False
    language: str = ""
    words: list[Word] = field(default_factory=list[Word])


class Inbox:
    """Makes events of messages.

    Attributes:
        after: number of the last message received in the session that runs; -1 for none.
        offset_s: second of the stream at which that session began.
        ending: why the server ends it; empty: it doesn't.
        moves_on: a session that drains is not the end of the stream.
    """

    def __init__(self, *, moves_on: bool = False) -> None:
        self.after = -1
        self.offset_s = 0.0
        self.ending = ""
        self.moves_on = moves_on
        self._channels: dict[int, _Channel] = {}
        self._restarted = False
        self._words = 0

    def restart(self, offset_s: float) -> None:
        """A new session takes over, with the audio from this second of the stream on."""
        self.after = -1
        self.offset_s = offset_s
        self.ending = ""
        self._restarted = True
        for channel in self._channels.values():
            channel.index_shift = channel.next_index
            channel.utterance_shift = channel.next_utterance
            channel.catching_up = True

    def receive(self, message: EventMessage) -> ClientEvent | None:
        """The event that the message tells; None: nothing new, or nothing for the listener.

        Fatal errors other than ``stream_failed`` are the connection's: don't give them here.
        """
        if 0 <= message.n <= self.after:
            return None
        self.after = max(self.after, message.n)
        channel = self._channels.setdefault(message.channel, _Channel())
        match message:
            case messages.Partial():
                words, _ = self._new_words(channel, message.words)
                if message.words and not words and channel.catching_up:
                    return None
                text = "" if message.words else message.text
                return events.Partial(words=words, channel=message.channel, written=text)
            case messages.Committed():
                return self._committed(channel, message)
            case messages.Final():
                return self._final(channel, message)
            case messages.SpeechStarted():
                # A session that takes over hears speech begin that has begun before.
                if channel.speaking:
                    return None
                channel.speaking = True
                return events.SpeechStarted(at_s=self._at(message.at), channel=message.channel)
            case messages.SpeechEnded():
                channel.speaking = False
                return events.SpeechEnded(at_s=self._at(message.at), channel=message.channel)
            case messages.Language():
                if channel.language == message.language:
                    return None
                channel.language = message.language
                return events.LanguageDetected(
                    language=message.language, probability=message.probability, channel=message.channel
                )
            case messages.Flushed():
                return events.Flushed(flush_id=message.id, at_s=self._at(message.at))
            case messages.Acknowledged():
                return None
            case messages.Slowed():
                return events.Slowed(reason=message.reason, lag_s=message.lag, channel=message.channel)
            case messages.Draining():
                return events.Draining(within_s=message.within)
            case messages.Error():
                return self._error(message)
            case messages.Closed():
                return events.Closed(
                    reason=message.reason, audio_s=self._at(message.audio), words=self._words or message.words
                )

    def _committed(self, channel: _Channel, message: messages.Committed) -> ClientEvent | None:
        words, skipped = self._new_words(channel, message.words)
        index = message.first_id + channel.index_shift
        channel.index_shift -= skipped
        if message.words and not words:
            return None
        count = len(words) if words else message.count
        channel.catching_up = False
        channel.next_index = index + count
        channel.committed_until_s = self._at(message.end)
        channel.words += words
        self._words += count
        text = "" if words else message.text
        return events.Committed(words=words, first_index=index, channel=message.channel, written=text)

    def _final(self, channel: _Channel, message: messages.Final) -> ClientEvent:
        utterance = message.utterance + channel.utterance_shift
        channel.next_utterance = utterance + 1
        words, channel.words = tuple(channel.words), []
        # Who follows from the middle has not heard all of it. (A session that took over has not either, but we have.)
        whole = self._restarted or join_text(words) == message.text.strip()
        return events.Final(
            utterance=utterance,
            words=words if whole else (),
            end_of_stream=message.end_of_stream and not (self.moves_on and self.ending == DRAINING),
            channel=message.channel,
            written="" if whole else message.text,
        )

    def _error(self, message: messages.Error) -> ClientEvent:
        if message.code == STREAM_FAILED:
            failure = EngineError(message.message, job_id="", retryable=True)
            return events.StreamFailed(error=failure, channel=message.channel)
        if message.code == BAD_AUDIO:
            return events.AudioRejected(message=message.message)
        self.ending = message.code
        return events.Ending(reason=message.code, message=message.message)

    def _new_words(self, channel: _Channel, told: tuple[TimedWord, ...]) -> tuple[tuple[Word, ...], int]:
        """The words on the stream's time line, without those committed before; and how many those were."""
        words = tuple(Word(word.text, word.start, word.end, word.probability) for word in told)
        if self.offset_s:
            words = tuple(word.shifted(self.offset_s) for word in words)
        skipped = 0
        if channel.catching_up:
            while skipped < len(words) and words[skipped].start_s < channel.committed_until_s:
                skipped += 1
        return words[skipped:], skipped

    def _at(self, told_s: float) -> float:
        return told_s + self.offset_s
