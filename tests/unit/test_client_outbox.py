"""What a client sends again, and what it doesn't."""

from __future__ import annotations

import pytest

from ray_whisper_streaming.client.outbox import MAX_PIECE_BYTES, Outbox
from ray_whisper_streaming.errors import InvalidState
from ray_whisper_streaming.wire.native import Audio, ServerSide
from ray_whisper_streaming.wire.native_messages import Close, Flush, Options


def taken(outbox: Outbox) -> list[object]:
    server = ServerSide()
    server.receive('{"type":"options"}')
    found: list[object] = []
    while (message := outbox.take()) is not None:
        server.next_audio = int.from_bytes(message[:4], "little") if isinstance(message, bytes) else 0
        command = server.receive(message)
        assert not isinstance(command, Options)
        found.append(command)
    return found


def test_audio_is_numbered_and_cut_into_messages_that_the_server_takes() -> None:
    outbox = Outbox(2)
    outbox.push(bytes(MAX_PIECE_BYTES + 1))
    outbox.limit_messages(1024)
    outbox.push(bytes(2000))
    sent = taken(outbox)
    assert [(each.sequence, len(each.data)) for each in sent if isinstance(each, Audio)] == [
        (0, MAX_PIECE_BYTES),
        (1, 1),
        (2, 1020),
        (3, 980),
    ]
    assert outbox.idle


def test_what_is_acknowledged_is_forgotten_and_the_rest_is_sent_again() -> None:
    outbox = Outbox(2)
    for letter in b"abcd":
        outbox.push(bytes([letter]) * 8)
    outbox.flush("x")
    taken(outbox)
    outbox.acknowledge(5)  # byte 10: in the middle of the second message
    assert (outbox.released, outbox.unacknowledged) == (10, 22)
    outbox.resume(3)
    assert taken(outbox) == [Audio(3, b"d" * 8), Flush(id="x")]
    outbox.resume(4)
    assert outbox.answered("x")
    assert not outbox.answered("x")
    outbox.resume(4)
    assert taken(outbox) == []
    assert outbox.restart() == 10
    assert taken(outbox) == [Audio(0, b"b" * 6), Audio(1, b"c" * 8), Audio(2, b"d" * 8)]
    outbox.acknowledge(3)
    assert outbox.released == 16


def test_close_comes_last_and_again_unless_it_was_heard() -> None:
    outbox = Outbox(2)
    outbox.push(b"ab")
    outbox.close()
    assert taken(outbox) == [Audio(0, b"ab"), Close()]
    outbox.resume(1, closing=True)
    assert taken(outbox) == []
    outbox.resume(1)
    assert taken(outbox) == [Close()]
    outbox.restart()
    assert taken(outbox) == [Audio(0, b"ab"), Close()]
    with pytest.raises(InvalidState):
        outbox.push(b"cd")
    with pytest.raises(InvalidState):
        outbox.flush("late")


def test_a_new_session_begins_between_two_samples() -> None:
    outbox = Outbox(4)
    outbox.push(b"abcdef")  # one frame and a half
    outbox.push(b"ghijkl")
    taken(outbox)
    outbox.acknowledge(1)
    assert outbox.restart() == 4
    assert taken(outbox) == [Audio(0, b"ef"), Audio(1, b"ghijkl")]
