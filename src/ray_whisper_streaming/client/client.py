"""Clients of a server, for asyncio.

async with AsyncClient("ws://127.0.0.1:8000") as client:
    async with client.stream(language="en") as stream:
        await stream.push(samples)
        await stream.finish()
        async for event in stream:
            print(event)
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator
from typing import Any

import websockets

from ray_whisper_streaming.client.connecting import Address, check_closing, hear, open_socket
from ray_whisper_streaming.client.events import ClientEvent, Closed, StreamFailed
from ray_whisper_streaming.client.files import AudioFile, paced, pieces_of
from ray_whisper_streaming.client.inbox import Inbox
from ray_whisper_streaming.client.options import make_options
from ray_whisper_streaming.client.patience import Patience
from ray_whisper_streaming.client.stream import AsyncRemoteStream
from ray_whisper_streaming.core.options import check_range
from ray_whisper_streaming.errors import ProtocolError, Refused, StreamClosed, Unauthorized, Unreachable
from ray_whisper_streaming.wire.native_messages import Ready

__all__ = ["AsyncClient"]


class AsyncClient:
    """A server, for any number of streams. Connects when a stream starts.

    Args:
        url: ``ws://HOST:PORT``, or ``wss://``; ``http://`` and ``https://`` mean the same.
        api_key: or client token; None where the server asks for none.
        reconnect_s: a lost connection is tried again for so many seconds, with growing pauses; 0: not at all.
        max_unacknowledged_s: seconds of audio a stream keeps until the server has acknowledged it; then `push` waits.
        tls: for certificates that the system doesn't know.
        proxy: URL of an HTTP or SOCKS proxy; None: none is used, whatever the environment says.

    Raises:
        ConfigurationError: an address or a figure that can't be.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        reconnect_s: float = 60.0,
        max_unacknowledged_s: float = 60.0,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
    ) -> None:
        check_range("reconnect_s", reconnect_s, 0.0)
        check_range("max_unacknowledged_s", max_unacknowledged_s, 30.0)
        self._address = Address(url, api_key, tls, proxy)
        self._patience = Patience(reconnect_s=reconnect_s, unacknowledged_s=max_unacknowledged_s)
        self._streams: set[AsyncRemoteStream] = set()
        self._closed = False

    def stream(self, **options: Any) -> AsyncRemoteStream:
        """A stream, to be used as an async context manager or with ``await stream.start()``.

        Args:
            options: fields of `StreamOptions`, or of the protocol's options by their own names; besides them
                ``sample_rate``, ``channels``, ``split_channels`` and ``encoding`` of what will be pushed.

        Raises:
            ConfigurationError: an unknown option, or a value it can't have.
            StreamClosed: the client is closed.
        """
        if self._closed:
            raise StreamClosed("the client is closed")
        stream = AsyncRemoteStream(self._address, make_options(options), self._patience)
        self._streams = {each for each in self._streams if not each.over}
        self._streams.add(stream)
        return stream

    async def transcribe(
        self, file: AudioFile, *, realtime: bool = False, **options: Any
    ) -> AsyncGenerator[ClientEvent]:
        """A recording of any codec through the server, live: its events, until `Closed`.

        Args:
            file: path or binary file.
            realtime: at the pace it was spoken; else as fast as the server takes it.
            options: see `stream`; the audio's format is known.

        Raises:
            AudioError: no audio can be read from it.
            Unreachable, Refused, ProtocolError, ConfigurationError: see `AsyncRemoteStream`.
        """
        async with self.stream(**options) as stream:

            async def send() -> None:
                audio = pieces_of(file)
                try:
                    async for samples in paced(audio) if realtime else audio:
                        await stream.push(samples)
                finally:
                    await stream.finish()

            sending = asyncio.create_task(send())
            try:
                async for event in stream:
                    yield event
                await sending
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def follow(self, session_id: str) -> AsyncGenerator[ClientEvent]:
        """Listen to a session of the same key, or the one that the token is for: all its events, from the first kept.

        Raises:
            Refused: ``not_found``: there is no such session, or it is over and forgotten.
            Unreachable, Unauthorized, ProtocolError: see `AsyncRemoteStream`.
        """
        inbox = Inbox()
        lost_at, tries = time.monotonic(), 0
        connected = False
        while True:
            try:
                socket = await open_socket(self._address, session_id)
                connected = True
                async with socket:
                    while True:
                        message = await hear(socket)
                        lost_at, tries = time.monotonic(), 0
                        if isinstance(message, Ready):
                            raise ProtocolError("listeners are not asked to begin", code="bad_message")
                        event = inbox.receive(message)
                        if event is not None:
                            yield event
                        if isinstance(event, (Closed, StreamFailed)):
                            return
            except Unauthorized:
                raise
            except (websockets.ConnectionClosed, Unreachable, Refused) as error:
                check_closing(error)
                if not connected or (isinstance(error, Refused) and error.retry_after_s is None):
                    raise
                pause_s = self._patience.pause_s(tries)
                if time.monotonic() - lost_at + pause_s >= self._patience.reconnect_s:
                    raise Unreachable(f"the connection to {self._address.url} is lost ({error})") from error
                tries += 1
                await asyncio.sleep(pause_s)

    async def aclose(self) -> None:
        """Give all streams up. Safe to call twice."""
        self._closed = True
        streams, self._streams = self._streams, set()
        await asyncio.gather(*(stream.aclose() for stream in streams))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
