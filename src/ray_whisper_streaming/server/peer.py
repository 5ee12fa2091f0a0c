"""The client at the other end of a WebSocket: reading and writing side by side, and all the ways it can go away."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

__all__ = ["MORE", "Peer", "PeerGone", "side_by_side"]

MORE = "more"
"""Key of a received event for the binary messages that came together with its own; `server.sockets` puts it there."""

MAX_REASON_BYTES = 123
"""What a closing frame holds besides its code (RFC 6455, 5.5)."""


NO_STATUS, ABNORMAL = 1005, 1006
"""Codes that stand for a connection that ended without any."""


CODE_WAIT_S = 1.0
"""How long the code of a connection that has ended is looked for; it is there already, or never will be."""


class PeerGone(Exception):
    """The connection is over.

    Attributes:
        code: of the closing; 1005 and 1006 where there was none.
    """

    def __init__(self, why: str, code: int = ABNORMAL) -> None:
        super().__init__(why)
        self.code = code

    @property
    def closed(self) -> bool:
        """Whether a side closed it in due form, rather than the client vanished."""
        return self.code not in (NO_STATUS, ABNORMAL)


class Peer:
    """A WebSocket that was accepted.

    Args:
        websocket: read and written here alone.
        send_timeout_s: one that doesn't read for so long is taken for gone.
    """

    def __init__(self, websocket: WebSocket, send_timeout_s: float) -> None:
        self._websocket = websocket
        self._send_timeout_s = send_timeout_s
        self._waiting: deque[bytes] = deque()
        self._sending = asyncio.Lock()
        self._closing_code = ABNORMAL

    async def receive(self) -> str | bytes:
        """The next message. Raises `PeerGone`."""
        if self._waiting:
            return self._waiting.popleft()
        try:
            message = await self._websocket.receive()
        except RuntimeError:  # that it has gone was read before, by a sending that looked for the code
            raise PeerGone("the client has gone", self._closing_code) from None
        if message["type"] == "websocket.disconnect":
            self._closing_code = message.get("code") or NO_STATUS
            raise PeerGone("the client has gone", self._closing_code)
        self._waiting.extend(message.get(MORE, ()))
        data: bytes | None = message.get("bytes")
        return message["text"] if data is None else data

    async def send(self, message: str | bytes) -> None:
        """Send a text message (bytes are its UTF-8). Raises `PeerGone`."""
        text = message if isinstance(message, str) else message.decode()
        await self._send({"type": "websocket.send", "text": text})

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection; one that is gone already is no error."""
        short = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": short})
        except PeerGone:
            pass

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            async with self._sending:
                await asyncio.wait_for(self._websocket.send(message), self._send_timeout_s)
        except asyncio.TimeoutError:
            raise PeerGone("the client does not read") from None
        except (WebSocketDisconnect, RuntimeError, OSError):
            # Starlette and uvicorn say it in different ways, according to where the client was last seen.
            raise PeerGone("the client has gone", await self._find_closing_code()) from None

    async def _find_closing_code(self) -> int:
        """How it went, when the sending noticed first: the reading end knows. What it sent before is of no use now."""
        try:
            while True:
                await asyncio.wait_for(self.receive(), CODE_WAIT_S)
        except PeerGone as gone:
            return gone.code
        except asyncio.TimeoutError:
            return self._closing_code


async def side_by_side(reading: Coroutine[Any, Any, None], writing: Coroutine[Any, Any, None]) -> None:
    """Run both until the writing has ended; the reading may end before.

    The first exception of either ends the other, and is raised.
    """
    reader, writer = asyncio.ensure_future(reading), asyncio.ensure_future(writing)
    try:
        await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        if reader.done() and not writer.done():
            reader.result()
        await writer
    finally:
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)
