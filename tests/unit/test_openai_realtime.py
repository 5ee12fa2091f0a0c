"""OpenAI's Realtime protocol: messages and events in, messages and actions out. Shapes are checked by OpenAI's
package.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from ray_whisper_streaming.core.events import (
    Committed,
    Final,
    Flushed,
    JobFailed,
    LanguageDetected,
    Partial,
    SpeechEnded,
    SpeechStarted,
    StreamFailed,
)
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import Overloaded, PoolError
from ray_whisper_streaming.wire.actions import FeedAudio, FinishStream, FlushStream, OpenStream
from ray_whisper_streaming.wire.openai_realtime import RealtimeProtocol
from ray_whisper_streaming.wire.openai_session import LOGPROBS, SessionConfig

SECOND = b"\0\0" * 24_000
SHAPES: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)


class Peer:
    """A client and the shell in one: sends messages, reads what comes back."""

    def __init__(self, **audio_input: Any) -> None:
        config = SessionConfig.default(("tiny.en", "base"), StreamOptions(model="tiny.en"))
        self.protocol = RealtimeProtocol("s1", config)
        assert self.kinds() == ["session.created"]
        if audio_input:
            self.update(**audio_input)
            assert self.kinds() == ["session.updated"]

    def send(self, kind: str, **fields: Any) -> None:
        self.protocol.receive_message(json.dumps({"type": kind, **fields}))

    def update(self, **audio_input: Any) -> None:
        self.send("session.update", session={"type": "transcription", "audio": {"input": audio_input}})

    def append(self, audio: bytes = SECOND) -> None:
        self.send("input_audio_buffer.append", audio=base64.b64encode(audio).decode())

    def commit(self) -> None:
        self.send("input_audio_buffer.commit")

    def hear(self, *events: Any) -> None:
        for event in events:
            self.protocol.receive_event(event)

    def read(self) -> list[dict[str, Any]]:
        messages = [json.loads(message) for message in self.protocol.messages()]
        for message in messages:
            SHAPES.validate_python(message)
        return messages

    def kinds(self) -> list[str]:
        return [message["type"] for message in self.read()]

    def error(self) -> dict[str, Any]:
        (message,) = self.read()
        assert message["type"] == "error"
        return message["error"]

    def actions(self) -> list[Any]:
        return self.protocol.actions()


def words(*texts: str, start_s: float = 0.0) -> tuple[Word, ...]:
    return tuple(Word(text, start_s + 0.3 * i, start_s + 0.3 * i + 0.2, 0.9) for i, text in enumerate(texts))


def committed(*texts: str) -> Committed:
    return Committed(words=words(*texts), first_index=0)


def final(*texts: str, end: bool = False) -> Final:
    return Final(utterance=0, words=words(*texts), end_of_stream=end)


TURN = [
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
]
DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"
FAILED = "conversation.item.input_audio_transcription.failed"


def test_an_utterance_with_server_vad() -> None:
    peer = Peer()
    peer.append(SECOND * 3)
    opened, fed = peer.actions()
    assert isinstance(opened, OpenStream)
    assert (opened.audio.encoding, opened.audio.sample_rate) == ("s16le", 24_000)
    assert opened.options.endpointing.min_silence_s == 0.5
    assert fed == FeedAudio(SECOND * 3)
    peer.hear(SpeechStarted(at_s=0.25), Partial(words=words(" Good")), committed(" Good", " morning,"))
    started, delta = peer.read()
    assert (started["type"], started["audio_start_ms"]) == ("input_audio_buffer.speech_started", 250)
    assert (delta["type"], delta["delta"]) == (DELTA, "Good morning,")
    peer.hear(SpeechEnded(at_s=1.5), committed(" all."), final(" Good", " morning,", " all."))
    stopped, *turn, second, done = peer.read()
    assert (stopped["type"], stopped["audio_end_ms"]) == ("input_audio_buffer.speech_stopped", 1500)
    assert [each["type"] for each in turn] == TURN
    assert turn[0]["previous_item_id"] is None
    assert second["delta"] == " all."
    assert (done["type"], done["transcript"]) == (COMPLETED, "Good morning, all.")
    assert done["usage"] == {"type": "duration", "seconds": 1.25}
    ids = {
        each.get("item_id") or each["item"]["id"] for each in (started, delta, stopped, *turn, second, done)
    }
    assert len(ids) == 1
    peer.hear(SpeechStarted(at_s=2.0), SpeechEnded(at_s=2.5))
    _, _, after, *_ = peer.read()
    assert after["previous_item_id"] in ids


def test_the_next_utterance_may_begin_before_the_last_is_decoded() -> None:
    peer = Peer()
    peer.append(SECOND * 5)
    peer.hear(SpeechStarted(at_s=0.0), SpeechEnded(at_s=1.0), SpeechStarted(at_s=2.0))
    items = {each["item_id"] for each in peer.read() if each["type"].endswith("speech_started")}
    peer.hear(committed(" One."), final(" One."), committed(" Two."), SpeechEnded(at_s=3.0), final(" Two."))
    texts = {each["item_id"]: each["transcript"] for each in peer.read() if each["type"] == COMPLETED}
    assert set(texts) == items
    assert list(texts.values()) == ["One.", "Two."]


def test_turns_the_client_commits() -> None:
    peer = Peer(turn_detection=None)
    peer.append()
    opened, _ = peer.actions()
    assert opened.options.endpointing == StreamOptions().endpointing
    peer.hear(SpeechStarted(at_s=0.1), committed(" Hello"))
    (delta,) = peer.read()
    peer.commit()
    (flush,) = peer.actions()
    turn = peer.read()
    assert [each["type"] for each in turn] == TURN
    peer.append()
    peer.hear(SpeechEnded(at_s=0.5), final(" Hello"), SpeechStarted(at_s=0.8))  # a pause ends no turn
    peer.hear(SpeechEnded(at_s=1.0), committed(" there."), final(" there."))
    peer.hear(Flushed(flush_id=flush.flush_id, at_s=1.0))
    last, done = peer.read()
    assert (last["delta"], done["transcript"]) == (" there.", "Hello there.")
    assert delta["item_id"] == turn[0]["item_id"] == done["item_id"]
    assert done["usage"]["seconds"] == 1.0
    peer.hear(committed(" More"))
    (more,) = peer.read()
    assert more["item_id"] != done["item_id"]


def test_commits_one_behind_the_other() -> None:
    peer = Peer(turn_detection=None)
    flushes = []
    for _ in range(3):
        peer.append()
        peer.commit()
        flushes += [each.flush_id for each in peer.actions() if isinstance(each, FlushStream)]
    peer.read()
    for number, flush_id in enumerate(flushes):
        peer.hear(committed(f" {number}."), Flushed(flush_id=flush_id, at_s=number + 1.0))
    assert [each["transcript"] for each in peer.read() if each["type"] == COMPLETED] == ["0.", "1.", "2."]


def test_a_commit_amid_an_utterance() -> None:
    peer = Peer()
    peer.append()
    peer.hear(SpeechStarted(at_s=0.2))
    started = peer.read()[-1]
    peer.commit()
    (flush,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    turn = peer.read()
    assert turn[0]["item_id"] == started["item_id"]
    peer.hear(
        SpeechEnded(at_s=1.0), committed(" Hi."), final(" Hi."), Flushed(flush_id=flush.flush_id, at_s=1.0)
    )
    assert peer.kinds() == [DELTA, COMPLETED]


def test_a_commit_before_the_speech_was_noticed() -> None:
    peer = Peer()
    peer.append()
    peer.commit()
    peer.append()
    (flush,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    turn = peer.read()
    peer.hear(SpeechStarted(at_s=0.4), SpeechEnded(at_s=1.0), committed(" Hi."), final(" Hi."))
    peer.hear(Flushed(flush_id=flush.flush_id, at_s=1.0))
    _, done = peer.read()
    assert (done["item_id"], done["transcript"]) == (turn[0]["item_id"], "Hi.")
    peer.hear(SpeechStarted(at_s=0.99, flushes=1))  # its time falls before the commit: a resampler holds back
    assert peer.kinds() == ["input_audio_buffer.speech_started"]
    peer.hear(committed(" Go"))
    (delta,) = peer.read()
    assert delta["item_id"] != done["item_id"]


def test_a_commit_of_two_utterances_before_they_were_noticed() -> None:
    peer = Peer()
    peer.append(SECOND * 4)
    peer.commit()
    (flush,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    assert peer.kinds() == TURN
    peer.hear(SpeechStarted(at_s=0.4), SpeechEnded(at_s=1.0), SpeechStarted(at_s=2.0), SpeechEnded(at_s=3.0))
    peer.hear(committed(" One."), final(" One."), committed(" Two."), final(" Two."))
    assert peer.kinds() == [DELTA, DELTA]
    peer.hear(Flushed(flush_id=flush.flush_id, at_s=4.0))
    (done,) = peer.read()
    assert done["transcript"] == "One. Two."


@pytest.mark.parametrize("turn_detection", [None, {"type": "server_vad"}])
def test_a_commit_of_silence(turn_detection: Any) -> None:
    peer = Peer(turn_detection=turn_detection)
    peer.append()
    peer.commit()
    (flush,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    assert peer.kinds() == TURN
    peer.hear(Flushed(flush_id=flush.flush_id, at_s=1.0))
    (done,) = peer.read()
    assert (done["type"], done["transcript"]) == (COMPLETED, "")


def test_a_commit_of_nothing_is_an_error() -> None:
    peer = Peer(turn_detection=None)
    peer.send("input_audio_buffer.commit", event_id="mine")
    error = peer.error()
    assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "mine")
    peer.append(SECOND[:4_000])
    peer.commit()
    assert peer.error()["code"] == "input_audio_buffer_commit_empty"


@pytest.mark.parametrize("turn_detection", [None, {"type": "server_vad"}])
def test_what_is_cleared_is_never_told(turn_detection: Any) -> None:
    peer = Peer(turn_detection=turn_detection)
    peer.append()
    peer.hear(SpeechStarted(at_s=0.1))
    peer.read()
    peer.send("input_audio_buffer.clear")
    (flush,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    assert peer.kinds() == ["input_audio_buffer.cleared"]
    peer.append()
    peer.hear(SpeechEnded(at_s=1.0), committed(" Secret."), final(" Secret."))
    peer.hear(Flushed(flush_id=flush.flush_id, at_s=1.0))
    assert peer.kinds() == []
    peer.commit()
    (flush,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    peer.hear(SpeechStarted(at_s=1.2), committed(" Kept."), SpeechEnded(at_s=2.0), final(" Kept."))
    peer.hear(Flushed(flush_id=flush.flush_id, at_s=2.0))
    assert peer.read()[-1]["transcript"] == "Kept."


def test_speech_cleared_before_it_was_noticed() -> None:
    peer = Peer()
    peer.append()
    peer.send("input_audio_buffer.clear")
    peer.append()
    peer.read()
    peer.hear(SpeechStarted(at_s=0.3), SpeechEnded(at_s=1.0), committed(" Secret."), final(" Secret."))
    assert peer.kinds() == []
    peer.hear(SpeechStarted(at_s=0.99, flushes=1))  # see above
    assert peer.kinds() == ["input_audio_buffer.speech_started"]


def test_who_speaks_on_over_a_clear_is_heard() -> None:
    peer = Peer()
    peer.append()
    peer.hear(SpeechStarted(at_s=0.2))
    peer.send("input_audio_buffer.clear")
    (flush,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    peer.append()
    peer.read()
    peer.hear(SpeechEnded(at_s=0.99), SpeechStarted(at_s=0.99, flushes=1))
    (started,) = peer.read()
    peer.commit()
    committed_item = peer.read()[0]
    assert (started["type"], started["item_id"]) == (
        "input_audio_buffer.speech_started",
        committed_item["item_id"],
    )
    peer.hear(committed(" Secret."), final(" Secret."), Flushed(flush_id=flush.flush_id, at_s=0.99))
    assert peer.kinds() == []
    (flush,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    peer.hear(SpeechEnded(at_s=1.99), committed(" Kept."), final(" Kept."))
    peer.hear(Flushed(flush_id=flush.flush_id, at_s=1.99))
    assert peer.read()[-1]["transcript"] == "Kept."


def test_a_clear_reaches_what_the_stream_before_has_not_heard_yet() -> None:
    peer = Peer()
    peer.append()
    peer.update(turn_detection=None)
    peer.send("input_audio_buffer.clear")
    (flush,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    peer.read()
    peer.hear(
        SpeechStarted(at_s=0.2), committed(" Secret."), SpeechEnded(at_s=1.0), final(" Secret.", end=True)
    )
    peer.append()
    peer.commit()
    peer.read()
    (flush_two,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    peer.hear(Flushed(flush_id=flush.flush_id, at_s=0.0), committed(" Kept."))
    peer.hear(final(" Kept."), Flushed(flush_id=flush_two.flush_id, at_s=1.0))
    assert peer.read()[-1]["transcript"] == "Kept."


def test_options_changed_amid_the_audio_take_another_stream() -> None:
    peer = Peer()
    peer.append(SECOND * 2)
    peer.hear(SpeechStarted(at_s=1.0))
    peer.actions()
    peer.read()
    peer.update(transcription={"language": "en"}, format={"type": "audio/pcmu"})
    finished, opened = peer.actions()
    assert finished == FinishStream()
    assert peer.kinds() == ["session.updated"]
    peer.append(b"\xff" * 8_000)
    assert (opened.options.language, opened.audio.encoding) == ("en", "mulaw")
    peer.hear(SpeechEnded(at_s=2.0), committed(" Old."), final(" Old.", end=True))
    assert peer.read()[-1]["transcript"] == "Old."
    peer.hear(SpeechStarted(at_s=0.5))
    (started,) = peer.read()
    assert started["audio_start_ms"] == 2_500  # on the time line of the session


def test_an_update_that_changes_nothing_about_the_stream_keeps_it() -> None:
    peer = Peer()
    peer.append()
    peer.actions()
    peer.send(
        "session.update",
        session={"type": "transcription", "include": [LOGPROBS]},
    )
    assert peer.actions() == []
    peer.read()
    peer.hear(SpeechStarted(at_s=0.0), committed(" Hé"))
    (probability,) = peer.read()[-1]["logprobs"]
    assert probability == {"token": " Hé", "bytes": list(" Hé".encode()), "logprob": -0.1054}


def test_a_turn_of_the_client_goes_on_over_an_update() -> None:
    peer = Peer(turn_detection=None)
    peer.append()
    peer.update(transcription={"language": "en"})
    peer.append()
    peer.commit()
    (flush,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    peer.hear(SpeechStarted(at_s=0.0), committed(" One"), SpeechEnded(at_s=1.0), final(" One", end=True))
    peer.hear(SpeechStarted(at_s=0.0), committed(" two."), Flushed(flush_id=flush.flush_id, at_s=1.0))
    assert peer.read()[-1]["transcript"] == "One two."


def test_turn_detection_switched_on_ends_the_turn_under_way() -> None:
    peer = Peer(turn_detection=None)
    peer.append()
    peer.update(turn_detection={"type": "server_vad"})
    flush, finish, _ = peer.actions()[-3:]
    assert isinstance(flush, FlushStream)
    assert finish == FinishStream()
    assert peer.kinds() == [*TURN, "session.updated"]
    peer.hear(committed(" Hi."), Flushed(flush_id=flush.flush_id, at_s=1.0), final(end=True))
    assert peer.kinds() == [DELTA, COMPLETED]


def test_silence_before_turn_detection_was_switched_off_can_be_committed() -> None:
    peer = Peer()
    peer.append()
    peer.update(turn_detection=None)
    peer.commit()
    opened, flush = peer.actions()[-2:]
    assert isinstance(opened, OpenStream)
    peer.hear(final(end=True), Flushed(flush_id=flush.flush_id, at_s=0.0))
    assert peer.read()[-1]["transcript"] == ""


def test_the_old_streams_end_does_not_complete_the_new_streams_turn() -> None:
    peer = Peer()
    peer.append()
    peer.update(turn_detection=None)
    peer.append()
    peer.read()
    peer.hear(final(end=True))
    assert peer.kinds() == []
    peer.hear(committed(" New"))
    assert peer.kinds() == [DELTA]


def test_turn_detection_switched_off_before_the_audio_was_heard() -> None:
    """The utterances of the stream before and the client's turn behind them end in their order, with their words."""
    peer = Peer()
    peer.append(SECOND * 3)
    peer.hear(SpeechStarted(at_s=0.2))
    peer.update(turn_detection=None)
    peer.append()
    peer.commit()
    (flush,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    peer.hear(SpeechEnded(at_s=1.0), SpeechStarted(at_s=2.0), SpeechEnded(at_s=3.0))
    peer.hear(committed(" One."), final(" One."), committed(" Two."), final(" Two.", end=True))
    peer.hear(committed(" Three."), final(" Three."), Flushed(flush_id=flush.flush_id, at_s=1.0))
    told = peer.read()
    assert [each["transcript"] for each in told if each["type"] == COMPLETED] == ["One.", "Two.", "Three."]
    commits = [each["item_id"] for each in told if each["type"] == TURN[0]]
    assert {each["item_id"] for each in told if each["type"] == COMPLETED} == set(commits)
    assert len(commits) == 3


def test_an_item_that_began_in_a_stream_that_fails() -> None:
    peer = Peer(turn_detection=None)
    peer.append()
    peer.update(transcription={"language": "en"})
    peer.append()
    peer.commit()
    peer.append()
    (flush,) = [each for each in peer.actions() if isinstance(each, FlushStream)]
    peer.read()
    peer.hear(StreamFailed(error=PoolError("no")))
    assert peer.kinds() == [FAILED]
    peer.hear(committed(" half"), Flushed(flush_id=flush.flush_id, at_s=1.0))
    assert peer.kinds() == []
    peer.hear(committed(" More"))
    assert peer.kinds() == [DELTA]


def test_a_turn_under_way_over_a_stream_that_fails_begins_anew() -> None:
    peer = Peer(turn_detection=None)
    peer.append()
    peer.update(transcription={"language": "en"})
    peer.append()
    peer.read()
    peer.hear(StreamFailed(error=PoolError("no")))
    assert peer.error()["code"] == "transcription_failed"
    peer.commit()
    flush = peer.actions()[-1]
    peer.hear(committed(" Rest."), Flushed(flush_id=flush.flush_id, at_s=1.0))
    done = peer.read()[-1]
    assert (done["transcript"], done["usage"]["seconds"]) == ("Rest.", 1.0)


def test_a_failed_stream_fails_its_turns_and_the_session_goes_on() -> None:
    peer = Peer()
    peer.append(SECOND * 2)
    peer.actions()
    peer.hear(SpeechStarted(at_s=0.0), SpeechEnded(at_s=1.0))
    peer.read()
    peer.hear(JobFailed(error=Overloaded("q", limit=1, current=1, retry_after_s=1), retry_in_s=1.0))
    assert peer.kinds() == []
    peer.hear(StreamFailed(error=PoolError("words of nobody's business")))
    (failed,) = peer.read()
    assert failed["type"] == FAILED
    assert "nobody" not in json.dumps(failed)
    peer.append()
    assert isinstance(peer.actions()[0], OpenStream)
    peer.hear(SpeechStarted(at_s=0.5))
    assert peer.read()[-1]["audio_start_ms"] == 2_500


def test_a_stream_that_fails_amid_an_utterance() -> None:
    peer = Peer()
    peer.append()
    peer.hear(SpeechStarted(at_s=0.0))
    peer.read()
    peer.hear(StreamFailed(error=PoolError("no")))
    assert peer.error()["type"] == "server_error"
    peer.commit()
    assert peer.error()["code"] == "input_audio_buffer_commit_empty"  # never an empty transcript


def test_the_language_is_told_once_known() -> None:
    peer = Peer()
    peer.append()
    peer.hear(LanguageDetected(language="de", probability=0.9), SpeechStarted(at_s=0.0), committed(" Ja."))
    peer.hear(SpeechEnded(at_s=1.0), final(" Ja."))
    assert peer.read()[-1]["languages"] == [{"code": "de"}]


def test_what_was_said_before_an_update_keeps_its_language() -> None:
    peer = Peer(transcription={"model": "base", "language": "de"})
    peer.append()
    peer.update(transcription={"language": "en"})
    peer.hear(SpeechStarted(at_s=0.0), SpeechEnded(at_s=1.0), committed(" Ja."), final(" Ja.", end=True))
    assert peer.read()[-1]["languages"] == [{"code": "de"}]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"{}", "invalid_event"),
        ("{", "invalid_event"),
        ("[]", "invalid_event"),
        ("[" * 50_000, "invalid_event"),
        ('"\ud800"', "invalid_event"),
        ("{}", "missing_required_parameter"),
        ('{"type": "hello"}', "invalid_value"),
        ('{"type": ["hello"]}', "invalid_value"),
        ('{"type": "response.create"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append"}', "invalid_type"),
        ('{"type": "input_audio_buffer.append", "audio": 5}', "invalid_type"),
        ('{"type": "input_audio_buffer.append", "audio": "no base64!"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "ü"}', "invalid_value"),
        ('{"type": "session.update"}', "invalid_type"),
    ],
)
def test_bad_messages_are_answered_and_harm_nothing(message: str | bytes, code: str) -> None:
    peer = Peer()
    peer.protocol.receive_message(message)
    error = peer.error()
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert peer.actions() == []
    peer.append()
    assert len(peer.actions()) == 2


def test_too_long_an_append() -> None:
    peer = Peer()
    peer.append(bytes(15 * 1024 * 1024 + 1))
    assert peer.error()["param"] == "audio"
    peer.append(b"")
    assert (peer.actions(), peer.read()) == ([], [])


def test_event_ids_are_unique_and_the_clients_own_is_echoed() -> None:
    peer = Peer()
    ids = []
    for number in range(3):
        peer.send("nonsense", event_id=f"e{number}")
        (message,) = peer.read()
        assert message["error"]["event_id"] == f"e{number}"
        ids.append(message["event_id"])
    assert len(set(ids)) == 3
