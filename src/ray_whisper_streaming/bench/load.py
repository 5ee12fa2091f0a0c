"""A paced load: streams that speak at the pace of real speech, however late the answers come.

Every packet has its planned moment on one monotonic clock. A system that makes its callers wait shows up as
later words, never as slower speech.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from ray_whisper_streaming.api import AsyncLiveStream, AsyncPool
from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.bench.scoring import StreamLog
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.errors import RayWhisperError

__all__ = ["DRAIN_LIMIT_S", "PACKET_S", "run_streams"]

PACKET_S = 0.1
"""Audio in one packet, seconds: what live clients send."""

DRAIN_LIMIT_S = 60.0
"""How long after its end a stream may take to decode what is left, before it counts as failed."""

LEAD_S = 0.2
"""From opening the streams to the first sample of the first one, so that no packet is late from the
beginning."""


async def run_streams(
    pool: AsyncPool,
    materials: Sequence[Clip],
    options: StreamOptions,
    *,
    drain_limit_s: float = DRAIN_LIMIT_S,
) -> list[StreamLog]:
    """Play all materials at once, each into a stream of its own; their starts are spread over an update
    interval.

    Args:
        pool: started.
        materials: one for each stream.
        options: of all streams.
        drain_limit_s: see `DRAIN_LIMIT_S`.

    Returns:
        One log a stream, in order.
    """
    first_s = time.monotonic() + LEAD_S
    spread_s = options.update_interval_s / max(1, len(materials))
    players = [
        _play(pool, clip.audio, options, first_s + index * spread_s, drain_limit_s)
        for index, clip in enumerate(materials)
    ]
    return list(await asyncio.gather(*players))


async def _play(
    pool: AsyncPool, audio: Int16Samples, options: StreamOptions, start_s: float, drain_limit_s: float
) -> StreamLog:
    log = StreamLog()
    planned_s = len(audio) / SAMPLE_RATE
    async with pool.stream(options) as stream:
        reader = asyncio.create_task(_read(stream, log, start_s))
        try:
            await asyncio.wait_for(_speak(stream, audio, log, start_s), planned_s + drain_limit_s)
            await asyncio.wait_for(reader, start_s + planned_s + drain_limit_s - time.monotonic())
        except asyncio.TimeoutError:
            log.failure = log.failure or "unfinished"
        except RayWhisperError as error:
            log.failure = log.failure or type(error).__name__
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
    return log


async def _speak(stream: AsyncLiveStream, audio: Int16Samples, log: StreamLog, start_s: float) -> None:
    packet = round(PACKET_S * SAMPLE_RATE)
    for begin in range(0, len(audio), packet):
        samples = audio[begin : begin + packet]
        due_s = (
            start_s + (begin + len(samples)) / SAMPLE_RATE
        )  # a packet is there when its last sample was said
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        log.late_s.append(time.monotonic() - due_s)
        await stream.push(samples)
    await stream.finish()


async def _read(stream: AsyncLiveStream, log: StreamLog, start_s: float) -> None:
    async for event in stream:
        log.record(event, time.monotonic() - start_s)
    log.ended_at_s = time.monotonic() - start_s
