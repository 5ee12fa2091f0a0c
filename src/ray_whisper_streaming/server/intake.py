"""Received audio on its way into the streams: decoded for all sessions together, off the event loop.

Clients send a packet every 20 ms, or less. Each would cost a turn of the loop, a call of the voice activity network
and, where it must be decoded, a hop into a thread. So packets wait until the next tick, and then all go in one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeAlias

from ray_whisper_streaming.core.jobs import Int16Samples
from ray_whisper_streaming.errors import AudioError
from ray_whisper_streaming.server.audio import Decoder

__all__ = ["AudioIntake", "Decoded", "Finish", "Flush", "Inlet", "Received", "decode"]

logger = logging.getLogger(__name__)

TICK_S = 0.03
"""How long packets wait for those of other sessions: about one frame of voice activity. With many sessions each comes
to every third tick or so, as sockets are left alone in between (`server.sockets`)."""


INLETS_AT_ONCE = 32
"""Of a tick, served in one turn of the event loop: with hundreds of sessions it would stand still too long. Voice
activity gains nothing from more (`engines.vad`)."""

HANGING_AT_ONCE = 32
"""Threads for what may hang. Each mostly waits for a thread of FFmpeg's, for up to `containers.STUCK_S`."""


class Flush:
    """Have everything before decoded and committed."""

    __slots__ = ("flush_id",)

    def __init__(self, flush_id: str) -> None:
        self.flush_id = flush_id


class Finish:
    """No more audio will come."""


Received: TypeAlias = bytes | Flush | Finish
"""What came from a client, in order."""

Decoded: TypeAlias = list[Int16Samples] | AudioError | Flush | Finish
"""The same, decoded: the samples of each stream, or why they are none."""


class Inlet(Protocol):
    """One session, as the intake sees it."""

    @property
    def decoders(self) -> Sequence[Decoder]:
        """One per stream."""
        ...

    @property
    def is_plain(self) -> bool:
        """Whether decoding is no work."""
        ...

    @property
    def may_hang(self) -> bool:
        """Whether decoding may take long, so that nobody else should wait for it."""
        ...

    def take(self) -> list[Received]:
        """What was received since the last call; nothing until `deliver` was called for the last time."""
        ...

    def deliver(self, decoded: list[Decoded]) -> None:
        """Give back what became of it."""
        ...


_Work: TypeAlias = list[tuple[Inlet, list[Received]]]


class AudioIntake:
    """One per gateway. Call `touch` when an inlet has something; all calls on one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Inlet, None] = {}
        self._due: deque[Inlet] = deque()
        self._heavy: _Work = []
        self._decoding = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audio-decoding")
        self._hanging = ThreadPoolExecutor(max_workers=HANGING_AT_ONCE, thread_name_prefix="audio-waiting")
        self._timer: asyncio.Handle | None = None
        self._working: set[asyncio.Task[None]] = set()

    def touch(self, inlet: Inlet) -> None:
        """The inlet has received something."""
        self._waiting[inlet] = None
        self._arm()

    async def aclose(self) -> None:
        """Stop; what waits is dropped. Safe to call twice."""
        self._waiting.clear()
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await asyncio.gather(*self._working, return_exceptions=True)
        self._decoding.shutdown(wait=True)
        self._hanging.shutdown(wait=True)

    def _arm(self) -> None:
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._due.extend(self._waiting)
        self._waiting.clear()
        self._serve()

    def _serve(self) -> None:
        """Serve a part of those that are due, and the rest in the loop's next turns."""
        try:
            for _ in range(min(INLETS_AT_ONCE, len(self._due))):
                self._serve_one(self._due.popleft())
        finally:
            self._go_on()

    def _serve_one(self, inlet: Inlet) -> None:
        received = inlet.take()
        if received and inlet.is_plain:
            inlet.deliver(decode(inlet.decoders, received))
        elif received and inlet.may_hang:
            self._begin(self._hanging, [(inlet, received)])
        elif received:
            self._heavy.append((inlet, received))

    def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        if self._due:
            self._timer = loop.call_soon(self._serve)
            return
        self._timer = None
        if self._heavy:
            heavy, self._heavy = self._heavy, []
            self._begin(self._decoding, heavy)
        self._arm()

    def _begin(self, threads: ThreadPoolExecutor, work: _Work) -> None:
        task = asyncio.get_running_loop().create_task(_decode_in(threads, work))
        self._working.add(task)
        task.add_done_callback(self._working.discard)


async def _decode_in(threads: ThreadPoolExecutor, work: _Work) -> None:
    decoded = await asyncio.get_running_loop().run_in_executor(threads, _decode_all, work)
    for (inlet, _), results in zip(work, decoded, strict=True):
        inlet.deliver(results)


def decode(decoders: Sequence[Decoder], received: Sequence[Received]) -> list[Decoded]:
    """Decode what one session received; packets in a row become one."""
    decoded: list[Decoded] = []
    packets: list[bytes] = []
    for item in [*received, None]:
        if isinstance(item, bytes):
            packets.append(item)
            continue
        if packets:
            decoded.append(_convert(decoders, packets[0] if len(packets) == 1 else b"".join(packets)))
            packets = []
        if isinstance(item, Finish):
            tails = _flush(decoders)
            if isinstance(tails, AudioError) or any(len(tail) for tail in tails):
                decoded.append(tails)
        if item is not None:
            decoded.append(item)
    return decoded


def _convert(decoders: Sequence[Decoder], raw: bytes) -> Decoded:
    try:
        return [decoder.convert(raw) for decoder in decoders]
    except AudioError as error:
        return error.with_traceback(None)  # which holds the decoder


def _flush(decoders: Sequence[Decoder]) -> list[Int16Samples] | AudioError:
    try:
        return [decoder.flush() for decoder in decoders]
    except AudioError as error:
        return error.with_traceback(None)


def _decode_all(work: _Work) -> list[list[Decoded]]:
    return [_decode_one(inlet, received) for inlet, received in work]


def _decode_one(inlet: Inlet, received: list[Received]) -> list[Decoded]:
    try:
        return decode(inlet.decoders, received)
    except Exception as error:  # one session's trouble is not the others'
        logger.exception("a decoder raised")
        controls: list[Decoded] = [item for item in received if not isinstance(item, bytes)]
        return [AudioError(f"the audio can't be decoded: {type(error).__name__}"), *controls]
