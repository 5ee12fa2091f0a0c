"""One live stream through a server, for asyncio: audio in, events out."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import AsyncIterator

import numpy.typing as npt

from ray_whisper_streaming.client.connecting import Address
from ray_whisper_streaming.client.conversation import Conversation
from ray_whisper_streaming.client.events import ClientEvent, Partial
from ray_whisper_streaming.client.options import CODED, CODED_BYTES_PER_S, SAMPLE_BYTES
from ray_whisper_streaming.client.outbox import Outbox
from ray_whisper_streaming.client.patience import Patience
from ray_whisper_streaming.client.samples import as_bytes
from ray_whisper_streaming.errors import AudioError, Overloaded, StreamClosed
from ray_whisper_streaming.wire.native_messages import Options

__all__ = ["AsyncRemoteStream"]

MAX_WAITING_EVENTS = 10_000
"""Events kept for a listener that doesn't fetch them (of partials only the latest is): hours of speech. Beyond it,
audio is refused."""

_flush_numbers = itertools.count(1)


class AsyncRemoteStream:
    """Made by `AsyncClient.stream`. Push audio, iterate its events; both at the same time, as a rule.

    Use it as an async context manager, or with `start` and `aclose`.
    """

    def __init__(self, address: Address, options: Options, patience: Patience) -> None:
        self._options = options
        self._coded = options.encoding in CODED
        frame_bytes = 1 if self._coded else SAMPLE_BYTES[options.encoding] * options.channels
        self._bytes_per_s = CODED_BYTES_PER_S if self._coded else frame_bytes * options.sample_rate
        self._most_kept = patience.unacknowledged_s * self._bytes_per_s
        self._outbox = Outbox(frame_bytes)
        self._conversation = Conversation(
            address, options, patience, self._outbox, self._bytes_per_s, listener=self
        )
        self._events: deque[ClientEvent] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def session_id(self) -> str:
        """Of the session that runs now: for `AsyncClient.follow`, and for the server's logs. Empty before `start`."""
        return self._conversation.session_id

    @property
    def sent_s(self) -> float:
        """Seconds of audio pushed so far; NaN of Opus and containers, which only the server decodes."""
        if self._coded:
            return math.nan
        return self._outbox.end / self._bytes_per_s

    @property
    def acknowledged_s(self) -> float:
        """Everything before this second is committed, and no longer kept here."""
        return self._conversation.acknowledged_s

    @property
    def over(self) -> bool:
        """Whether nothing more will come than the events that are there."""
        return self._conversation.over

    async def start(self) -> None:
        """Connect and open the session.

        Raises:
            Unreachable, Refused, Unauthorized, ProtocolError: there is no session to be had.
            ConfigurationError: an option that this server doesn't take.
        """
        if self._conversation.started or self._conversation.over:
            raise StreamClosed("a stream starts once")
        await self._conversation.start()

    async def push(self, samples: npt.ArrayLike | bytes) -> None:
        """Give the next samples, of the rate, channels and encoding that the stream was opened with.

        Waits while too much audio is unacknowledged: the server is behind, or the connection is lost.

        Args:
            samples: bytes, cut anywhere, but of ``opus`` one packet; or int16, or floats of -1 to 1, shape (frames,)
                or (frames, channels).

        Raises:
            AudioError: samples that are no audio; nothing was taken.
            StreamClosed: after `finish` or `aclose`, or when the server ended the session.
            Overloaded: nobody fetches the events.
            Unreachable, Refused, ProtocolError: the stream is over because of this.
        """
        data = as_bytes(samples, self._options.encoding, self._options.channels)
        self._check_open()
        if self._options.encoding == "opus":
            if not 0 < len(data) <= self._outbox.longest_piece:
                raise AudioError(f"{len(data)} bytes are no Opus packet")
            await self._push_second(data)
            return
        for start in range(0, len(data), self._bytes_per_s):
            await self._push_second(data[start : start + self._bytes_per_s])

    async def _push_second(self, data: bytes) -> None:
        self._check_open()
        while self._outbox.unacknowledged >= self._most_kept:
            self._room.clear()
            await self._room.wait()
            self._check_open()
        waiting = len(self._events)
        if waiting >= MAX_WAITING_EVENTS:
            what = f"the queue of events of session {self.session_id}"
            raise Overloaded(what, limit=MAX_WAITING_EVENTS, current=waiting, retry_after_s=1.0)
        self._outbox.push(data)
        self._conversation.wake()

    async def flush(self, flush_id: str | None = None) -> str:
        """Have everything pushed so far decoded and committed. A `Flushed` event with the id returned follows.

        Args:
            flush_id: to 128 characters, once only.
        """
        self._check_open()
        flush_id = flush_id or f"flush-{next(_flush_numbers)}"
        self._outbox.flush(flush_id)
        self._conversation.wake()
        return flush_id

    async def finish(self) -> None:
        """No more audio will come; the events go on until `Closed`. Safe to call twice."""
        self._outbox.close()
        self._conversation.wake()
        self._room.set()

    async def next_event(self) -> ClientEvent | None:
        """The next event; None after the last one.

        Raises:
            Unreachable, Refused, ProtocolError: the stream is over because of this. All events came before.
        """
        while not self._events:
            if self._conversation.over:
                if self._conversation.error is not None:
                    raise self._conversation.error
                return None
            self._news.clear()
            await self._news.wait()
        return self._events.popleft()

    def next_event_nowait(self) -> ClientEvent | None:
        """The next event if one is there; None otherwise."""
        return self._events.popleft() if self._events else None

    async def __aiter__(self) -> AsyncIterator[ClientEvent]:
        """All events, until the last one: `Closed`, or `StreamFailed`. Raises as `next_event`."""
        while (event := await self.next_event()) is not None:
            yield event

    async def aclose(self) -> None:
        """Give the stream up; without `finish`, undecoded audio is dropped. Safe to call twice."""
        await self._conversation.aclose()

    async def __aenter__(self) -> AsyncRemoteStream:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def heard(self, event: ClientEvent) -> None:
        """See `Listener`."""
        last = self._events[-1] if self._events else None
        if isinstance(event, Partial) and isinstance(last, Partial) and last.channel == event.channel:
            self._events.pop()
        self._events.append(event)
        self._news.set()

    def changed(self) -> None:
        """See `Listener`."""
        self._room.set()
        if self._conversation.over:
            self._news.set()

    def _check_open(self) -> None:
        if self._conversation.error is not None:
            raise self._conversation.error
        if not self._conversation.started:
            raise StreamClosed("start the stream first")
        if self._conversation.over or self._outbox.closing:
            raise StreamClosed("the stream takes no more audio")
