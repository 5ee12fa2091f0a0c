"""The raw TCP protocol (see `wire.lines`) on a port of its own: any number of clients at once, without keys."""

from __future__ import annotations

import asyncio
import logging

from ray_whisper_streaming.core.events import Committed
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.errors import RayWhisperError
from ray_whisper_streaming.server.access import Principal
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.peer import side_by_side
from ray_whisper_streaming.server.session import Session
from ray_whisper_streaming.wire.lines import LineWriter

__all__ = ["LineServer"]

logger = logging.getLogger(__name__)

PROTOCOL = "tcp"

READ_BYTES = 64 * 1024
"""Read at once: two seconds of audio."""

GONE = (ConnectionError, asyncio.TimeoutError, OSError)


class LineServer:
    """Listens for `nc` and its like.

    Args:
        gateway: started.
        host: to listen on.
        port: 0 takes a free one.
        options: of all streams; the protocol can't say any.
    """

    def __init__(self, gateway: Gateway, host: str, port: int, options: StreamOptions | None = None) -> None:
        self._gateway = gateway
        self._options = options
        self._host = host
        self._wanted_port = port
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port listened on."""
        assert self._server is not None, "start first"
        return self._server.sockets[0].getsockname()[1]

    async def start(self) -> None:
        """Listen. Raises OSError where the address can't be had."""
        self._server = await asyncio.start_server(self._accept, self._host, self._wanted_port)

    async def aclose(self) -> None:
        """Stop listening and cut the clients off. Safe to call twice."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            session = await self._gateway.open_session(Principal(), self._options, protocol=PROTOCOL)
            async with session:
                await side_by_side(_read(reader, session), self._write(session, writer))
        except RayWhisperError as error:
            # The protocol has no word for it: the connection ends, and the log says why.
            logger.warning("a client was refused: %s", error)
        except GONE:
            pass
        finally:
            # What the client did not read is not waited for.
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()
            writer.close()

    async def _write(self, session: Session, writer: asyncio.StreamWriter) -> None:
        lines = LineWriter()
        async for _, event in session:
            if isinstance(event, Committed):
                writer.write(lines.line(event))
                await asyncio.wait_for(writer.drain(), self._gateway.config.send_timeout_s)


async def _read(reader: asyncio.StreamReader, session: Session) -> None:
    """All samples until the client closes its side."""
    while data := await reader.read(READ_BYTES):
        await session.push(data)
    session.finish()
