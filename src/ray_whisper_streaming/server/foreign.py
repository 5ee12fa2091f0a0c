"""What the endpoints of other makers' protocols have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ray_whisper_streaming.server.audio import AudioFormat
from ray_whisper_streaming.server.codecs import audio_format
from ray_whisper_streaming.server.session import Session, SessionEvent
from ray_whisper_streaming.wire import actions

__all__ = ["Batch", "EventReader", "session_audio"]

Batch = list[tuple[int, SessionEvent]]
"""Events with their channels."""

MAX_UNANSWERED = 100
"""Messages of a client whose answers may wait: of one that doesn't read, no more are taken then."""


def session_audio(audio: actions.AudioFormat) -> AudioFormat:
    """The audio of a session, as a protocol names it."""
    return audio_format(
        audio.encoding, sample_rate=audio.sample_rate, channels=audio.channels, split=audio.separate
    )


class EventReader:
    """Reads a session's events in batches: all that wait, so that a protocol can tell together what came together.

    It is woken by `wake`, too, as when the client's messages were answered.
    """

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self._slept = asyncio.Event()
        self._wakings = 0

    def wake(self) -> None:
        """Have the next batch come at once, be it empty."""
        self._wakings += 1
        self._woken.set()

    async def wait(self) -> None:
        """Wait to be woken."""
        await self._woken.wait()
        self._woken.clear()
        self._wakings = 0
        self._slept.set()

    async def caught_up(self) -> None:
        """Wait while it was woken too often since it last looked: what it is to tell isn't read."""
        while self._wakings > MAX_UNANSWERED:
            self._slept.clear()
            await self._slept.wait()

    async def batches(self, session: Session, tick_s: float | None = None) -> AsyncIterator[Batch]:
        """Batches until the session's last event; every ``tick_s`` seconds at least, then maybe empty ones."""
        following: asyncio.Task[tuple[int, SessionEvent] | None] | None = None
        waking: asyncio.Task[None] | None = None
        try:
            while True:
                following = following or asyncio.create_task(session.next_event())
                waking = waking or asyncio.create_task(self.wait())
                await asyncio.wait({following, waking}, timeout=tick_s, return_when=asyncio.FIRST_COMPLETED)
                if waking.done():
                    waking = None
                batch: Batch = []
                while following.done():
                    item = following.result()
                    if item is None:
                        yield batch
                        return
                    batch.append(item)
                    following = asyncio.create_task(session.next_event())
                    # What waits is there after one turn of the loop.
                    await asyncio.wait({following}, timeout=0)
                yield batch
        finally:
            for task in (following, waking):
                if task is not None:
                    task.cancel()
            await asyncio.gather(*(task for task in (following, waking) if task), return_exceptions=True)
