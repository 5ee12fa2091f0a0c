"""The web pages: live captions on ``/`` and the pool on ``/status``, from files that come with the package.

Nothing a client sends becomes part of a file's name: it is looked up among the names listed here. The pages load
nothing from elsewhere, and the browser is told to see to that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from ray_whisper_streaming.core.language_names import language_name
from ray_whisper_streaming.core.languages import LANGUAGES

__all__ = ["page_routes"]

PAGES = {"/": "captions.html", "/status": "status.html"}

ASSETS = (
    "style.css",
    "icon.svg",
    "captions.js",
    "capture.js",
    "connection.js",
    "controls.js",
    "messages.js",
    "microphone.js",
    "packets.js",
    "plot.js",
    "recording.js",
    "status.js",
    "subtitles.js",
    "transcript.js",
)
"""What the pages load from ``/page/``."""

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "flac": "audio/flac",
}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

PROTECTION = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

ASK_AGAIN = "no-cache"
"""Browsers may keep a copy, and ask each time whether it still holds: a page and its scripts must be of one version."""

KEEP_A_DAY = "public, max-age=86400"
"""Recordings don't change between releases, and are large."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file in memory, and the headers it is sent with."""

    body: bytes
    headers: Mapping[str, str]


def page_routes() -> list[BaseRoute]:
    """The paths of the pages and of what they load."""
    pages = [Route(path, _page) for path in PAGES]
    return [
        *pages,
        Route("/page/choices.json", _choices),
        Route("/page/{name}", _asset),
        Route("/samples/{name}", _sample),
    ]


async def _page(request: Request) -> Response:
    return _answer(request, _page_file(PAGES[request.url.path], ASK_AGAIN))


async def _asset(request: Request) -> Response:
    name: str = request.path_params["name"]
    return _answer(request, _page_file(name, ASK_AGAIN)) if name in ASSETS else _not_found()


async def _sample(request: Request) -> Response:
    name: str = request.path_params["name"]
    known = any(name == sample["file"] for sample in _samples())
    return _answer(request, _sample_file(name, KEEP_A_DAY)) if known else _not_found()


async def _choices(request: Request) -> Response:
    """What the page offers to choose from, whatever server it is: Whisper's languages and the recordings at hand."""
    languages = sorted((language_name(code).title(), code) for code in LANGUAGES)
    body = {
        "languages": [{"code": code, "name": name} for name, code in languages],
        "samples": [
            {"file": sample["file"], "title": _title(sample["file"]), "seconds": sample["seconds"]}
            for sample in _samples()
        ],
    }
    return JSONResponse(body, headers={**PROTECTION, "Cache-Control": ASK_AGAIN})


def _answer(request: Request, file: _File) -> Response:
    # Proxies that compress mark the tag as weak.
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if file.headers["ETag"] in known:
        return Response(status_code=304, headers=file.headers)
    return Response(file.body, headers=file.headers)


def _not_found() -> Response:
    return PlainTextResponse("Not found\n", 404, headers=PROTECTION)


def _title(file: str) -> str:
    return file.partition(".")[0].replace("_", " ").capitalize()


@cache
def _page_file(name: str, caching: str) -> _File:
    return _read(("server", "page", name), caching)


@cache
def _sample_file(name: str, caching: str) -> _File:
    return _read(("samples", name), caching)


def _read(path: Sequence[str], caching: str) -> _File:
    body = resources.files("ray_whisper_streaming").joinpath(*path).read_bytes()
    headers = {
        **PROTECTION,
        "Content-Type": MEDIA_TYPES[path[-1].rpartition(".")[2]],
        "Cache-Control": caching,
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
    }
    return _File(body, headers)


@cache
def _samples() -> list[dict[str, Any]]:
    listed = resources.files("ray_whisper_streaming").joinpath("samples", "samples.json").read_text("utf-8")
    return json.loads(listed)
