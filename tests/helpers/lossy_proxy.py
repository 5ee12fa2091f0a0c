"""A TCP proxy on loopback whose connections can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class LossyProxy:
    """Forwards to a server until told otherwise.

    Attributes:
        connections: taken so far.
        refusing: new connections are dropped at once.
        cut_after_up: cut the connection once it has carried so many bytes towards the server; None: don't. Holds for
            the next such connection only.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname
        self.target = (parts.hostname, parts.port)
        self.connections = 0
        self.refusing = False
        self.cut_after_up: int | None = None
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """All connections go away, without a word."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(*self.target)
        pair = {writer, back}
        self._writers |= pair
        limit, self.cut_after_up = self.cut_after_up, None
        try:
            await asyncio.gather(self._pump(reader, back, limit), self._pump(there, writer, None))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for each in pair:
                each.transport.abort()
            self._writers -= pair

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, limit: int | None
    ) -> None:
        carried = 0
        while data := await source.read(4096):
            carried += len(data)
            sink.write(data)
            await sink.drain()
            if limit is not None and carried >= limit:
                raise ConnectionResetError
        sink.close()
        raise ConnectionResetError


@asynccontextmanager
async def lossy(target: str) -> AsyncGenerator[LossyProxy]:
    proxy = LossyProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        await asyncio.sleep(0)
