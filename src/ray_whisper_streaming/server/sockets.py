"""uvicorn's protocols, with the ends they leave open: connections that say nothing, and closings that never finish; and
with a short way for audio.
"""

from __future__ import annotations

import asyncio
from asyncio.transports import BaseTransport
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.speedups import apply_mask

from ray_whisper_streaming.server.peer import MORE

__all__ = ["Http", "WebSockets"]

HEAD_S = 10.0
"""How long a request's head may take, from the beginning of the connection, or its first byte behind an answer."""

BODY_PAUSE_S = 30.0
"""How long nothing may come of a request's body."""

LINGER_S = 5.0
"""How long what was written last may take to be read, after all is said."""

MAX_SMALL_BYTES, MAX_WAITING_EVENTS = 16_384, 8
"""Audio of one event, and events, that may wait for the endpoint before the socket is left alone. Stopping and starting
to read costs two system calls, which for 20 ms of audio is as much as reading it."""

REST_PER_CONNECTION_S, REST_RANGE_S = 0.0005, (0.01, 0.1)
"""With many connections a socket is left alone for a while after audio was read from it, so that several packets are
read at once: waking up for one costs more than what is in it. With 200 it is 100 ms, an eighth of the time between two
passes; with less than 20 nothing."""

# RFC 6455, 5.2
WHOLE_BINARY = 0x82
"""First byte of an unfragmented binary frame without extensions."""
FIN, OPCODE, MASKED, LENGTH = 0x80, 0x0F, 0x80, 0x7F
FIRST_CONTROL_OPCODE = 0x08
LENGTH_IN_2, LENGTH_IN_8 = 126, 127
SHORTEST_HEAD, MASK_BYTES = 2, 4


class Http(H11Protocol):
    """Ends connections whose next request does not come, in whole or in part."""

    _deadline: asyncio.TimerHandle | None = None
    _awaited: object = None

    def connection_made(self, transport: BaseTransport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)  # pyright: ignore[reportArgumentType]
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _set_deadline(self) -> None:
        """For what the client owes now. A head has its time once, however often a byte of it comes."""
        # After an upgrade to a WebSocket the transport is no longer this protocol's.
        awaited = self.conn.their_state if self.transport.get_protocol() is self else None
        if awaited is self._awaited is h11.IDLE:
            return
        self._awaited = awaited
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if awaited is h11.IDLE or awaited is h11.SEND_BODY:
            within_s = HEAD_S if awaited is h11.IDLE else BODY_PAUSE_S
            self._deadline = self.loop.call_later(within_s, self._end_waiting)

    def _end_waiting(self) -> None:
        if self._awaited is h11.SEND_BODY and self.flow.read_paused:
            self._set_deadline()  # it is the endpoint that takes its time
        else:
            self.transport.close()


class WebSockets(WebSocketsSansIOProtocol):
    """Ends connections whose peer does not read the rest, and takes whole binary frames by a short way.

    Audio comes 50 times a second and session, in frames of the plainest kind. They are cut out of the data here;
    all others, and all that is not as it should be, go through websockets' own parser, one whole frame at a time, so
    that it always stands between two frames.
    """

    _requested = False
    _shortcut = True
    _in_fragments = False
    _rest = b""
    _resting: asyncio.TimerHandle | None = None
    _heard_at = 0.0

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._heard_at = self.loop.time()
        if not self._shortcut or not self.handshake_complete:
            # Whoever sends frames before the handshake is answered has the parser in an unknown place.
            self._shortcut = self._shortcut and not self._requested
            self._requested = True
            super().data_received(data)
            return
        self._cut_frames(self._rest + data if self._rest else data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._resting is not None:
            self._resting.cancel()
        super().connection_lost(exc)

    async def run_asgi(self) -> None:
        """Run the endpoint. One that refuses has answered the handshake too: uvicorn would log that as an error."""
        endpoint: Any = self.app

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            await endpoint(scope, receive, send)
            self.handshake_complete = self.handshake_complete or self.initial_response is not None

        self.app = answer
        await super().run_asgi()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The endpoint has returned: the rest of the closing gets its time, and no more."""
        super().on_task_complete(task)
        self._end_soon()

    def keepalive_timeout(self) -> None:
        """The peer did not answer a ping. While it is not read, or says other things, the answer may be behind them."""
        assert self.ping_timeout is not None
        heard_at = self.loop.time() if self.read_paused else self._heard_at
        rest_s = heard_at + self.ping_timeout - self.loop.time()
        if rest_s > 0:
            self.pong_timer = self.loop.call_later(rest_s, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self._end_soon()

    def _cut_frames(self, data: bytes) -> None:
        messages: list[bytes] = []
        start = 0
        while len(data) - start >= SHORTEST_HEAD:
            first = data[start]
            plain = first == WHOLE_BINARY and data[start + 1] & MASKED and not self._in_fragments
            payload, end = _find_frame(data, start)
            plain = plain and end - payload <= self.config.ws_max_size
            if plain and end <= len(data):
                messages.append(apply_mask(data[payload:end], data[payload - MASK_BYTES : payload]))
                start = end
                continue
            if plain:
                break
            self._give(messages)
            messages = []
            if end > len(data):
                # Not waited for, as the parser may have something against it; from now on this connection is its own.
                self._shortcut, self._rest = False, b""
                super().data_received(data[start:])
                return
            if first & OPCODE < FIRST_CONTROL_OPCODE:
                self._in_fragments = not first & FIN
            super().data_received(data[start:end])
            if self.transport.is_closing():
                return
            start = end
        self._give(messages)
        self._rest = data[start:]

    def _give(self, messages: list[bytes]) -> None:
        """Put messages where the endpoint finds them, as one event; reading goes on while few and small ones wait."""
        if self.close_sent or not messages:
            return
        event: Any = {"type": "websocket.receive", "bytes": messages[0], MORE: messages[1:]}
        self.queue.put_nowait(event)
        if self.read_paused:
            return
        if sum(map(len, messages)) > MAX_SMALL_BYTES or self.queue.qsize() > MAX_WAITING_EVENTS:
            self.read_paused = True
            self.transport.pause_reading()
            return
        shortest_s, longest_s = REST_RANGE_S
        rest_s = min(REST_PER_CONNECTION_S * len(self.connections), longest_s)
        if self._resting is None and rest_s >= shortest_s:
            self._resting = self.loop.call_later(rest_s, self._end_rest)
            self.transport.pause_reading()

    def _end_rest(self) -> None:
        self._resting = None
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _end_soon(self) -> None:
        transport: Any = self.transport
        if transport is not None and not self.disconnected:
            self.loop.call_later(LINGER_S, transport.abort)


def _find_frame(data: bytes, start: int) -> tuple[int, int]:
    """Where the payload of the frame at ``start`` begins and ends, maybe beyond the data; the first two bytes are
    there.
    """
    second = data[start + 1]
    length, payload = second & LENGTH, start + SHORTEST_HEAD
    if length >= LENGTH_IN_2:
        wide = 2 if length == LENGTH_IN_2 else 8
        # Of a head that is cut off this is a part; the frame ends beyond the data all the same.
        length = int.from_bytes(data[payload : payload + wide], "big")
        payload += wide
    if second & MASKED:
        payload += MASK_BYTES
    return payload, payload + length
