"""Errors of OpenAI's HTTP endpoints: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from ray_whisper_streaming.server.refusal import Refusal

__all__ = ["error_body", "error_response", "refusal_response"]

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""The type of an error, by its HTTP status, where it says more than whose fault it is."""

SERVER_ERRORS = 500


def error_body(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, object]:
    """The body of an error."""
    kind = KINDS.get(status) or ("server_error" if status >= SERVER_ERRORS else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer that tells an error."""
    return JSONResponse(error_body(status, message, param=param, code=code), status, headers)


def refusal_response(refusal: Refusal) -> JSONResponse:
    """The answer that turns a client away."""
    return error_response(refusal.http_status, str(refusal), code=refusal.code, headers=refusal.headers)
