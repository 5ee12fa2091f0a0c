"""Messages of one session after another, as one stream's events."""

from __future__ import annotations

import pytest

import ray_whisper_streaming as library
from ray_whisper_streaming.client import events
from ray_whisper_streaming.client.inbox import Inbox
from ray_whisper_streaming.wire import native_messages as messages
from ray_whisper_streaming.wire.native_messages import TimedWord


def told(text: str, first_s: float, first_id: int | None = None) -> tuple[TimedWord, ...]:
    return tuple(
        TimedWord(
            text=f" {word}",
            start=first_s + number,
            end=first_s + number + 0.5,
            probability=0.9,
            id=None if first_id is None else first_id + number,
        )
        for number, word in enumerate(text.split())
    )


def committed(n: int, text: str, first_s: float, first_id: int) -> messages.Committed:
    words = told(text, first_s, first_id)
    return messages.Committed(
        n=n,
        text="".join(word.text for word in words),
        first_id=first_id,
        count=len(words),
        start=words[0].start,
        end=words[-1].end,
        words=words,
    )


def test_each_message_counts_once() -> None:
    inbox = Inbox()
    first = inbox.receive(committed(3, "a b", 0.0, 0))
    assert isinstance(first, library.Committed)
    assert (first.text, first.first_index, inbox.after) == ("a b", 0, 3)
    assert inbox.receive(committed(3, "a b", 0.0, 0)) is None
    assert inbox.receive(messages.SpeechStarted(n=2, at=0.0)) is None


def test_a_session_that_takes_over_goes_on_in_time_number_and_utterance() -> None:
    inbox = Inbox()
    inbox.receive(committed(0, "a", 0.0, 0))
    inbox.receive(messages.Final(n=1, utterance=0, text="a", start=0.0, end=0.5))
    inbox.receive(messages.SpeechStarted(n=2, at=9.0))
    inbox.receive(committed(3, "b c", 10.0, 1))  # to 11.5
    inbox.restart(10.0)
    assert inbox.after == -1
    assert inbox.receive(messages.SpeechStarted(n=0, at=0.1)) is None
    assert inbox.receive(messages.Partial(n=1, text="b c", words=told("b c", 0.1))) is None
    partial = inbox.receive(messages.Partial(n=2, text="b c d", words=told("b c d", 0.0)))
    assert isinstance(partial, events.Partial)
    assert (partial.text, partial.spaced_text, partial.words[0].start_s) == ("d", " d", 12.0)
    assert inbox.receive(committed(3, "b", 0.0, 0)) is None
    event = inbox.receive(committed(4, "c d", 1.1, 1))
    assert isinstance(event, events.Committed)
    assert (event.text, event.first_index) == ("d", 3)
    assert event.words[0].start_s == pytest.approx(12.1)
    # From here on nothing is left out, however times may jump.
    event = inbox.receive(committed(5, "e", 1.2, 3))
    assert isinstance(event, events.Committed)
    assert (event.text, event.first_index) == ("e", 4)
    final = inbox.receive(messages.Final(n=6, utterance=0, text="b c d e", start=0.0, end=2.6))
    assert isinstance(final, events.Final)
    assert (final.utterance, final.text, final.start_s) == (1, "b c d e", 10.0)
    closed = inbox.receive(messages.Closed(n=7, reason="client", audio=5.0, words=4))
    assert closed == events.Closed(reason="client", audio_s=15.0, words=5)


def test_who_follows_from_the_middle_gets_whole_texts() -> None:
    inbox = Inbox()
    inbox.receive(committed(7, "c d", 3.0, 2))
    final = inbox.receive(messages.Final(n=8, utterance=0, text="a b c d", start=0.0, end=5.0))
    assert isinstance(final, events.Final)
    assert (final.text, final.words) == ("a b c d", ())
    bare = inbox.receive(messages.Committed(n=9, text=" e", first_id=4, count=1, start=6.0, end=6.5))
    assert isinstance(bare, events.Committed)
    assert (bare.text, bare.words, bare.first_index) == ("e", (), 4)
    assert bare.spaced_text == " e"
    partial = inbox.receive(messages.Partial(n=10, text=" f"))
    assert isinstance(partial, events.Partial)
    assert (partial.text, partial.spaced_text, partial.words) == ("f", " f", ())


def test_a_failed_stream_and_rejected_audio_are_events() -> None:
    inbox = Inbox()
    rejected = inbox.receive(messages.Error(n=0, code="bad_audio", message="NaN", fatal=False))
    assert rejected == events.AudioRejected(message="NaN")
    ending = inbox.receive(messages.Error(n=1, code="idle", message="nothing came", fatal=False))
    assert ending == events.Ending(reason="idle", message="nothing came")
    failed = inbox.receive(messages.Error(n=2, channel=1, code="stream_failed", message="no", fatal=True))
    assert isinstance(failed, library.StreamFailed)
    assert isinstance(failed.error, library.EngineError)
    assert failed.channel == 1
