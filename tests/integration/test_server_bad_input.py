"""Clients that do what they should not: each gets the protocol's own error, and harms no other."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from tests.helpers.serving import (
    PCM,
    TEXT,
    Client,
    Served,
    connected,
    eventually,
    fetch,
    of_kind,
    served,
    session,
    text_of,
)

from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.server.keys import KeyFile, KeyLimits
from ray_whisper_streaming.server.load import Load
from ray_whisper_streaming.wire.native import encode_audio


@pytest.fixture
async def here() -> AsyncIterator[Served]:
    """A server on which, beside whatever the test does, a well-behaved session runs and must not notice."""
    async with served() as server:
        async with session(server.ws) as witness:
            await witness.send(PCM[:96_000])
            await witness.hear_until("committed")
            yield server
            await witness.send(PCM[96_000:])
            await witness.say("close")
            events = await witness.hear_all()
            assert events[-1]["words"] == 12
            assert witness.closing == (1000, "client")
        await eventually(lambda: not server.gateway.sessions)


async def dismissed(client: Client) -> str:
    """The code of the fatal error that the client is told, and the connection closed with."""
    errors = of_kind(await client.hear_all(), "error")
    assert len(errors) == 1
    assert client.closing == (1008, errors[0]["code"])
    return errors[0]["code"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", "bad_json"),
        ("hello", "bad_json"),
        ("null", "bad_message"),
        ('{"type":"option"}', "bad_message"),
        ('{"type":"options","language":7}', "bad_message"),
        ('{"type":"options","language":"xx"}', "bad_option"),
        ('{"type":"options","language":"de"}', "bad_option"),
        ('{"type":"options","task":"translate"}', "bad_option"),
        ('{"type":"options","model":"another"}', "bad_option"),
        ('{"type":"options","sample_rate":1}', "bad_option"),
        ('{"type":"options","channels":65}', "bad_option"),
        ('{"type":"options","channels":9,"split_channels":true}', "bad_option"),
        ('{"type":"resume","session_id":"../../etc/passwd"}', "not_found"),
        ('{"type":"flush","id":"a"}', "options_first"),
        (encode_audio(0, b"ab"), "options_first"),
        (b"", "bad_audio_message"),
    ],
)
async def test_wrong_first_messages(here: Served, message: str | bytes, code: str) -> None:
    async with connected(here.ws) as client:
        await client.socket.send(message)
        assert await dismissed(client) == code


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('{"type":"options"}', "options_twice"),
        ("\x00", "bad_json"),
        (encode_audio(1, b"ab"), "audio_gap"),
        (b"\x00\x00\x00\x00", "bad_audio_message"),
        (json.dumps({"type": "flush", "id": "x" * 1000}), "bad_message"),
    ],
)
async def test_wrong_later_messages(here: Served, message: str | bytes, code: str) -> None:
    async with session(here.ws) as client:
        await client.socket.send(message)
        assert await dismissed(client) == code
    await eventually(lambda: len(here.gateway.sessions) == 1)


async def test_who_says_nothing_is_sent_away(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_whisper_streaming.server.native.OPTIONS_S", 0.2)
    async with connected(here.ws) as client:
        assert await dismissed(client) == "options_late"


async def test_flushes_without_end(here: Served) -> None:
    async with session(here.ws) as client:
        try:
            for number in range(1000):
                await client.say("flush", id=str(number))
        except websockets.ConnectionClosed:
            pass
        assert await dismissed(client) == "too_many_flushes"


async def test_samples_that_are_none_cost_only_themselves(here: Served) -> None:
    async with session(here.ws, encoding="f32le") as client:
        await client.send(b"\xff" * 4000)  # NaN
        await asyncio.sleep(0.2)
        await client.say("close")
        events = await client.hear_all()
        assert [(event["code"], event["fatal"]) for event in of_kind(events, "error")] == [
            ("bad_audio", False)
        ]
        assert events[-1]["type"] == "closed"


@pytest.mark.parametrize("size", [(1 << 20) + 1, 100 << 20])
async def test_messages_that_are_too_big(here: Served, size: int) -> None:
    async with session(here.ws) as client:
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.socket.send(bytes(size))
        assert await client.hear_all() == []
        assert client.closing[0] == 1009
    await eventually(lambda: len(here.gateway.sessions) == 1)


async def raw(here: Served, data: bytes, frame: bytes = b"") -> bytes:
    """What is answered to some bytes, and to a frame after the answer, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
    try:
        writer.write(data)
        if frame:
            assert b"101" in await reader.readuntil(b"\r\n\r\n")
            writer.write(frame)
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


def upgrade(path: str = "/v1/stream") -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


@pytest.mark.parametrize(
    "frame",
    [
        b"\x82\x02ab",  # not masked
        b"\xf2\x80mask",  # reserved bits
        b"\x83\x80mask",  # an opcode there is not
        b"\x89\xfe\x00\x80mask" + bytes(128),  # a ping longer than pings may be
        b"\x80\x80mask",  # the rest of nothing
    ],
)
async def test_broken_frames(here: Served, frame: bytes) -> None:
    answer = await raw(here, upgrade(), frame)
    assert (1002).to_bytes(2, "big") in answer


async def test_text_that_is_no_utf_8(here: Served) -> None:
    answer = await raw(here, upgrade(), b"\x81\x82\x00\x00\x00\x00\xff\xfe")
    assert (1007).to_bytes(2, "big") in answer


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"x" * 20_000, b"400"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /v1/stream/..%2f..%2fetc/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
    ],
)
async def test_bad_requests(here: Served, request_head: bytes, status: bytes) -> None:
    answer = await raw(here, request_head)
    assert answer.split()[1] == status


@pytest.mark.parametrize(
    "path", ["/v1/stream", "/v1/stream/x/events", "/v1/realtime", "/v1/listen?model=nova-3"]
)
async def test_who_comes_without_a_websocket_learns_that_one_is_wanted(here: Served, path: str) -> None:
    for body in (None, b"a recording"):
        answer = await fetch(here.http + path, body)
        assert answer.status == 426
        assert answer.json()["error"]["code"] == "websocket_wanted"
        assert answer.headers["upgrade"] == "websocket"


async def test_a_websocket_to_nowhere_is_not_found_rather_than_forbidden(
    here: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with connected(here.ws, "/v1/streams"):
            pass
    response = caught.value.response
    assert (response.status_code, json.loads(response.body)["error"]["code"]) == (404, "not_found")
    async with connected(here.ws, "/v1/streams", origin=here.http) as client:
        assert (await client.hear())["error"]["code"] == "not_found"
        await client.hear_all()
        assert client.closing == (1008, "not_found")
    await eventually(lambda: len(here.gateway.sessions) == 1)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_connection_without_a_request_ends(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_whisper_streaming.server.sockets.HEAD_S", 0.2)
    began = time.monotonic()
    assert await raw(here, b"GET / HT") == b""
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("received", [b"", b"--x\r\n"])
async def test_a_request_without_its_body_ends(
    here: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, received: bytes
) -> None:
    monkeypatch.setattr("ray_whisper_streaming.server.sockets.BODY_PAUSE_S", 0.3)
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
    head += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    assert await raw(here, head + received) == b""
    await asyncio.sleep(0.1)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_the_head_of_a_second_request_has_its_time_once(
    here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_whisper_streaming.server.sockets.HEAD_S", 1.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" in await reader.readline()

    async def go_on() -> None:
        for byte in b"GET /healthz HTTP/1.1\r\n" + b"X: x\r\n" * 100:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)

    going_on = asyncio.create_task(go_on())
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 10)
    going_on.cancel()
    writer.close()


async def test_a_slow_body_is_waited_for(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_whisper_streaming.server.sockets.HEAD_S", 0.5)
    monkeypatch.setattr("ray_whisper_streaming.server.sockets.BODY_PAUSE_S", 3.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
    writer.write(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n")
    writer.write(b"Content-Type: multipart/form-data; boundary=x\r\n\r\n")
    for byte in b"1234567890":
        writer.write(bytes([byte]))
        await asyncio.sleep(0.4)
    assert b"400" in await asyncio.wait_for(reader.readline(), 10)
    writer.close()


async def test_a_client_that_vanishes_in_the_middle_of_a_job() -> None:
    async with served(latency_s=0.5) as here:
        async with session(here.ws) as client:
            await client.send(PCM)
            await eventually(
                lambda: any(stream.lag_s > 1 for s in here.gateway.sessions.values() for stream in s.streams)
            )
            client.socket.transport.abort()
        await eventually(lambda: not here.gateway.sessions)
        async with session(here.ws) as other:
            await other.send(PCM)
            await other.say("close")
            assert text_of(await other.hear_all()) == TEXT


async def test_a_connection_whose_other_end_is_dead_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_whisper_streaming.server.serving.PING_S", 0.3)
    monkeypatch.setattr("ray_whisper_streaming.server.sockets.LINGER_S", 0.3)
    async with served() as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
        writer.write(upgrade())
        await reader.readuntil(b"\r\n\r\n")
        options = b'{"type": "options"}'
        writer.write(bytes([0x81, 0x80 | len(options)]) + bytes(4) + options)
        await eventually(lambda: len(here.gateway.sessions) == 1)
        # From here on it takes what comes and says nothing, not even to pings, as a machine without power.
        await eventually(lambda: not here.gateway.sessions, within_s=5.0)
        writer.close()


async def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_whisper_streaming.server.sockets.LINGER_S", 0.2)
    # Words so long that no buffer on the way holds them; each another, or they would be taken for a loop.
    words = tuple(Word(f" {chr(97 + n) * 400_000}", 0.1 + 0.5 * n, 0.5 + 0.5 * n) for n in range(14))
    async with served(words=words, send_timeout_s=0.5) as here:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.connect(("127.0.0.1", here.server.port))
        async with session(
            here.ws, {"sock": narrow, "max_queue": 1, "max_size": None, "ping_interval": None}
        ) as client:
            await client.send(PCM)
            await eventually(lambda: not here.gateway.sessions)
            connections = here.server._uvicorn.server_state.connections  # pyright: ignore[reportOptionalMemberAccess]
            await eventually(lambda: not connections)  # the socket too, not only the session
            client.socket.transport.abort()


async def test_a_client_that_sends_faster_than_it_can_be_decoded_is_slowed_down() -> None:
    async with served(latency_s=0.2) as here:
        async with session(here.ws) as client:
            sending = asyncio.create_task(client.send(bytes(16_000 * 2 * 600)))
            await asyncio.sleep(1.0)
            (running,) = here.gateway.sessions.values()
            assert running.received_s <= 121
            assert not sending.done()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            client.socket.transport.abort()
        await eventually(lambda: not here.gateway.sessions)


async def test_a_client_that_is_not_read_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers to pings wait behind its audio."""
    monkeypatch.setattr("ray_whisper_streaming.server.serving.PING_S", 0.3)
    monkeypatch.setattr("ray_whisper_streaming.server.sockets.LINGER_S", 0.3)
    async with served(latency_s=0.5) as here:
        async with session(here.ws, {"ping_interval": None}) as client:
            sending = asyncio.create_task(client.send(bytes(16_000 * 2 * 600)))
            await asyncio.sleep(3.0)
            assert client.closing == (None, None)
            assert not sending.done()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            client.socket.transport.abort()
        await eventually(lambda: not here.gateway.sessions)


async def test_a_client_that_is_not_read_is_not_idle() -> None:
    async with served(latency_s=0.5) as here:
        async with session(here.ws) as client:
            sending = asyncio.create_task(client.send(bytes(16_000 * 2 * 600), packet=640_000))
            (running,) = here.gateway.sessions.values()
            await eventually(lambda: running._inbox_bytes > running._inbox_limit)
            running.heard_at -= 1000
            long_ago = running.heard_at
            here.gateway._enforce_limits()
            assert running.ending is None
            await eventually(lambda: running.heard_at > long_ago + 900)  # once there is room again
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            client.socket.transport.abort()
        await eventually(lambda: not here.gateway.sessions)


# ---------------------------------------------------------------- at the door


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[tuple[Served, str]]:
    """A server with a key."""
    path = tmp_path / "keys.json"
    content = KeyFile.read(path)
    key = content.create("test", time.time(), limits=KeyLimits(streams=1))
    content.write(path)
    async with served(keys_file=str(path)) as server:
        yield server, key


def bearer(credential: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {credential}"}}


async def status_of(url: str, path: str = "/v1/stream", **settings: Any) -> int:
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with connected(url, path, **settings):
            pass
    return caught.value.response.status_code


async def test_keys_and_tokens_over_the_wire(guarded: tuple[Served, str]) -> None:
    here, key = guarded
    assert await status_of(here.ws) == 401
    assert await status_of(here.ws, **bearer(key + "x")) == 401
    assert await status_of(here.ws, f"/v1/stream?token={key}") == 401
    minted = await fetch(here.http + "/v1/tokens", b"{}", Authorization=f"Bearer {key}")
    assert minted.status == 200
    token = minted.json()["token"]
    assert minted.json()["expires_at"] == pytest.approx(time.time() + 600, abs=5)
    assert await status_of(here.ws, f"/v1/stream?token={token}x") == 401
    ways: list[dict[str, Any]] = [
        {"path": f"/v1/stream?token={token}"},
        {"subprotocols": ["ray-whisper", "token", token]},
    ]
    for way in ways:
        async with connected(here.ws, **way) as client:
            await client.say("options")
            assert (await client.hear())["type"] == "ready"
            await client.say("close")
            await client.hear_all()


async def test_a_token_for_following_follows_and_does_nothing_else(guarded: tuple[Served, str]) -> None:
    here, key = guarded
    async with session(here.ws, bearer(key)) as client:
        session_id = next(iter(here.gateway.sessions))
        wish = json.dumps({"session_id": session_id, "life": 30}).encode()
        token = (await fetch(here.http + "/v1/tokens", wish, Authorization=f"Bearer {key}")).json()["token"]
        assert await status_of(here.ws, f"/v1/stream?token={token}") == 403
        assert await status_of(here.ws, f"/v1/stream/other/events?token={token}") == 404
        assert await status_of(here.ws, f"/v1/stream/{session_id}/events") == 401
        async with connected(here.ws, f"/v1/stream/{session_id}/events?token={token}") as listener:
            await client.send(PCM)
            await client.say("close")
            assert text_of(await listener.hear_all()) == TEXT
            await client.hear_all()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"life":0}', 400),
        (b'{"life":601}', 400),
        (b'{"life":NaN}', 400),
        (b'{"x":1}', 400),
        (b"x" * 5000, 413),
        (b"", 200),
    ],
)
async def test_wishes_for_tokens(guarded: tuple[Served, str], body: bytes, status: int) -> None:
    here, key = guarded
    assert (await fetch(here.http + "/v1/tokens", body, Authorization=f"Bearer {key}")).status == status


async def test_tokens_make_no_tokens(guarded: tuple[Served, str]) -> None:
    here, key = guarded
    token = (await fetch(here.http + "/v1/tokens", b"", Authorization=f"Bearer {key}")).json()["token"]
    assert (await fetch(here.http + "/v1/tokens", b"", Authorization=f"Bearer {token}")).status == 401
    assert (await fetch(here.http + "/v1/tokens", b"")).status == 401


async def test_a_revoked_key_ends_its_session_and_opens_none(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    content = KeyFile.read(path)
    key, other = content.create("lost", time.time()), content.create("other", time.time())
    content.write(path)
    audio = base64.b64encode(PCM).decode()
    async with (
        served(keys_file=str(path)) as here,
        session(here.ws, bearer(other)) as witness,
        connected(here.ws, "/v1/realtime", **bearer(key)) as waiting,
        session(here.ws, bearer(key)) as running,
    ):
        await running.send(PCM)
        content.revoke(key.split("_")[1], time.time())
        content.write(path)
        events = await running.hear_all()
        assert [event["code"] for event in of_kind(events, "error")] == ["unauthorized"]
        assert text_of(events) == TEXT
        assert running.closing == (1008, "unauthorized")
        await waiting.socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        assert (await waiting.hear_all())[-1]["error"]["code"] == "unauthorized"
        assert waiting.closing == (1008, "unauthorized")
        metrics = (await fetch(here.http + "/metrics", Authorization=f"Bearer {other}")).body.decode()
        assert 'refusals_total{code="unauthorized"} 1.0' in metrics  # not opened, and then ended
        await witness.send(PCM)
        await witness.say("close")
        assert text_of(await witness.hear_all()) == TEXT


async def test_limits_of_a_key_come_with_a_hint(guarded: tuple[Served, str]) -> None:
    here, key = guarded
    async with session(here.ws, bearer(key)) as first:
        async with connected(here.ws, **bearer(key)) as second:
            await second.say("options")
            (error,) = await second.hear_all()
            assert error.items() >= {"type": "error", "code": "too_many_streams", "fatal": True}.items()
            assert error["retry_after"] > 0
            assert second.closing == (1013, "too_many_streams")
        await first.say("close")
        assert (await first.hear_all())[-1]["type"] == "closed"


async def test_overload_is_refused_at_the_door_and_not_taken_out_on_who_is_in(here: Served) -> None:
    model = here.gateway.models.choose()
    model.room.load = Load(queue_wait_s=50.0)
    model._meter.measure = lambda stats, lags: Load(queue_wait_s=50.0)  # type: ignore[method-assign]
    async with connected(here.ws) as client:
        await client.say("options")
        (error,) = await client.hear_all()
        assert error.items() >= {"code": "overloaded", "retry_after": 30.0}.items()
        assert client.closing == (1013, "overloaded")


async def test_the_sessions_of_a_key_are_no_business_of_another(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    content = KeyFile.read(path)
    mine, other = content.create("mine", time.time()), content.create("other", time.time())
    content.write(path)
    async with served(keys_file=str(path), resume_s=20.0) as here, session(here.ws, bearer(mine)) as client:
        session_id = next(iter(here.gateway.sessions))
        assert await status_of(here.ws, f"/v1/stream/{session_id}/events", **bearer(other)) == 404
        async with connected(here.ws, **bearer(other)) as thief:
            await thief.say("resume", session_id=session_id)
            assert await dismissed(thief) == "not_found"
        await client.send(PCM)
        await client.say("close")
        assert text_of(await client.hear_all()) == TEXT


async def test_browsers_are_told_in_a_message_what_they_can_t_read_from_a_status(
    guarded: tuple[Served, str],
) -> None:
    here, key = guarded
    origin = f"http://127.0.0.1:{here.server.port}"
    async with connected(here.ws, origin=origin) as client:
        (error,) = await client.hear_all()
        assert error["code"] == "unauthorized"
        assert client.closing == (1008, "unauthorized")
    # Where a browser offered subprotocols and none is taken, it throws the connection and the message away.
    async with connected(
        here.ws, origin=origin, subprotocols=["ray-whisper", "token", "rws_no_key"]
    ) as client:
        assert client.socket.subprotocol == "ray-whisper"
        (error,) = await client.hear_all()
        assert error["code"] == "unauthorized"
    async with connected(here.ws, origin="http://evil.example", **bearer(key)) as client:
        (error,) = await client.hear_all()
        assert error["code"] == "forbidden"
