"""Endpoints for supervisors: is it alive, is it ready, how is it doing."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ray_whisper_streaming.server.gateway import Gateway

__all__ = ["healthz", "metrics", "readyz"]


async def healthz(request: Request) -> Response:
    """200 as long as the event loop turns."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """200 while new sessions may come, 503 while workers load, when there are none, and while draining."""
    gateway: Gateway = request.app.state.gateway
    load = gateway.admission.load
    state = "draining" if gateway.admission.draining else "ready" if load.ready else "starting"
    body = {"state": state, "streams": gateway.admission.streams}
    return JSONResponse(body, 200 if state == "ready" else 503)


async def metrics(request: Request) -> Response:
    """Prometheus' text format. Holds no key, session or text; still, don't show it to the world."""
    gateway: Gateway = request.app.state.gateway
    return Response(gateway.metrics.render(), media_type=CONTENT_TYPE_LATEST)
