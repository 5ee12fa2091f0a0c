"""Drives the streams of one event loop: the shell around `core.stream.Stream`.

Everything that happens to a stream in one turn of the loop is dealt with in one go: voice activity is scored for
all streams that have new audio in one batch, in a thread of its own; then each is asked for its next job.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ray_whisper_streaming.core.events import Event, Final, Partial
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Failure, Int16Samples, Job, Result
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.stream import Stream
from ray_whisper_streaming.engines.vad import SileroVad, VadState
from ray_whisper_streaming.errors import (
    Overloaded,
    PoolError,
    RayWhisperError,
    StreamClosed,
    TranscriptionError,
)
from ray_whisper_streaming.pool.base import Recognizer

__all__ = ["DrivenStream", "StreamDriver"]

logger = logging.getLogger(__name__)

MAX_WAITING_EVENTS = 10_000
"""Events kept for a listener that doesn't fetch them (of partials only the latest is kept): hours of speech. Beyond
it, audio is refused."""


LONGEST_TURN_S = 0.005
"""Streams are advanced so long; then the event loop may do something else, before the rest of them."""


class DrivenStream:
    """One stream and its listener. Made by `StreamDriver.open`; all calls on the driver's loop."""

    def __init__(self, driver: StreamDriver, machine: Stream) -> None:
        self.machine = machine
        self.vad_state = VadState()
        self.job: Future[Result] | None = None
        self.closed = False
        self._told_all = False
        self._driver = driver
        self._events: deque[Event] = deque()
        self._partial: Partial | None = None
        self._told = asyncio.Event()
        self._room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    async def push(self, samples: Int16Samples) -> None:
        """Give the next samples; waits while too much audio is waiting for the pool.

        Raises:
            StreamClosed: after `finish`, `close` or the terminal event.
            Overloaded: nobody fetches the events.
        """
        longest = round(self.machine.options.max_buffer_s / 4 * SAMPLE_RATE)
        for start in range(0, len(samples), longest):
            part = samples[start : start + longest]
            while not (self.closed or self.machine.over or self.machine.has_room(len(part))):
                self._room.clear()
                await self._room.wait()
            self.push_nowait(part)

    def push_nowait(self, samples: Int16Samples) -> None:
        """Give the next samples, or refuse.

        Raises:
            Overloaded: too much audio or too many events are waiting; nothing was taken.
            StreamClosed: see `push`.
        """
        self._check_open()
        if len(self._events) >= MAX_WAITING_EVENTS:
            limit = MAX_WAITING_EVENTS
            raise Overloaded("the event queue", limit=limit, current=len(self._events), retry_after_s=1.0)
        self.machine.receive_audio(samples)
        self._driver.touch(self)

    def flush(self, flush_id: str) -> None:
        """Have everything given so far decoded and committed; a `Flushed` event follows."""
        self._check_open()
        self.machine.request_flush(flush_id)
        self._driver.touch(self)

    def finish(self) -> None:
        """No more audio will come. The events go on until the terminal one. Safe to call twice."""
        if not self.closed:
            self.machine.receive_eof()
            self._driver.touch(self)

    async def next_event(self) -> Event | None:
        """The next event; None after the terminal event, or after `close`."""
        while not self._events and self._partial is None:
            if self.closed or self._told_all:  # what is over may still have events for the next turn
                return None
            self._told.clear()
            await self._told.wait()
        return self.next_event_nowait()

    def next_event_nowait(self) -> Event | None:
        """The next event if one is there; None otherwise."""
        if self._events:
            return self._events.popleft()
        partial, self._partial = self._partial, None
        return partial

    def close(self) -> None:
        """Give the stream up: no more events, its job is withdrawn. Safe to call twice."""
        if self.closed:
            return
        self.closed = True
        self._events.clear()
        self._partial = None
        self._told.set()
        self._room.set()
        if self.job is not None:
            self.job.cancel()
        self._driver.forget(self)

    # The driver's side.

    def collect(self) -> None:
        """Move the machine's events to the listener; of partials only the latest waits, behind everything else."""
        for event in self.machine.events():
            if isinstance(event, Partial):
                self._partial = event
                continue
            if isinstance(event, Final) and self._partial is not None:
                self._events.append(self._partial)  # it belongs to the utterance that ends here
                self._partial = None
            self._events.append(event)
        if self.machine.over:
            self._told_all = True
            self._partial = None
            self._driver.forget(self)
        if self._events or self._partial is not None or self._told_all:
            self._told.set()
        self._room.set()  # there may be some again

    def rearm(self, loop: asyncio.AbstractEventLoop, wakeup: float | None, now: float) -> None:
        """Have the driver look again at the monotonic second ``wakeup``."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wakeup is not None:
            self._timer = loop.call_later(max(0.0, wakeup - now), self._driver.touch, self)

    def _check_open(self) -> None:
        if self.closed:
            raise StreamClosed(f"stream {self.machine.stream_id} is closed")


class StreamDriver:
    """Runs any number of streams on the current event loop, against one recognizer.

    Args:
        recognizer: where the jobs go; started and closed by its owner.
        model: the model of streams that name none.
        clock: monotonic seconds.
    """

    def __init__(
        self, recognizer: Recognizer, model: str = "tiny.en", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._recognizer = recognizer
        self._model = model
        self._clock = clock
        self._streams: set[DrivenStream] = set()
        self._touched: set[DrivenStream] = set()
        self._vad = SileroVad()
        self._vad_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="voice-activity")
        self._turn: asyncio.Task[None] | None = None
        self._replacing: set[asyncio.Future[None]] = set()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, stream_id: str, options: StreamOptions | None = None) -> DrivenStream:
        """Open a stream. Call on the event loop that shall drive it."""
        self._loop = asyncio.get_running_loop()
        stream = DrivenStream(self, Stream(stream_id, options, self._model))
        self._streams.add(stream)
        return stream

    @property
    def open_streams(self) -> int:
        """Streams that have not ended."""
        return len(self._streams)

    def touch(self, stream: DrivenStream) -> None:
        """Something happened to the stream: look at it in the next turn."""
        self._touched.add(stream)
        if self._turn is None and self._loop is not None:
            self._turn = self._loop.create_task(self._take_turns())

    def forget(self, stream: DrivenStream) -> None:
        """The stream has ended."""
        self._streams.discard(stream)
        stream.rearm(asyncio.get_running_loop(), None, 0.0)

    async def aclose(self) -> None:
        """Close all streams and stop the thread. Safe to call twice."""
        self._closed = True
        for stream in list(self._streams):
            stream.close()
        if self._turn is not None:
            await asyncio.gather(self._turn, return_exceptions=True)
        self._vad_thread.shutdown(wait=True)

    async def _take_turns(self) -> None:
        try:
            while self._touched:
                touched, self._touched = self._touched, set()
                touched = {stream for stream in touched if not stream.closed}
                await self._score_voice(touched)
                began = self._clock()
                for stream in touched:
                    if not stream.closed:
                        try:
                            self._advance(stream)
                        except Exception as error:  # one stream's trouble is not the others'
                            self._give_up(stream, error)
                    if self._clock() - began > LONGEST_TURN_S:
                        await asyncio.sleep(0)
                        began = self._clock()
        finally:
            self._turn = None

    async def _score_voice(self, streams: set[DrivenStream]) -> None:
        asked = [(stream, chunk) for stream in streams if (chunk := stream.machine.voice_input()) is not None]
        if not asked:
            return
        assert self._loop is not None
        states = [stream.vad_state for stream, _ in asked]
        try:
            scores = await self._loop.run_in_executor(
                self._vad_thread, self._vad.score, states, [chunk for _, chunk in asked]
            )
        except Exception as error:
            for stream, _ in asked:
                self._give_up(stream, error)
            return
        for (stream, _), probabilities in zip(asked, scores, strict=True):
            stream.machine.receive_voice(probabilities)
            if stream.machine.voice_waits:  # a long push is scored in parts
                self._touched.add(stream)

    def _advance(self, stream: DrivenStream) -> None:
        assert self._loop is not None
        now = self._clock()
        job = stream.machine.next_job(now)
        if job is not None:
            self._submit(stream, job)
        stream.collect()
        if not stream.machine.over:
            stream.rearm(self._loop, stream.machine.next_wakeup(), now)

    def _give_up(self, stream: DrivenStream, error: Exception) -> None:
        """End a stream that can't go on; its listener gets `StreamFailed`."""
        if not isinstance(error, RayWhisperError):
            # Where it happened, but not the exception's text: it might hold transcribed words.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("stream %s: %s\n%s", stream.machine.stream_id, type(error).__name__, where)
            error = PoolError(f"an internal error: {type(error).__name__}")
        stream.machine.fail(error)
        if not stream.closed:
            stream.collect()

    def _submit(self, stream: DrivenStream, job: Job) -> None:
        loop = self._loop
        assert loop is not None
        try:
            stream.job = self._recognizer.submit_nowait(job)
        except RayWhisperError as error:
            stream.machine.receive_failure(Failure(job_id=job.job_id, error=error), self._clock())
            return

        def answered(future: Future[Result]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._take_answer, stream, job, future)

        stream.job.add_done_callback(answered)
        if not job.final:
            wait_s = stream.machine.interval_s / 2
            loop.call_later(wait_s, self._reconsider, stream, stream.job, job.job_id)

    def _reconsider(self, stream: DrivenStream, future: Future[Result], job_id: str) -> None:
        """A job that still waits, for want of a worker, is replaced by one with the audio that came meanwhile."""
        if stream.job is not future or future.done() or self._closed:
            return
        if stream.machine.is_stale():
            task = asyncio.ensure_future(self._replace(stream, future, job_id))
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def _replace(self, stream: DrivenStream, future: Future[Result], job_id: str) -> None:
        if await self._recognizer.withdraw(job_id) and stream.job is future:
            stream.job = None
            stream.machine.take_back(job_id)
            self.touch(stream)

    def _take_answer(self, stream: DrivenStream, job: Job, future: Future[Result]) -> None:
        if stream.closed or stream.job is not future:
            return
        stream.job = None
        error = StreamClosed("the pool withdrew the job") if future.cancelled() else future.exception()
        if error is None:
            try:
                stream.machine.receive_result(future.result())
            except Exception as unexpected:
                self._give_up(stream, unexpected)
        else:
            if not isinstance(error, RayWhisperError):
                logger.error("stream %s: the pool raised %s", stream.machine.stream_id, type(error).__name__)
                error = TranscriptionError(
                    f"the pool raised {type(error).__name__}", job_id=job.job_id, retryable=True
                )
            stream.machine.receive_failure(Failure(job_id=job.job_id, error=error), self._clock())
        self.touch(stream)
