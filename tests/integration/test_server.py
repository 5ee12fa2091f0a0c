"""The server over real sockets, its workers answering from a script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import websockets
from tests.helpers.serving import (
    PCM,
    PLAIN,
    TEXT,
    WORDS,
    WORLD,
    Client,
    Served,
    connected,
    eventually,
    fetch,
    lines,
    of_kind,
    served,
    session,
    text_of,
)

from ray_whisper_streaming import AsyncPool, Final, StreamOptions
from ray_whisper_streaming.core.jobs import Failure, Job, Result
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.scripted import ScriptedEngine
from ray_whisper_streaming.errors import ConfigurationError, EngineError, ModelNotFound, PoolError
from ray_whisper_streaming.server.access import Principal
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.peer import Peer
from ray_whisper_streaming.server.serving import Server, check_exposure


@pytest.fixture
async def here() -> AsyncIterator[Served]:
    async with served() as server:
        yield server


# ---------------------------------------------------------------- the native protocol


async def test_from_options_to_closed(here: Served) -> None:
    async with connected(here.ws) as client:
        await client.say("options", language="en", voice_activity=False)
        ready = await client.hear()
        assert ready.items() >= {"type": "ready", "model": "tiny.en", "next_audio": 0, "streams": 1}.items()
        assert ready["session_id"] in here.gateway.sessions
        await client.send(PCM)
        await client.say("close")
        events = await client.hear_all()
    assert text_of(events) == TEXT
    ids = [word["id"] for event in of_kind(events, "committed") for word in event["words"]]
    assert ids == list(range(len(WORLD.words)))
    assert events[-1].items() >= {"type": "closed", "reason": "client", "audio": 7.0, "words": 12}.items()
    assert [event["n"] for event in events] == sorted(event["n"] for event in events)
    assert client.closing == (1000, "client")
    assert here.gateway.sessions == {}


async def test_flush_is_confirmed_behind_all_that_was_sent_before_it(here: Served) -> None:
    async with session(here.ws) as client:
        await client.send(PCM[: 16_000 * 2 * 4])
        await client.say("flush", id="first")
        await client.send(PCM[16_000 * 2 * 4 :])
        await client.say("flush", id="second")
        first = await client.hear_until("flushed")
        assert first[-1].items() >= {"id": "first", "at": 4.0}.items()
        assert len(text_of(first).split()) == 9  # up to second 4
        second = await client.hear_until("flushed")
        assert second[-1].items() >= {"id": "second", "at": 7.0}.items()
        assert text_of(first + second) == TEXT
        await client.say("close")
        assert of_kind(await client.hear_all(), "closed")


@pytest.mark.parametrize(("encoding", "rate", "kind"), [("f32le", 16_000, "<f4"), ("s16le", 32_000, "<i2")])
async def test_other_encodings_and_rates_keep_their_time(
    here: Served, encoding: str, rate: int, kind: str
) -> None:
    samples = np.repeat(WORLD.audio(), rate // 16_000)
    raw = (samples / 32768 if kind == "<f4" else samples).astype(kind).tobytes()
    async with session(here.ws, encoding=encoding, sample_rate=rate) as client:
        await client.send(raw, packet=6_401)  # cut in the middle of a sample
        await client.say("close")
        events = await client.hear_all()
    assert text_of(events) == TEXT
    assert events[-1]["audio"] == pytest.approx(7.0, abs=0.01)


async def test_telephony(here: Served) -> None:
    async with session(here.ws, encoding="mulaw", sample_rate=8_000) as client:
        await client.send(bytes([0x9F, 0x1F]) * 4_000 * 7, packet=160)  # a square wave, 20 ms a packet
        await client.say("close")
        assert text_of(await client.hear_all()) == TEXT


async def test_a_stream_for_each_channel(here: Served) -> None:
    both = np.stack([WORLD.audio(), WORLD.audio()[::-1]], axis=1)
    async with session(here.ws, channels=2, split_channels=True) as client:
        assert here.gateway.admission.streams == 2
        await client.send(np.ascontiguousarray(both).tobytes())
        await client.say("flush", id="a")
        events = await client.hear_until("flushed")
        await client.say("close")
        events += await client.hear_all()
    assert text_of(events, 0) == text_of(events, 1) == TEXT
    assert [event["id"] for event in of_kind(events, "flushed")] == ["a"]
    ends = [event for event in of_kind(events, "final") if event.get("end_of_stream")]
    assert sorted(event.get("channel", 0) for event in ends) == [0, 1]
    assert events[-1]["words"] == 24


async def test_audio_that_is_done_with_is_acknowledged(here: Served) -> None:
    async with session(here.ws) as client:
        await client.send(PCM)
        await client.say("flush", id="a")
        told = (await client.hear_until("acknowledged"))[-1]
        assert 6.5 < told["at"] <= 7.0
        assert told["sample"] == pytest.approx(told["at"] * 16_000, abs=20)


async def test_many_sessions_at_once_keep_apart() -> None:
    async def talk(url: str, pauses: int) -> str:
        async with session(url) as client:
            await client.send(bytes(16_000 * pauses) + PCM)  # half a second of silence each
            await client.say("close")
            return text_of(await client.hear_all())

    async with served(latency_s=0.01) as here:
        texts = await asyncio.gather(*(talk(here.ws, count % 3) for count in range(30)))
    # The script stands on the time line: with silence in front, nothing else changes.
    assert texts == [TEXT] * 30


async def test_an_intake_that_comes_for_nothing_leaves_what_comes_later(here: Served) -> None:
    opened = await here.gateway.open_session(Principal(), StreamOptions(**PLAIN), protocol="test")
    async with opened:
        assert opened.take() == []  # audio touched the intake, and an earlier turn had taken it
        await opened.push(PCM)
        opened.finish()
        events = [event async for _, event in opened]
    assert [event.text for event in events if isinstance(event, Final)] == [TEXT]


async def test_sockets_that_rest_between_reads_lose_nothing(
    here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_whisper_streaming.server.sockets.REST_PER_CONNECTION_S", 0.05)

    async def talk() -> str:
        async with session(here.ws) as client:
            for start in range(0, len(PCM), 3_200):
                await client.send(PCM[start : start + 3_200], packet=640)
                await asyncio.sleep(0.002)
            await client.say("flush", id="a")
            events = await client.hear_until("flushed")
            await client.say("close")
            return text_of(events + await client.hear_all())

    assert await asyncio.gather(*(talk() for _ in range(5))) == [TEXT] * 5


# ---------------------------------------------------------------- lost connections


async def test_a_lost_connection_is_resumed_without_a_gap() -> None:
    async with served(resume_s=20.0) as here:
        async with session(here.ws) as client:
            session_id = next(iter(here.gateway.sessions))
            await client.send(PCM[:96_000])
            events = await client.hear_until("committed")
            client.socket.transport.abort()
        after = events[-1]["n"]
        async with connected(here.ws) as again:
            await again.say("resume", session_id=session_id, after=after)
            ready = await again.hear()
            assert ready.items() >= {"resumed": True, "session_id": session_id}.items()
            assert 0 < ready["next_audio"] <= 15
            again.sent = ready["next_audio"] - 1  # one that the server has: sent again, it is dropped
            await again.send(PCM[again.sent * 6_400 :])
            await again.say("close")
            rest = await again.hear_all()
        assert rest[-1]["type"] == "closed"
        assert rest[-1]["audio"] == 7.0
        assert text_of(events + rest) == TEXT
        assert all(event["n"] > after for event in rest)


async def test_who_does_not_come_back_loses_the_session() -> None:
    async with served(resume_s=0.2) as here:
        async with session(here.ws) as client:
            session_id = next(iter(here.gateway.sessions))
            client.socket.transport.abort()
        await eventually(lambda: not here.gateway.sessions)
        async with connected(here.ws) as again:
            await again.say("resume", session_id=session_id)
            assert (await again.hear())["code"] == "not_found"


async def test_the_end_is_kept_for_who_missed_it() -> None:
    async with served(resume_s=20.0) as here:
        async with session(here.ws) as client:
            session_id = next(iter(here.gateway.sessions))
            await client.send(PCM)
            await client.say("close")
            await eventually(lambda: not here.gateway.sessions)
            client.socket.transport.abort()
        async with connected(here.ws) as again:
            await again.say("resume", session_id=session_id)
            ready, *events = await again.hear_all()
        assert ready["resumed"]
        assert text_of(events) == TEXT
        assert events[-1]["type"] == "closed"


async def test_the_newest_connection_of_a_session_wins() -> None:
    async with served(resume_s=20.0) as here, session(here.ws) as old:
        session_id = next(iter(here.gateway.sessions))
        async with connected(here.ws) as new:
            await new.say("resume", session_id=session_id)
            assert (await new.hear())["type"] == "ready"
            await old.hear_all()
            assert old.closing == (1008, "resumed_elsewhere")
            await new.send(PCM)
            await new.say("close")
            assert text_of(await new.hear_all()) == TEXT


async def test_who_says_good_bye_is_not_waited_for() -> None:
    async with served(resume_s=20.0) as here:
        async with session(here.ws) as client:
            await client.send(PCM)
        await eventually(lambda: not here.gateway.sessions)


# ---------------------------------------------------------------- listeners


async def test_listeners_get_every_event_from_the_first(here: Served) -> None:
    async with session(here.ws) as client:
        path = f"/v1/stream/{next(iter(here.gateway.sessions))}/events"
        async with connected(here.ws, path) as early:
            await client.send(PCM)
            await client.say("flush", id="a")
            own = await client.hear_until("flushed")
            async with connected(here.ws, path) as late:
                await client.say("close")
                own += await client.hear_all()
                for listener in (early, late):
                    heard = await listener.hear_all()
                    assert text_of(heard) == TEXT
                    assert heard[-1] == own[-1]
                    assert listener.closing[0] == 1000


async def test_there_is_nothing_to_hear_of_an_unknown_session(here: Served) -> None:
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with connected(here.ws, "/v1/stream/nonsense/events"):
            pass
    assert caught.value.response.status_code == 404


# ---------------------------------------------------------------- raw TCP


async def test_raw_tcp_sends_the_last_words_too(here: Served) -> None:
    async def talk(port: int) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PCM)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer.decode()

    async with lines(here.gateway) as tcp:
        answers = await asyncio.gather(*(talk(tcp.port) for _ in range(5)))
    for answer in answers:
        rows = [line.split(" ", 2) for line in answer.splitlines()]
        assert "".join(text for _, _, text in rows).strip() == TEXT
        times = [int(value) for start, end, _ in rows for value in (start, end)]
        assert times == sorted(times)
        assert (times[0], times[-1]) == (500, 5200)


async def test_a_tcp_client_that_vanishes_leaves_nothing(here: Served) -> None:
    async with lines(here.gateway) as tcp:
        _, writer = await asyncio.open_connection("127.0.0.1", tcp.port)
        writer.write(PCM[:64_000])
        await writer.drain()
        await eventually(lambda: bool(here.gateway.sessions))
        writer.transport.abort()
        await eventually(lambda: not here.gateway.sessions)


# ---------------------------------------------------------------- supervision


async def test_health_readiness_and_metrics(here: Served) -> None:
    assert (await fetch(here.http + "/healthz")).status == 200
    assert (await fetch(here.http + "/readyz")).json() == {
        "state": "ready",
        "streams": 0,
        "models": {"tiny.en": True},
    }
    async with session(here.ws) as client:
        await client.send(PCM)
        await client.say("close")
        await client.hear_all()
    await asyncio.sleep(1.1)  # the pool is looked at once a second
    text = (await fetch(here.http + "/metrics")).body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['ray_whisper_sessions{model="tiny.en",protocol="native"}'] == "0.0"
    assert values['ray_whisper_sessions_opened_total{model="tiny.en",protocol="native"}'] == "1.0"
    assert values['ray_whisper_words_committed_total{model="tiny.en",protocol="native"}'] == "12.0"
    assert values['ray_whisper_audio_seconds_total{model="tiny.en",protocol="native"}'] == "7.0"
    assert float(values['ray_whisper_pool_jobs_done_total{model="tiny.en"}']) >= 1
    assert values['ray_whisper_pool_workers{model="tiny.en"}'] == "1.0"
    for figure in ("jobs_done", "batches", "inference_seconds", "audio_decoded_seconds"):
        assert float(values[f'ray_whisper_worker_{figure}_total{{model="tiny.en",worker="worker-0"}}']) > 0
    assert not any(word in text for word in ("quick", "brown"))


async def test_draining_lets_sessions_finish_and_nobody_in() -> None:
    async with served(drain_s=10.0) as here:
        async with session(here.ws) as client:
            await client.send(PCM[:96_000])
            here.server.stop()
            assert (await client.hear_until("draining"))[-1]["within"] == 10.0
            ready = await fetch(here.http + "/readyz")
            assert (ready.status, ready.json()["state"]) == (503, "draining")
            async with connected(here.ws) as late:
                await late.say("options", **PLAIN)
                [error] = await late.hear_all()
                assert error.items() >= {"code": "draining", "fatal": True, "retry_after": 1.0}.items()
                assert late.closing == (1012, "draining")
            await client.send(PCM[96_000:])
            await client.say("close")
            assert text_of(await client.hear_all()).endswith("again and again")
            assert client.closing == (1000, "client")
        await asyncio.wait_for(here.running, 5)  # and does not wait for the ten seconds


async def test_draining_ends_sessions_that_go_on_and_their_tails_arrive() -> None:
    async with served(drain_s=2.0) as here, session(here.ws) as client:
        await client.send(PCM)
        here.server.stop()
        events = await client.hear_all()
        assert text_of(events) == TEXT
        assert [event["code"] for event in of_kind(events, "error")] == ["draining"]
        assert events[-1].items() >= {"type": "closed", "reason": "draining"}.items()
        assert client.closing == (1012, "draining")
        await asyncio.wait_for(here.running, 5)


async def test_a_connection_lost_while_the_server_drains_is_resumed() -> None:
    async with served(drain_s=10.0, resume_s=10.0) as here:
        async with connected(here.ws) as client:
            await client.say("options", **PLAIN)
            session_id = (await client.hear())["session_id"]
            await client.send(PCM[:96_000])
            here.server.stop()
            events = await client.hear_until("draining")
            client.socket.transport.abort()
        async with connected(here.ws) as back:
            await back.say("resume", session_id="another", after=-1)
            assert [error["code"] for error in await back.hear_all()] == ["not_found"]
        async with connected(here.ws) as back:
            await back.say("resume", session_id=session_id, after=events[-1]["n"])
            ready = await back.hear()
            assert ready.items() >= {"type": "ready", "resumed": True}.items()
            back.sent = ready["next_audio"]
            await back.send(PCM[back.sent * 6_400 :])
            await back.say("close")
            events += await back.hear_all()
            assert text_of(events) == TEXT
            assert back.closing == (1000, "client")
        await asyncio.wait_for(here.running, 5)


async def test_draining_does_not_end_what_the_client_has_ended() -> None:
    """Its tail takes longer than sessions may go on."""
    async with served(drain_s=4.0, latency_s=1.2) as here, session(here.ws) as client:
        await client.send(PCM)
        await client.say("close")
        await eventually(lambda: any(each.received_s == 7.0 for each in here.gateway.sessions.values()))
        here.server.stop()
        events = await client.hear_all()
        assert text_of(events) == TEXT
        assert of_kind(events, "error") == []
        assert events[-1].items() >= {"type": "closed", "reason": "client"}.items()
        assert client.closing == (1000, "client")


async def test_a_client_that_ended_and_never_came_back_is_told_of_as_such() -> None:
    async with served(resume_s=0.2, latency_s=2.0) as here, session(here.ws) as client:
        [opened] = here.gateway.sessions.values()
        async with connected(here.ws, f"/v1/stream/{opened.session_id}/events") as listener:
            await client.send(PCM)
            await client.say("close")
            await eventually(lambda: opened.received_s == 7.0)
            client.socket.transport.abort()
            events = await listener.hear_all()
            assert [error["code"] for error in of_kind(events, "error")] == ["abandoned"]
            assert events[-1].items() >= {"type": "closed", "reason": "abandoned"}.items()


async def test_a_second_signal_ends_at_once() -> None:
    async with served(drain_s=60.0) as here, session(here.ws) as client:
        here.server.stop()
        await client.hear_until("draining")
        here.server.stop()
        await client.hear_all()
        await asyncio.wait_for(here.running, 5)


class AbsentEngine:
    """Its model is not there."""

    def warm_up(self) -> None:
        raise ModelNotFound("model", "nonsense", "a model that is here")

    def close(self) -> None:
        pass


async def test_a_model_that_is_not_there_ends_the_server() -> None:
    with pytest.raises(ModelNotFound):
        async with served(engine=AbsentEngine):
            pass


class SlowToLoad(ScriptedEngine):
    """Takes its time to load."""

    def warm_up(self) -> None:
        time.sleep(1.0)


async def test_a_signal_while_the_model_loads_is_no_failure() -> None:
    config = ServerConfig(port=0, drain_s=1.0)
    gateway = Gateway([AsyncPool(backend="local", engine_factory=partial(SlowToLoad, {}, WORDS))], config)
    server = Server(gateway)
    running = asyncio.create_task(server.run())
    await eventually(lambda: gateway._starting is not None)
    server.stop()
    await asyncio.wait_for(running, 20)
    assert not gateway.ready.is_set()


async def test_a_taken_port_is_told(here: Served) -> None:
    with pytest.raises(OSError, match="in use"):
        async with served(port=here.server.port):
            pass


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"host": "0.0.0.0"}, "host"),
        ({"host": "::"}, "host"),
        ({"host": "example.org"}, "host"),
        ({"keys_file": "/nowhere/keys.json"}, "keys_file"),
        ({"host": "0.0.0.0", "keys_file": __file__, "tcp_port": 43007}, "tcp_port"),
        ({"tls_cert": "/nowhere.pem", "tls_key": "/nowhere.pem"}, "tls_cert"),
    ],
)
def test_it_does_not_serve_the_world_by_accident(config: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_exposure(ServerConfig(**config))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "config",
    [
        {"host": "::1"},
        {"host": "localhost", "tcp_port": 43007},
        {"host": "0.0.0.0", "keys_file": __file__},
        {"host": "0.0.0.0", "allow_anonymous": True, "tcp_port": 43007},
    ],
)
def test_it_serves_who_it_is_told_to(config: dict[str, Any]) -> None:
    check_exposure(ServerConfig(**config))


# ---------------------------------------------------------------- the server ends sessions


@pytest.mark.parametrize(
    ("config", "code"), [({"idle_s": 1.0}, "idle"), ({"session_s": 1.0, "idle_s": 90.0}, "session_limit")]
)
async def test_limits_end_a_session_with_its_last_words(config: dict[str, Any], code: str) -> None:
    async with served(**config) as here, session(here.ws) as client:
        await client.send(PCM)
        events = await client.hear_all()
        assert text_of(events) == TEXT
        assert [event["code"] for event in of_kind(events, "error")] == [code]
        assert events[-1].items() >= {"type": "closed", "reason": code}.items()
        assert client.closing == (1008, code)


async def talk_on(client: Client) -> None:
    """Send silence until the connection is over."""
    try:
        while True:
            await client.send(bytes(640))
            await client.say("flush", id="x") if client.sent % 50 == 0 else None
            await asyncio.sleep(0.005)
    except websockets.ConnectionClosed:
        pass


async def test_audio_that_comes_when_the_session_has_ended_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_once = Peer.send

    async def send_slowly(self: Peer, message: str | bytes) -> None:
        await asyncio.sleep(0.1)  # so the session is closed while its last events are on their way
        await at_once(self, message)

    monkeypatch.setattr(Peer, "send", send_slowly)
    async with served(session_s=1.0) as here, session(here.ws) as client:
        await client.send(PCM)
        talking = asyncio.create_task(talk_on(client))
        events = await client.hear_all()
        await talking
    assert events[-1].items() >= {"type": "closed", "reason": "session_limit"}.items()
    assert client.closing == (1008, "session_limit")
    assert not [record for record in caplog.records if record.exc_info]


async def test_audio_behind_the_failure_of_another_channel_is_no_trouble(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class FailsLeft(ScriptedEngine):
        def transcribe(self, jobs: Sequence[Job]) -> list[Result | Failure]:
            time.sleep(0.2)  # the right channel takes its time to end
            left = [job.stream_id.endswith("/0") for job in jobs]
            return [
                Failure(job_id=job.job_id, error=EngineError("broken", job_id=job.job_id, retryable=False))
                if fails
                else result
                for job, fails, result in zip(jobs, left, super().transcribe(jobs), strict=True)
            ]

    both = np.stack([WORLD.audio(), WORLD.audio()], axis=1).tobytes()
    async with (
        served(engine=partial(FailsLeft, {}, WORDS)) as here,
        session(here.ws, channels=2, split_channels=True) as client,
    ):
        await client.send(both[: len(both) // 2])
        talking = asyncio.create_task(talk_on(client))
        events = await client.hear_all()
        await talking
    assert events[-1].items() >= {"type": "closed", "reason": "stream_failed"}.items()
    assert client.closing == (1011, "stream_failed")
    assert not [record for record in caplog.records if record.exc_info]


async def test_keep_alives_keep_a_session() -> None:
    async with served(idle_s=1.5) as here, session(here.ws) as client:
        for _ in range(6):
            await asyncio.sleep(0.5)
            await client.say("keep_alive")
        await client.say("close")
        assert (await client.hear_all())[-1]["reason"] == "client"


async def test_a_stream_that_fails_tells_why_and_harms_no_other() -> None:
    words = (Word(" hm", 0.5, 0.8),)
    async with served(words=words) as here, session(here.ws) as good, session(here.ws) as bad:
        broken = list(here.gateway.sessions)[1]
        machine = here.gateway.sessions[broken].streams[0]._driven.machine
        await bad.send(PCM)
        machine.fail(PoolError("out of order"))
        await bad.say("close")
        events = await bad.hear_all()
        assert (
            of_kind(events, "error")[0].items()
            >= {"code": "stream_failed", "message": "out of order"}.items()
        )
        assert bad.closing == (1011, "stream_failed")
        await good.send(PCM)
        await good.say("close")
        assert text_of(await good.hear_all()) == "hm"
