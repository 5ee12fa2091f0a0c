"""What the two directions of a connection learn of its end, whichever notices it first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.websockets import WebSocket

from ray_whisper_streaming.server.peer import MORE, Peer, PeerGone

GOING_AWAY = 1001


class Connection:
    """A WebSocket whose client vanishes when told to."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.gone = False

    async def receive(self) -> dict[str, Any]:
        return await self.incoming.get()

    async def send(self, _message: Any) -> None:
        if self.gone:
            raise OSError

    def vanish(self) -> None:
        self.gone = True
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": GOING_AWAY})

    async def peer(self) -> Peer:
        websocket = WebSocket({"type": "websocket"}, self.receive, self.send)
        await websocket.accept()
        return Peer(websocket, send_timeout_s=1)


async def test_who_reads_learns_what_a_sending_learned() -> None:
    connection = Connection()
    peer = await connection.peer()
    connection.vanish()
    with pytest.raises(PeerGone) as of_sending:
        await peer.send("a word")
    with pytest.raises(PeerGone) as of_reading:
        await peer.receive()
    assert (of_sending.value.code, of_reading.value.code) == (GOING_AWAY, GOING_AWAY)


async def test_messages_that_came_together_are_received_one_by_one_and_in_order() -> None:
    connection = Connection()
    peer = await connection.peer()
    connection.incoming.put_nowait({"type": "websocket.receive", "bytes": b"a", MORE: [b"b", b"c"]})
    connection.incoming.put_nowait({"type": "websocket.receive", "text": "d"})
    connection.vanish()
    assert [await peer.receive() for _ in range(4)] == [b"a", b"b", b"c", "d"]
    with pytest.raises(PeerGone):
        await peer.receive()


async def test_a_reader_that_was_busy_while_another_closed_a_dead_connection_hears_that_it_is_gone() -> None:
    connection = Connection()
    peer = await connection.peer()
    connection.vanish()
    await peer.close(reason="resumed_elsewhere")
    with pytest.raises(PeerGone):
        await peer.receive()
