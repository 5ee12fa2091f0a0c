"""Calls from other threads to an event loop that ends meanwhile."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ray_whisper_streaming.errors import NotReady
from ray_whisper_streaming.loop_thread import LoopThread

WITHIN_S = 10.0


async def one() -> int:
    return 1


def test_it_runs_calls_from_start_to_stop():
    thread = LoopThread("the pool", "loop")
    for _ in range(2):
        with pytest.raises(NotReady, match="the pool"):
            thread.run(one())
        thread.start()
        thread.start()
        assert thread.run(one()) == 1
        thread.stop(one())
        thread.stop(one())


def test_a_call_handed_over_while_it_is_stopped_is_answered(monkeypatch):
    thread = LoopThread("the pool", "loop", grace_s=WITHIN_S)
    thread.start()
    [worker] = [worker for worker in threading.enumerate() if worker.name == "loop"]
    hand_over = asyncio.run_coroutine_threadsafe
    at_it = threading.Event()

    def late(work, loop):
        if threading.current_thread() is not threading.main_thread():
            at_it.set()
            worker.join(0.3)  # it has not ended by then, or it would never answer
        return hand_over(work, loop)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", late)
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(lambda: thread.run(one()))
        assert at_it.wait(WITHIN_S)
        thread.stop(one())
        assert answer.result(WITHIN_S) == 1


def test_two_threads_stop_it():
    thread = LoopThread("the pool", "loop", grace_s=WITHIN_S)
    thread.start()
    go_on, begun = threading.Event(), threading.Barrier(3)

    async def last() -> None:
        await asyncio.to_thread(begun.wait, WITHIN_S)
        await asyncio.to_thread(go_on.wait, WITHIN_S)

    with ThreadPoolExecutor(2) as callers:
        stops = [callers.submit(lambda: thread.stop(last())) for _ in range(2)]
        begun.wait(WITHIN_S)
        go_on.set()
        for stop in stops:
            stop.result(WITHIN_S)
    assert not thread.running
