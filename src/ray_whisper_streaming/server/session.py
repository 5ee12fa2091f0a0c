"""One client's session: bytes in, events out; a stream for each channel. All protocols of the server stand on it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ray_whisper_streaming.api import AsyncLiveStream
from ray_whisper_streaming.core.events import Event, Flushed, StreamFailed
from ray_whisper_streaming.errors import AudioError, Overloaded, ProtocolError, StreamClosed
from ray_whisper_streaming.server.admission import Lease
from ray_whisper_streaming.server.audio import AudioFormat, Decoder
from ray_whisper_streaming.server.intake import AudioIntake, Decoded, Finish, Flush, Received

__all__ = [
    "ENDINGS",
    "AudioRejected",
    "Draining",
    "Ending",
    "Lagging",
    "Notice",
    "Progress",
    "Session",
    "SessionEvent",
]

INBOX_S = 2.0
"""Audio a session may have waiting for the intake; then its socket is not read, and TCP slows the client down."""

MIN_INBOX_BYTES = 64 * 1024
"""The same for low rates: a few packets must always fit."""

MAX_FLUSHES = 100
"""Flushes of a session that may be unanswered."""

MAX_EVENTS = 16
"""Events waiting for a client to read them. The rest waits in the streams, which keep only the latest partial."""

MAX_NOTICES = 8
"""Notices waiting likewise; of more than that, the oldest are dropped."""

PROGRESS_S = 1.0
"""Progress smaller than this is not told."""

LAGGING_S, CAUGHT_UP_S = 4.0, 2.0
"""A live session that lags more than the first is told, and told again when it lags less than the second. Without load
it is the time between two passes and the silence that ends an utterance: 1.6 s."""

LIVE_SLACK_S = 3.0
"""Audio that comes faster than it can be spoken is no live session; buffers on the way may hold so much."""


@dataclass(frozen=True, slots=True)
class AudioRejected:
    """What was pushed is no audio of the format agreed; the session goes on without it."""

    error: AudioError


@dataclass(frozen=True, slots=True)
class Draining:
    """The server is going down in ``within_s`` seconds: finish, or go on elsewhere."""

    within_s: float


ENDINGS = {
    "idle": "nothing came for too long",
    "session_limit": "the session has lasted as long as sessions may",
    "audio_quota": "the audio that this key may send is used up",
    "draining": "the server is going down",
    "unauthorized": "the API key was revoked or has expired",
    "abandoned": "the client did not come back",
}
"""Why the server ends a session, and what its client is told; of a container that can't be read it was told why."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The server ends the session: ``reason`` is ``"idle"``, ``"session_limit"``, ``"audio_quota"``,
    ``"unauthorized"`` or ``"draining"``.

    Audio that came before is still decoded; the streams' last events follow.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """All audio before ``until_s`` is committed in every channel. Only for sessions opened with ``notes=True``.

    Attributes:
        until_s: second of the audio.
        pushes: the audio of so many pushes ends there; None where it is not coded, and the client can tell.
    """

    until_s: float
    pushes: int | None = None


@dataclass(frozen=True, slots=True)
class Lagging:
    """Text comes late: ``lag_s`` seconds of audio wait. Only for sessions opened with ``notes=True``.

    ``over`` tells the end of it.
    """

    lag_s: float
    over: bool = False


Notice: TypeAlias = AudioRejected | Draining | Ending | Progress | Lagging
SessionEvent: TypeAlias = Event | Notice


class Session:
    """Made by `Gateway.open_session`. Push from one task, iterate from another; close it whatever happens.

    Args:
        session_id: unguessable: who knows it and has the key may follow the session.
        protocol: for logs and metrics.
        model: the name of the one that all streams are of.
        streams: open; one per channel.
        audio: what will be pushed.
        lease: released at the end.
        intake: decodes what is pushed.
        observe: told of every event of a stream, for metrics.
        forget: told at the end.
        live: audio is sent while it is spoken.
        notes: tell `Progress` and `Lagging`.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        session_id: str,
        protocol: str,
        model: str,
        streams: Sequence[AsyncLiveStream],
        audio: AudioFormat,
        lease: Lease,
        intake: AudioIntake,
        observe: Callable[[Session, AsyncLiveStream, Event], None],
        forget: Callable[[Session], None],
        live: bool = True,
        notes: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session_id = session_id
        self.protocol = protocol
        self.model = model
        self.audio = audio
        self.lease = lease
        self.streams = tuple(streams)
        self.decoders: list[Decoder] = audio.decoders()
        self.ending: str | None = None
        self.owner: object = None
        """For the protocol to keep here what belongs to the session."""
        self.opened_at = clock()
        self.heard_at = self.opened_at
        self._live = live
        self._notes = notes
        self._told_s = 0.0
        self._lagging = False
        self._intake = intake
        self._observe = observe
        self._forget = forget
        self._clock = clock
        self._inbox: list[Received] = []
        self._inbox_bytes = 0
        self._inbox_limit = max(MIN_INBOX_BYTES, round(INBOX_S * audio.bytes_per_second))
        self._taken = False
        self._pushes_taken = 0
        self._ends: deque[tuple[int, float]] = deque()
        self._finished = False
        self._closed = False
        self._late: asyncio.Task[None] | None = None
        self._flush_count = 0
        self._flushes: dict[str, tuple[str, int]] = {}
        self._events: deque[tuple[int, Event]] = deque()
        self._notices: deque[Notice] = deque(maxlen=MAX_NOTICES)
        self._changed = asyncio.Event()
        self._space = asyncio.Event()
        self._room = asyncio.Event()
        self._charged_s = 0.0
        self._running = len(self.streams)
        self._pumps = [
            asyncio.create_task(self._pump(channel, stream)) for channel, stream in enumerate(self.streams)
        ]

    # ---------------------------------------------------------------- the client's side

    async def push(self, data: bytes) -> None:
        """Give the next audio, in the format agreed, cut anywhere. Waits while too much is waiting.

        Audio that is none comes back as `AudioRejected`. After `Ending` it is dropped.

        Raises:
            StreamClosed: after `finish` or `aclose`.
        """
        self.touch()
        self._check_open()
        if self.ending or not data:
            return
        self._inbox.append(data)
        self._inbox_bytes += len(data)
        self._intake.touch(self)
        while self._inbox_bytes > self._inbox_limit and not self._closed:
            self._room.clear()
            await self._room.wait()

    def flush(self, flush_id: str) -> None:
        """Have everything pushed so far decoded and committed; `Flushed` with this id follows, the session goes on.

        Raises:
            StreamClosed: after `finish` or `aclose`.
            ProtocolError: too many flushes are unanswered.
        """
        self.touch()
        self._check_open()
        if self.ending:
            return
        if len(self._flushes) >= MAX_FLUSHES:
            raise ProtocolError(f"{MAX_FLUSHES} flushes are unanswered", code="too_many_flushes")
        self._flush_count += 1
        number = str(self._flush_count)
        self._flushes[number] = (flush_id, len(self.streams))
        self._inbox.append(Flush(number))
        self._intake.touch(self)

    def finish(self) -> None:
        """No more audio will come; the events go on until each stream's terminal one. Safe to call twice."""
        if not self._finished and not self._closed:
            self._finished = True
            self._inbox.append(Finish())
            self._intake.touch(self)

    def touch(self) -> None:
        """The client is there: it sent audio, or something that says so."""
        self.heard_at = self._clock()

    async def next_event(self) -> tuple[int, SessionEvent] | None:
        """The next event and the channel it is of (0 for notices and `Flushed`); None after the last one."""
        while True:
            if self._notices:
                return 0, self._notices.popleft()
            if self._events:
                self._space.set()
                return self._events.popleft()
            if self._closed or not self._running:
                return None
            self._changed.clear()
            await self._changed.wait()

    async def __aiter__(self) -> AsyncIterator[tuple[int, SessionEvent]]:
        """All events with their channels, until every stream has ended (`Final` with ``end_of_stream``, or
        `StreamFailed`) or the session was closed.
        """
        while (item := await self.next_event()) is not None:
            yield item

    async def aclose(self) -> None:
        """Give the session up; without `finish`, undecoded audio is dropped. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._forget(self)
        self.lease.release()
        tasks = [*self._pumps, *([self._late] if self._late else [])]
        for task in tasks:
            task.cancel()
        for stream in self.streams:
            await stream.aclose()
        self.decoders = []  # their threads end with them, and who knows how long somebody holds the session
        for signal in (self._changed, self._room, self._space):
            signal.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # ---------------------------------------------------------------- the gateway's side

    @property
    def received_s(self) -> float:
        """Seconds of audio received so far, of each channel."""
        return self.streams[0].received_s

    @property
    def lag_s(self) -> float:
        """Seconds of audio that no pass has seen, in the stream that lags most."""
        return max(stream.lag_s for stream in self.streams)

    @property
    def kept_from_s(self) -> float:
        """Everything before this second is committed, in every stream: a client may forget it."""
        return min(stream.kept_from_s for stream in self.streams)

    @property
    def is_live(self) -> bool:
        """Whether audio comes as it is spoken, as far as one can see."""
        return self._live and self.received_s <= self._clock() - self.opened_at + LIVE_SLACK_S

    @property
    def silent_s(self) -> float:
        """Seconds since the client was heard; 0 while `push` waits for room, as nothing more is read from it then."""
        return 0.0 if self._inbox_bytes > self._inbox_limit else self._clock() - self.heard_at

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    def end(self, reason: str) -> None:
        """End the session from here; see `Ending`. Safe to call twice."""
        if self.ending is None and not self._closed:
            self.ending = reason
            self.notify(Ending(reason))
            self.finish()

    def progress(self) -> Progress:
        """How far all is committed. Of coded audio a client knows pushes, not seconds: the end of the last one that
        is done with.
        """
        kept_s = self.kept_from_s
        if not self.audio.is_coded:
            return Progress(kept_s)
        while len(self._ends) > 1 and self._ends[1][1] <= kept_s:
            self._ends.popleft()
        pushes, until_s = self._ends[0] if self._ends and self._ends[0][1] <= kept_s else (0, 0.0)
        return Progress(until_s, pushes)

    def look(self) -> None:
        """Tell how it goes, where there is news; the gateway calls it once a second."""
        if not self._notes or self._closed:
            return
        progress, lag_s = self.progress(), self.lag_s
        if progress.until_s >= self._told_s + PROGRESS_S:
            self._told_s = progress.until_s
            self.notify(progress)
        if self._lagging and lag_s < CAUGHT_UP_S:
            self._lagging = False
            self.notify(Lagging(lag_s, over=True))
        elif not self._lagging and lag_s > LAGGING_S and self.is_live:
            self._lagging = True
            self.notify(Lagging(lag_s))

    def notify(self, notice: Notice) -> None:
        """Put a notice before the other events."""
        self._notices.append(notice)
        self._changed.set()

    def uncharged_s(self) -> float:
        """Seconds of audio, over all channels, since the last call."""
        total_s = self.received_s * len(self.streams)
        new_s, self._charged_s = total_s - self._charged_s, total_s
        return new_s

    # ---------------------------------------------------------------- the intake's side

    @property
    def is_plain(self) -> bool:
        """See `intake.Inlet`."""
        return self.audio.is_plain

    @property
    def may_hang(self) -> bool:
        """See `intake.Inlet`."""
        return self.audio.may_hang

    def take(self) -> list[Received]:
        """See `intake.Inlet`."""
        if self._taken or self._closed or not self._inbox:
            return []  # of which nothing will be delivered
        self._taken = True
        taken, self._inbox = self._inbox, []
        self._pushes_taken += sum(isinstance(item, bytes) for item in taken)
        return taken

    def deliver(self, decoded: list[Decoded]) -> None:
        """See `intake.Inlet`."""
        if self._closed or self._late is not None:
            return
        for index, item in enumerate(decoded):
            rest = self._apply(item)
            if rest is not None:
                self._late = asyncio.create_task(self._deliver_slowly([rest, *decoded[index + 1 :]]))
                return
        self._delivered()

    async def _deliver_slowly(self, items: list[Decoded]) -> None:
        """The pool is behind: wait for room, with the socket unread."""
        for item in items:
            if isinstance(item, list):
                try:
                    for stream, samples in zip(self.streams, item, strict=True):
                        await stream.push(samples)
                except (StreamClosed, Overloaded):
                    pass
            else:
                self._apply(item)
        self._late = None
        self._delivered()

    def _delivered(self) -> None:
        self._taken = False
        if self.audio.is_coded and self._notes:
            if self._ends and self._ends[-1][1] == self.received_s:
                self._ends.pop()  # nothing came out of the pushes since
            self._ends.append((self._pushes_taken, self.received_s))
        if self._inbox_bytes > self._inbox_limit:
            self.touch()  # from here on it can be heard again
        self._inbox_bytes = sum(len(item) for item in self._inbox if isinstance(item, bytes))
        self._room.set()
        if self._inbox and not self._closed:
            self._intake.touch(self)

    def _apply(self, item: Decoded) -> Decoded | None:
        """Hand one item to the streams; what could not be taken now comes back."""
        if isinstance(item, AudioError):
            self.notify(AudioRejected(item))
        elif isinstance(item, list):
            for channel, (stream, samples) in enumerate(zip(self.streams, item, strict=True)):
                try:
                    stream.push_nowait(samples)
                except StreamClosed:
                    pass  # its terminal event says why
                except Overloaded:
                    nothing = np.zeros(0, np.int16)
                    return [nothing if done < channel else rest for done, rest in enumerate(item)]
        else:
            for stream in self.streams:
                try:
                    stream.flush_nowait(item.flush_id) if isinstance(item, Flush) else stream.finish_nowait()
                except StreamClosed:
                    pass
        return None

    # ---------------------------------------------------------------- inside

    async def _pump(self, channel: int, stream: AsyncLiveStream) -> None:
        async for event in stream:
            self._observe(self, stream, event)
            if isinstance(event, Flushed):
                event = self._merge_flush(event)
                if event is None:
                    continue
            while len(self._events) >= MAX_EVENTS:
                self._space.clear()
                await self._space.wait()
            self._events.append((0 if isinstance(event, Flushed) else channel, event))
            self._changed.set()
            if isinstance(event, StreamFailed):
                self.finish()  # half a conversation helps nobody: the other channels end as well
        self._running -= 1
        self._changed.set()

    def _merge_flush(self, event: Flushed) -> Flushed | None:
        """One confirmation for all channels, with the client's own id."""
        flush_id, missing = self._flushes[event.flush_id]
        if missing > 1:
            self._flushes[event.flush_id] = (flush_id, missing - 1)
            return None
        del self._flushes[event.flush_id]
        return Flushed(flush_id=flush_id, at_s=event.at_s)

    def _check_open(self) -> None:
        if self._closed or (self._finished and not self.ending):
            raise StreamClosed(f"session {self.session_id} takes no more audio")
