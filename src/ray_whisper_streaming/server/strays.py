"""Those who come to a path where nothing is, or without a WebSocket to where there are only WebSockets.

Left to the framework the first would hear 403 and look for a fault in their key, the second 404 and look for one in the
path; mostly it is a proxy that keeps the headers of the upgrade to itself.
"""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from ray_whisper_streaming.server.refusal import Refusal, refuse_websocket

__all__ = ["nothing_here", "websocket_wanted"]

UPGRADE_REQUIRED = 426


async def websocket_wanted(request: Request) -> Response:
    """The answer to plain HTTP where a protocol of WebSockets is spoken."""
    message = (
        "this address takes WebSockets; a proxy in front must pass the headers Upgrade and Connection on. "
        "Recordings go to /v1/audio/transcriptions"
    )
    body = {"error": {"code": "websocket_wanted", "message": message}}
    return JSONResponse(body, UPGRADE_REQUIRED, {"Upgrade": "websocket"})


async def nothing_here(websocket: WebSocket) -> None:
    """The answer to a WebSocket on any other path."""
    refusal = Refusal("not_found", "no protocol is spoken at this path")
    await refuse_websocket(websocket, refusal, json.dumps(refusal.body))
