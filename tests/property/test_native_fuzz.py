"""Whatever a client sends, only documented errors come out."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_whisper_streaming.errors import ConfigurationError, ProtocolError
from ray_whisper_streaming.wire.native import Audio, ServerSide, decode_server_message, encode_audio
from ray_whisper_streaming.wire.native_messages import Options

CODES = {
    "bad_json",
    "bad_message",
    "bad_audio_message",
    "options_first",
    "options_twice",
    "audio_gap",
    "after_close",
}
"""As docs/protocol.md lists them."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "type",
        "id",
        "session_id",
        "after",
        "language",
        "languages",
        "channels",
        "sample_rate",
        "endpointing",
        "prompt",
    ]
)
TYPES = st.sampled_from(["options", "resume", "flush", "close", "keep_alive", "partial"])
ALMOST = st.builds(
    lambda kind, fields: json.dumps({**fields, "type": kind}), TYPES, st.dictionaries(NAMES, JSON, max_size=4)
)
RIGHT = st.sampled_from(
    ['{"type":"options"}', '{"type":"flush","id":"a"}', '{"type":"close"}', '{"type":"keep_alive"}']
)
AUDIO = st.builds(encode_audio, st.integers(0, 6), st.binary(max_size=8))
MESSAGES = st.one_of(RIGHT, RIGHT, AUDIO, AUDIO, ALMOST, st.text(max_size=40), st.binary(max_size=12))


@given(st.lists(MESSAGES, max_size=12))
@settings(max_examples=400)
def test_any_messages(messages: list[str | bytes]) -> None:
    machine = ServerSide()
    taken = bytearray()
    sent: dict[int, bytes] = {}
    codes: set[str] = set()
    for message in messages:
        try:
            command = machine.receive(message)
        except ProtocolError as error:
            codes.add(error.code)
            break
        if isinstance(command, Audio):
            sent[command.sequence] = command.data
            taken += command.data
        elif isinstance(command, Options):
            try:
                command.stream_options()
            except ConfigurationError:
                break
    assert codes <= CODES
    # Every number once, in order, without a gap.
    assert list(sent) == list(range(len(sent)))
    assert bytes(taken) == b"".join(sent.values())


@given(st.one_of(st.text(), st.binary(), JSON.map(json.dumps)))
def test_a_client_gets_a_message_or_a_protocol_error(message: Any) -> None:
    try:
        decode_server_message(message)
    except ProtocolError:
        pass
