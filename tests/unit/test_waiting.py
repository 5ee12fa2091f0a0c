"""Waiting for a limited time."""

from __future__ import annotations

import asyncio

import pytest

from ray_whisper_streaming.waiting import within


async def at_once() -> int:
    return 1


async def test_what_need_not_wait_is_done_even_without_time() -> None:
    assert await within(0.0, at_once) == 1
    assert await within(None, at_once) == 1


async def test_what_takes_longer_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(asyncio.TimeoutError):
        await within(0.0, long)
    await cancelled.wait()


async def test_nothing_is_lost_when_what_was_waited_for_comes_with_the_end() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    asyncio.get_running_loop().call_later(0.0, queue.put_nowait, 7)
    try:
        got = await within(0.0, queue.get)
    except asyncio.TimeoutError:
        await asyncio.sleep(0)
        got = queue.get_nowait()
    assert got == 7


async def test_a_cancellation_is_never_lost() -> None:
    ready = asyncio.Event()
    task = asyncio.create_task(within(10.0, ready.wait))
    await asyncio.sleep(0)
    ready.set()
    await asyncio.sleep(0)  # the work is done, its waiter has not heard of it
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
