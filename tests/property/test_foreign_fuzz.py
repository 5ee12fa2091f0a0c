"""Whatever is sent in the protocols of other makers, only documented errors come out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from ray_whisper_streaming.core.events import (
    Committed,
    Event,
    Final,
    Flushed,
    LanguageDetected,
    Partial,
    SpeechEnded,
    SpeechStarted,
    StreamFailed,
)
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import AudioError, PoolError
from ray_whisper_streaming.server.codecs import CodedAudio, framed
from ray_whisper_streaming.wire.actions import FinishStream, FlushStream, OpenStream
from ray_whisper_streaming.wire.deepgram import ListenProtocol
from ray_whisper_streaming.wire.deepgram_query import BadQuery, ListenQuery
from ray_whisper_streaming.wire.openai_common import BadParameter
from ray_whisper_streaming.wire.openai_realtime import RealtimeProtocol
from ray_whisper_streaming.wire.openai_rest import TranscriptionRequest
from ray_whisper_streaming.wire.openai_session import SessionConfig

MODELS = ("tiny.en", "base")
SHAPES: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)

REALTIME_CODES = {
    "input_audio_buffer_commit_empty",
    "invalid_event",
    "invalid_type",
    "invalid_value",
    "missing_required_parameter",
    "model_not_found",
    "transcription_failed",
    "unknown_parameter",
}
"""As docs/other_protocols.md lists them."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
INPUT_NAMES = st.sampled_from(["format", "noise_reduction", "transcription", "turn_detection", "other"])
INNER_NAMES = st.sampled_from(
    ["type", "rate", "model", "language", "languages", "prompt", "keywords", "delay", "threshold"]
) | st.sampled_from(
    ["prefix_padding_ms", "silence_duration_ms", "create_response", "idle_timeout_ms", "eagerness"]
)
INNER_VALUES = JSON | st.sampled_from(
    [
        "audio/pcm",
        "audio/pcmu",
        "server_vad",
        "semantic_vad",
        "high",
        "en",
        "de",
        "whisper-1",
        "base",
        0.5,
        500,
        24000,
    ]
)
INPUTS = st.dictionaries(
    INPUT_NAMES, JSON | st.dictionaries(INNER_NAMES, INNER_VALUES, max_size=3), max_size=3
)
SESSIONS = st.one_of(
    JSON,
    st.builds(lambda inside: {"type": "transcription", "audio": {"input": inside}}, INPUTS),
    st.builds(
        lambda on: {
            "type": "transcription",
            "audio": {"input": {"turn_detection": {"type": "server_vad"} if on else None}},
        },
        st.booleans(),
    ),
)
TYPES = st.sampled_from(
    ["session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"]
) | st.sampled_from(["response.create", "nonsense"])
EVENTS_OF_CLIENTS = st.one_of(
    st.builds(lambda kind, event_id: {"type": kind, "event_id": event_id}, TYPES, JSON),
    st.builds(lambda session: {"type": "session.update", "session": session}, SESSIONS),
    st.builds(lambda audio: {"type": "input_audio_buffer.append", "audio": audio}, JSON),
    st.just({"type": "input_audio_buffer.append", "audio": "AAAA" * 4_800}),
    st.just({"type": "input_audio_buffer.append", "audio": "AAAA" * 4_800}),
    st.just({"type": "input_audio_buffer.commit"}),
    JSON,
).map(json.dumps)
TEXTS_AND_BYTES = st.text(max_size=40) | st.binary(max_size=20)

WORDS = st.lists(
    st.builds(
        lambda text, start, length, probability: Word(text, start, start + length, probability),
        st.text(max_size=6),
        st.floats(0, 100),
        st.floats(0, 2),
        st.floats(0, 1),
    ),
    max_size=3,
).map(tuple)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(lambda words: Committed(words=words, first_index=0), WORDS),
    st.builds(lambda words: Partial(words=words), WORDS),
    st.builds(lambda words, end: Final(utterance=0, words=words, end_of_stream=end), WORDS, st.booleans()),
    st.builds(lambda at_s: SpeechStarted(at_s=at_s), st.floats(0, 100)),
    st.builds(lambda at_s: SpeechEnded(at_s=at_s), st.floats(0, 100)),
    st.builds(lambda number: Flushed(flush_id=f"commit-{number}", at_s=0.0), st.integers(1, 4)),
    st.builds(lambda number: Flushed(flush_id=f"finalize-{number}", at_s=0.0), st.integers(1, 4)),
    st.just(LanguageDetected(language="en", probability=1.0)),
    st.just(StreamFailed(error=PoolError("secret"))),
)


@given(st.lists(EVENTS_OF_CLIENTS | TEXTS_AND_BYTES | EVENTS, max_size=15))
@settings(max_examples=400)
def test_realtime(steps: list[Any]) -> None:
    protocol = RealtimeProtocol("s", SessionConfig.default(MODELS))
    open_streams = 0
    for step in steps:
        if isinstance(step, (str, bytes)):
            protocol.receive_message(step)
        else:
            protocol.receive_event(step)
        for action in protocol.actions():
            # One stream is fed at a time, and nothing is asked of one that is not open.
            if isinstance(action, OpenStream):
                open_streams = 1
            else:
                assert open_streams == 1
                open_streams -= isinstance(action, FinishStream)
        for message in protocol.messages():
            decoded = json.loads(message)
            SHAPES.validate_python(decoded)
            if decoded["type"] == "error":
                assert decoded["error"]["code"] in REALTIME_CODES


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=12))
def test_every_commit_is_answered_once_in_order(steps: list[tuple[bool, int]]) -> None:
    """The client commits or switches turn detection; the streams answer in due order, when they get to it."""
    protocol = RealtimeProtocol("s", SessionConfig.default(MODELS))
    waiting: list[Event] = []
    committed: list[str] = []
    completed: list[str] = []
    second = json.dumps({"type": "input_audio_buffer.append", "audio": "AAAA" * 16_000})
    manual = False
    for commit, answers in [*steps, (False, 1000)]:
        if commit:
            protocol.receive_message(second)
            protocol.receive_message('{"type": "input_audio_buffer.commit"}')
        else:
            manual = not manual
            turn_detection = None if manual else {"type": "server_vad"}
            session = {"type": "transcription", "audio": {"input": {"turn_detection": turn_detection}}}
            protocol.receive_message(json.dumps({"type": "session.update", "session": session}))
        for action in protocol.actions():
            if isinstance(action, FlushStream):
                waiting.append(Flushed(flush_id=action.flush_id, at_s=0.0))
            elif isinstance(action, FinishStream):
                waiting.append(Final(utterance=0, words=(), end_of_stream=True))
        for event in waiting[:answers]:
            protocol.receive_event(event)
        del waiting[:answers]
        for message in map(json.loads, protocol.messages()):
            assert message["type"] != "error"
            if message["type"] == "input_audio_buffer.committed":
                committed.append(message["item_id"])
            elif message["type"].endswith("transcription.completed"):
                completed.append(message["item_id"])
    assert completed == committed


@given(SESSIONS)
@settings(max_examples=300)
def test_sessions(session: object) -> None:
    try:
        config = SessionConfig.default(MODELS).updated(session)
    except BadParameter:
        return
    config.stream_options()
    assert SessionConfig.default(MODELS).updated(_shown(config)).public("s") == config.public("s")


def _shown(config: SessionConfig) -> dict[str, Any]:
    """What the client reads it may send back."""
    return {name: value for name, value in config.public("s").items() if name not in ("id", "object")}


LISTEN_MESSAGES = st.one_of(
    st.sampled_from(["Finalize", "CloseStream", "KeepAlive", "Configure", "Hello"]).map(
        lambda kind: json.dumps({"type": kind})
    ),
    JSON.map(json.dumps),
    TEXTS_AND_BYTES,
)


@given(st.lists(LISTEN_MESSAGES | st.tuples(st.integers(0, 1), EVENTS), max_size=15))
@settings(max_examples=400)
def test_listen(steps: list[Any]) -> None:
    query = ListenQuery.parse(
        {
            "encoding": "linear16",
            "sample_rate": "8000",
            "channels": "2",
            "multichannel": "true",
            "interim_results": "true",
            "utterance_end_ms": "1000",
            "vad_events": "true",
        }.items(),
        MODELS,
    )
    protocol = ListenProtocol("r", query, "2026-01-01T00:00:00Z")
    metadata = 0
    for step in steps:
        if isinstance(step, tuple):
            protocol.receive_event(*step)
            protocol.receive_progress(step[0], 50.0, settled=True)
        else:
            protocol.receive_message(step)
        protocol.actions()
        for message in map(json.loads, protocol.messages()):
            assert message["type"] in {
                *("Results", "Metadata", "SpeechStarted", "UtteranceEnd", "Error", "ConfigureFailure")
            }
            metadata += message["type"] == "Metadata"
    assert metadata <= 1


QUERY_NAMES = st.sampled_from(
    ["encoding", "sample_rate", "channels", "multichannel", "interim_results", "punctuate", "endpointing"]
) | st.sampled_from(
    ["utterance_end_ms", "vad_events", "keywords", "keyterm", "language", "model", "diarize", "other"]
)
QUERY_VALUES = st.text(max_size=10) | st.sampled_from(
    ["true", "false", "linear16", "opus", "8000", "2", "en-US", "multi", "nova-3", "base", "1000", "Ada:3"]
)


@given(st.lists(st.tuples(QUERY_NAMES, QUERY_VALUES), max_size=8))
@settings(max_examples=400)
def test_queries(query: list[tuple[str, str]]) -> None:
    try:
        ListenQuery.parse(query, MODELS)
    except BadQuery:
        pass


FORM_NAMES = (
    st.sampled_from(
        [
            "model",
            "language",
            "languages[]",
            "prompt",
            "response_format",
            "temperature",
            "stream",
            "include[]",
        ]
    )
    | st.sampled_from(
        ["timestamp_granularities[]", "chunking_strategy", "chunking_strategy[type]", "keywords"]
    )
    | st.sampled_from(
        ["chunking_strategy[threshold]", "chunking_strategy[silence_duration_ms]", "known_speaker_names[]"]
    )
)
FORM_VALUES = st.one_of(
    st.text(max_size=10),
    JSON.map(json.dumps),
    st.sampled_from(
        ["tiny.en", "whisper-1", "en", "json", "verbose_json", "word", "true", "0.5", "server_vad"]
    ),
)


@given(st.lists(st.tuples(FORM_NAMES, FORM_VALUES), max_size=8), st.booleans())
@settings(max_examples=400)
def test_forms(fields: list[tuple[str, str]], translate: bool) -> None:
    try:
        TranscriptionRequest.parse([("model", "base"), *fields], MODELS, translate=translate)
    except BadParameter:
        pass


HEADS = st.sampled_from(
    [
        b"",
        b"RIFF\xff\xff\xff\xffWAVEfmt ",
        b"OggS\0\2",
        b"\x1aE\xdf\xa3",
        b"ID3\4\0\0",
        b"\xff\xfb\x90\0",
        b"fLaC\0\0\0\x22",
        b"ffconcat version 1.0\n",
        b"#EXTM3U\n",
        b"\0\0\0\x18ftypmp42",
    ]
)


@pytest.mark.parametrize("codec", ["container", "opus"])
@given(head=HEADS, pieces=st.lists(st.binary(min_size=1, max_size=200), max_size=4))
@settings(max_examples=60)
def test_containers_and_packets(codec: Any, head: bytes, pieces: list[bytes]) -> None:
    (decoder,) = CodedAudio(codec=codec).decoders()
    try:
        for piece in [head, *pieces]:
            decoder.convert(framed(piece) if codec == "opus" else piece)
        decoder.flush()
    except AudioError:
        pass
