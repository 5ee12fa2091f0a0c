"""Why a client is turned away at the door, and what each protocol says then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from ray_whisper_streaming.errors import RayWhisperError

__all__ = ["Refusal", "refuse_websocket"]


@dataclass(frozen=True, slots=True)
class _Answer:
    http_status: int
    close_code: int


POLICY_VIOLATION, TRY_AGAIN_LATER, SERVICE_RESTART = 1008, 1013, 1012
"""Close codes of WebSocket, as registered with IANA."""

ANSWERS = {
    "unauthorized": _Answer(401, POLICY_VIOLATION),
    "forbidden": _Answer(403, POLICY_VIOLATION),
    "not_found": _Answer(404, POLICY_VIOLATION),
    "too_many_streams": _Answer(429, TRY_AGAIN_LATER),
    "too_many_sessions": _Answer(429, TRY_AGAIN_LATER),
    "audio_quota": _Answer(429, TRY_AGAIN_LATER),
    "overloaded": _Answer(429, TRY_AGAIN_LATER),
    "not_ready": _Answer(503, TRY_AGAIN_LATER),
    "draining": _Answer(503, SERVICE_RESTART),
}
"""Every code there is."""


class Refusal(RayWhisperError):
    """Not let in: the credentials, the limits or the load say no. Nothing was opened.

    Attributes:
        code: one of `ANSWERS`.
        retry_after_s: when to try again, in seconds; None where trying again is no use.
    """

    def __init__(self, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def http_status(self) -> int:
        """Of the HTTP answer."""
        return ANSWERS[self.code].http_status

    @property
    def close_code(self) -> int:
        """Of the WebSocket's closing."""
        return ANSWERS[self.code].close_code

    @property
    def headers(self) -> dict[str, str]:
        """Of the HTTP answer."""
        if self.code == "unauthorized":
            return {"WWW-Authenticate": "Bearer"}
        # Whole seconds are all the header can say.
        return {} if self.retry_after_s is None else {"Retry-After": str(math.ceil(self.retry_after_s))}

    @property
    def body(self) -> dict[str, object]:
        """Of the HTTP answer: ``{"error": {"code", "message", "retry_after"}}``."""
        facts: dict[str, object] = {"code": self.code, "message": str(self)}
        if self.retry_after_s is not None:
            facts["retry_after"] = round(self.retry_after_s, 1)
        return {"error": facts}

    def response(self) -> JSONResponse:
        """The HTTP answer. Protocols with an error format of their own make it from the attributes."""
        return JSONResponse(self.body, self.http_status, self.headers)


async def refuse_websocket(websocket: WebSocket, refusal: Refusal, message: str | None = None) -> None:
    """Turn a WebSocket away before it was accepted.

    Programs get an HTTP answer. To a page's script a browser shows neither status nor body, so a browser (it sends
    ``Origin``) is let in, told ``message``, and sent away with the close code.

    Args:
        websocket: not accepted yet.
        refusal: why.
        message: a text message in the format of the protocol, for browsers.
    """
    if "origin" not in Headers(scope=websocket.scope):
        await websocket.send_denial_response(refusal.response())
        return
    # A browser that offered subprotocols gives up, and hears nothing, where the server takes none of them.
    offered: Sequence[str] = websocket.scope.get("subprotocols", ())
    await websocket.accept(offered[0] if offered else None)
    if message is not None:
        await websocket.send_text(message)
    await websocket.close(refusal.close_code, refusal.code)
