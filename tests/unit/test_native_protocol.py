"""The native protocol without sockets: messages in, commands out; events in, messages out."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from ray_whisper_streaming.core import events as core
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import ConfigurationError, EngineError, ProtocolError
from ray_whisper_streaming.wire import native, native_messages
from ray_whisper_streaming.wire.native import Audio, ServerSide, decode_server_message, encode, encode_audio
from ray_whisper_streaming.wire.native_messages import Close, Flush, KeepAlive, Options, Resume

WORDS = (Word(" Good", 0.5, 0.84, 0.91234), Word(" morning.", 0.84, 1.5, 0.5))


def opened() -> ServerSide:
    machine = ServerSide()
    machine.receive('{"type":"options"}')
    return machine


def code_of(machine: ServerSide, message: str | bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        machine.receive(message)
    return caught.value.code


# ---------------------------------------------------------------- in


def test_a_session_from_options_to_close() -> None:
    machine = ServerSide()
    assert machine.receive('{"type":"options","language":"de"}') == Options(language="de")
    assert machine.receive(encode_audio(0, b"ab")) == Audio(0, b"ab")
    assert machine.receive('{"type":"flush","id":"a"}') == Flush(id="a")
    assert machine.receive('{"type":"keep_alive"}') == KeepAlive()
    assert machine.receive(encode_audio(1, b"cd")) == Audio(1, b"cd")
    assert machine.receive('{"type":"close"}') == Close()
    assert machine.receive('{"type":"keep_alive"}') == KeepAlive()
    assert machine.state == "closing"


def test_sequence_numbers_stand_in_front_little_endian() -> None:
    assert encode_audio(258, b"xy") == b"\x02\x01\x00\x00xy"


def test_audio_that_was_seen_is_dropped_and_missing_audio_is_an_error() -> None:
    machine = opened()
    for number in range(3):
        machine.receive(encode_audio(number, b"ab"))
    assert machine.receive(encode_audio(1, b"ab")) is None
    assert machine.next_audio == 3
    assert code_of(machine, encode_audio(4, b"ab")) == "audio_gap"
    assert machine.receive(encode_audio(3, b"ab")) == Audio(3, b"ab")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (encode_audio(0, b"ab"), "options_first"),
        ('{"type":"flush","id":"a"}', "options_first"),
        ('{"type":"close"}', "options_first"),
        ("hello", "bad_json"),
        ("", "bad_json"),
        ("[" * 100_000, "bad_message"),
        ("[1]", "bad_message"),
        ('{"language":"en"}', "bad_message"),
        ('{"type":"start"}', "bad_message"),
        ('{"type":"options","langauge":"en"}', "bad_message"),
        ('{"type":"options","channels":"2"}', "bad_message"),
        ('{"type":"options","encoding":"mp3"}', "bad_message"),
        ('{"type":"options","channels":1e99}', "bad_message"),
        (b"", "bad_audio_message"),
        (struct.pack("<I", 0), "bad_audio_message"),
    ],
)
def test_first_messages_that_are_wrong(message: str | bytes, code: str) -> None:
    assert code_of(ServerSide(), message) == code


@pytest.mark.parametrize("message", ['{"type":"options"}', '{"type":"resume","session_id":"x"}'])
def test_options_twice(message: str) -> None:
    assert code_of(opened(), message) == "options_twice"


@pytest.mark.parametrize("message", [encode_audio(0, b"ab"), '{"type":"flush"}'])
def test_nothing_comes_after_close(message: str | bytes) -> None:
    machine = opened()
    machine.receive('{"type":"close"}')
    assert code_of(machine, message) == "after_close"


def test_close_may_be_said_again_by_a_client_that_resumed() -> None:
    machine = opened()
    machine.receive('{"type":"close"}')
    assert machine.receive('{"type":"close"}') is None
    assert machine.state == "closing"


def test_a_flush_id_is_kept_so_it_is_short() -> None:
    assert code_of(opened(), json.dumps({"type": "flush", "id": "x" * 129})) == "bad_message"


def test_resume_names_session_and_last_event() -> None:
    command = ServerSide().receive('{"type":"resume","session_id":"abc","after":7}')
    assert command == Resume(session_id="abc", after=7)


def test_error_texts_are_cut() -> None:
    with pytest.raises(ProtocolError) as caught:
        ServerSide().receive(json.dumps({"type": "options", "x" * 10_000: 1}))
    assert len(str(caught.value)) <= 300


# ---------------------------------------------------------------- options


def test_options_default_to_those_of_the_library() -> None:
    assert Options().stream_options() == StreamOptions()


def test_every_option_arrives() -> None:
    given: dict[str, Any] = {
        "model": "base",
        "languages": ["de", "en"],
        "task": "translate",
        "prompt": "A call.",
        "hotwords": ["Fritzbox", "Vodafone"],
        "context": True,
        "policy": "agreement",
        "commit_delay": 0.7,
        "update_interval": 0.9,
        "beam_size": 2,
        "temperature": 0.3,
        "voice_activity": False,
        "endpointing": {"threshold": 0.2, "min_speech": 0.1, "min_silence": 0.1, "sentence_silence": 0.07},
        "trim_at": "sentence",
        "max_utterance": 20,
    }
    command = ServerSide().receive(json.dumps({"type": "options", **given}))
    assert isinstance(command, Options)
    options = command.stream_options()
    assert (options.model, options.allowed_languages, options.task) == ("base", ("de", "en"), "translate")
    assert (options.prompt, options.hotwords, options.context) == ("A call.", "Fritzbox, Vodafone", True)
    assert (options.policy, options.commit_delay_s, options.update_interval_s) == ("agreement", 0.7, 0.9)
    assert (options.beam_size, options.temperature) == (2, 0.3)
    assert (options.voice_activity, options.max_utterance_s) == (False, 20)
    assert options.trimming.at == "sentence"
    endpointing = options.endpointing
    assert (endpointing.threshold, endpointing.min_speech_s, endpointing.min_silence_s) == (0.2, 0.1, 0.1)
    assert endpointing.sentence_silence_s == 0.07
    assert endpointing.release <= 0.2  # what the library wants of them still holds
    assert endpointing.end_padding_s <= 0.1


@pytest.mark.parametrize(
    "field", [{"language": "xx"}, {"update_interval": 0.0}, {"beam_size": 99}, {"temperature": 2}]
)
def test_values_out_of_range_are_the_librarys_error(field: dict[str, Any]) -> None:
    command = ServerSide().receive(json.dumps({"type": "options", **field}))
    assert isinstance(command, Options)
    with pytest.raises(ConfigurationError):
        command.stream_options()


# ---------------------------------------------------------------- out


def told(event: core.Event, options: Options | None = None, channel: int = 0) -> dict[str, Any]:
    message = native.numbered(native.event_message(event, channel, options or Options(), 1.23456), 5)
    text = encode(message)
    assert decode_server_message(text) == message
    return json.loads(text)


def test_committed_words_have_ids_times_and_probabilities() -> None:
    assert told(core.Committed(words=WORDS, first_index=7), channel=1) == {
        "type": "committed",
        "n": 5,
        "channel": 1,
        "text": " Good morning.",
        "first_id": 7,
        "count": 2,
        "start": 0.5,
        "end": 1.5,
        "words": [
            {"id": 7, "text": " Good", "start": 0.5, "end": 0.84, "probability": 0.912},
            {"id": 8, "text": " morning.", "start": 0.84, "end": 1.5, "probability": 0.5},
        ],
    }
    assert "words" not in told(core.Committed(words=WORDS, first_index=7), Options(word_times=False))


def test_partials_have_words_if_wanted() -> None:
    partial = core.Partial(words=WORDS)
    assert told(partial) == {"type": "partial", "n": 5, "text": " Good morning."}
    words = told(partial, Options(partial_words=True))["words"]
    assert [word["text"] for word in words] == [" Good", " morning."]
    assert "id" not in words[0]


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        ((" Good", " mor", "ning", "."), "Good morning."),
        (("おはよう", "ござい", "ます。"), "おはようございます。"),
        ((" Wir", "下", " sind"), "Wir下 sind"),
    ],
)
def test_committed_and_partial_texts_are_joined_as_they_are(pieces: tuple[str, ...], whole: str) -> None:
    words = tuple(Word(text, index, index + 1.0) for index, text in enumerate(pieces))
    for cut in range(1, len(words)):
        committed = told(core.Committed(words=words[:cut], first_index=0), Options(word_times=False))
        partial = told(core.Partial(words=words[cut:]))
        assert (committed["text"] + partial["text"]).lstrip() == whole
    assert told(core.Partial(words=()))["text"] == ""


@pytest.mark.parametrize(
    ("event", "facts"),
    [
        (core.SpeechStarted(at_s=0.32), {"type": "speech_started", "at": 0.32}),
        (core.SpeechEnded(at_s=1.5), {"type": "speech_ended", "at": 1.5}),
        (core.Flushed(flush_id="a", at_s=2.0), {"type": "flushed", "id": "a", "at": 2.0}),
        (
            core.LanguageDetected(language="de", probability=0.98765),
            {"type": "language", "language": "de", "probability": 0.988},
        ),
        (
            core.Final(utterance=2, words=WORDS),
            {"type": "final", "utterance": 2, "text": "Good morning.", "start": 0.5, "end": 1.5},
        ),
        (
            core.Final(utterance=3, words=(), end_of_stream=True),
            {"type": "final", "utterance": 3, "text": "", "end_of_stream": True},
        ),
        (
            core.JobFailed(error=EngineError("boom", job_id="j"), retry_in_s=0.5),
            {"type": "slowed", "reason": "failure", "lag": 1.235},
        ),
        (
            core.StreamFailed(error=EngineError("boom", job_id="j")),
            {"type": "error", "code": "stream_failed", "message": "boom", "fatal": True},
        ),
    ],
)
def test_other_events(event: core.Event, facts: dict[str, Any]) -> None:
    assert told(event) == {"n": 5, **facts}


@pytest.mark.parametrize("text", ["", "{}", '{"type":"hello"}', '{"type":"partial"}', b"\xff"])
def test_a_client_checks_what_it_gets(text: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_server_message(text)


def test_ready_says_what_a_client_needs() -> None:
    limits = native_messages.Limits(message_bytes=1, idle=2.0, session=3.0, resume=4.0)
    ready = native_messages.Ready(
        session_id="s", model="m", next_audio=3, streams=2, limits=limits, resumed=True
    )
    assert json.loads(encode(ready)) == {
        "type": "ready",
        "protocol": 1,
        "session_id": "s",
        "model": "m",
        "next_audio": 3,
        "streams": 2,
        "closing": False,
        "resumed": True,
        "limits": {"message_bytes": 1, "idle": 2.0, "session": 3.0, "resume": 4.0},
    }
