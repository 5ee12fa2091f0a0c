"""Frames cut out by the short way are what websockets' own parser makes of the same bytes, however they arrive."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Opcode
from websockets.speedups import apply_mask

from ray_whisper_streaming.server.peer import MORE
from ray_whisper_streaming.server.sockets import WebSockets

MAX_SIZE = 300
LOOP = asyncio.new_event_loop()
"""One for all examples: making one takes longer than most of them."""
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Wire(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    await asyncio.sleep(3600)


async def heard(kind: type[WebSocketsSansIOProtocol], pieces: list[bytes]) -> tuple[list[Any], bytes, bool]:
    """What the application would get, what the client got back, and whether the connection is closed."""
    config = Config(
        app, ws_max_size=MAX_SIZE, ws_per_message_deflate=False, log_config=None, ws_ping_interval=None
    )
    config.load()
    protocol = kind(config, ServerState(), {})
    wire = Wire()
    protocol.connection_made(wire)
    protocol.data_received(HANDSHAKE)
    for _ in range(5):
        await asyncio.sleep(0)
    assert protocol.handshake_complete
    wire.written = b""
    for piece in pieces:
        if not wire.closing:
            protocol.data_received(piece)
    closing = wire.closing
    messages: list[Any] = []
    while not protocol.queue.empty():
        event: Any = protocol.queue.get_nowait()
        more = event.pop(MORE, [])
        messages += [event, *({"type": event["type"], "bytes": message} for message in more)]
    for task in protocol.tasks:
        task.cancel()
    await asyncio.gather(*protocol.tasks, return_exceptions=True)
    return messages[1:], wire.written, closing


def frame(opcode: int, data: bytes, fin: bool, masked: bool) -> bytes:
    """A frame, also of a kind that may not be."""
    size = len(data)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    head = bytes([fin << 7 | opcode, masked << 7 | length[0]]) + length[1:]
    return head + (b"mask" + apply_mask(data, b"mask") if masked else data)


FRAMES = st.builds(
    frame,
    st.sampled_from([Opcode.BINARY] * 5 + [Opcode.TEXT, Opcode.CONT, Opcode.PING, Opcode.PONG, Opcode.CLOSE]),
    st.one_of(
        st.binary(max_size=20), st.sampled_from([b"x" * 125, b"x" * 126, b"x" * 300, b"x" * 301, b"\x03\xe8"])
    ),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([True] * 9 + [False]),
)
BYTES = st.lists(st.one_of(FRAMES, FRAMES, FRAMES, st.binary(max_size=4)), max_size=8).map(b"".join)


@given(BYTES, st.integers(0, 2**32))
@settings(max_examples=150)
def test_the_short_way_hears_the_same(data: bytes, seed: int) -> None:
    cuts = random.Random(seed)
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        length = cuts.choice((1, 2, 7, 50, 1000))
        pieces.append(data[at : at + length])
        at += length

    async def both() -> None:
        expected, answer, closed = await heard(WebSocketsSansIOProtocol, pieces)
        messages, our_answer, our_closing = await heard(WebSockets, pieces)
        assert our_closing == closed
        if expected and expected[-1]["type"] == "websocket.disconnect":
            # What came in one piece with a broken frame, uvicorn drops, and of two faults in it tells the later; here
            # everything before the first fault is heard.
            assert messages[-1]["type"] == "websocket.disconnect"
            assert messages[-1]["code"] == expected[-1]["code"] or {1002, 1007} >= {messages[-1]["code"]}
            assert messages[: len(expected) - 1] == expected[:-1]
        else:
            assert (messages, our_answer) == (expected, answer)

    LOOP.run_until_complete(both())


def test_a_giant_is_refused_by_its_head() -> None:
    head = b"\x82\xff" + (100 << 20).to_bytes(8, "big") + b"mask"
    messages, answer, closed = asyncio.run(heard(WebSockets, [head]))
    assert closed
    assert messages[0]["code"] == 1009
    assert answer[2:4] == (1009).to_bytes(2, "big")


def test_a_frame_in_single_bytes_costs_no_more_than_its_length() -> None:
    data = frame(Opcode.BINARY, b"x" * 300, True, True)
    messages, _, _ = asyncio.run(heard(WebSockets, [bytes([byte]) for byte in data]))
    assert messages == [{"type": "websocket.receive", "bytes": b"x" * 300}]


def test_a_message_in_fragments_is_whole_and_nothing_may_come_between() -> None:
    start, end = frame(Opcode.BINARY, b"ab", False, True), frame(Opcode.CONT, b"cd", True, True)
    whole = frame(Opcode.BINARY, b"ef", True, True)
    messages, _, _ = asyncio.run(
        heard(WebSockets, [whole, start + frame(Opcode.PING, b"", True, True), end, whole])
    )
    assert [message["bytes"] for message in messages] == [b"ef", b"abcd", b"ef"]
    messages, _, closed = asyncio.run(heard(WebSockets, [start, whole]))
    assert (messages[0]["code"], closed) == (1002, True)
