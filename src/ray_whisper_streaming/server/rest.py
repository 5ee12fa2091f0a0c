"""OpenAI's HTTP endpoints: ``/v1/audio/transcriptions``, ``/v1/audio/translations`` and ``/v1/models``.

A recording is spooled to a temporary file as it comes in, decoded from there piece by piece in a thread, and fed to a
session as fast as the pool takes it: of a long one, memory never holds more than some seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from ray_whisper_streaming.core.events import Committed, Final, LanguageDetected, StreamFailed
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.core.options import AUTO
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import AudioError, ConfigurationError, StreamClosed
from ray_whisper_streaming.media import decode_file
from ray_whisper_streaming.server.access import Principal
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.openai_errors import error_body, error_response, refusal_response
from ray_whisper_streaming.server.refusal import Refusal
from ray_whisper_streaming.server.session import ENDINGS, Ending, Session
from ray_whisper_streaming.subtitles import make_cues, to_srt, to_vtt
from ray_whisper_streaming.wire.openai_common import BadParameter, logprobs
from ray_whisper_streaming.wire.openai_rest import (
    Transcript,
    TranscriptionRequest,
    json_body,
    sse,
    verbose_body,
)

__all__ = ["model", "models", "transcriptions", "translations"]

PROTOCOL = "openai-rest"

PIECE_S = 10.0
"""Audio decoded and pushed at a time; between two pieces lies a tick of the intake (40 ms)."""

PULSES = 4
"""How often, within the time a session may be idle, one is said to be alive: while the pool is busy nothing comes."""

MAX_FIELDS = 200
MAX_FIELD_BYTES = 64 * 1024
FORM_BYTES = 1024 * 1024
"""What a form may hold besides its recording."""

DISCARD_S = 2.0
"""How long the rest of a body that is refused is read for nothing."""

OWNER = "ray-whisper-streaming"

T = TypeVar("T")


class _Failed(Exception):
    """The request ends with this answer."""

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


async def transcriptions(request: Request) -> Response:
    """Transcribe a recording."""
    return await _answer(request, translate=False)


async def translations(request: Request) -> Response:
    """Transcribe a recording into English."""
    return await _answer(request, translate=True)


async def models(request: Request) -> Response:
    """The models that may be named."""
    gateway: Gateway = request.app.state.gateway
    try:
        gateway.authenticate(request)
    except Refusal as refusal:
        return refusal_response(refusal)
    return JSONResponse({"object": "list", "data": [_model(name) for name in gateway.models.names]})


async def model(request: Request) -> Response:
    """One of them."""
    gateway: Gateway = request.app.state.gateway
    try:
        gateway.authenticate(request)
    except Refusal as refusal:
        return refusal_response(refusal)
    name: str = request.path_params["model"]
    if name not in gateway.models.names:
        return error_response(404, "there is no such model", param="model", code="model_not_found")
    return JSONResponse(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}


async def _answer(request: Request, *, translate: bool) -> Response:
    gateway: Gateway = request.app.state.gateway
    try:
        principal = gateway.authenticate(request)
        gateway.check_room(principal)  # before anything is read
        form = await _read_form(gateway, request)
    except Refusal as refusal:
        return refusal_response(refusal)
    except _Failed as failed:
        return error_response(failed.status, str(failed), code=failed.code)
    try:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise BadParameter("file is missing", param="file", code="missing_required_parameter")
        texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        wanted = TranscriptionRequest.parse(texts, gateway.models.names, translate=translate)
        hearing = _Hearing(gateway, wanted, await _open(gateway, principal, wanted), upload.file)
        if wanted.stream:
            streamed = _Streamed(hearing, form)
            form = FormData()  # it is the answer's to close now
            return streamed
        transcript = await _while_connected(request, hearing.transcript())
        return _formatted(transcript, wanted)
    except Refusal as refusal:
        return refusal_response(refusal)
    except BadParameter as error:
        gateway.metrics.error(error)
        status = 404 if error.code == "model_not_found" else 400
        return error_response(status, f"{error.param}: {error}", param=error.param, code=error.code)
    except ConfigurationError as error:
        gateway.metrics.error(error)
        return error_response(400, str(error), param=error.field, code="invalid_value")
    except AudioError as error:
        gateway.metrics.error(error)
        return error_response(400, str(error), param="file", code="invalid_audio")
    except _Failed as failed:
        return error_response(failed.status, str(failed), code=failed.code)
    finally:
        await form.close()


async def _open(gateway: Gateway, principal: Principal, wanted: TranscriptionRequest) -> Session:
    return await gateway.open_session(principal, wanted.options, protocol=PROTOCOL, live=False)


@dataclass(slots=True)
class _Hearing:
    """A recording on its way through a session."""

    gateway: Gateway
    wanted: TranscriptionRequest
    session: Session
    file: BinaryIO
    words: list[Word] = field(default_factory=list[Word])
    language: str = ""

    async def transcript(self) -> Transcript:
        """All of it. Raises `AudioError` and `_Failed`."""
        async for _ in self.committed():
            pass
        return self.result()

    async def committed(self) -> AsyncIterator[tuple[Word, ...]]:
        """The words as they are committed, until the end. Closes the session. Raises `AudioError` and `_Failed`."""
        async with self.session as session:
            feeding = asyncio.create_task(self._feed())
            pulse = asyncio.create_task(_pulse(session, self.gateway.config.idle_s / PULSES))
            try:
                async for _, event in session:
                    if isinstance(event, Committed):
                        self.words += event.words
                        yield event.words
                    elif isinstance(event, LanguageDetected):
                        self.language = event.language
                    elif isinstance(event, Ending):
                        raise _ended(event.reason)
                    elif isinstance(event, StreamFailed):
                        raise _Failed(500, "the transcription failed", code="transcription_failed")
                    elif isinstance(event, Final) and event.end_of_stream:
                        break
                await feeding
            finally:
                for task in (feeding, pulse):
                    task.cancel()
                await asyncio.gather(feeding, pulse, return_exceptions=True)

    def result(self) -> Transcript:
        """What was heard."""
        named = self.wanted.options.language
        return Transcript(
            words=self.words,
            duration_s=self.session.received_s,
            language=self.language if named == AUTO else named,
        )

    async def _feed(self) -> None:
        """Push all of it. Raises `AudioError`: what is damaged is refused as a whole."""
        self.file.seek(0)
        pieces = decode_file(self.file, untrusted=True)
        try:
            while piece := await asyncio.to_thread(_next_piece, pieces):
                await self.session.push(piece)
        except StreamClosed:
            pass  # the events say why
        finally:
            self.session.finish()


def _next_piece(pieces: Iterator[Int16Samples]) -> bytes:
    taken: list[bytes] = []
    samples = 0
    while samples < PIECE_S * SAMPLE_RATE and (piece := next(pieces, None)) is not None:
        samples += len(piece)
        taken.append(piece.tobytes())
    return b"".join(taken)


async def _pulse(session: Session, every_s: float) -> None:
    while True:
        session.touch()
        await asyncio.sleep(every_s)


def _ended(reason: str) -> _Failed:
    """The server ends a session before its end: half a transcript must not look like a whole one."""
    if reason == "audio_quota":
        return _Failed(429, ENDINGS[reason], code=reason)
    if reason == "unauthorized":
        return _Failed(401, ENDINGS[reason], code=reason)
    if reason == "draining":
        return _Failed(503, ENDINGS[reason], code=reason)
    return _Failed(400, "the recording takes longer than sessions may last", code=reason)


class _Streamed(StreamingResponse):
    """The answer as server-sent events: deltas, and at last all of the text. Closes the session and the form."""

    def __init__(self, hearing: _Hearing, form: FormData) -> None:
        super().__init__(self._events(), media_type="text/event-stream")
        self._hearing = hearing
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # the events may not even have begun
            await self._hearing.session.aclose()
            await self._form.close()

    async def _events(self) -> AsyncIterator[bytes]:
        hearing, started = self._hearing, False
        wants_logprobs = hearing.wanted.logprobs
        try:
            async for words in hearing.committed():
                text = "".join(word.text for word in words)
                delta = {"type": "transcript.text.delta", "delta": text if started else text.lstrip()}
                started = True
                yield sse({**delta, "logprobs": logprobs(words)} if wants_logprobs else delta)
            done = {"type": "transcript.text.done", "text": hearing.result().text}
            yield sse({**done, "logprobs": logprobs(hearing.words)} if wants_logprobs else done)
        except AudioError as error:
            hearing.gateway.metrics.error(error)
            yield sse(error_body(400, str(error), param="file", code="invalid_audio"))
        except _Failed as failed:
            yield sse(error_body(failed.status, str(failed), code=failed.code))


def _formatted(transcript: Transcript, wanted: TranscriptionRequest) -> Response:
    match wanted.form:
        case "json":
            return JSONResponse(json_body(transcript, wanted))
        case "verbose_json":
            return JSONResponse(verbose_body(transcript, wanted))
        case "srt":
            return PlainTextResponse(to_srt(make_cues(transcript.words)))
        case "vtt":
            return PlainTextResponse(to_vtt(make_cues(transcript.words)), media_type="text/vtt")
        case _:
            return PlainTextResponse(transcript.text + "\n")


async def _read_form(gateway: Gateway, request: Request) -> FormData:
    """The form with its file, the file spooled. Raises `_Failed`: it is too large, or no form."""
    limit = gateway.config.max_upload_bytes + FORM_BYTES
    too_large = _Failed(413, f"uploads may have {gateway.config.max_upload_bytes} bytes", code="too_large")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        if "expect" not in request.headers:  # who waits for a "100 Continue" sends nothing before the answer
            await _discard(request.receive)
        raise too_large
    limited = Request(request.scope, _limited(request.receive, limit, too_large))
    try:
        return await limited.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    except HTTPException as error:
        raise _Failed(400, error.detail, code="invalid_form") from None


async def _discard(receive: Receive) -> None:
    """Read a body for nothing, for a while: clients that send all before they read would lose the answer with the
    connection, which is closed on what was not read.
    """

    async def read() -> None:
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), DISCARD_S)


def _limited(receive: Receive, limit: int, too_large: _Failed) -> Receive:
    """``receive`` of a body that is given up beyond ``limit`` bytes, whatever length it was announced with."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large
        return message

    return counted


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, unless the client goes away meanwhile: nobody would read the answer."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _Failed(499, "the client has gone")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
