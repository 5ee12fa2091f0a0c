"""The endpoints of other makers' protocols when something goes wrong: each says it in its own words, and harms nobody.

The engine is scripted; the audio is speech, because voice activity is real.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import socket
import struct
import urllib.error
import urllib.request
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from tests.helpers.serve_command import SAMPLES, speech
from tests.helpers.serving import PCM, Served, eventually, fetch, served, session

from ray_whisper_streaming.core.jobs import Job
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.scripted import ScriptedEngine
from ray_whisper_streaming.server.keys import KeyFile, KeyLimits
from ray_whisper_streaming.server.load import Load
from ray_whisper_streaming.server.peer import Peer
from ray_whisper_streaming.wire.deepgram import ListenProtocol
from ray_whisper_streaming.wire.openai_realtime import RealtimeProtocol

TOUR = (SAMPLES / "city_tour.flac").read_bytes()
SPEECH = speech("city_tour.flac")
WORDS = [Word(f" w{number}", number * 0.5, number * 0.5 + 0.4, 0.9) for number in range(200)]
LISTEN = "/v1/listen?encoding=linear16&sample_rate=16000"
REALTIME = "/v1/realtime?intent=transcription"
FAILED = "conversation.item.input_audio_transcription.failed"
COMPLETED = "conversation.item.input_audio_transcription.completed"


@pytest.fixture
async def here() -> AsyncIterator[Served]:
    """A server on which, beside whatever the test does, a well-behaved session runs and must not notice."""
    async with served(words=WORDS) as server:
        async with session(server.ws) as witness:
            await witness.send(PCM[:96_000])
            await witness.hear_until("committed")
            yield server
            await witness.send(PCM[96_000:])
            await witness.say("close")
            events = await witness.hear_all()
            assert events[-1]["words"] == 14
            assert witness.closing == (1000, "client")
        await eventually(lambda: not server.gateway.sessions)


def connect(server: Served, path: str, **settings: Any) -> Any:
    return websockets.connect(server.ws + path, compression=None, **settings)


async def hear(connection: Any) -> dict[str, Any]:
    return json.loads(await asyncio.wait_for(connection.recv(), 20))


async def hear_until(connection: Any, kind: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] != kind:
        events.append(await hear(connection))
    return events


async def hear_all(connection: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    try:
        while True:
            events.append(await hear(connection))
    except websockets.ConnectionClosed:
        return events


async def refused(server: Served, path: str, **settings: Any) -> Any:
    """The HTTP answer to the handshake."""
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with connect(server, path, **settings):
            pass
    return caught.value.response


def append(samples: Any, rate: int = 24_000) -> str:
    """Not resampled: what is said does not matter, only that somebody speaks."""
    return json.dumps(
        {"type": "input_audio_buffer.append", "audio": base64.b64encode(samples.tobytes()).decode()}
    )


def update(**audio_input: Any) -> str:
    return json.dumps(
        {"type": "session.update", "session": {"type": "transcription", "audio": {"input": audio_input}}}
    )


COMMIT = '{"type": "input_audio_buffer.commit"}'


def form(fields: dict[str, str], file: bytes | None = TOUR, files: int = 1) -> tuple[bytes, dict[str, str]]:
    """A multipart body and its headers."""
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in fields.items()
    ]
    if file is not None:
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../a.flac"\r\n\r\n'
        parts += [head + file + b"\r\n"] * files
    return b"".join(parts) + b"--x--\r\n", {"Content_Type": "multipart/form-data; boundary=x"}


async def transcribe(server: Served, path: str = "transcriptions", **fields: str) -> Any:
    body, headers = form({"model": "whisper-1", **fields})
    return await fetch(f"{server.http}/v1/audio/{path}", body, **headers)


# ---------------------------------------------------------------- at the door


@pytest.mark.parametrize(
    ("load", "status", "code"),
    [(Load(queue_wait_s=9.0), 429, "overloaded"), (Load(ready=False), 503, "not_ready")],
)
async def test_overload_is_told_at_the_door(here: Served, load: Load, status: int, code: str) -> None:
    here.gateway.models.choose().room.load = load
    answer = await refused(here, REALTIME)
    assert (answer.status_code, json.loads(answer.body)["error"]["code"]) == (status, code)
    assert int(answer.headers["retry-after"]) >= 1
    here.gateway.models.choose().room.load = load  # it is measured again each second
    answer = await refused(here, LISTEN)
    assert (answer.status_code, json.loads(answer.body)["err_code"]) == (status, code.upper())
    assert int(answer.headers["retry-after"]) >= 1
    here.gateway.models.choose().room.load = load
    rest = await transcribe(here)
    assert (rest.status, rest.json()["error"]["code"]) == (status, code)
    assert int(rest.headers["retry-after"]) >= 1


async def test_keys_and_their_limits(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = KeyFile.read(path)
    key = keys.create("tests", 0.0, limits=KeyLimits(streams=1))
    keys.write(path)
    async with served(words=WORDS, keys_file=str(path)) as server:
        assert (await refused(server, REALTIME)).status_code == 401
        assert json.loads((await refused(server, LISTEN)).body)["err_code"] == "UNAUTHORIZED"
        assert (await transcribe(server)).json()["error"]["type"] == "authentication_error"
        token = {"Authorization": f"Token {key}"}
        async with connect(server, LISTEN, additional_headers=token) as first:
            await first.send(SPEECH[:16_000].tobytes())
            answer = await refused(server, LISTEN, additional_headers=token)
            assert json.loads(answer.body)["err_code"] == "TOO_MANY_STREAMS"
            answer = await refused(server, REALTIME, additional_headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 429
        subprotocols = ["realtime", f"openai-insecure-api-key.{key}"]
        await eventually(lambda: not server.gateway.sessions)
        async with connect(server, REALTIME, subprotocols=subprotocols) as second:
            assert second.subprotocol == "realtime"
            assert (await hear(second))["type"] == "session.created"


async def test_pages_of_other_sites(here: Served) -> None:
    """Browsers show a page neither status nor body: they are let in, told why, and sent away."""
    for path in (REALTIME, LISTEN):
        async with connect(here, path, origin="https://evil.example") as page:
            events = await hear_all(page)
            assert [event["type"].lower() for event in events] == ["error"]
            assert (page.close_code, page.close_reason) == (1008, "forbidden")


# ---------------------------------------------------------------- Realtime


async def test_pages_of_allowed_sites_may_read_the_answers() -> None:
    ours, others = "https://app.example.org", "https://evil.example.org"

    def ask_before(url: str, origin: str) -> dict[str, str]:
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        asked = urllib.request.Request(url, method="OPTIONS", headers=headers)
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                return dict(answer.headers.items())
        except urllib.error.HTTPError as error:
            return dict(error.headers.items())

    allowed = "access-control-allow-origin"
    async with served(allowed_origins=(ours + "/",)) as here:
        url = here.http + "/v1/audio/transcriptions"
        told = await asyncio.to_thread(ask_before, url, ours)
        assert (told[allowed], told["access-control-allow-headers"]) == (ours, "authorization")
        assert allowed not in await asyncio.to_thread(ask_before, url, others)
        assert (await fetch(here.http + "/v1/models", Origin=ours)).headers[allowed] == ours
        answer = await fetch(here.http + "/v1/models", Origin=others)
        assert answer.status == 403
        assert allowed not in answer.headers
    async with served() as here:
        assert allowed not in (await fetch(here.http + "/v1/models", Origin=here.http)).headers


async def test_options_that_change_never_take_two_places(here: Served) -> None:
    """A second place would be refused here: there are two, and the witness has one."""
    object.__setattr__(here.gateway.config, "max_streams", 2)
    async with connect(here, REALTIME) as client:
        await client.send(update(turn_detection=None))
        for prompt in ("a", "b", "c"):
            await client.send(update(transcription={"prompt": prompt}))
            await client.send(append(SPEECH[:48_000]))
        await client.send(COMMIT)
        events = await hear_until(client, COMPLETED)
        assert not [event for event in events if event["type"] == "error"]
        assert here.gateway.admission.streams == 2
        assert b"refusals_total{" not in here.gateway.metrics.render()


async def test_options_that_change_are_no_new_session() -> None:
    """Neither the rate of a key nor its number of streams is asked for them, nor after a stream that failed."""
    async with served(engine=_RejectingOnce, max_sessions_per_minute=1, max_streams_per_key=1) as server:
        async with connect(server, REALTIME) as client:
            await client.send(update(turn_detection=None))
            for prompt, kind in (("a", FAILED), ("b", COMPLETED), ("c", COMPLETED)):
                await client.send(append(SPEECH[:48_000]))
                await client.send(COMMIT)
                await hear_until(client, kind)
                await client.send(update(transcription={"prompt": prompt}))
        await eventually(lambda: not server.gateway.sessions)
        assert server.gateway.admission.streams == 0


async def test_options_that_change_while_the_server_goes_down() -> None:
    async with served(words=WORDS, drain_s=6.0) as server, connect(server, REALTIME) as client:
        await client.send(update(turn_detection=None))
        await client.send(append(SPEECH[:48_000]))
        await eventually(lambda: bool(server.gateway.sessions))
        server.server.stop()
        await eventually(lambda: server.gateway.admission.draining)
        await client.send(update(transcription={"prompt": "a"}))
        await asyncio.sleep(0.5)  # meanwhile nothing of the session before is left
        await client.send(append(SPEECH[48_000:96_000]))
        await client.send(COMMIT)
        events = await hear_all(client)
        assert [event["type"] for event in events[-2:]] == [COMPLETED, "error"]
        assert events[-2]["usage"]["seconds"] == 4.0
        assert events[-1]["error"]["code"] == "server_draining"
        assert client.close_code == 1012


async def test_a_failed_transcription_is_told_and_the_session_goes_on() -> None:
    async with served(engine=_RejectingOnce) as server, connect(server, REALTIME) as client:
        await client.send(update(turn_detection=None))
        await client.send(append(SPEECH[:48_000]))
        await client.send(COMMIT)
        told = await hear_until(client, FAILED)
        assert told[-1]["error"]["code"] == "transcription_failed"
        await client.send(append(SPEECH[:48_000]))
        await client.send(COMMIT)
        assert (await hear_until(client, COMPLETED))[-1]["transcript"]


async def test_a_message_too_large(here: Served) -> None:
    for path in (REALTIME, LISTEN):
        async with connect(here, path, max_size=None) as client:
            with contextlib.suppress(websockets.ConnectionClosed):  # it may be closed before all is sent
                await client.send("x" * 5_000_000)
            await hear_all(client)
            assert client.close_code == 1009
    await eventually(lambda: len(here.gateway.sessions) == 1)


@pytest.mark.parametrize("started", [False, True])
async def test_silence_ends_a_realtime_session(started: bool) -> None:
    async with served(words=WORDS, idle_s=1.0) as server, connect(server, REALTIME) as client:
        if started:
            await client.send(append(SPEECH[:24_000]))
        events = await hear_all(client)
        assert events[-1]["error"]["code"] == "idle_timeout"
        assert (client.close_code, client.close_reason) == (1008, "idle_timeout")
        await eventually(lambda: not server.gateway.sessions)


async def test_a_model_nobody_has(here: Served) -> None:
    async with connect(here, "/v1/realtime?model=parakeet") as client:
        events = await hear_all(client)
        assert events[-1]["error"]["code"] == "model_not_found"
        assert client.close_code == 1008


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b"[" * 60_000, None),
        (b" " * 70_000, None),
        (b'{"expires_after": 5}', "expires_after"),
        (b'{"expires_after": {"seconds": true}}', "expires_after.seconds"),
        (b'{"expires_after": {"anchor": "now"}}', "expires_after.anchor"),
        (b'{"session": {"type": "realtime"}}', "session.type"),
    ],
)
async def test_bad_requests_for_secrets(here: Served, body: bytes, param: str | None) -> None:
    answer = await fetch(f"{here.http}/v1/realtime/client_secrets", body)
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)


async def test_a_secret_whose_session_is_damaged_holds_the_defaults(here: Served) -> None:
    for secret in ("ek_x~!!!", "ek_x~" + "A" * 7_000, "ek_~"):
        headers = {"Authorization": f"Bearer {secret}"}
        async with connect(here, REALTIME, additional_headers=headers) as client:
            assert (await hear(client))["type"] == "session.created"


# ---------------------------------------------------------------- Deepgram


async def test_silence_ends_a_deepgram_connection() -> None:
    async with served(words=WORDS, idle_s=1.0) as server, connect(server, LISTEN) as client:
        await client.send(SPEECH[:32_000].tobytes())
        events = await hear_all(client)
        assert events[-1]["type"] == "Metadata"
        assert (client.close_code, client.close_reason) == (1011, "NET-0001")


async def test_keep_alives_keep_a_connection() -> None:
    async with served(words=WORDS, idle_s=1.0) as server, connect(server, LISTEN) as client:
        for _ in range(10):
            await client.send('{"type": "KeepAlive"}')
            await asyncio.sleep(0.25)
        await client.send('{"type": "CloseStream"}')
        assert [event["type"] for event in await hear_all(client)] == ["Metadata"]
        assert client.close_code == 1000


async def test_a_server_that_goes_down_tells_the_last_words() -> None:
    async with served(words=WORDS, drain_s=2.0) as server:
        async with connect(server, LISTEN) as listening, connect(server, REALTIME) as talking:
            await listening.send(SPEECH[:64_000].tobytes())
            await talking.send(update(turn_detection=None))
            await talking.send(append(SPEECH[:64_000]))
            await eventually(lambda: len(server.gateway.sessions) == 2)
            await asyncio.sleep(0.3)
            server.server.stop()
            heard, told = await asyncio.gather(hear_all(listening), hear_all(talking))
        assert [event["type"] for event in heard if event["type"] != "Results"] == ["Metadata"]
        assert any(event["type"] == "Results" for event in heard)
        assert (listening.close_code, talking.close_code) == (1012, 1012)
        assert told[-1]["error"]["code"] == "server_draining"


# ---------------------------------------------------------------- clients that vanish


@pytest.mark.parametrize("path", [LISTEN, "/v1/listen", REALTIME])
async def test_clients_that_vanish_leave_nothing(path: str) -> None:
    async with served(words=WORDS, latency_s=0.2) as server:
        for _ in range(5):
            async with connect(server, path) as client:
                audio = SPEECH[:64_000]
                await client.send(
                    append(audio) if path == REALTIME else (TOUR if "?" not in path else audio.tobytes())
                )
                await eventually(lambda: bool(server.gateway.sessions))
                client.transport.abort()
        await eventually(lambda: not server.gateway.sessions)
        assert server.gateway.admission.streams == 0


@pytest.mark.parametrize(
    ("path", "message", "protocol"), [(LISTEN, "{}", ListenProtocol), (REALTIME, update(), RealtimeProtocol)]
)
async def test_of_who_does_not_read_no_more_is_taken(
    path: str, message: str, protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers would pile up."""
    at_once, take, reads, taken = Peer.send, protocol.receive_message, asyncio.Event(), 0

    async def send_later(self: Peer, message: str | bytes) -> None:
        await reads.wait()
        await at_once(self, message)

    def count(self: Any, message: str | bytes) -> None:
        nonlocal taken
        taken += 1
        take(self, message)

    monkeypatch.setattr(Peer, "send", send_later)
    monkeypatch.setattr(protocol, "receive_message", count)
    async with served(words=WORDS) as server, connect(server, path) as client:
        for _ in range(1_000):
            await client.send(message)
        await eventually(lambda: taken > 100)
        await asyncio.sleep(0.5)  # it has all that was sent
        assert taken <= 250
        reads.set()
        answers = [await hear(client) for _ in range(1_000)]
        assert {answer["type"] for answer in answers} <= {"Error", "session.created", "session.updated"}


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_an_upload_whose_client_vanishes(stream: str) -> None:
    body, headers = form({"model": "whisper-1", "stream": stream})
    async with served(words=WORDS, latency_s=4.0) as server:
        port = int(server.http.rpartition(":")[2])
        head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += f"Content-Type: {headers['Content_Type']}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + body)
        await writer.drain()
        await eventually(lambda: bool(server.gateway.sessions))
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no good-bye
        writer.transport.abort()
        await eventually(lambda: not server.gateway.sessions, 2.0)
        assert server.gateway.admission.streams == 0
        del reader


# ---------------------------------------------------------------- HTTP


async def test_too_large_an_upload() -> None:
    async with served(words=WORDS, max_upload_bytes=100_000) as server:
        body, headers = form(
            {"model": "whisper-1"}, bytes(8_000_000)
        )  # more than sockets hold: all is to be read
        url = f"{server.http}/v1/audio/transcriptions"
        announced = await fetch(url, body, **headers)
        assert (announced.status, announced.json()["error"]["code"]) == (413, "too_large")
        port = int(server.http.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        writer.write(
            f"{head}Content-Type: {headers['Content_Type']}\r\n\r\n{len(body):x}\r\n".encode() + body
        )
        assert b"413" in await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        writer.write(
            f"{head}Content-Type: {headers['Content_Type']}\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert b"413" in await asyncio.wait_for(reader.readline(), 10)  # and no invitation to send it
        writer.close()
        assert not server.gateway.sessions


@pytest.mark.parametrize(
    ("body", "content_type", "param"),
    [
        (form({"model": "whisper-1"}, None)[0], "multipart/form-data; boundary=x", "file"),
        (form({"model": "whisper-1"}, files=2)[0], "multipart/form-data; boundary=x", None),
        (b"nonsense", "multipart/form-data; boundary=x", None),
        (b"nonsense", "multipart/form-data", None),
        (b"file=x&model=whisper-1", "application/x-www-form-urlencoded", "file"),
        (b"{}", "application/json", "file"),
        (form({f"f{number}": "x" for number in range(300)})[0], "multipart/form-data; boundary=x", None),
        (form({"model": "x" * 100_000})[0], "multipart/form-data; boundary=x", None),
    ],
)
async def test_bad_forms(here: Served, body: bytes, content_type: str, param: str | None) -> None:
    answer = await fetch(f"{here.http}/v1/audio/transcriptions", body, Content_Type=content_type)
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)


async def test_a_failed_transcription_is_no_transcript() -> None:
    async with served(engine=_AlwaysRejecting) as server:
        answer = await transcribe(server)
        assert (answer.status, answer.json()["error"]["code"]) == (500, "transcription_failed")
        answer = await transcribe(server, stream="true")
        assert answer.status == 200  # it had begun
        assert json.loads(answer.body.removeprefix(b"data: "))["error"]["code"] == "transcription_failed"


async def test_half_a_recording_is_no_transcript(tmp_path: Path) -> None:
    async with served(words=WORDS, session_s=1.0, latency_s=1.5) as server:
        answer = await transcribe(server)
        assert (answer.status, answer.json()["error"]["code"]) == (400, "session_limit")


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_half_a_wav_is_no_recording(stream: str) -> None:
    recording = io.BytesIO()
    with wave.open(recording, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(SPEECH.tobytes())
    body, headers = form({"model": "whisper-1", "stream": stream}, recording.getvalue()[: len(SPEECH)])
    async with served(words=WORDS) as server:
        answer = await fetch(f"{server.http}/v1/audio/transcriptions", body, **headers)
        assert json.loads(answer.body.removeprefix(b"data: "))["error"]["code"] == "invalid_audio"


async def test_the_right_answers(here: Served) -> None:
    answer = await transcribe(here, response_format="verbose_json", **{"timestamp_granularities[]": "word"})
    body = answer.json()
    assert (answer.status, body["task"], body["duration"]) == (
        200,
        "transcribe",
        pytest.approx(18.45, abs=0.1),
    )
    assert body["words"][0]["word"].startswith("w")
    assert "segments" not in body


class _AlwaysRejecting(ScriptedEngine):
    def __init__(self) -> None:
        super().__init__({}, WORDS)

    def _next_fault(self, job: Job) -> str | None:
        return "reject"


class _RejectingOnce(ScriptedEngine):
    def __init__(self) -> None:
        super().__init__({}, WORDS)
        self.faults_left = ["reject"]

    def _next_fault(self, job: Job) -> str | None:
        return self.faults_left.pop() if self.faults_left else None
