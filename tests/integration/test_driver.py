"""The shell of the streams, with a pool of threads and the real voice activity network, on a scripted engine."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import pytest
from tests.support.world import World, random_words, say

from ray_whisper_streaming import driver as driver_module
from ray_whisper_streaming.core.events import Committed, Event, Final, Flushed, JobFailed, StreamFailed
from ray_whisper_streaming.core.jobs import Job, Result
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.transcript import join_text
from ray_whisper_streaming.driver import DrivenStream, StreamDriver
from ray_whisper_streaming.engines.scripted import Fault, ScriptedEngine
from ray_whisper_streaming.errors import EngineError, Overloaded, PoolError, StreamClosed
from ray_whisper_streaming.pool.base import PoolStats, Recognizer
from ray_whisper_streaming.pool.local import LocalPool

SECOND = 16_000
PLAIN = StreamOptions(language="en", voice_activity=False)


class HeldRecognizer:
    """A pool whose answers the test gives itself. Satisfies what the driver uses of `Recognizer`."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Job, Future[Result]]] = []
        self.refuse: Exception | None = None

    def submit_nowait(self, job: Job) -> Future[Result]:
        if self.refuse is not None:
            raise self.refuse
        future: Future[Result] = Future()
        self.jobs.append((job, future))
        return future

    async def stats(self) -> PoolStats:
        return PoolStats(jobs_done=len(self.jobs))

    def answer(self, *texts: str) -> None:
        job, future = self.jobs[-1]
        words = say(" ".join(texts), start_s=job.start_sample / SECOND)
        future.set_result(Result(job_id=job.job_id, words=words))


async def settle() -> None:
    """Let everything that can happen without time passing happen."""
    for _ in range(20):
        await asyncio.sleep(0)


async def read(stream: DrivenStream) -> list[Event]:
    events: list[Event] = []
    while (event := await asyncio.wait_for(stream.next_event(), 20.0)) is not None:
        events.append(event)
    return events


def committed(events: list[Event]) -> str:
    return join_text(word for event in events if isinstance(event, Committed) for word in event.words)


def driver_for(recognizer: Any) -> StreamDriver:
    return StreamDriver(recognizer)


@pytest.fixture
async def held() -> AsyncIterator[tuple[StreamDriver, HeldRecognizer]]:
    recognizer = HeldRecognizer()
    driver = driver_for(recognizer)
    yield driver, recognizer
    await driver.aclose()


def scripted_pool(scripts: dict[str, Any], **settings: Any) -> LocalPool:
    pool = LocalPool(partial(ScriptedEngine, scripts, **settings))
    pool.start()
    return pool


# ---------------------------------------------------------------- with a real pool


async def test_a_listener_that_asks_before_the_next_turn_gets_everything(
    held: tuple[StreamDriver, HeldRecognizer],
):
    driver, recognizer = held
    empty, spoken = driver.open("empty", PLAIN), driver.open("spoken", PLAIN)
    empty.finish()  # ends in this very call; its event is collected in the next turn
    assert [type(event) for event in await read(empty)] == [Final]
    await spoken.push(np.zeros(SECOND, np.int16))
    await settle()
    recognizer.answer("all of it")
    await settle()
    known: list[Event] = []
    while (event := spoken.next_event_nowait()) is not None:
        known.append(event)
    spoken.finish()
    assert committed(known) == "all"
    assert committed(await read(spoken)) == "of it"


async def test_many_streams_each_get_their_own_words() -> None:
    worlds = {f"s{i}": World(random_words(random.Random(i), 15.0), 15.0) for i in range(8)}
    pool = scripted_pool({name: world.words for name, world in worlds.items()}, latency_s=0.002)
    driver = StreamDriver(pool)

    async def speak(name: str, world: World) -> list[Event]:
        stream = driver.open(name, PLAIN)
        reading = asyncio.create_task(read(stream))
        audio = world.audio()
        for start in range(0, len(audio), SECOND // 2):
            await stream.push(audio[start : start + SECOND // 2])
            await asyncio.sleep(0.002)
        stream.finish()
        return await reading

    heard = await asyncio.gather(*(speak(name, world) for name, world in worlds.items()))
    for (name, world), events in zip(worlds.items(), heard, strict=True):
        assert committed(events) == join_text(world.words), name
        assert isinstance(events[-1], Final)
        assert events[-1].end_of_stream
    assert driver.open_streams == 0
    await driver.aclose()
    await pool.aclose()


async def test_digital_silence_reaches_no_worker() -> None:
    pool = scripted_pool({})
    driver = StreamDriver(pool)
    stream = driver.open("s", StreamOptions(language="en"))
    for _ in range(20):
        await stream.push(np.zeros(SECOND, np.int16))
    stream.finish()
    events = await read(stream)
    assert [type(event) for event in events] == [Final]
    assert (await pool.stats()).jobs_done == 0
    await driver.aclose()
    await pool.aclose()


async def test_failures_of_the_engine_are_retried() -> None:
    words = say("one two three four five")
    pool = scripted_pool({"s": words}, faults={"s": Fault("fail", times=2)})
    driver = StreamDriver(pool)
    stream = driver.open("s", PLAIN)
    await stream.push(World(words, 4.0).audio())
    stream.finish()
    events = await read(stream)
    assert sum(isinstance(event, JobFailed) for event in events) >= 1
    assert committed(events) == "one two three four five"
    await driver.aclose()
    await pool.aclose()


async def test_a_closed_pool_ends_its_streams() -> None:
    pool = scripted_pool({}, latency_s=0.05)
    driver = StreamDriver(pool)
    stream = driver.open("s", PLAIN)
    await stream.push(np.ones(2 * SECOND, np.int16))
    await pool.aclose()
    stream.finish()
    events = await read(stream)
    assert isinstance(events[-1], StreamFailed)
    assert isinstance(events[-1].error, StreamClosed)
    await driver.aclose()


# ---------------------------------------------------------------- with answers given by hand


async def test_one_job_at_a_time_and_the_next_covers_what_came_since(
    held: tuple[StreamDriver, HeldRecognizer],
) -> None:
    driver, recognizer = held
    stream = driver.open("s", PLAIN)
    for _ in range(5):
        await stream.push(np.ones(SECOND, np.int16))
        await settle()
    assert len(recognizer.jobs) == 1
    recognizer.answer("one")
    await settle()
    assert len(recognizer.jobs) == 2
    assert recognizer.jobs[1][0].audio_s == 5.0


async def test_of_partials_only_the_latest_waits(held: tuple[StreamDriver, HeldRecognizer]) -> None:
    driver, recognizer = held
    stream = driver.open("s", StreamOptions(language="en", voice_activity=False, policy="agreement"))
    for text in ("one", "other", "another"):
        await stream.push(np.ones(SECOND, np.int16))
        await settle()
        recognizer.answer(text)
        await settle()
    event = stream.next_event_nowait()
    assert event is not None
    assert getattr(event, "text", None) == "another"
    assert stream.next_event_nowait() is None


async def test_push_waits_for_room_and_goes_on(held: tuple[StreamDriver, HeldRecognizer]) -> None:
    driver, recognizer = held
    stream = driver.open("s", StreamOptions(language="en", voice_activity=False, max_buffer_s=60.0))
    pushing = asyncio.create_task(stream.push(np.ones(100 * SECOND, np.int16)))
    for _ in range(10):
        await settle()
        assert stream.machine.buffered_s <= 60.0
        if not pushing.done() and recognizer.jobs and not recognizer.jobs[-1][1].done():
            recognizer.answer("one")
    await asyncio.wait_for(pushing, 5.0)
    assert stream.machine.received_s == 100.0


async def test_who_waits_for_room_learns_that_the_stream_failed(
    held: tuple[StreamDriver, HeldRecognizer],
) -> None:
    driver, recognizer = held
    stream = driver.open("s", StreamOptions(language="en", voice_activity=False, max_buffer_s=60.0))
    pushing = asyncio.create_task(stream.push(np.ones(100 * SECOND, np.int16)))
    await settle()
    assert not pushing.done()
    job, future = recognizer.jobs[-1]
    future.set_exception(EngineError("as told", job_id=job.job_id, retryable=False))
    with pytest.raises(StreamClosed):
        await asyncio.wait_for(pushing, 5.0)
    assert isinstance((await read(stream))[-1], StreamFailed)


async def test_who_waits_for_room_or_events_learns_of_the_close(
    held: tuple[StreamDriver, HeldRecognizer],
) -> None:
    driver, recognizer = held
    stream = driver.open("s", StreamOptions(language="en", voice_activity=False, max_buffer_s=60.0))
    pushing = asyncio.create_task(stream.push(np.ones(100 * SECOND, np.int16)))
    reading = asyncio.create_task(stream.next_event())
    await settle()
    stream.close()
    stream.close()
    with pytest.raises(StreamClosed):
        await asyncio.wait_for(pushing, 5.0)
    assert await asyncio.wait_for(reading, 5.0) is None
    assert recognizer.jobs[-1][1].cancelled(), "its job is withdrawn"
    assert driver.open_streams == 0
    with pytest.raises(StreamClosed):
        stream.push_nowait(np.ones(1, np.int16))
    with pytest.raises(StreamClosed):
        stream.flush("late")
    stream.finish()


async def test_a_full_queue_is_tried_again_later(
    held: tuple[StreamDriver, HeldRecognizer],
) -> None:
    driver, recognizer = held
    recognizer.refuse = Overloaded("the queue", limit=1, current=1, retry_after_s=0.05)
    stream = driver.open("s", PLAIN)
    await stream.push(np.ones(SECOND, np.int16))
    event = await asyncio.wait_for(stream.next_event(), 5.0)
    assert isinstance(event, JobFailed)
    recognizer.refuse = None
    for _ in range(100):  # nobody calls the stream: its own timer has to
        await asyncio.sleep(0.01)
        if recognizer.jobs:
            break
    assert len(recognizer.jobs) == 1


async def test_events_nobody_fetches_stop_the_input(
    held: tuple[StreamDriver, HeldRecognizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "MAX_WAITING_EVENTS", 3)
    driver, _ = held
    stream = driver.open("s", PLAIN)
    for number in range(3):
        stream.flush(str(number))
        await settle()
    with pytest.raises(Overloaded, match="event queue"):
        stream.push_nowait(np.ones(SECOND, np.int16))
    assert isinstance(stream.next_event_nowait(), Flushed)
    stream.push_nowait(np.ones(SECOND, np.int16))


async def test_one_broken_stream_leaves_the_others_alone(
    held: tuple[StreamDriver, HeldRecognizer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver, recognizer = held
    broken, well = driver.open("broken", PLAIN), driver.open("well", PLAIN)

    text = "".join(("sec", "ret"))  # not in the source, which a traceback quotes

    def trip(now: float) -> Job | None:
        raise IndexError(text)

    monkeypatch.setattr(broken.machine, "next_job", trip)
    with caplog.at_level(logging.ERROR):
        for stream in (broken, well):
            await stream.push(np.ones(SECOND, np.int16))
        await settle()
    (event,) = await read(broken)
    assert isinstance(event, StreamFailed)
    assert isinstance(event.error, PoolError)
    assert [job.stream_id for job, _ in recognizer.jobs] == ["well"]
    assert "broken" in caplog.text
    assert text not in caplog.text


async def test_without_voice_activity_network_streams_fail_instead_of_hanging(
    held: tuple[StreamDriver, HeldRecognizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, recognizer = held

    def score(states: object, chunks: object) -> list[Any]:
        raise RuntimeError("no network")

    monkeypatch.setattr(driver._vad, "score", score)
    deaf, plain = driver.open("deaf", StreamOptions()), driver.open("plain", PLAIN)
    for stream in (deaf, plain):
        await stream.push(np.ones(SECOND, np.int16))
    events = await read(deaf)
    assert isinstance(events[-1], StreamFailed)
    await settle()
    assert [job.stream_id for job, _ in recognizer.jobs] == ["plain"]


async def test_an_answer_that_is_no_answer_of_ours(held: tuple[StreamDriver, HeldRecognizer]) -> None:
    driver, recognizer = held
    stream = driver.open("s", PLAIN)
    await stream.push(np.ones(SECOND, np.int16))
    await settle()
    recognizer.jobs[-1][1].set_exception(ValueError("secret words"))
    event = await asyncio.wait_for(stream.next_event(), 5.0)
    assert isinstance(event, JobFailed)
    assert "secret" not in str(event.error)


async def test_closing_the_driver_ends_everything() -> None:
    recognizer = HeldRecognizer()
    driver = driver_for(recognizer)
    streams = [driver.open(f"s{i}") for i in range(3)]
    for stream in streams:
        stream.push_nowait(np.ones(SECOND, np.int16))
    readers = [asyncio.create_task(stream.next_event()) for stream in streams]
    await driver.aclose()
    await driver.aclose()
    assert await asyncio.gather(*readers) == [None] * 3
    assert driver.open_streams == 0


def test_the_held_recognizer_is_enough_of_one() -> None:
    # What the driver calls must be there on a real pool too.
    assert {"submit_nowait", "stats"} <= set(dir(Recognizer))
