"""The events of one session for any number of readers: its own client, before and after a lost connection, and others.

Each reader goes at its own pace and waits for nobody. A partial is replaced by the next one of its channel; all else
is kept, up to a limit.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator

from ray_whisper_streaming.errors import InvalidState

__all__ = ["EventLog", "Missed"]

MAX_KEPT = 2_000
"""Events kept: about half an hour of continuous speech."""

DROP_AT_ONCE = 200
"""Old events are dropped so many at a time: dropping from a list costs its length."""


class Missed(InvalidState):
    """The events wanted are not kept any more."""


class EventLog:
    """Append from one task, `follow` from any.

    Attributes:
        next_number: of the event that comes next.
        first_kept: no event from this number on was dropped.
        ended: nothing more will come.
    """

    def __init__(self) -> None:
        self.next_number = 0
        self.ended = False
        self.first_kept = 0
        self._numbers: list[int] = []
        self._kept: list[bytes] = []
        self._partials: dict[int, tuple[int, bytes]] = {}
        self._readers: set[asyncio.Event] = set()

    def append(self, message: bytes) -> None:
        """Add an event; its number is `next_number`."""
        self._numbers.append(self.next_number)
        self._kept.append(message)
        self.next_number += 1
        if len(self._kept) > MAX_KEPT:
            del self._kept[:DROP_AT_ONCE], self._numbers[:DROP_AT_ONCE]
            self.first_kept = self._numbers[0]
        self._wake()

    def append_partial(self, message: bytes, channel: int) -> None:
        """Add an event that replaces the last one of this kind and channel."""
        self._partials[channel] = (self.next_number, message)
        self.next_number += 1
        self._wake()

    def end(self) -> None:
        """Nothing more will come: readers end when they have read all. Safe to call twice."""
        self.ended = True
        self._wake()

    @property
    def readers(self) -> int:
        """Who follows now."""
        return len(self._readers)

    def read(self, after: int) -> tuple[list[bytes], int]:
        """The events behind number ``after`` (-1: from the start), and the number of the last of them.

        Raises:
            Missed: some of them are not kept any more.
        """
        if after + 1 < self.first_kept or after >= self.next_number:
            raise Missed("these events are not kept any more")
        index = bisect_right(self._numbers, after)
        found = list(zip(self._numbers[index:], self._kept[index:], strict=True))
        found += [entry for entry in self._partials.values() if entry[0] > after]
        found.sort(key=lambda entry: entry[0])
        return [message for _, message in found], self.next_number - 1

    async def follow(self, after: int = -1) -> AsyncIterator[list[bytes]]:
        """What comes, in batches, until `end`.

        Raises:
            Missed: the reader is too slow, or begins too far back.
        """
        changed = asyncio.Event()
        self._readers.add(changed)
        try:
            while True:
                changed.clear()
                batch, after = self.read(after)
                if batch:
                    yield batch
                elif self.ended:
                    return
                else:
                    await changed.wait()
        finally:
            self._readers.discard(changed)

    def _wake(self) -> None:
        for reader in self._readers:
            reader.set()
