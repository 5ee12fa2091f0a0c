"""Getting to a server: addresses, credentials, and what its refusals mean."""

from __future__ import annotations

import ast
import asyncio
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import msgspec
import websockets
from websockets.asyncio.client import ClientConnection, connect

from ray_whisper_streaming.errors import (
    ConfigurationError,
    ProtocolError,
    RayWhisperError,
    Refused,
    Unauthorized,
    Unreachable,
)
from ray_whisper_streaming.wire.native import decode_server_message
from ray_whisper_streaming.wire.native_messages import Error, ServerMessage

__all__ = ["Address", "check_closing", "error_of", "hear", "open_socket", "split_url"]

STREAM_PATH = "/v1/stream"
SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}

OPEN_S = 10.0
"""How long getting a connection may take."""

PING_S, PONG_S = 5.0, 20.0
"""A connection that is dead without saying so is found within their sum, while the server still waits for us (30 s).
A busy server that leaves the socket alone for a while must not be taken for dead, so the answer gets more time."""

CLOSE_S = 2.0
"""How long a closing handshake may take."""

UNAUTHORIZED = {"unauthorized", "forbidden"}
NO_ROOM = {
    "not_found",
    "too_many_streams",
    "too_many_sessions",
    "audio_quota",
    "overloaded",
    "not_ready",
    "draining",
}
"""The protocol's codes; those not named here are a broken protocol."""

FATAL_CLOSINGS = {1002: "bad_message", 1007: "bad_message", 1009: "bad_audio_message"}
RESUMED_ELSEWHERE = "resumed_elsewhere"
"""Ends of connections that would come again."""

CODE_OF_STATUS = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    429: "overloaded",
    503: "not_ready",
}
"""For answers without a code: of a proxy in front."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and how to get in.

    Attributes:
        url: ``ws://``, ``wss://``, ``http://`` or ``https://``, host and port; a path is put before ours.
        api_key: or client token; None: none.
        tls: for certificates that the system doesn't know.
        proxy: URL of an HTTP or SOCKS proxy; None: none is used.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    proxy: str | None = None

    def __post_init__(self) -> None:
        split_url(self.url, "ws://127.0.0.1:8000")

    def stream_url(self, session_id: str | None = None) -> str:
        """Of new streams, or of the events of a session."""
        parts = urlsplit(self.url)
        path = parts.path.rstrip("/").removesuffix(STREAM_PATH) + STREAM_PATH
        if session_id is not None:
            path += f"/{quote(session_id, safe='')}/events"
        return f"{SCHEMES[parts.scheme]}://{parts.netloc}{path}"


def split_url(url: str, example: str) -> SplitResult:
    """The parts of a server's address. Raises `ConfigurationError`, with an example of what can be."""
    try:
        parts = urlsplit(url)
        # To ask for a port that can't be is an error.
        if parts.scheme in SCHEMES and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise ConfigurationError("url", url, f"an address such as {example}")


def check_closing(lost: Exception) -> None:
    """Raise `ProtocolError` if the connection was closed for a reason that would come again."""
    received = lost.rcvd if isinstance(lost, websockets.ConnectionClosed) else None
    if received is None:
        return
    if received.reason == RESUMED_ELSEWHERE:
        raise ProtocolError("the session goes on in another connection", code=RESUMED_ELSEWHERE)
    if received.code in FATAL_CLOSINGS:
        raise ProtocolError(
            f"the server closed the connection: {received}", code=FATAL_CLOSINGS[received.code]
        )


async def open_socket(address: Address, session_id: str | None = None) -> ClientConnection:
    """Connect.

    Raises:
        Unreachable: nobody is there.
        Refused, Unauthorized: the server says no.
        ProtocolError: what is there is no server of ours.
    """
    headers = {"Authorization": f"Bearer {address.api_key}"} if address.api_key else {}
    url = address.stream_url(session_id)
    # None would be no default but no TLS.
    tls: dict[str, Any] = {"ssl": address.tls} if address.tls and url.startswith("wss:") else {}
    try:
        return await connect(
            url,
            additional_headers=headers,
            proxy=address.proxy,
            compression=None,  # audio hardly shrinks
            open_timeout=OPEN_S,
            ping_interval=PING_S,
            ping_timeout=PONG_S,
            close_timeout=CLOSE_S,
            max_size=None,
            **tls,
        )
    except websockets.InvalidStatus as error:
        raise _refusal(error.response.status_code, error.response.body or b"") from None
    except (OSError, EOFError, asyncio.TimeoutError) as error:
        why = str(error) or "no answer came in time"
        raise Unreachable(f"{address.url} can't be reached: {why}") from error
    except websockets.InvalidMessage as error:
        if isinstance(error.__cause__, EOFError):
            raise Unreachable(f"{address.url} hung up") from error
        raise ProtocolError(f"{address.url} does not answer as a WebSocket server: {error}") from error
    except websockets.WebSocketException as error:
        raise ProtocolError(f"{address.url} does not answer as a WebSocket server: {error}") from error


async def hear(socket: ClientConnection) -> ServerMessage:
    """The server's next message. Raises `ProtocolError`, and what `error_of` makes of a fatal error."""
    message = decode_server_message(await socket.recv())
    # The end of a stream that failed is an event like others.
    if isinstance(message, Error) and message.fatal and message.code != "stream_failed":
        raise error_of(message)
    return message


def error_of(error: Error) -> RayWhisperError:
    """The exception that stands for a fatal error of the protocol."""
    if error.code in UNAUTHORIZED:
        return Unauthorized(error.message, code=error.code)
    if error.code in NO_ROOM:
        return Refused(error.message, code=error.code, retry_after_s=error.retry_after)
    if error.code == "bad_option":
        return _bad_option(error.message)
    return ProtocolError(error.message, code=error.code)


class _ErrorBody(msgspec.Struct):
    code: str
    message: str
    retry_after: float | None = None


class _RefusalBody(msgspec.Struct):
    error: _ErrorBody


def _refusal(status: int, body: bytes) -> RayWhisperError:
    try:
        told = msgspec.json.decode(body, type=_RefusalBody).error
    except msgspec.MsgspecError:
        code = CODE_OF_STATUS.get(status)
        if code is None and status < 500:
            return ProtocolError(f"the server answered with HTTP status {status}")
        told = _ErrorBody(code or "not_ready", f"the server answered with HTTP status {status}")
    return error_of(Error(code=told.code, message=told.message, fatal=True, retry_after=told.retry_after))


def _bad_option(message: str) -> ConfigurationError:
    """The server's `ConfigurationError`, from its text."""
    name, _, rest = message.partition(" is ")
    shown, _, allowed = rest.partition("; it must be ")
    try:
        value: object = ast.literal_eval(shown)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # it is whatever the server wrote
        value = shown
    return ConfigurationError(name, value, allowed)
