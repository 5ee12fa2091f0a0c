"""Endpoints for supervisors: is it alive, is it ready, how is it doing."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ray_whisper_streaming.server.gateway import Gateway

__all__ = ["healthz", "metrics", "readyz", "status"]

MAX_NUMBER_DIGITS = 12
"""Of the number of a point: a point a second fills them in thirty thousand years."""


async def healthz(request: Request) -> Response:
    """200 as long as the event loop turns."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """200 while new sessions may come, 503 while workers load, when there are none, and while draining."""
    gateway: Gateway = request.app.state.gateway
    body = {
        "state": gateway.state,
        "streams": gateway.admission.streams,
        "models": {model.name: model.room.load.ready for model in gateway.models},
    }
    return JSONResponse(body, 200 if gateway.state == "ready" else 503)


async def metrics(request: Request) -> Response:
    """Prometheus' text format. Holds no key, session or text; still, don't show it to the world."""
    gateway: Gateway = request.app.state.gateway
    return Response(gateway.metrics.render(), media_type=CONTENT_TYPE_LATEST)


async def status(request: Request) -> Response:
    """The state now and the points of the last minutes; ``?after=N`` leaves out those up to number N.

    Holds no more than `metrics` does; the same care.
    """
    gateway: Gateway = request.app.state.gateway
    asked = request.query_params.get("after", "")
    known = int(asked) if asked.isdecimal() and len(asked) <= MAX_NUMBER_DIGITS else -1
    now = gateway.clock()
    body = {
        "state": gateway.state,
        "models": gateway.models.names,
        "points": [point.told(now) for point in gateway.status.after(known)],
    }
    return JSONResponse(body, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
