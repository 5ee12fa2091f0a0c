"""Client secrets of OpenAI's Realtime protocol: a client token, and the session it was made for, in one text.

``ek_`` and the token; behind ``~``, packed, the session object that holds for whoever connects with it. It is not
signed: with the same secret a client could as well send a ``session.update``. So replicas need to share nothing but
their keys.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import MutableMapping
from typing import Any

import msgspec
from starlette.requests import HTTPConnection

from ray_whisper_streaming.server.access import SUBPROTOCOL_PREFIX, find_credential

__all__ = ["MAX_SESSION_BYTES", "SECRET_PREFIX", "join_secret", "split_secret"]

SECRET_PREFIX = "ek_"
"""By this OpenAI's browser programs know a secret that may be shown to a browser."""

MARK = "~"
"""In no token and no base64, and allowed in a header and in a subprotocol."""

MAX_SESSION_BYTES = 4096
"""Of the session object in a secret: it travels in a header, which has its limit too."""


def join_secret(token: str, session: object) -> str:
    """The secret that carries both.

    Args:
        token: a client token.
        session: the session object, as JSON holds it; None for none.

    Raises:
        ValueError: the session is too long.
    """
    if session is None:
        return SECRET_PREFIX + token
    raw = msgspec.json.encode(session)
    if len(raw) > MAX_SESSION_BYTES:
        raise ValueError(f"the session object is longer than {MAX_SESSION_BYTES} bytes")
    packed = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return f"{SECRET_PREFIX}{token}{MARK}{packed}"


def split_secret(connection: HTTPConnection) -> tuple[HTTPConnection, object]:
    """The connection as if its client had sent the token alone, and the session object that came with it, or None."""
    credential = find_credential(connection)
    if credential is None or not credential.text.startswith(SECRET_PREFIX):
        return connection, None
    token, _, packed = credential.text.removeprefix(SECRET_PREFIX).partition(MARK)
    scope: MutableMapping[str, Any] = dict(connection.scope)
    headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
    offered = [name for name in scope.get("subprotocols", ()) if not name.startswith(SUBPROTOCOL_PREFIX)]
    bearer = f"Bearer {token}".encode("latin-1", "replace")
    scope.update(headers=[*headers, (b"authorization", bearer)], subprotocols=offered)
    return HTTPConnection(scope), _unpacked(packed)


def _unpacked(packed: str) -> object:
    """What `join_secret` packed; None where it is damaged."""
    if not packed or len(packed) > 2 * MAX_SESSION_BYTES:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
    except (msgspec.DecodeError, binascii.Error, ValueError, RecursionError):
        return None
