"""A worker killed half-way changes nothing in the text: the library, Ray, a real model, packaged speech.

With the worker dies what its encoder remembers of the streams, and it is an approximation: the next windows are encoded
anew, which may change a word. So the engine here has no such memory.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import numpy as np
import pytest
from tests.helpers.pool_engines import ForgetfulEngine
from tests.helpers.serving import eventually

from ray_whisper_streaming import AsyncLiveStream, AsyncPool, Committed, JobFailed
from ray_whisper_streaming.cli.feeding import sample_recordings
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.media import decode_file

pytestmark = [
    pytest.mark.ray,
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.usefixtures("ray_cluster"),
]

STEP = SAMPLE_RATE
"""A second of each stream at a time, and all passes over it: the jobs are the same whatever else the machine does."""

IN_DECODING_S = 0.03
"""After the dispatcher has given the worker its jobs."""

PASS_TIMEOUT_S = 60.0


async def worker_pid(recognizer: Any) -> int:
    return await recognizer._actors[0].__ray_call__.remote(lambda worker: os.getpid())


async def kill_while_decoding(pool: AsyncPool) -> bool:
    """Kill the pool's only worker with jobs in its hands. False: it had answered them already."""
    pid = await worker_pid(pool.recognizer)
    for _ in range(100):
        if (await pool.stats()).in_flight:
            break
        await asyncio.sleep(0.002)
    await asyncio.sleep(IN_DECODING_S)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(0.2)  # an answer that was on its way is here
    if not (await pool.stats()).in_flight:
        os.kill(pid, signal.SIGCONT)
        return False
    os.kill(pid, signal.SIGKILL)
    return True


async def transcripts(
    pool: AsyncPool, recordings: list[Int16Samples], run: str, kill_after: int | None
) -> list[list[str]]:
    """The committed words of each recording, played all at once.

    Args:
        pool: of one worker.
        recordings: one for each stream.
        run: for the streams' names.
        kill_after: kill the worker in the first step behind so many samples in which it is met decoding.
    """
    streams = [
        pool.stream(language="en", stream_id=f"{run} {number}", update_interval_s=0.8)
        for number in range(len(recordings))
    ]
    driver = streams[0]._driven._driver
    waiting_kill = kill_after is not None

    def settled() -> bool:
        return driver._turn is None and all(stream._driven.job is None for stream in streams)

    for start in range(0, max(map(len, recordings)) + STEP, STEP):
        for stream, recording in zip(streams, recordings, strict=True):
            if len(part := recording[start : start + STEP]):
                await stream.push(part)
            else:
                await stream.finish()
        await asyncio.sleep(0)
        if waiting_kill and kill_after is not None and start >= kill_after:
            await eventually(lambda: driver._turn is None)
            if not settled():
                waiting_kill = not await kill_while_decoding(pool)
        await eventually(settled, PASS_TIMEOUT_S)
    assert not waiting_kill, "the worker was never met decoding"
    return [await committed(stream) for stream in streams]


async def committed(stream: AsyncLiveStream) -> list[str]:
    words: list[str] = []
    async for event in stream:
        assert not isinstance(event, JobFailed)
        if isinstance(event, Committed):
            words += [word.text for word in event.words]
    return words


async def test_the_text_is_that_of_a_run_in_which_nobody_died() -> None:
    recordings = [np.concatenate(list(decode_file(path))) for path in sample_recordings()[:2]]
    async with AsyncPool(backend="ray", engine_factory=ForgetfulEngine, workers=1) as pool:
        undisturbed = await transcripts(pool, recordings, "undisturbed", None)
        pid = await worker_pid(pool.recognizer)
        disturbed = await transcripts(pool, recordings, "disturbed", len(recordings[0]) // 2)
        assert await worker_pid(pool.recognizer) != pid
        assert (await pool.stats()).jobs_retried >= 1
    assert all(len(words) > 30 for words in undisturbed)
    assert disturbed == undisturbed
