"""A thousand clients come and go, half of them rudely: nothing is left behind."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psutil
import pytest
from tests.helpers.serving import PCM, Served, connected, eventually, lines, served, session

from ray_whisper_streaming.driver import DrivenStream
from ray_whisper_streaming.server.native import Conversation
from ray_whisper_streaming.server.session import Session

CLIENTS = 1_000
AT_ONCE = 25

OPEN_DOOR: dict[str, Any] = {
    "max_new_streams": CLIENTS,
    "max_queue_wait_s": 600.0,
    "max_lag_s": 600.0,
    "resume_s": 0.1,
}

MORE_MB = 24.0
"""Memory that the allocator may keep after the first hundred clients; a stream that stays holds 0.2 MB or more."""


async def visit(here: Served, tcp_port: int, number: int) -> None:
    """One client; how it behaves depends on its number."""
    audio = PCM[: 6_400 * random.Random(number).randint(1, 12)]
    match number % 8:
        case 0:  # polite
            async with session(here.ws) as client:
                await client.send(audio)
                await client.say("close")
                await client.hear_all()
        case 1:  # goes without a word
            async with session(here.ws) as client:
                await client.send(audio)
        case 2:  # goes before it said anything
            async with connected(here.ws):
                pass
        case 3:  # vanishes in the middle
            async with session(here.ws) as client:
                await client.send(audio)
                client.socket.transport.abort()
        case 4:  # vanishes at once
            async with connected(here.ws) as client:
                await client.say("options")
                client.socket.transport.abort()
        case 5:  # breaks the protocol
            async with session(here.ws) as client:
                await client.send(audio)
                await client.say("nonsense")
                await client.hear_all()
        case 6:  # raw TCP, vanishes
            _, writer = await asyncio.open_connection("127.0.0.1", tcp_port)
            writer.write(audio)
            writer.transport.abort()
        case _:  # not even a WebSocket
            _, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
            writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n" + bytes(number % 50))
            writer.transport.abort()


async def visit_all(here: Served, tcp_port: int, numbers: range) -> None:
    waiting = iter(numbers)

    async def one_by_one() -> None:
        for number in waiting:
            await visit(here, tcp_port, number)

    await asyncio.gather(*(one_by_one() for _ in range(AT_ONCE)))
    await eventually(lambda: not here.gateway.sessions)


def alive(kind: type) -> int:
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


def held_mb(process: psutil.Process) -> float:
    """Resident memory without what the allocator keeps back for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return process.memory_info().rss / 2**20


@pytest.mark.slow
def test_a_thousand_clients_leave_nothing() -> None:
    # In a process of its own: what other tests left with the allocator would be measured too.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as child:
        child.submit(receive_a_thousand_clients).result()


def receive_a_thousand_clients() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray_whisper_streaming.server.sockets.LINGER_S", 0.5)
        patch.setattr("ray_whisper_streaming.server.sockets.HEAD_S", 5.0)
        asyncio.run(count_what_stays())


async def count_what_stays() -> None:
    process = psutil.Process()
    async with served(**OPEN_DOOR) as here, lines(here.gateway) as tcp:
        tasks = len(asyncio.all_tasks())
        await visit_all(here, tcp.port, range(100))
        before_mb, files = held_mb(process), process.num_fds()
        await visit_all(here, tcp.port, range(100, CLIENTS))
        await asyncio.sleep(1.0)
        assert here.gateway.admission.streams == 0
        await eventually(lambda: len(asyncio.all_tasks()) == tasks)
        # The last ones may still be in the hands of the loop; what leaks would be in the hundreds.
        for kind in (Session, Conversation, DrivenStream):
            assert alive(kind) < 10, kind
        assert process.num_fds() <= files + 5
        assert held_mb(process) - before_mb < MORE_MB
        assert here.gateway.kept == {}
