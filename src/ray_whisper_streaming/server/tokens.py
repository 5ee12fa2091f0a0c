"""Client tokens: short-lived credentials that a server of the user makes for a browser, signed by HMAC."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

import msgspec

from ray_whisper_streaming.server.refusal import Refusal

__all__ = ["TOKEN_PREFIX", "Claims", "make_token", "read_token"]

TOKEN_PREFIX = "rwt_"

MAX_TOKEN_CHARS = 1024
"""Longer ones are not looked at."""


class Claims(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a token says.

    Attributes:
        key_id: the key it was made with; it dies with the key.
        expires_at: seconds since 1970.
        session_id: the only session it may follow; None: it may open sessions.
    """

    key_id: str
    expires_at: float
    session_id: str | None = None


_decoder = msgspec.json.Decoder(Claims)


def make_token(claims: Claims, secret: bytes) -> str:
    """A token that `read_token` takes with the same secret."""
    payload = _to_text(msgspec.json.encode(claims))
    return f"{TOKEN_PREFIX}{payload}.{_to_text(_sign(payload, secret))}"


def read_token(token: str, secret: bytes, now: float) -> Claims:
    """What the token says, if it is genuine and of age.

    Raises:
        Refusal: ``unauthorized``: forged, damaged or expired.
    """
    payload, dot, signature = token.removeprefix(TOKEN_PREFIX).partition(".")
    if len(token) > MAX_TOKEN_CHARS or not dot or not token.isascii():
        raise Refusal("unauthorized", "the client token is damaged")
    # Compared as text: in base64 several texts may stand for the same bytes.
    if not hmac.compare_digest(signature, _to_text(_sign(payload, secret))):
        raise Refusal("unauthorized", "the client token is not genuine")
    try:
        claims = _decoder.decode(_to_bytes(payload))
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        raise Refusal("unauthorized", "the client token is damaged") from None
    if now >= claims.expires_at:
        raise Refusal("unauthorized", "the client token has expired")
    return claims


def _sign(payload: str, secret: bytes) -> bytes:
    return hmac.new(secret, payload.encode(), hashlib.sha256).digest()


def _to_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _to_bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
