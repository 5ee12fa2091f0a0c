"""One stream as a machine: samples, voice and results in; jobs and events out.

It never waits and reads no clock: ``now`` is an argument, and everything else is counted in samples. What the shell
does: give it audio, voice probabilities where it asks for them, and the outcome of each job; ask it for the next job
after every call; hand its events on.

The audio falls into regions: stretches of speech, found by voice activity; without it, everything between two
flushes. One region at a time is decoded, in a window that grows with the audio and is trimmed as words are
committed.

    ============  =====================================  ============  ==================================
    state         what happens                           next state    what is done
    ============  =====================================  ============  ==================================
    idle          voice begins (or any audio, without)   open          region opened
    open          enough new audio, no job in flight     open          next_job: the window up to now
    open          result                                 open          commit, partial, trim
    open          voice ends, flush or end of input      closing       the region gets its end
    open          short silence behind a whole sentence  closing       the same (with ``sentence_silence_s``)
    closing       no job in flight                       closing       next_job: the rest, marked final
    closing       result of the final job                idle / open   commit the rest, Final; next region
    any           failure that may pass                  the same      JobFailed; the same audio again later
    any           failure that won't                     over          StreamFailed
    idle          end of input, everything decoded       over          Final(end_of_stream=True)
    ============  =====================================  ============  ==================================
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.core.audio import AudioBuffer
from ray_whisper_streaming.core.endpointing import VOICE_FRAME, Boundary, Endpointer
from ray_whisper_streaming.core.events import (
    Event,
    Flushed,
    JobFailed,
    LanguageDetected,
    Partial,
    SpeechEnded,
    SpeechStarted,
    StreamFailed,
)
from ray_whisper_streaming.core.hallucination import (
    cut_crowd,
    cut_echo,
    cut_repetition,
    drop_unvoiced,
    is_hallucination,
)
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Failure, Int16Samples, Job, Result
from ray_whisper_streaming.core.languages import LanguageTracker
from ray_whisper_streaming.core.ledger import Ledger
from ray_whisper_streaming.core.options import AUTO, MAX_WINDOW_AUDIO_S, StreamOptions, TrimmingOptions
from ray_whisper_streaming.core.pacing import Pace
from ray_whisper_streaming.core.policy import make_policy
from ray_whisper_streaming.core.prompting import ContextText
from ray_whisper_streaming.core.stitching import count_known_words, count_prefix_words
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.core.trimming import choose_cut_s
from ray_whisper_streaming.core.turns import ends_sentence
from ray_whisper_streaming.errors import Overloaded, RayWhisperError, StreamClosed, TranscriptionError

__all__ = ["Stream"]

MEL_HOP = 160
"""Windows start at whole mel frames (10 ms), so that a worker can reuse the frames it has."""

MAX_WINDOW = round(MAX_WINDOW_AUDIO_S * SAMPLE_RATE)

MAX_VOICE_FRAMES = 320
"""Frames scored in one call at most (10 s), so that a long file doesn't keep live streams waiting."""

SETTLE_S = 0.4
"""Silence after which no word at the end of the audio can be half a word."""

STALL_S = 2.5
"""Voice behind the last committed word that a pass answered with nothing: the forced prefix is then left out
once, because a prefix that ends a sentence tempts Whisper to stop there."""

READ_ON_S = 1.0
"""What an answer that stopped early must have got through, for the rest to be asked for: words made up at the beginning
of each window would never come to its end."""

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 5.0
MAX_FAILURES = 8
"""Failures in a row after which a stream gives up; with the growing pauses that is about half a minute."""


_stream_numbers = itertools.count(1)


@dataclass(slots=True)
class _Region:
    start: int
    end: int | None = None


@dataclass(frozen=True, slots=True)
class _Mark:
    """A flush, or the end of input: everything before ``sample`` is to be decoded."""

    sample: int
    flush_id: str | None


class Stream:
    """The state of one audio stream. Not thread-safe: one owner calls it.

    Args:
        stream_id: names the stream in its jobs.
        options: how it is to be transcribed.
        model: the pool's model, for streams that name none.
    """

    def __init__(self, stream_id: str, options: StreamOptions | None = None, model: str = "tiny.en") -> None:
        self.stream_id = stream_id
        self.options = options or StreamOptions()
        self.ignored_results = 0
        self._number = next(
            _stream_numbers
        )  # two streams of one name, one after the other, must not mix their jobs
        self._model = self.options.model or model
        self._buffer = AudioBuffer()
        self._endpointer = Endpointer(self.options.endpointing) if self.options.voice_activity else None
        self._policy = make_policy(self.options)
        self._ledger = Ledger(ContextText(carry=self.options.context), self.options.max_utterance_s)
        self._language = LanguageTracker(None if self.options.language == AUTO else self.options.language)
        self._pace = Pace(self.options.update_interval_s)
        self._regions: deque[_Region] = deque()
        self._entered: _Region | None = None
        self._marks: deque[_Mark] = deque()
        self._passed_marks = 0
        self._events: deque[Event] = deque()
        self._scoring = False
        self._eof = False
        self._over = False
        self._window_start = 0
        self._decoded_until = 0
        self._done_until = 0
        self._rest: tuple[Word, ...] = ()
        self._shown = ""
        self._free_pass = False
        self._in_flight: Job | None = None
        self._place = 0.0
        self._asked_at = 0.0
        self._waited_s = 0.0
        self._job_count = 0
        self._failures = 0
        self._retry_at = 0.0

    # ---------------------------------------------------------------- input

    @property
    def over(self) -> bool:
        """Whether the terminal event was emitted."""
        return self._over

    @property
    def ended(self) -> bool:
        """Whether `receive_eof` was called."""
        return self._eof

    @property
    def received_s(self) -> float:
        """Seconds of audio received so far."""
        return self._buffer.end_sample / SAMPLE_RATE

    @property
    def buffered_s(self) -> float:
        """Seconds of audio held."""
        return len(self._buffer) / SAMPLE_RATE

    @property
    def kept_from_s(self) -> float:
        """Everything before this second is decoded and its words are committed: nobody need keep its audio."""
        return self._done_until / SAMPLE_RATE

    @property
    def lag_s(self) -> float:
        """Seconds of audio received that no pass has seen, known silence aside."""
        unheard = self._buffer.end_sample - self._heard_until
        for region in self._regions:
            end = self._heard_until if region.end is None else region.end
            start = max(region.start, self._decoded_until) if region is self._entered else region.start
            unheard += max(0, end - start)
        return unheard / SAMPLE_RATE

    @property
    def interval_s(self) -> float:
        """New audio wanted for the next pass, in seconds: ``update_interval_s``, or more while the pool is busy."""
        return self._pace.interval_s

    def has_room(self, samples: int) -> bool:
        """Whether `receive_audio` would take so many samples now."""
        return len(self._buffer) + samples <= self.options.max_buffer_s * SAMPLE_RATE

    def receive_audio(self, samples: Int16Samples) -> None:
        """Take the next samples: int16 mono 16 kHz (`as_int16` makes them so).

        Raises:
            StreamClosed: after `receive_eof` or the terminal event.
            Overloaded: more audio waits than ``max_buffer_s``; nothing of ``samples`` was taken.
        """
        self._check_open()
        if not self.has_room(len(samples)):
            limit_s = self.options.max_buffer_s
            raise Overloaded("the stream's buffer", limit=limit_s, current=self.buffered_s, retry_after_s=1.0)
        if (
            self._endpointer is None
            and len(samples)
            and (not self._regions or self._regions[-1].end is not None)
        ):
            self._regions.append(_Region(self._buffer.end_sample))
        self._buffer.append(samples)

    def request_flush(self, flush_id: str = "") -> None:
        """Have everything received until now decoded and committed; `Flushed` says when.

        Raises:
            StreamClosed: after `receive_eof` or the terminal event.
        """
        self._check_open()
        self._mark(_Mark(self._buffer.end_sample, flush_id))

    def receive_eof(self) -> None:
        """No more audio will come. Everything received is decoded before the terminal event. Safe to call twice."""
        if not self._eof and not self._over:
            self._eof = True
            self._mark(_Mark(self._buffer.end_sample, None))

    @property
    def voice_waits(self) -> bool:
        """Whether `voice_input` would give samples now."""
        start, end = self._unscored()
        return start < end

    def voice_input(self) -> Int16Samples | None:
        """Samples whose voice probabilities are wanted now: a multiple of 512, or None.

        Answer with `receive_voice` before asking again. At a flush the last frame is filled up with silence.
        """
        start, end = self._unscored()
        if start >= end:
            return None
        self._scoring = True
        samples = self._buffer.read(start, end)
        missing = -len(samples) % VOICE_FRAME
        return np.pad(samples, (0, missing)) if missing else samples

    def receive_voice(self, probabilities: Sequence[float] | npt.NDArray[np.float32]) -> None:
        """Take the voice probabilities of the frames that `voice_input` gave, in order."""
        assert self._endpointer is not None, "no voice was asked for"
        self._scoring = False
        if self._over:
            return
        self._apply(self._endpointer.receive(float(p) for p in probabilities))
        self._pass_marks()

    # ---------------------------------------------------------------- jobs

    def next_job(self, now: float) -> Job | None:
        """The job to submit now, if there is one. At most one is in flight.

        Args:
            now: monotonic seconds.
        """
        self._settle()
        if self._over or self._in_flight or now < self._retry_at:
            return None
        self._retry_at = 0.0
        if not self._regions:
            return None
        region = self._regions[0]
        known = self._heard_until if region.end is None else region.end
        end = min(known, self._window_start + MAX_WINDOW)
        final = region.end == end
        if not final and not self._place and not self._worth_decoding(end):
            return None
        if not self._place:
            self._asked_at = now
        self._waited_s = now - self._asked_at  # that of jobs withdrawn for this one
        self._job_count += 1
        self._in_flight = Job(
            job_id=f"{self.stream_id}#{self._number}/{self._job_count}",
            stream_id=self.stream_id,
            audio=self._buffer.read(self._window_start, end),
            start_sample=self._window_start,
            model=self._model,
            language=self._language.language,
            allowed_languages=self.options.allowed_languages,
            task=self.options.task,
            context=str(self._ledger.context),
            hotwords=f"{self.options.prompt} {self.options.hotwords}".strip(),
            prefix="" if self._free_pass else self._ledger.prefix,
            options=self.options.decode_options,
            deadline=self._place or (now if final else now + self.options.update_interval_s),
            keeps_place=bool(self._place),
            hurried=self._pace.slowed or self.options.busy((end - self._decoded_until) / SAMPLE_RATE),
            final=final,
            tenant=self.options.tenant,
        )
        return self._in_flight

    def next_wakeup(self) -> float | None:
        """When to ask for a job although nothing happened: monotonic seconds, or None."""
        return self._retry_at if self._retry_at and not self._in_flight and not self._over else None

    def is_stale(self) -> bool:
        """Whether the job in flight, should it still wait, is better taken back: there is news for another."""
        job = self._in_flight
        if job is None or job.final or len(job.audio) >= MAX_WINDOW:
            return False
        return self._heard_until - job.start_sample - len(job.audio) >= self.interval_s * SAMPLE_RATE / 2

    def take_back(self, job_id: str) -> None:
        """The job in flight was withdrawn before a worker began it: the next one takes its place in the queue."""
        job = self._in_flight
        if job is not None and job.job_id == job_id:
            self._in_flight = None
            self._place = job.deadline

    def receive_result(self, result: Result) -> None:
        """Take the result of the job in flight. Any other (late, doubled, foreign) is ignored and counted."""
        job = self._take(result.job_id)
        if job is None:
            return
        self._failures, self._retry_at = 0, 0.0
        self._pace.receive(self._waited_s + result.timings.queue_wait_s, result.timings.inference_s)
        if self._language.receive(result.language, result.language_probability, job.audio_s):
            language = str(self._language.language)
            self._events.append(LanguageDetected(language=language, probability=self._language.probability))
            if language != result.language:
                return  # the same window once more, in the language it was found to be in
        made_up = self._is_made_up(job, result)
        words = list(self._rest) if made_up else self._new_words(job, result)
        end = job.start_sample + len(job.audio)
        end_s = end / SAMPLE_RATE
        unheard = self._leaves_unheard(words, end)
        self._free_pass = bool(job.prefix) and unheard and not words
        too_long = self._is_too_long(end_s)
        if self._free_pass and (job.final or too_long):
            return  # the same window once more, without the prefix: no word may be lost here
        last_chance = job.final or (too_long and self._endpointer is not None)
        if words and unheard and last_chance and self._read_on(words):
            return
        self._decoded_until = end
        if job.final:
            self._commit(words, len(words))
            self._finish_region()
            return
        self._commit(words, self._count_committed(words, end, heard=not made_up, busy=job.hurried))
        self._trim(end_s, busy=job.hurried)
        if overlong := self._ledger.split_overlong():
            self._events.append(overlong)

    def receive_failure(self, failure: Failure, now: float) -> None:
        """Take the failure of the job in flight: nothing changes but the time of the next try."""
        if self._take(failure.job_id) is None:
            return
        error = failure.error
        if isinstance(error, Overloaded):
            wait_s = error.retry_after_s
        else:
            self._failures += 1
            retryable = isinstance(error, TranscriptionError) and error.retryable
            if not retryable or self._failures >= MAX_FAILURES:
                self.fail(error)
                return
            wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** (self._failures - 1))
        self._retry_at = now + wait_s
        self._events.append(JobFailed(error=error, retry_in_s=wait_s))

    def fail(self, error: RayWhisperError) -> None:
        """The shell can't go on with this stream: end it with `StreamFailed`."""
        if not self._over:
            self._over = True
            self._events.append(StreamFailed(error=error))

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        self._settle()
        happened = list(self._events)
        self._events.clear()
        return happened

    # ---------------------------------------------------------------- inside

    @property
    def _heard_until(self) -> int:
        """The end of the audio whose voice is known: none beyond it is decoded."""
        if self._endpointer is None:
            return self._buffer.end_sample
        return min(self._endpointer.position, self._buffer.end_sample)

    def _unscored(self) -> tuple[int, int]:
        """Where audio for one `voice_input` begins and ends: whole frames, but for the last one before a mark."""
        if self._endpointer is None or self._scoring or self._over:
            return 0, 0
        start = self._endpointer.position
        if self._marks:
            end = self._marks[0].sample
        else:
            end = self._buffer.end_sample - (self._buffer.end_sample - start) % VOICE_FRAME
        return start, min(end, start + MAX_VOICE_FRAMES * VOICE_FRAME)

    def _check_open(self) -> None:
        if self._eof or self._over:
            raise StreamClosed(f"stream {self.stream_id} takes no more audio")

    def _mark(self, mark: _Mark) -> None:
        self._marks.append(mark)
        self._pass_marks()

    def _pass_marks(self) -> None:
        """Close the region under way at each mark whose audio was heard."""
        while self._marks and not self._scoring and self._is_heard(self._marks[0].sample):
            mark = self._marks.popleft()
            if self._endpointer is not None:
                self._apply(self._endpointer.cut(mark.sample))
            elif self._regions and self._regions[-1].end is None:
                self._regions[-1].end = mark.sample
            self._passed_marks += 1
            # An empty region carries the mark through the queue of regions.
            self._regions.append(_FlushPoint(mark.sample, mark.sample, mark.flush_id))
        self._settle()

    def _is_heard(self, sample: int) -> bool:
        return self._endpointer is None or self._endpointer.position >= sample

    def _apply(self, boundaries: Sequence[Boundary]) -> None:
        for boundary in boundaries:
            # The frame that was filled up with silence reaches beyond the mark.
            sample = min(boundary.sample, self._marks[0].sample) if self._marks else boundary.sample
            at_s = sample / SAMPLE_RATE
            if boundary.starts:
                self._regions.append(_Region(sample))
                self._events.append(SpeechStarted(at_s=at_s, flushes=self._passed_marks))
            else:
                self._regions[-1].end = sample
                self._events.append(SpeechEnded(at_s=at_s))

    def _settle(self) -> None:
        """Do what needs no job: end regions that are decoded, confirm flushes, forget silence."""
        while self._regions and not self._in_flight and not self._over:
            region = self._regions[0]
            if isinstance(region, _FlushPoint):
                self._regions.popleft()
                self._confirm(region)
                continue
            if region is not self._entered:
                self._enter(region)
            self._end_behind_sentence(region)
            if region.end is None or self._decoded_until < region.end or self._free_pass:
                break
            if self._endpointer is not None and self._leaves_unheard(self._rest, region.end):
                break
            # All of it was heard: another pass would tell nothing new.
            self._commit(self._rest, len(self._rest))
            self._finish_region()
        if not self._regions:
            end = self._heard_until if self._endpointer is None else self._endpointer.silent_until
            self._leave_behind(min(end, self._heard_until))

    def _end_behind_sentence(self, region: _Region) -> None:
        """End an open region at a pause, if a pass heard it to there and its text ends like a sentence."""
        endpointer = self._endpointer
        if region.end is not None or endpointer is None or not endpointer.pausing or self._free_pass:
            return
        last = (self._rest or self._ledger.utterance)[-1:]
        heard = self._decoded_until >= endpointer.end_if_silent
        if heard and last and ends_sentence(last[0].text, self._language.language):
            self._apply([endpointer.end_now()])

    def _confirm(self, point: _FlushPoint) -> None:
        if point.flush_id is not None:
            self._events.append(Flushed(flush_id=point.flush_id, at_s=point.start / SAMPLE_RATE))
        elif not self._over:
            self._over = True
            self._events.append(self._ledger.finish(end_of_stream=True))

    def _enter(self, region: _Region) -> None:
        self._entered = region
        self._leave_behind(region.start)
        self._trim(region.start / SAMPLE_RATE, busy=False)
        self._decoded_until = region.start

    def _leave_behind(self, sample: int) -> None:
        """Nothing new was said before ``sample``: a window across a long pause begins there, else it goes on."""
        trimming = self.options.trimming
        if sample - self._decoded_until > trimming.bridge_s * SAMPLE_RATE:
            self._ledger.clear_window()
            self._window_start = max(sample - sample % MEL_HOP, self._buffer.start_sample)
        self._done_until = max(self._done_until, sample)
        self._forget(self._window_start)

    def _forget(self, sample: int) -> None:
        self._buffer.trim(sample - sample % MEL_HOP)
        if self._endpointer is not None:
            self._endpointer.voice.trim(sample)

    def _worth_decoding(self, end: int) -> bool:
        """Whether a pass up to ``end`` could tell anything new."""
        if end - self._window_start >= MAX_WINDOW:
            return end > self._decoded_until
        endpointer = self._endpointer
        if endpointer is not None and endpointer.pausing and self._decoded_until < endpointer.end_if_silent:
            return True  # whether a sentence ended
        if end - self._decoded_until < self.interval_s * SAMPLE_RATE:
            return False
        if endpointer is None or self._rest:
            return True
        return endpointer.voiced_until > self._decoded_until - round(SETTLE_S * SAMPLE_RATE)

    def _take(self, job_id: str) -> Job | None:
        job = self._in_flight
        if job is None or job.job_id != job_id or self._over:
            self.ignored_results += 1
            return None
        self._in_flight = None
        self._place = 0.0
        return job

    def _is_made_up(self, job: Job, result: Result) -> bool:
        prompted = bool(job.context or job.hotwords)
        made_up = is_hallucination(result, voiced=self._endpointer is not None, prompted=prompted)
        if made_up:
            self._ledger.context.reset()
        return made_up

    def _new_words(self, job: Job, result: Result) -> list[Word]:
        """The words behind the committed ones, without those that Whisper made up."""
        known = count_prefix_words(result.words, job.prefix) if job.prefix else None
        if known is None:
            known = count_known_words(result.words, self._ledger.window)
        committed = self._ledger.window
        words = cut_echo(cut_crowd(cut_repetition(result.words[known:], committed)), committed)
        return words if self._endpointer is None else drop_unvoiced(words, self._endpointer.voice)

    def _leaves_unheard(self, words: Sequence[Word], end: int) -> bool:
        """Whether much voice up to ``end`` stands behind the last word: of ``words`` or, without any, committed."""
        last_s = words[-1].end_s if words else self._ledger.last_end_s
        start = max(round(last_s * SAMPLE_RATE), self._window_start)
        voiced = end - start if self._endpointer is None else self._endpointer.voice.voiced(start, end)
        return voiced >= STALL_S * SAMPLE_RATE

    def _read_on(self, words: Sequence[Word]) -> bool:
        """An answer stopped long before the end of a window that won't be heard again: one begins behind its words."""
        start = round(words[-1].end_s * SAMPLE_RATE)
        if start - self._window_start < READ_ON_S * SAMPLE_RATE:
            return False
        self._policy.reset()
        self._commit(words, len(words))
        self._ledger.clear_window()
        self._begin_window(start)
        return True

    def _count_committed(self, words: Sequence[Word], end: int, *, heard: bool, busy: bool) -> int:
        """How many words to commit. Those of an earlier pass (not ``heard``) gain nothing by one that was made up."""
        end_s = end / SAMPLE_RATE
        count = 0
        if self._language.settled and heard:
            quiet = round(SETTLE_S * SAMPLE_RATE)
            settled = self._endpointer is not None and not self._endpointer.voice.voiced(end - quiet, end)
            count = self._policy.receive(words, audio_end_s=end_s, settled=settled)
        if self._is_too_long(end_s):
            # The window will be trimmed, so what begins in the audio that goes is committed now.
            forced = sum(word.start_s < end_s - self._trimming(busy).keep_s for word in words)
            if forced > count:
                self._policy.reset()
                return forced
        return count

    def _commit(self, words: Sequence[Word], count: int) -> None:
        if count:
            self._events.append(self._ledger.commit(words[:count]))
        self._rest = tuple(words[count:])
        partial = Partial(words=self._rest)
        if partial.text != self._shown:
            self._shown = partial.text
            self._events.append(partial)

    def _trim(self, decoded_s: float, *, busy: bool) -> None:
        start_s = self._window_start / SAMPLE_RATE
        cut_s = choose_cut_s(self._ledger.window, start_s, decoded_s, self._trimming(busy))
        if cut_s is not None:
            self._ledger.trim(cut_s)
            self._begin_window(round(cut_s * SAMPLE_RATE))

    def _trimming(self, busy: bool) -> TrimmingOptions:
        return self.options.trimming.when_busy() if busy else self.options.trimming

    def _is_too_long(self, decoded_s: float) -> bool:
        """Whether the window, decoded up to there, must be trimmed whatever was committed."""
        return decoded_s - self._window_start / SAMPLE_RATE > self.options.trimming.hard_limit_s

    def _begin_window(self, sample: int) -> None:
        """The window begins here from now on: what is before it is decoded, and its words are committed."""
        self._window_start = sample - sample % MEL_HOP
        self._done_until = max(self._done_until, self._window_start)
        self._forget(self._window_start)

    def _finish_region(self) -> None:
        region = self._regions.popleft()
        assert region.end is not None
        self._place = 0.0
        self._policy.reset()
        # The end of input may stand right behind: then this Final is the terminal event as well.
        last = self._regions[0] if self._regions else None
        terminal = isinstance(last, _FlushPoint) and last.flush_id is None
        self._over = terminal
        self._events.append(self._ledger.finish(end_of_stream=terminal))
        self._decoded_until = max(self._decoded_until, region.end)


@dataclass(slots=True)
class _FlushPoint(_Region):
    """An empty region that confirms a flush (or, without an id, the end of input) when its turn comes."""

    flush_id: str | None = None
