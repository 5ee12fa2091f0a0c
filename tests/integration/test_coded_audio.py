"""Opus packets and containers in the native protocol: numbers, acknowledgement, resuming, and what is no audio."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tests.helpers.coded_audio import LIVE_WEBM, PACKET_S, at_48_khz, encode, opus_packets
from tests.helpers.lossy_proxy import lossy
from tests.helpers.remote import drain_until, hear_all
from tests.helpers.serving import (
    PLAIN,
    TEXT,
    WORLD,
    Client,
    Served,
    connected,
    eventually,
    of_kind,
    served,
    session,
    text_of,
)

from ray_whisper_streaming import AudioError, Unreachable
from ray_whisper_streaming.client import (
    AsyncClient,
    AudioRejected,
    ClientEvent,
    Closed,
    Committed,
    Flushed,
    Reconnected,
)
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples, Job
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.scripted import ScriptedEngine
from ray_whisper_streaming.server.containers import MAX_DAMAGED

PACKETS = opus_packets(at_48_khz(WORLD.audio()))
WEBM = encode("webm", "libopus", at_48_khz(WORLD.audio()), options=LIVE_WEBM)
OGG = encode("ogg", "libopus", at_48_khz(WORLD.audio()))
MP3 = encode("mp3", "libmp3lame", at_48_khz(WORLD.audio()))
CONTAINERS = {"webm": WEBM, "ogg": OGG, "mp3": MP3}
GARBAGE = np.random.default_rng(3).bytes(60_000)


@pytest.fixture
async def here() -> AsyncIterator[Served]:
    """A server on which a well-behaved session of Opus packets runs besides, and must not notice anything."""
    async with served(resume_s=20.0) as server:
        async with session(server.ws, encoding="opus") as witness:
            await send(witness, PACKETS[:150])
            yield server
            await send(witness, PACKETS[150:])
            await witness.say("close")
            events = await witness.hear_all()
            assert text_of(events) == TEXT
            assert not of_kind(events, "error")
        await eventually(lambda: not decoding_threads())


def decoding_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "container-decoding"]


async def send(client: Client, messages: list[bytes]) -> None:
    for message in messages:
        await client.send(message, len(message))


def cut(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


# ---------------------------------------------------------------- the protocol


async def test_opus_packets_one_a_message(here: Served) -> None:
    async with session(here.ws, encoding="opus", sample_rate=48_000) as client:
        await send(client, PACKETS)
        await client.say("close")
        events = await client.hear_all()
    assert text_of(events) == TEXT
    assert events[-1]["audio"] == pytest.approx(7.0, abs=0.1)
    assert client.closing == (1000, "client")


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("size", [777, 100_000])
async def test_containers_cut_anywhere(here: Served, name: str, size: int) -> None:
    async with session(here.ws, encoding="container") as client:
        await send(client, cut(CONTAINERS[name], size))
        await client.say("close")
        events = await client.hear_all()
    assert text_of(events) == TEXT
    assert events[-1]["audio"] == pytest.approx(7.0, abs=0.1)
    assert not of_kind(events, "error")


async def test_what_is_acknowledged_names_the_message_it_begins_with(here: Served) -> None:
    async with session(here.ws, encoding="opus") as client:
        for start in range(0, len(PACKETS), 50):
            await send(client, PACKETS[start : start + 50])
            await client.say("flush", id="x")
            await client.hear_until("flushed")
        told = await client.hear_until("acknowledged")
        await client.say("close")
        told += await client.hear_all()
    acknowledged = of_kind(told, "acknowledged")
    assert all(each["next_audio"] % 50 == 0 or each["next_audio"] == len(PACKETS) for each in acknowledged)
    for each in acknowledged:
        assert each["at"] == pytest.approx(each["next_audio"] * PACKET_S, abs=0.02)  # the resampler's delay
        assert each["sample"] == pytest.approx(each["at"] * SAMPLE_RATE, abs=16)
    # The last one says all that was taken, so that another session can go on with the rest.
    assert acknowledged[-1]["next_audio"] == len(PACKETS)


@pytest.mark.parametrize("encoding", ["opus", "container"])
async def test_a_session_is_resumed_between_two_messages(here: Served, encoding: str) -> None:
    messages = PACKETS if encoding == "opus" else cut(WEBM, 500)
    async with session(here.ws, encoding=encoding) as client:
        session_id = list(here.gateway.sessions)[-1]
        await send(client, messages[: len(messages) // 2])
        events = await client.hear_until("committed")
        client.socket.transport.abort()
    async with connected(here.ws) as again:
        await again.say("resume", session_id=session_id, after=events[-1]["n"])
        ready = await again.hear()
        assert 0 < ready["next_audio"] <= len(messages) // 2
        again.sent = ready["next_audio"] - 1  # one that the server has: it must not be decoded twice
        await send(again, messages[again.sent :])
        await again.say("close")
        rest = await again.hear_all()
    assert text_of(events + rest) == TEXT
    assert rest[-1]["audio"] == pytest.approx(7.0, abs=0.1)


# ---------------------------------------------------------------- what is no audio


async def test_garbage_for_opus_costs_only_itself(here: Served) -> None:
    async with session(here.ws, encoding="opus") as client:
        await send(client, [b"\xff" * 40, b"\0" * 70_000])
        assert (await client.hear_until("error"))[-1].items() >= {"code": "bad_audio", "fatal": False}.items()
        await send(client, PACKETS[:175])
        await send(client, [b"\xff" * 40] * 3)  # as after a loss on the way: nobody is bothered with it
        await send(client, PACKETS[175:])
        await client.say("close")
        events = await client.hear_all()
    assert text_of(events) == TEXT
    assert not of_kind(events, "error")
    assert client.closing == (1000, "client")


async def test_opus_that_turns_into_garbage_is_told(here: Served) -> None:
    async with session(here.ws, encoding="opus") as client:
        await send(client, PACKETS[:175])
        await client.say("flush", id="x")
        events = await client.hear_until("flushed")
        await send(client, [b"\xff" * 40] * (MAX_DAMAGED + 1))
        events += await client.hear_until("error")
        await client.say("close")
        events += await client.hear_all()
    before_s = 175 * PACKET_S
    whole = [word.text for word in WORLD.words if (word.start_s + word.end_s) / 2 < before_s]
    assert text_of(events) == "".join(whole).strip()
    assert {event["code"] for event in of_kind(events, "error")} == {"bad_audio"}


@pytest.mark.parametrize(("good", "words"), [(b"", 0), (OGG[: len(OGG) // 2], 5), (MP3[: len(MP3) // 2], 6)])
async def test_a_container_that_breaks_ends_the_session_with_its_last_words(
    here: Served, good: bytes, words: int
) -> None:
    async with session(here.ws, encoding="container") as client:
        await send(client, cut(good + GARBAGE * 10, 2_000))
        events = await client.hear_all()
    assert [(event["code"], event["fatal"]) for event in of_kind(events, "error")] == [("bad_audio", False)]
    assert TEXT.startswith(text_of(events))
    assert len(text_of(events).split()) >= words
    assert events[-1].items() >= {"type": "closed", "reason": "bad_audio"}.items()
    assert client.closing == (1008, "bad_audio")


async def test_a_container_without_audio_is_told_at_its_end(here: Served) -> None:
    async with session(here.ws, encoding="container") as client:
        await client.send(b"RIFF")
        await client.say("close")
        events = await client.hear_all()
    assert [event["code"] for event in of_kind(events, "error")] == ["bad_audio"]
    assert client.closing == (1008, "bad_audio")


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoding": "opus", "channels": 3},
        {"encoding": "container", "channels": 0},
        {"encoding": "container", "channels": 9, "split_channels": True},
    ],
)
async def test_channels_that_can_not_be(here: Served, wrong: dict[str, Any]) -> None:
    async with connected(here.ws) as client:
        await client.say("options", **PLAIN, **wrong)
        (error,) = await client.hear_all()
    assert error["code"] == "bad_option"
    assert "channels" in error["message"]


# ---------------------------------------------------------------- the client


def said(events: list[ClientEvent]) -> str:
    return "".join(word.text for each in events if isinstance(each, Committed) for word in each.words).strip()


@pytest.mark.parametrize("encoding", ["opus", "container"])
async def test_a_lost_connection_costs_the_client_no_word(here: Served, encoding: str) -> None:
    messages = PACKETS if encoding == "opus" else cut(WEBM, 500)
    async with (
        lossy(here.http) as proxy,
        AsyncClient(proxy.url) as client,
        client.stream(**PLAIN, encoding=encoding) as stream,
    ):
        events: list[ClientEvent] = []
        for number, message in enumerate(messages):
            await stream.push(message)
            if number == len(messages) // 2:
                events += await drain_until(stream, Committed)
                proxy.cut()
        await stream.finish()
        events += await hear_all(stream)
    assert said(events) == TEXT
    assert any(isinstance(event, Reconnected) and event.resumed for event in events)
    last = events[-1]
    assert isinstance(last, Closed)
    assert last.audio_s == pytest.approx(7.0, abs=0.1)


TONE_S, PAUSE_S = 0.4, 0.2
LOWEST_HZ, STEP_HZ = 300, 100


class ToneEngine(ScriptedEngine):
    """Hears numbers, each as high as a tone: what is said can be heard after coding, wherever a session begins."""

    def _heard(self, job: Job) -> list[Word]:
        hop = SAMPLE_RATE // 50
        frames = job.audio[: len(job.audio) // hop * hop].astype(np.float64).reshape(-1, hop)
        loud = np.concatenate([[False], np.abs(frames).mean(axis=1) > 1500, [False]])
        heard: list[Word] = []
        edges = np.flatnonzero(np.diff(loud.astype(int)))
        for begin, end in pairwise(edges):
            if not loud[begin + 1] or (end - begin) * hop < TONE_S / 2 * SAMPLE_RATE:
                continue
            tone = job.audio[begin * hop : end * hop]
            hertz = float(np.argmax(np.abs(np.fft.rfft(tone)))) * SAMPLE_RATE / len(tone)
            number = round((hertz - LOWEST_HZ) / STEP_HZ)
            start_s, end_s = (job.start_sample / SAMPLE_RATE + int(edge) / 50 for edge in (begin, end))
            heard.append(Word(f" {number}", start_s, end_s))
        return heard


def tones(count: int) -> Int16Samples:
    time_s = np.arange(round(TONE_S * SAMPLE_RATE)) / SAMPLE_RATE
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE))
    parts = [pause]
    for number in range(count):
        parts += [np.sin(2 * np.pi * (LOWEST_HZ + number * STEP_HZ) * time_s) * 10_000, pause]
    return np.concatenate(parts).astype(np.int16)


async def test_a_new_session_takes_opus_over_from_a_packet() -> None:
    count = 20
    packets = opus_packets(at_48_khz(tones(count)))
    half = round((PAUSE_S + count // 2 * (TONE_S + PAUSE_S)) / PACKET_S)
    async with (
        served(engine=ToneEngine, resume_s=0.0) as server,
        lossy(server.http) as proxy,
        AsyncClient(proxy.url) as client,
        client.stream(**PLAIN, encoding="opus") as stream,
    ):
        first = stream.session_id
        for packet in packets[:half]:
            await stream.push(packet)
        await stream.flush()
        events = await drain_until(stream, Flushed)
        await eventually(lambda: stream.acknowledged_s > 1)
        proxy.refusing = True
        proxy.cut()
        await eventually(lambda: first not in server.gateway.sessions)
        proxy.refusing = False
        events += await drain_until(stream, Reconnected)
        back = events[-1]
        assert isinstance(back, Reconnected)
        assert not back.resumed
        assert back.from_s == pytest.approx(half * PACKET_S, abs=1.0)
        for packet in packets[half:]:
            await stream.push(packet)
        await stream.finish()
        events += await hear_all(stream)
    words = [word for event in events if isinstance(event, Committed) for word in event.words]
    assert [word.text for word in words] == [f" {number}" for number in range(count)]
    for number, word in enumerate(words):
        assert word.start_s == pytest.approx(PAUSE_S + number * (TONE_S + PAUSE_S), abs=0.06)


@pytest.mark.parametrize("drained", [False, True])
async def test_no_new_session_goes_on_in_the_middle_of_a_container(drained: bool) -> None:
    async with (
        served(resume_s=0.0, drain_s=0.2) as server,
        lossy(server.http) as proxy,
        AsyncClient(proxy.url) as client,
        client.stream(**PLAIN, encoding="container") as stream,
    ):
        await stream.push(WEBM[: len(WEBM) // 2])
        events = await drain_until(stream, Committed)
        if drained:
            server.server.stop()
            events += await hear_all(stream)
            assert isinstance(events[-1], Closed)
            assert events[-1].reason == "draining"
        else:
            proxy.cut()
            with pytest.raises(Unreachable, match="container"):
                await hear_all(stream)


@pytest.mark.parametrize("audio", [WEBM[: len(WEBM) // 2], WEBM[:1_000] + GARBAGE[:500]])
async def test_a_container_that_never_ends_leaves_no_thread(audio: bytes) -> None:
    gc.collect()  # what other tests left
    gc.disable()
    try:
        async with served(resume_s=0.0) as server:
            async with session(server.ws, encoding="container") as client:
                await send(client, cut(audio, 700))
                await eventually(lambda: bool(decoding_threads()))
            await eventually(lambda: not decoding_threads())
    finally:
        gc.enable()


async def test_the_client_tells_what_is_no_packet_and_what_is_no_audio(here: Served) -> None:
    async with AsyncClient(here.ws) as client:
        async with client.stream(**PLAIN, encoding="opus") as stream:
            for wrong in (b"", bytes(70_000), np.zeros(320, np.int16)):
                with pytest.raises(AudioError):
                    await stream.push(wrong)
        async with client.stream(**PLAIN, encoding="container") as stream:
            await stream.push(GARBAGE)
            events = await hear_all(stream)
    assert [type(event) for event in events if isinstance(event, AudioRejected)] == [AudioRejected]
    assert isinstance(events[-1], Closed)
    assert events[-1].reason == "bad_audio"
