"""Deepgram's streaming protocol: messages and events in, messages and actions out. Shapes are checked by Deepgram's
package."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from deepgram.listen.v1.types import (
    ListenV1ConfigureFailure,
    ListenV1Error,
    ListenV1Metadata,
    ListenV1Results,
    ListenV1SpeechStarted,
    ListenV1UtteranceEnd,
)

from ray_whisper_streaming.core.events import (
    Committed,
    Final,
    Flushed,
    Partial,
    SpeechEnded,
    SpeechStarted,
    StreamFailed,
)
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import PoolError
from ray_whisper_streaming.wire.actions import FeedAudio, FinishStream, FlushStream
from ray_whisper_streaming.wire.deepgram import ListenProtocol
from ray_whisper_streaming.wire.deepgram_query import ListenQuery

SHAPES: dict[str, Any] = {
    "Results": ListenV1Results,
    "Metadata": ListenV1Metadata,
    "SpeechStarted": ListenV1SpeechStarted,
    "UtteranceEnd": ListenV1UtteranceEnd,
    "Error": ListenV1Error,
    "ConfigureFailure": ListenV1ConfigureFailure,
}
FULL = {"interim_results": "true", "vad_events": "true", "punctuate": "true", "utterance_end_ms": "1000"}


class Peer:
    """A client and the shell in one."""

    def __init__(self, **query: str) -> None:
        query = {"encoding": "linear16", "sample_rate": "16000", **query}
        parsed = ListenQuery.parse(query.items(), ("tiny.en",))
        self.protocol = ListenProtocol("r1", parsed, "2026-01-02T03:04:05Z")

    def send(self, kind: str, **fields: Any) -> None:
        self.protocol.receive_message(json.dumps({"type": kind, **fields}))

    def finalize(self) -> str:
        self.send("Finalize")
        flush = self.protocol.actions()[-1]
        assert isinstance(flush, FlushStream)
        return flush.flush_id

    def hear(self, *events: Any, channel: int = 0) -> None:
        for event in events:
            self.protocol.receive_event(channel, event)

    def read(self) -> list[dict[str, Any]]:
        messages = [json.loads(message) for message in self.protocol.messages()]
        for message in messages:
            SHAPES[message["type"]].model_validate(message, strict=True)
        return messages

    def results(self) -> list[tuple[str, bool, bool, bool]]:
        return [
            (
                each["channel"]["alternatives"][0]["transcript"],
                each["is_final"],
                each["speech_final"],
                each["from_finalize"],
            )
            for each in self.read()
            if each["type"] == "Results"
        ]


def words(*texts: str, start_s: float = 0.0) -> tuple[Word, ...]:
    return tuple(Word(text, start_s + i, start_s + i + 0.5, 0.8) for i, text in enumerate(texts))


def committed(*texts: str, start_s: float = 0.0) -> Committed:
    return Committed(words=words(*texts, start_s=start_s), first_index=0)


def final(*texts: str, end: bool = False) -> Final:
    return Final(utterance=0, words=words(*texts), end_of_stream=end)


def test_binary_messages_are_audio() -> None:
    peer = Peer()
    peer.protocol.receive_message(b"\1\2")
    assert peer.protocol.actions() == [FeedAudio(b"\1\2")]


def test_an_utterance() -> None:
    peer = Peer(**FULL)
    peer.hear(SpeechStarted(at_s=0.25), Partial(words=words(" Good", " mourning")))
    started, interim = peer.read()
    assert (started["type"], started["channel"], started["timestamp"]) == ("SpeechStarted", [0, 1], 0.25)
    assert interim["is_final"] is False
    peer.hear(committed(" Good", " morning,"), Partial(words=words(" all", start_s=2)))
    told, interim = peer.read()
    assert (told["is_final"], told["speech_final"]) == (True, False)
    assert (told["start"], told["duration"]) == (0.0, 1.5)
    assert interim["channel"]["alternatives"][0]["transcript"] == "all"
    assert (interim["start"], interim["duration"]) == (1.5, 1.0)
    peer.hear(SpeechEnded(at_s=3.0))
    assert peer.read() == []
    peer.hear(committed(" all.", start_s=2), Partial(words=()), final(" Good", " morning,", " all."))
    (last,) = peer.read()
    assert (last["is_final"], last["speech_final"], last["from_finalize"]) == (True, True, False)
    (alternative,) = last["channel"]["alternatives"]
    assert alternative["words"] == [
        {"word": "all", "start": 2, "end": 2.5, "confidence": 0.8, "punctuated_word": "all."}
    ]
    assert alternative["confidence"] == 0.8
    assert last["metadata"]["request_id"] == "r1"
    assert last["metadata"]["model_info"]["name"] == "tiny.en"


def test_an_end_whose_words_were_told_before() -> None:
    peer = Peer()
    peer.hear(SpeechStarted(at_s=0.0), committed(" Hi."))
    assert peer.results() == [("hi", True, False, False)]
    peer.hear(SpeechEnded(at_s=1.0), final(" Hi."))
    assert peer.results() == [("", True, True, False)]
    peer.hear(SpeechStarted(at_s=2.0), SpeechEnded(at_s=2.1), final())
    assert peer.results() == []  # a cough


def test_interim_results_only_where_wanted() -> None:
    peer = Peer()
    peer.hear(Partial(words=words(" Good")))
    assert peer.results() == []


def test_without_endpointing_no_speech_is_final() -> None:
    peer = Peer(endpointing="false")
    peer.hear(SpeechStarted(at_s=0.0), SpeechEnded(at_s=1.0), committed(" Hi."), final(" Hi."))
    assert peer.results() == [("hi", True, False, False)]


@pytest.mark.parametrize(
    ("texts", "bare"),
    [
        ((" Don't", " pay", " $3.50,", " ok?"), "don't pay 3.50 ok"),
        ((" Hello", " —", " world!"), "hello world"),
        (("你好", "，", "世界", "。"), "你好世界"),
        ((" É", " Ünique"), "é ünique"),
    ],
)
def test_without_punctuation(texts: tuple[str, ...], bare: str) -> None:
    peer = Peer()
    peer.hear(committed(*texts))
    (told,) = peer.read()
    (alternative,) = told["channel"]["alternatives"]
    assert alternative["transcript"] == bare
    assert all("punctuated_word" not in word for word in alternative["words"])
    assert "".join(word["word"] for word in alternative["words"]) == bare.replace(" ", "")


def test_finalize() -> None:
    peer = Peer()
    peer.protocol.receive_message(b"\0\0")
    flush_id = peer.finalize()
    peer.hear(SpeechStarted(at_s=0.0), SpeechEnded(at_s=1.0), committed(" Hi."), final(" Hi."))
    peer.hear(Flushed(flush_id=flush_id, at_s=1.0))
    assert peer.results() == [("hi", True, False, True)]
    flush_id = peer.finalize()
    peer.hear(Flushed(flush_id=flush_id, at_s=1.0))
    assert peer.results() == [("", True, False, True)]
    peer.hear(SpeechStarted(at_s=1.5), SpeechEnded(at_s=2.0), committed(" Ho."), final(" Ho."))
    assert peer.results() == [("ho", True, True, False)]


def test_a_pause_before_the_finalize_stays_a_pause() -> None:
    peer = Peer()
    peer.protocol.receive_message(b"\0\0")
    peer.hear(SpeechStarted(at_s=0.0), SpeechEnded(at_s=1.0))
    flush_id = peer.finalize()
    peer.hear(committed(" Hi."), final(" Hi."), Flushed(flush_id=flush_id, at_s=1.5))
    assert peer.results() == [("hi", True, True, False), ("", True, False, True)]


def test_finalize_of_two_channels() -> None:
    peer = Peer(channels="2", multichannel="true")
    flush_id = peer.finalize()
    peer.hear(committed(" Left."))
    peer.hear(committed(" Right."), channel=1)
    peer.hear(Flushed(flush_id=flush_id, at_s=1.0))
    told = peer.read()
    assert [(each["channel_index"], each["from_finalize"]) for each in told] == [
        ([0, 2], True),
        ([1, 2], True),
    ]
    assert told[1]["channel"]["alternatives"][0]["transcript"] == "right"


def test_close_stream() -> None:
    peer = Peer(channels="2", multichannel="true")
    peer.protocol.receive_message(b"abc")
    peer.send("CloseStream")
    assert peer.protocol.actions()[-1] == FinishStream()
    peer.protocol.receive_message(b"ignored")
    assert peer.protocol.actions() == []
    peer.protocol.receive_progress(0, 2.5, settled=False)
    peer.hear(SpeechEnded(at_s=1.0), committed(" Bye."), final(" Bye.", end=True))
    assert peer.results() == [("bye", True, False, False)]
    assert peer.protocol.close is None
    peer.hear(final(end=True), channel=1)
    (metadata,) = peer.read()
    assert metadata["type"] == "Metadata"
    assert metadata["sha256"] == hashlib.sha256(b"abc").hexdigest()
    assert (metadata["duration"], metadata["channels"]) == (2.5, 2)
    assert peer.protocol.close == (1000, "")


@pytest.mark.parametrize("last", [b"", '{"type": "CloseStream"}'])
def test_an_end_before_any_audio(last: str | bytes) -> None:
    peer = Peer()
    peer.protocol.receive_message(last)
    assert peer.protocol.actions() == []
    (metadata,) = peer.read()
    assert metadata["duration"] == 0.0
    assert peer.protocol.close == (1000, "")


def test_utterance_end_comes_once_the_silence_is_known() -> None:
    peer = Peer(**FULL)
    peer.hear(SpeechStarted(at_s=0.0), committed(" Hi."))
    peer.read()
    peer.protocol.receive_progress(0, 3.0, settled=True)
    assert peer.read() == []  # still speaking
    peer.hear(SpeechEnded(at_s=0.7))
    peer.protocol.receive_progress(0, 3.0, settled=True)
    assert peer.read() == []  # not decoded yet
    peer.hear(final(" Hi."))
    peer.read()
    peer.protocol.receive_progress(0, 3.0, settled=False)
    peer.protocol.receive_progress(0, 1.4, settled=True)
    assert peer.read() == []
    peer.protocol.receive_progress(0, 1.5, settled=True)
    (end,) = peer.read()
    assert (end["type"], end["channel"], end["last_word_end"]) == ("UtteranceEnd", [0, 1], 0.5)
    peer.protocol.receive_progress(0, 9.0, settled=True)
    assert peer.read() == []


def test_utterance_end_of_audio_faster_than_speech() -> None:
    peer = Peer(**FULL)
    peer.hear(SpeechStarted(at_s=0.0), SpeechEnded(at_s=0.7), committed(" Hi."), final(" Hi."))
    peer.hear(SpeechStarted(at_s=1.2), SpeechEnded(at_s=1.6), committed(" You.", start_s=1.2), final(" You."))
    peer.hear(SpeechStarted(at_s=5.0))
    ends = [each["last_word_end"] for each in peer.read() if each["type"] == "UtteranceEnd"]
    assert ends == [1.7]


def test_utterance_end_where_voice_activity_is_ahead_of_the_words() -> None:
    peer = Peer(**FULL)
    peer.hear(SpeechStarted(at_s=0.0), SpeechEnded(at_s=0.7), SpeechStarted(at_s=5.0), SpeechEnded(at_s=5.7))
    assert [each["type"] for each in peer.read()] == ["SpeechStarted", "SpeechStarted"]
    peer.hear(committed(" Hi."), final(" Hi."))
    assert [each["type"] for each in peer.read()] == ["Results", "UtteranceEnd"]
    peer.hear(committed(" You.", start_s=5.0), final(" You."))
    assert [each["type"] for each in peer.read()] == ["Results"]
    peer.protocol.receive_progress(0, 9.0, settled=True)
    assert [each["last_word_end"] for each in peer.read()] == [5.5]


def test_keep_alive_and_configure() -> None:
    peer = Peer()
    peer.send("KeepAlive")
    assert peer.read() == []
    peer.send("Configure", keyterms=["x"])
    (answer,) = peer.read()
    assert answer["code"] == "CONFIGURE_KEYTERMS_NOT_SUPPORTED"


@pytest.mark.parametrize(
    "message", ["{", "[]", "7", '{"type": "Hello"}', '{"type": 5}', "[" * 50_000, '"\ud800"']
)
def test_bad_messages_are_answered_and_harm_nothing(message: str) -> None:
    peer = Peer()
    peer.protocol.receive_message(message)
    (error,) = peer.read()
    assert (error["type"], error["variant"]) == ("Error", "SchemaError")
    peer.protocol.receive_message(b"\0\0")
    assert len(peer.protocol.actions()) == 1


def test_the_server_ends_the_connection() -> None:
    peer = Peer()
    peer.protocol.receive_message(b"\0\0")
    peer.protocol.receive_ending(1011, "NET-0001")
    assert peer.read() == []
    peer.hear(committed(" Bye."), final(" Bye.", end=True))
    assert [each["type"] for each in peer.read()] == ["Results", "Metadata"]
    assert peer.protocol.close == (1011, "NET-0001")


def test_audio_that_is_none_ends_the_connection() -> None:
    peer = Peer()
    peer.protocol.receive_bad_audio("no audio in it")
    (error,) = peer.read()
    assert error["variant"] == "DataError"
    assert peer.protocol.close == (1008, "DATA-0000")


def test_a_failed_stream_ends_the_connection_without_telling_why_in_words() -> None:
    peer = Peer()
    peer.hear(committed(" Hi."), StreamFailed(error=PoolError("words of nobody's business")))
    told, error = peer.read()
    assert told["is_final"]
    assert "nobody" not in json.dumps(error)
    assert peer.protocol.close == (1011, "the transcription failed")
