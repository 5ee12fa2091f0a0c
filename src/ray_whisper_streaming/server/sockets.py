"""uvicorn's protocols, with the ends they leave open: connections that say nothing, and closings that never finish."""

from __future__ import annotations

import asyncio
from asyncio.transports import BaseTransport
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

__all__ = ["Http", "WebSockets"]

FIRST_REQUEST_S = 10.0
"""How long a new connection may take to send a request's head."""

LINGER_S = 5.0
"""How long what was written last may take to be read, after all is said."""


class Http(H11Protocol):
    """Ends connections that send no request."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)  # pyright: ignore[reportArgumentType]
        self._deadline = self.loop.call_later(FIRST_REQUEST_S, self._end_silence)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _end_silence(self) -> None:
        # After an upgrade to a WebSocket the transport is no longer this protocol's.
        silent = self.cycle is None  # pyright: ignore[reportUnnecessaryComparison]
        if silent and not self.transport.is_closing() and self.transport.get_protocol() is self:
            self.transport.close()


class WebSockets(WebSocketsSansIOProtocol):
    """Ends connections whose peer does not read the rest."""

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The endpoint has returned: the rest of the closing gets its time, and no more."""
        super().on_task_complete(task)
        self._end_soon()

    def keepalive_timeout(self) -> None:
        """The peer did not answer a ping."""
        super().keepalive_timeout()
        self._end_soon()

    def _end_soon(self) -> None:
        transport: Any = self.transport
        if transport is not None and not self.disconnected:
            self.loop.call_later(LINGER_S, transport.abort)
