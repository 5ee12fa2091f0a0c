"""Client tokens for browsers: ``POST /v1/tokens`` with an API key, by a server of the user's."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ray_whisper_streaming.server.access import find_credential
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.refusal import Refusal
from ray_whisper_streaming.server.tokens import TOKEN_PREFIX

__all__ = ["mint"]

MAX_BODY_BYTES = 4_096


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked for.

    Attributes:
        life: seconds; the server's longest if absent.
        session_id: for following this session alone; absent: for opening sessions.
    """

    life: float | None = None
    session_id: str | None = None


async def mint(request: Request) -> Response:
    """Make a token: ``{"token", "expires_at"}``, the latter in seconds since 1970."""
    gateway: Gateway = request.app.state.gateway
    keyring = gateway.access.keyring
    if keyring is None:
        raise Refusal("not_found", "this server has no keys, so nobody needs a token")
    credential = find_credential(request)
    principal = gateway.authenticate(request)
    if credential is None or credential.text.startswith(TOKEN_PREFIX):
        raise Refusal("unauthorized", "a token is made with an API key")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            return _wrong("the body is too large", 413)
    try:
        wish = msgspec.json.decode(body or b"{}", type=Wish)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return _wrong("the body must be an object with life and session_id, or nothing", 400)
    longest_s = gateway.config.token_s
    life_s = longest_s if wish.life is None else wish.life
    if not 0 < life_s <= longest_s:
        return _wrong(f"life must be more than 0 and at most {longest_s:g} seconds", 400)
    token, expires_at = keyring.make_token(principal.tenant, life_s, wish.session_id)
    return JSONResponse(
        {"token": token, "expires_at": round(expires_at, 3)}, headers={"Cache-Control": "no-store"}
    )


def _wrong(message: str, status: int) -> Response:
    return JSONResponse({"error": {"code": "bad_request", "message": message}}, status)
