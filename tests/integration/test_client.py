"""The client against a server with a scripted engine; connections are cut by a proxy between them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.lossy_proxy import lossy
from tests.helpers.remote import drain_until, hear_all
from tests.helpers.serving import PCM, PLAIN, WORLD, Served, eventually, served
from tests.helpers.spoken_numbers import NumberEngine, speak
from tests.support.world import World
from websockets.asyncio.server import ServerConnection, serve

import ray_whisper_streaming
from ray_whisper_streaming import (
    AudioError,
    ConfigurationError,
    NotReady,
    ProtocolError,
    Refused,
    StreamClosed,
    Unauthorized,
    Unreachable,
)
from ray_whisper_streaming.client import (
    AsyncClient,
    AsyncRemoteStream,
    Client,
    ClientEvent,
    Closed,
    Committed,
    Draining,
    Ending,
    Final,
    Flushed,
    Reconnected,
)
from ray_whisper_streaming.core.transcript import join_text
from ray_whisper_streaming.server.keys import KeyFile

PACKET = 6_400


@pytest.fixture
async def here() -> AsyncIterator[Served]:
    async with served(resume_s=20.0) as server:
        yield server


def packets(audio: bytes) -> list[bytes]:
    return [audio[start : start + PACKET] for start in range(0, len(audio), PACKET)]


async def transcript(stream: AsyncRemoteStream, audio: bytes = PCM) -> list[ClientEvent]:
    for packet in packets(audio):
        await stream.push(packet)
    await stream.finish()
    return await hear_all(stream)


def words_of(events: Sequence[Any]) -> list[str]:
    return [word.text for event in events if isinstance(event, Committed) for word in event.words]


def assert_whole(events: Sequence[Any], world: World = WORLD) -> None:
    """Every word once, in order, with its number and its time."""
    committed = [event for event in events if isinstance(event, Committed)]
    assert words_of(committed) == world.text
    assert [event.first_index for event in committed] == list(
        np.cumsum([0, *(len(event.words) for event in committed[:-1])])
    )
    for said, heard in zip(world.words, [word for event in committed for word in event.words], strict=True):
        assert heard.start_s == pytest.approx(said.start_s, abs=0.01)
    assert isinstance(events[-1], Closed)
    assert events[-1].words == len(world.words)
    finals = [event for event in events if isinstance(event, Final)]
    assert [event.utterance for event in finals] == list(range(len(finals)))
    assert " ".join(event.text for event in finals if event.words) == join_text(world.words)


# ---------------------------------------------------------------- without trouble


async def test_events_are_those_of_the_library(here: Served) -> None:
    async with AsyncClient(here.ws) as client, client.stream(**PLAIN) as stream:
        assert stream.session_id in here.gateway.sessions
        events = await transcript(stream)
    assert_whole(events)
    assert isinstance(events[-1], Closed)
    assert (events[-1].reason, events[-1].audio_s) == ("client", 7.0)
    for name in ("Committed", "Final"):
        kind = getattr(ray_whisper_streaming, name)
        assert any(isinstance(event, kind) for event in events)
    assert [event.end_of_stream for event in events if isinstance(event, Final)][-1]


async def test_samples_may_be_arrays_and_the_librarys_names_of_options_hold(here: Served) -> None:
    options = {**PLAIN, "update_interval_s": 1.0, "commit_delay_s": 0.4, "allowed_languages": ("en",)}
    async with AsyncClient(here.http) as client, client.stream(**options, encoding="f32le") as stream:
        await stream.push(WORLD.audio().astype(np.float32) / 32768)
        with pytest.raises(AudioError):
            await stream.push(np.zeros((10, 3), np.int16))
        await stream.finish()
        assert_whole(await hear_all(stream))


async def test_channels(here: Served) -> None:
    both = np.stack([WORLD.audio(), WORLD.audio()], axis=1)
    async with (
        AsyncClient(here.ws) as client,
        client.stream(**PLAIN, channels=2, split_channels=True) as stream,
    ):
        await stream.push(both)
        await stream.finish()
        events = await hear_all(stream)
    for channel in (0, 1):
        assert (
            words_of([event for event in events if getattr(event, "channel", None) == channel]) == WORLD.text
        )


async def test_flush_tells_when_all_before_is_committed(here: Served) -> None:
    async with AsyncClient(here.ws) as client, client.stream(**PLAIN) as stream:
        await stream.push(PCM[: 16_000 * 2 * 4])
        flush_id = await stream.flush()
        heard: list[ClientEvent] = []
        while not isinstance(event := await stream.next_event(), Flushed):
            assert event is not None
            heard.append(event)
        assert (event.flush_id, event.at_s) == (flush_id, 4.0)
        assert len(words_of(heard)) == 9
        await stream.push(PCM[16_000 * 2 * 4 :])
        await stream.finish()
        assert words_of(heard + await hear_all(stream)) == WORLD.text


async def test_a_listener_hears_the_same(here: Served) -> None:
    async with AsyncClient(here.ws) as client, client.stream(**PLAIN) as stream:
        session_id = stream.session_id

        async def listen() -> list[ClientEvent]:
            return [event async for event in client.follow(session_id)]

        listening = asyncio.create_task(listen())
        owner: Any = here.gateway.sessions[session_id].owner
        await eventually(lambda: owner.log.readers == 2)
        events = await transcript(stream)
        heard = await asyncio.wait_for(listening, 20)
        assert words_of(heard) == words_of(events) == WORLD.text
        assert heard[-1] == events[-1]
        with pytest.raises(Refused) as refused:
            _ = [event async for event in client.follow("nobody")]
        assert refused.value.code == "not_found"


async def test_a_recording_goes_through_live(here: Served, tmp_path: Path) -> None:
    import wave

    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(PCM)
    async with AsyncClient(here.ws) as client:
        events = [event async for event in client.transcribe(path, **PLAIN)]
        assert_whole(events)
        (tmp_path / "b.wav").write_bytes(b"no audio")
        with pytest.raises(AudioError):
            _ = [event async for event in client.transcribe(tmp_path / "b.wav", **PLAIN)]


# ---------------------------------------------------------------- lost connections


@pytest.mark.parametrize("cut_after", [3_000, 50_000, 130_000, 200_000])
async def test_a_lost_connection_costs_no_word_and_doubles_none(here: Served, cut_after: int) -> None:
    async with lossy(here.http) as proxy, AsyncClient(proxy.url) as client:
        proxy.cut_after_up = cut_after
        async with client.stream(**PLAIN) as stream:
            session_id = stream.session_id
            events = await transcript(stream)
            assert stream.session_id == session_id
    assert_whole(events)
    assert proxy.connections == 2
    back = [event for event in events if isinstance(event, Reconnected)]
    assert [event.resumed for event in back] == [True]


async def test_many_losses_in_a_row(here: Served) -> None:
    async with lossy(here.http) as proxy, AsyncClient(proxy.url) as client, client.stream(**PLAIN) as stream:
        heard: list[ClientEvent] = []
        for number, packet in enumerate(packets(PCM)):
            await stream.push(packet)
            if number % 7 == 6:
                proxy.cut()
                while not isinstance(event := await stream.next_event(), Reconnected):
                    assert event is not None
                    heard.append(event)
        await stream.finish()
        heard += await hear_all(stream)
    assert proxy.connections > 4
    assert words_of(heard) == [word.text for word in WORLD.words]


async def test_lost_between_finish_and_the_last_words(here: Served) -> None:
    async with lossy(here.http) as proxy, AsyncClient(proxy.url) as client, client.stream(**PLAIN) as stream:
        await stream.push(PCM)
        await stream.finish()
        owner: Any = here.gateway.sessions[stream.session_id].owner
        await eventually(lambda: owner._machine.state == "closing")
        proxy.cut()
        assert_whole(await hear_all(stream))


async def test_flushes_are_answered_once_over_a_lost_connection(here: Served) -> None:
    async with lossy(here.http) as proxy, AsyncClient(proxy.url) as client, client.stream(**PLAIN) as stream:
        await stream.push(PCM[:64_000])
        asked = [await stream.flush(), await stream.flush("mine")]
        proxy.cut()
        await stream.push(PCM[64_000:])
        asked.append(await stream.flush())
        await stream.finish()
        events = await hear_all(stream)
    assert [event.flush_id for event in events if isinstance(event, Flushed)] == asked
    assert_whole(events)


@pytest.mark.parametrize("cut_at", [0.5, 0.65, 0.81])
async def test_a_session_that_is_gone_is_taken_over_by_a_new_one(cut_at: float) -> None:
    words, audio = speak(60)
    world = World(words, len(audio) / 16_000)
    sent = packets(audio.tobytes())
    async with (
        served(engine=NumberEngine, resume_s=0.0) as server,
        lossy(server.http) as proxy,
        AsyncClient(proxy.url) as client,
        client.stream(**PLAIN) as stream,
    ):
        first = stream.session_id
        before = round(cut_at * len(sent))
        sure = len(sent) // 8 * 2  # between two words
        for packet in sent[:sure]:
            await stream.push(packet)
        await stream.flush()
        await eventually(lambda: stream.acknowledged_s > 1)
        events = await drain_until(stream, Flushed)
        for packet in sent[sure:before]:
            await stream.push(packet)
        # More is committed than was acknowledged by then.
        events += await drain_until(stream, Committed)
        proxy.refusing = True
        proxy.cut()
        await eventually(lambda: first not in server.gateway.sessions)
        proxy.refusing = False
        events += await drain_until(stream, Reconnected)
        assert stream.session_id != first
        back = events[-1]
        assert isinstance(back, Reconnected)
        assert not back.resumed
        assert 1 < back.from_s <= stream.sent_s
        for packet in sent[before:]:
            await stream.push(packet)
        await stream.finish()
        events += await hear_all(stream)
    assert_whole(events, world)


async def test_a_server_that_loses_every_session_is_given_up() -> None:
    opened = 0

    async def lose(socket: ServerConnection) -> None:
        nonlocal opened
        if '"resume"' in str(await socket.recv()):
            refusal = {"type": "error", "code": "not_found", "message": "gone", "fatal": True}
            await socket.send(json.dumps(refusal))
            return
        opened += 1
        limits = {"message_bytes": 1 << 20, "idle": 60, "session": 60, "resume": 0}
        ready = {"type": "ready", "session_id": "s", "model": "m", "next_audio": 0, "streams": 1}
        await socket.send(json.dumps({**ready, "limits": limits}))
        await socket.send('{"type":"partial","n":0,"text":"and then"}')
        socket.transport.abort()

    async with serve(lose, "127.0.0.1", 0) as server:
        (listening,) = server.sockets
        client = AsyncClient(f"ws://127.0.0.1:{listening.getsockname()[1]}")
        async with client, client.stream(**PLAIN) as stream:
            await stream.push(PCM)
            with pytest.raises(Unreachable, match="one after another"):
                await hear_all(stream)
    assert opened < 10


async def test_a_silent_program_does_not_count_as_idle() -> None:
    async with (
        served(idle_s=1.0) as server,
        AsyncClient(server.ws) as client,
        client.stream(**PLAIN) as stream,
    ):
        session = server.gateway.sessions[stream.session_id]
        for _ in range(4):
            heard_at = session.heard_at
            await eventually(lambda before=heard_at: session.heard_at > before)


async def forget(server: Served) -> None:
    """Sessions whose clients don't come back would wait for them."""
    for session in list(server.gateway.sessions.values()):
        await session.aclose()


async def test_it_gives_up_when_nobody_comes_back(here: Served) -> None:
    async with lossy(here.http) as proxy, AsyncClient(proxy.url, reconnect_s=0.4) as client:
        async with client.stream(**PLAIN) as stream:
            await stream.push(PCM[:32_000])
            proxy.refusing = True
            proxy.cut()
            with pytest.raises(Unreachable, match=r"did not come back within 0\.4 s"):
                await hear_all(stream)
            with pytest.raises(Unreachable):
                await stream.push(PCM)
            assert proxy.connections > 1
        await forget(here)


async def test_without_patience_a_lost_connection_is_the_end(here: Served) -> None:
    async with lossy(here.http) as proxy, AsyncClient(proxy.url, reconnect_s=0) as client:
        async with client.stream(**PLAIN) as stream:
            proxy.cut()
            with pytest.raises(Unreachable):
                await hear_all(stream)
        assert proxy.connections == 1
        await forget(here)


async def test_push_waits_while_too_much_is_unacknowledged(here: Served) -> None:
    async with lossy(here.http) as proxy, AsyncClient(proxy.url, max_unacknowledged_s=30) as client:
        stream = client.stream(**PLAIN)
        async with stream:
            proxy.refusing = True
            proxy.cut()
            pushing = asyncio.create_task(stream.push(bytes(32_000 * 40)))
            await eventually(lambda: stream.sent_s >= 30)
            assert not pushing.done()
            assert stream.sent_s == 30
            proxy.refusing = False
            await asyncio.wait_for(pushing, 30)
            assert stream.sent_s == 40
            assert stream.acknowledged_s > 0


async def test_a_server_that_goes_down_in_good_order_is_followed_to_the_next() -> None:
    words, audio = speak(20)
    pcm = audio.tobytes()
    half_s = 4.0  # between two words
    half = round(half_s * 32_000)
    async with (
        served(engine=NumberEngine, drain_s=0.2) as second,
        served(engine=NumberEngine, drain_s=4.0) as first,
        lossy(first.http) as proxy,
        AsyncClient(proxy.url) as client,
        client.stream(**PLAIN) as stream,
    ):
        await stream.push(pcm[:half])
        session = first.gateway.sessions[stream.session_id]
        await eventually(lambda: session.received_s == half_s)
        proxy.target = ("127.0.0.1", int(second.http.rsplit(":", 1)[1]))
        first.server.stop()
        events = await drain_until(stream, Reconnected)
        assert any(isinstance(event, Draining) for event in events)
        assert any(isinstance(event, Ending) and event.reason == "draining" for event in events)
        assert stream.acknowledged_s == half_s
        await stream.push(pcm[half:])
        await stream.finish()
        events += await hear_all(stream)
    assert_whole(events, World(words, len(audio) / 16_000))
    assert [event.end_of_stream for event in events if isinstance(event, Final)] == [False, True]


async def test_a_connection_lost_while_the_server_drains_is_resumed() -> None:
    async with (
        served(drain_s=10.0, resume_s=10.0) as server,
        lossy(server.http) as proxy,
        AsyncClient(proxy.url, reconnect_s=5) as client,
        client.stream(**PLAIN) as stream,
    ):
        await stream.push(PCM[:96_000])
        server.server.stop()
        events = await drain_until(stream, Draining)
        proxy.cut()
        events += await drain_until(stream, Reconnected)
        await stream.push(PCM[96_000:])
        await stream.finish()
        events += await hear_all(stream)
        assert [event.resumed for event in events if isinstance(event, Reconnected)] == [True]
        assert_whole(events)


async def test_what_the_end_of_a_session_is_rounded_by_needs_no_other_server() -> None:
    """The server has taken all, and ended the session; it tells how much that was in milliseconds: 6.999."""
    samples = 111_991
    async with (
        served(drain_s=2.0, latency_s=0.3) as server,
        AsyncClient(server.ws, reconnect_s=2) as client,
        client.stream(**PLAIN) as stream,
    ):
        await stream.push(PCM[: 2 * samples])
        session = server.gateway.sessions[stream.session_id]
        await eventually(lambda: session.received_s == samples / 16_000)
        server.server.stop()
        await drain_until(stream, Ending)
        await stream.finish()
        events = await hear_all(stream)
        assert isinstance(events[-1], Closed)
        assert events[-1].reason == "draining"


# ---------------------------------------------------------------- refusals


async def test_nobody_is_there() -> None:
    async with AsyncClient("ws://127.0.0.1:9") as client:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9 can't be reached"):
            async with client.stream():
                pass


async def test_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys = KeyFile.read(file)
    key = keys.create("test", 0.0)
    keys.write(file)
    async with served(keys_file=str(file)) as server:
        for wrong in (None, "rws_nobody_nothing"):
            async with AsyncClient(server.ws, api_key=wrong) as client:
                with pytest.raises(Unauthorized) as refused:
                    await client.stream(**PLAIN).start()
                assert refused.value.code == "unauthorized"
                assert not wrong or wrong not in str(refused.value)
        async with AsyncClient(server.ws, api_key=key) as client, client.stream(**PLAIN) as stream:
            assert_whole(await transcript(stream))


async def test_no_room_says_when_to_try_again() -> None:
    async with served(max_streams=1) as server, AsyncClient(server.ws) as client, client.stream(**PLAIN):
        with pytest.raises(Refused) as refused:
            await client.stream(**PLAIN).start()
        assert refused.value.code == "overloaded"
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 0


async def test_bad_options_are_told_here_or_there(here: Served) -> None:
    async with AsyncClient(here.ws) as client:
        for wrong in (
            {"language": "xx"},
            {"colour": "red"},
            {"sample_rate": 10},
            {"channels": 65},
            {"beam_size": "many"},
            {"prompt": object()},
        ):
            with pytest.raises(ConfigurationError):
                client.stream(**wrong)
        with pytest.raises(ConfigurationError) as refused:  # what only the server can know
            await client.stream(channels=9, split_channels=True).start()
        assert refused.value.field == "channels"
        assert refused.value.value == 9
    for wrong in ("127.0.0.1:8000", "ftp://127.0.0.1", "ws://", "ws://[::1", "ws://127.0.0.1:99999"):
        with pytest.raises(ConfigurationError):
            AsyncClient(wrong)
    with pytest.raises(ConfigurationError):
        AsyncClient(here.ws, max_unacknowledged_s=1)


async def test_calls_out_of_order(here: Served) -> None:
    async with AsyncClient(here.ws) as client:
        stream = client.stream(**PLAIN)
        with pytest.raises(StreamClosed):
            await stream.push(PCM)
        async with stream:
            await stream.finish()
            await stream.finish()
            with pytest.raises(StreamClosed):
                await stream.push(PCM)
            with pytest.raises(StreamClosed):
                await stream.flush()
        await stream.aclose()
    with pytest.raises(StreamClosed):
        client.stream()


async def test_what_is_no_server_of_ours() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        async with AsyncClient(f"ws://127.0.0.1:{port}") as client:
            with pytest.raises(ProtocolError):
                await client.stream().start()


async def test_a_listener_is_told_of_what_would_come_again() -> None:
    async def refuse(socket: ServerConnection) -> None:
        await socket.close(1002)

    async with serve(refuse, "127.0.0.1", 0) as other:
        (socket,) = other.sockets
        async with AsyncClient(f"ws://127.0.0.1:{socket.getsockname()[1]}") as client:
            with pytest.raises(ProtocolError):
                await anext(client.follow("any"))


# ---------------------------------------------------------------- without asyncio


async def test_the_same_without_asyncio(here: Served) -> None:
    def use() -> list[ClientEvent]:
        with Client(here.ws) as client:
            with client.stream(**PLAIN) as stream:
                events: list[ClientEvent] = []
                for packet in packets(PCM):
                    stream.push(packet)
                    events += stream.waiting()
                flush_id = stream.flush()
                while not (
                    isinstance(event := stream.next_event(20), Flushed) and event.flush_id == flush_id
                ):
                    assert event is not None
                    events.append(event)
                stream.finish()
                events += stream
            session = client.stream(**PLAIN)
            with session:
                session.finish()
                assert isinstance(list(client.follow(session.session_id))[-1], Closed)
            with pytest.raises(ConfigurationError):
                client.stream(language="xx")
        with pytest.raises(NotReady):
            client.stream()
        return events

    events = await asyncio.to_thread(use)
    assert words_of(events) == WORLD.text
    assert isinstance(events[-1], Closed)
    assert not [thread for thread in threading.enumerate() if thread.name == "ray-whisper-client"]
