"""What a client of a server hears, for tests."""

from __future__ import annotations

import asyncio

from ray_whisper_streaming.client.events import ClientEvent
from ray_whisper_streaming.client.stream import AsyncRemoteStream


async def hear_all(stream: AsyncRemoteStream) -> list[ClientEvent]:
    async def hear() -> list[ClientEvent]:
        return [event async for event in stream]

    return await asyncio.wait_for(hear(), 60)


async def drain_until(stream: AsyncRemoteStream, kind: type) -> list[ClientEvent]:
    events: list[ClientEvent] = []
    while not (events and isinstance(events[-1], kind)):
        event = await asyncio.wait_for(stream.next_event(), 30)
        assert event is not None
        events.append(event)
    return events
