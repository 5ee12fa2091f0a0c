"""The front door, on a scripted engine: both faces, from opening a stream to its last event."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from tests.support.world import World, say

from ray_whisper_streaming import (
    AsyncPool,
    AudioError,
    ConfigurationError,
    Final,
    Flushed,
    NotReady,
    Pool,
    StreamClosed,
    StreamOptions,
    make_recognizer,
)
from ray_whisper_streaming.core.events import Committed, Event
from ray_whisper_streaming.core.transcript import join_text
from ray_whisper_streaming.engines.scripted import ScriptedEngine
from ray_whisper_streaming.pool.local import LocalPool

WORDS = say("the quick brown fox jumps over the lazy dog again and again")
WORLD = World(WORDS, 7.0)
TEXT = join_text(WORDS)
PLAIN = StreamOptions(language="en", voice_activity=False)
FACTORY = partial(ScriptedEngine, {}, WORDS)


def text_of(events: list[Event]) -> str:
    return join_text(word for event in events if isinstance(event, Committed) for word in event.words)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(backend="local", engine_factory=FACTORY) as pool:
        yield pool


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalPool]:
    """Workers that belong to nobody's `Pool`."""
    with LocalPool(FACTORY) as workers:
        yield workers


# ---------------------------------------------------------------- without asyncio


def test_push_finish_read(pool: Pool) -> None:
    with pool.stream(PLAIN) as stream:
        stream.push(WORLD.audio())
        stream.finish()
        stream.finish()
        events = list(stream)
    assert text_of(events) == TEXT
    assert isinstance(events[-1], Final)
    assert events[-1].end_of_stream
    assert stream.next_event() is None


def test_waiting_events_are_seen_between_pushes(pool: Pool) -> None:
    audio = WORLD.audio()
    seen: list[Event] = []
    with pool.stream(PLAIN) as stream:
        for start in range(0, len(audio), 8000):
            stream.push(audio[start : start + 8000])
            time.sleep(0.005)
            seen += stream.waiting()
        assert any(isinstance(event, Committed) for event in seen), "events came while audio was pushed"
        stream.finish()
        seen += stream
    assert text_of(seen) == TEXT


def test_a_timeout_says_nothing_and_loses_nothing(pool: Pool) -> None:
    with pool.stream(PLAIN) as stream:
        assert stream.next_event(0.0) is None
        assert stream.next_event(0.01) is None
        stream.push(WORLD.audio())
        stream.finish()
        assert text_of(list(stream)) == TEXT


def test_a_flush_is_confirmed_by_its_id(pool: Pool) -> None:
    with pool.stream(PLAIN) as stream:
        stream.push(WORLD.audio())
        ids = [stream.flush("mine"), stream.flush()]
        assert ids[0] == "mine"
        assert len(set(ids)) == 2
        seen: list[Event] = []
        while len([event for event in seen if isinstance(event, Flushed)]) < 2:
            event = stream.next_event(10.0)
            assert event is not None
            seen.append(event)
        assert [event.flush_id for event in seen if isinstance(event, Flushed)] == ids
        assert text_of(seen) == TEXT


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("kind", ["float32", "int16", "stereo", "bytes"])
def test_audio_of_many_kinds_is_taken(pool: Pool, rate: int, kind: str) -> None:
    seconds = 6.0
    mono = (0.1 * np.sin(np.arange(int(seconds * rate)) / 20)).astype(np.float32)
    ints = (mono * 32767).astype(np.int16)
    samples: Any = {
        "float32": mono,
        "int16": ints,
        "stereo": np.stack((mono, mono), axis=1),
        "bytes": ints.tobytes(),
    }[kind]
    with pool.stream(PLAIN, sample_rate=rate, channels=2 if kind == "stereo" else 1) as stream:
        for part in np.array_split(samples, 7) if kind != "bytes" else (samples[:99_998], samples[99_998:]):
            stream.push(part)
        stream.finish()
        events = list(stream)
    assert text_of(events) == TEXT
    assert stream._inner._driven.machine.received_s == pytest.approx(seconds, abs=0.01)


def test_bad_samples_are_refused_and_the_stream_goes_on(pool: Pool) -> None:
    with pool.stream(PLAIN) as stream:
        for bad in ([np.nan], np.zeros((2, 3, 4)), ["words"]):
            with pytest.raises(AudioError):
                stream.push(bad)
        stream.push(WORLD.audio())
        stream.finish()
        assert text_of(list(stream)) == TEXT


def test_options_may_be_changed_by_name(pool: Pool) -> None:
    with pool.stream(PLAIN, prompt="Names.", beam_size=3) as stream:
        options = stream._inner._driven.machine.options
        assert (options.prompt, options.beam_size, options.voice_activity) == ("Names.", 3, False)
    with pytest.raises(ConfigurationError):
        pool.stream(beam_size=0)
    with pytest.raises(ConfigurationError):
        pool.stream(sample_rate=1)


async def test_a_model_that_the_pool_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'tiny\.en', which this pool has"):
        AsyncPool("tiny.en", backend="local").stream(model="base")
    for same in ("tiny.en", None):
        with pytest.raises(NotReady):  # nothing else is wrong
            AsyncPool("tiny.en", backend="local").stream(model=same)


def test_engines_of_the_callers_own_may_know_more_models(pool: Pool) -> None:
    with pool.stream(PLAIN, model="another") as stream:
        stream.push(WORLD.audio())
        stream.finish()
        assert text_of(list(stream)) == TEXT


def test_streams_have_names(pool: Pool) -> None:
    with pool.stream(stream_id="call 7") as named, pool.stream() as one, pool.stream() as other:
        assert named.stream_id == "call 7"
        assert one.stream_id != other.stream_id


def test_after_the_end_nothing_is_taken(pool: Pool) -> None:
    stream = pool.stream(PLAIN)
    stream.finish()
    with pytest.raises(StreamClosed):
        stream.push(np.ones(100, np.int16))
    stream.close()
    stream.close()
    with pytest.raises(StreamClosed):
        stream.flush()
    assert list(stream) == []


def test_one_thread_pushes_while_another_reads(pool: Pool) -> None:
    audio = WORLD.audio()
    with pool.stream(PLAIN) as stream:

        def speak() -> None:
            for start in range(0, len(audio), 4000):
                stream.push(audio[start : start + 4000])
            stream.finish()

        speaker = threading.Thread(target=speak)
        speaker.start()
        assert text_of(list(stream)) == TEXT
        speaker.join(10.0)


def test_stats_count_the_work(pool: Pool) -> None:
    before = pool.stats()
    with pool.stream(PLAIN) as stream:
        stream.push(WORLD.audio())
        stream.finish()
        list(stream)
    after = pool.stats()
    assert after.workers == 1
    assert after.jobs_done > before.jobs_done
    assert after.audio_s > before.audio_s


def test_a_pool_is_not_used_before_start_or_after_close() -> None:
    pool = Pool(backend="local", engine_factory=FACTORY)
    with pytest.raises(NotReady):
        pool.stream()
    pool.close()
    pool.start()
    assert pool.running
    stream = pool.stream(PLAIN)
    pool.close()
    pool.close()
    assert not pool.running
    for call in (pool.stats, pool.stream, stream.next_event, stream.finish):
        with pytest.raises(NotReady):
            call()
    stream.close()


def test_closing_the_pool_frees_who_waits_in_another_thread(workers: LocalPool) -> None:
    pool = Pool(recognizer=workers)
    pool.start()
    stream = pool.stream(PLAIN)
    with ThreadPoolExecutor(2) as threads:
        event = threads.submit(stream.next_event)
        slow = threads.submit(pool.run, asyncio.sleep(0.2, "slept"))
        while len(asyncio.all_tasks(pool._thread._loop)) < 2:  # until both are waiting
            time.sleep(0.001)
        pool.close()
        assert event.result(5.0) is None
        assert slow.result(5.0) == "slept", "a call under way is answered, not forgotten"


def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    with (
        Pool(backend="local", engine_factory=FACTORY) as pool,
        pool.stream(StreamOptions(language="en")) as stream,
    ):
        stream.push(np.ones(16_000, np.int16))
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert left == []


def test_a_pool_that_cannot_start_is_closed_again() -> None:
    def broken() -> Any:
        raise ConfigurationError("model", "nonsense", "a model that is here")

    pool = Pool(backend="local", engine_factory=broken)
    with pytest.raises(ConfigurationError):
        pool.start()
    assert not pool.running


# ---------------------------------------------------------------- asyncio


async def test_the_same_with_asyncio() -> None:
    async with AsyncPool(backend="local", engine_factory=FACTORY) as pool:
        stream = pool.stream(PLAIN)

        async def speak() -> None:
            audio = WORLD.audio()
            for start in range(0, len(audio), 8000):
                await stream.push(audio[start : start + 8000])
            await stream.finish()

        speaking = asyncio.create_task(speak())
        events = [event async for event in stream]
        await speaking
        assert text_of(events) == TEXT
        assert await stream.next_event() is None
        assert (await pool.stats()).jobs_done > 0
    with pytest.raises(StreamClosed):
        pool.stream()
    with pytest.raises(StreamClosed):
        await pool.start()


async def test_a_recognizer_of_someone_else_stays_open(workers: LocalPool) -> None:
    async with AsyncPool(recognizer=workers) as pool:
        assert pool.recognizer is workers
    async with AsyncPool(recognizer=workers) as pool, pool.stream(PLAIN) as stream:
        await stream.push(WORLD.audio())
        await stream.finish()
        assert text_of([event async for event in stream]) == TEXT


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="backend"):
        make_recognizer(backend="cloud")  # type: ignore[arg-type]


def test_without_ray_the_backend_is_local() -> None:
    assert isinstance(make_recognizer(engine_factory=FACTORY, workers=2), LocalPool)


@pytest.mark.parametrize("field", ["workers", "max_worker_count"])
def test_a_pool_has_at_least_one_worker(field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Pool("tiny.en", backend="local", **{field: 0})
    assert caught.value.field == field
