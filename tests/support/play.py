"""Plays a scripted world to a `Stream` as a shell would, and checks on the way what must always hold."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tests.support.world import LOUD, World, voice_of

from ray_whisper_streaming.core.events import (
    Committed,
    Event,
    Final,
    Flushed,
    JobFailed,
    StreamFailed,
)
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Failure, Int16Samples, Job, Result
from ray_whisper_streaming.core.options import MAX_WINDOW_AUDIO_S, StreamOptions
from ray_whisper_streaming.core.stream import Stream
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import EngineError, Overloaded

HOP = 160
TAIL_STEPS = 5000
"""Turns after the end of input in which a stream must have come to its end."""


@dataclass
class Troubles:
    """What may go wrong on the way, each with its probability per occasion."""

    delay: float = 0.0
    """A result or a voice answer comes a few turns later."""
    failure: float = 0.0
    overload: float = 0.0
    nonsense: float = 0.0
    """Doubled, late and foreign results are thrown in."""
    flush: float = 0.0


@dataclass
class Player:
    """A stream, the world it hears, and everything seen so far. `play` runs it to the end."""

    world: World
    options: StreamOptions
    rng: random.Random = field(default_factory=random.Random)
    troubles: Troubles = field(default_factory=Troubles)
    chunk_s: tuple[float, float] = (0.01, 1.0)

    now: float = 100.0
    events: list[Event] = field(default_factory=list)
    applied: list[Job] = field(default_factory=list)
    answered: list[Result] = field(default_factory=list)
    flushes: dict[str, int] = field(default_factory=dict)
    most_buffered_s: float = 0.0

    def __post_init__(self) -> None:
        self.stream = Stream("s", self.options)
        self.audio = self.world.audio()
        self._sent = 0
        self._job: Job | None = None
        self._job_due = 0
        self._voice: Int16Samples | None = None
        self._voice_due = 0
        self._turn = 0
        self._words: list[Word] = []
        self._failures_in_a_row = 0
        self._failed: Job | None = None

    # What was seen

    @property
    def words(self) -> list[Word]:
        return self._words

    @property
    def text(self) -> list[str]:
        return [word.text for word in self._words]

    @property
    def finals(self) -> list[Final]:
        return [event for event in self.events if isinstance(event, Final)]

    # Running

    def play(self) -> Player:
        """Push everything, end the input, and go on until the stream is over."""
        while self._sent < len(self.audio):
            self.push(self.rng.uniform(*self.chunk_s))
            if self.rng.random() < self.troubles.flush:
                self.flush()
            self.turn()
        self.stream.receive_eof()
        for _ in range(TAIL_STEPS):
            if self.stream.over:
                break
            self.now += 0.1
            self.turn()
        assert self.stream.over, "the stream never ended"
        self.turn()
        self.check_end()
        return self

    def hear(self, job: Job, **facts: Any) -> Result:
        """The answer to a job."""
        return self.world.result(job, **facts)

    def push(self, seconds: float) -> None:
        count = max(1, round(seconds * SAMPLE_RATE))
        chunk = self.audio[self._sent : self._sent + count]
        if self.stream.has_room(len(chunk)):
            self.stream.receive_audio(chunk)
            self._sent += len(chunk)
        self.now += seconds

    def flush(self) -> None:
        # At a whole mel frame: windows start at one, and the world knows no half words.
        filler = self.audio[self._sent : self._sent + -self._sent % HOP]
        if self.stream.has_room(len(filler)):
            self.stream.receive_audio(filler)
            self._sent += len(filler)
            flush_id = f"f{len(self.flushes)}"
            self.flushes[flush_id] = self._sent
            self.stream.request_flush(flush_id)

    def turn(self) -> None:
        """One turn of the shell: voice, job, answers; as often as something happens at once."""
        self._turn += 1
        for _ in range(1000):
            happened = self._do_voice()
            happened = self._do_job() or happened
            self._make_nonsense()
            self.observe()
            if not happened:
                return
        raise AssertionError("the stream asks for ever")

    def _do_voice(self) -> bool:
        if self._voice is None:
            self._voice = self.stream.voice_input()
            if self._voice is None:
                return False
            assert len(self._voice) % 512 == 0
            self._voice_due = self._turn + self._delay()
        assert self.stream.voice_input() is None, "voice is asked for once at a time"
        if self._turn < self._voice_due:
            return False
        voice, self._voice = self._voice, None
        self.stream.receive_voice(voice_of(voice))
        return True

    def _do_job(self) -> bool:
        if self._job is None:
            self._job = self.stream.next_job(self.now)
            if self._job is None:
                wakeup = self.stream.next_wakeup()
                assert wakeup is None or wakeup > self.now, "a wake-up in the past is a busy loop"
                return False
            self._check_job(self._job)
            self._job_due = self._turn + self._delay()
        assert self.stream.next_job(self.now) is None, "one job in flight at most"
        if self._turn < self._job_due:
            return False
        job, self._job = self._job, None
        if self._failures_in_a_row < 5 and self.rng.random() < self.troubles.failure:
            self._fail(job, EngineError("as told", job_id=job.job_id, retryable=True))
            self._failures_in_a_row += 1
        elif self.rng.random() < self.troubles.overload:
            self._fail(job, Overloaded("the queue", limit=1, current=1, retry_after_s=0.3))
        else:
            self._failures_in_a_row = 0
            self._failed = None
            facts = {} if job.language else {"language_probability": self.rng.choice((0.3, 0.7, 0.9))}
            result = self.hear(job, **facts)
            self.stream.receive_result(result)
            self.applied.append(job)
            self.answered.append(result)
        return True

    def _fail(self, job: Job, error: EngineError | Overloaded) -> None:
        self.stream.receive_failure(Failure(job_id=job.job_id, error=error), self.now)
        self._failed = job
        happened = self.stream.events()
        self._see(happened)
        # Nothing but the retry, unless the utterance had ended and the job was not needed any more.
        assert any(isinstance(event, JobFailed) for event in happened)
        if not any(isinstance(event, Final) for event in happened):
            assert not any(isinstance(event, Committed) for event in happened)
        assert self.stream.next_job(self.now) is None
        wakeup = self.stream.next_wakeup()
        assert wakeup is not None
        assert wakeup > self.now

    def _make_nonsense(self) -> None:
        if self.rng.random() >= self.troubles.nonsense:
            return
        self.observe()
        late = self.rng.choice(self.answered) if self.answered else Result(job_id="s/0")
        foreign = Result(job_id="elsewhere/1", words=(Word(" foreign", 0.0, 0.1),))
        for result in (late, foreign):
            ignored = self.stream.ignored_results
            self.stream.receive_result(result)
            assert self.stream.ignored_results == ignored + 1
        self.stream.receive_failure(
            Failure(job_id=late.job_id, error=EngineError("late", job_id=late.job_id, retryable=False)),
            self.now,
        )
        assert not self.stream.events(), "an unknown outcome changed something"

    def _delay(self) -> int:
        return self.rng.randrange(1, 6) if self.rng.random() < self.troubles.delay else 0

    # Checks

    def _check_job(self, job: Job) -> None:
        start, end = job.start_sample, job.start_sample + len(job.audio)
        assert 0 < job.audio_s <= MAX_WINDOW_AUDIO_S
        assert start % HOP == 0
        assert np.array_equal(job.audio, self.audio[start:end]), "a window holds the stream's samples"
        if self._failed is not None:
            assert start == self._failed.start_sample, "after a failure the same audio comes again"
            assert end >= self._failed.start_sample + len(self._failed.audio) or job.final

    def observe(self) -> None:
        self._see(self.stream.events())
        buffered_s = self.stream.buffered_s
        self.most_buffered_s = max(self.most_buffered_s, buffered_s)
        assert buffered_s <= self.options.max_buffer_s

    def _see(self, events: list[Event]) -> None:
        for event in events:
            assert not self.ended, "nothing comes after the terminal event"
            if isinstance(event, Committed):
                assert event.first_index == len(self._words), "ids are consecutive"
                assert event.words
                for word in event.words:
                    assert word.start_s <= word.end_s
                    if self._words:
                        assert word.start_s >= self._words[-1].start_s, "word starts never go back"
                    self._words.append(word)
            elif isinstance(event, Final):
                said = [word for final in self.finals for word in final.words]
                assert [*said, *event.words] == self._words, "a final holds what was committed, all and once"
                assert event.utterance == len(self.finals)
                self._failed = None  # its audio was decoded before, to the end of the utterance
            elif isinstance(event, Flushed):
                sample = self.flushes[event.flush_id]
                assert round(event.at_s * SAMPLE_RATE) == sample
                said = [word for final in self.finals for word in final.words]
                assert said == self._words, "a flush ends the utterance"
                self.check_covered(sample)
            self.events.append(event)

    @property
    def ended(self) -> bool:
        last = self.events[-1] if self.events else None
        return isinstance(last, StreamFailed) or (isinstance(last, Final) and last.end_of_stream)

    def check_end(self) -> None:
        assert self.ended
        assert sum(isinstance(event, Final) and event.end_of_stream for event in self.events) == 1
        flushed = [event.flush_id for event in self.events if isinstance(event, Flushed)]
        assert flushed == list(self.flushes), "each flush is confirmed once, in order"
        self.check_covered(len(self.audio))
        assert self.stream.next_job(self.now + 1e6) is None
        assert self.stream.voice_input() is None
        assert self.stream.next_wakeup() is None

    def check_covered(self, until: int) -> None:
        """Every voiced sample before ``until`` (without voice activity: every sample) was decoded."""
        decoded = np.zeros(until, bool)
        for job in self.applied:
            decoded[job.start_sample : job.start_sample + len(job.audio)] = True
        if not self.options.voice_activity:
            assert decoded.all(), "audio was never decoded"
            return
        # Voice too short to begin an utterance is a click; a flush cuts voice in two.
        click = self.options.endpointing.min_speech_s * SAMPLE_RATE
        missed = (self.audio[:until] >= LOUD) & ~decoded
        edges = np.flatnonzero(np.diff(np.concatenate(([0], missed, [0]))))
        longest = max((edges[1::2] - edges[::2]).tolist(), default=0)
        assert longest < click, "voice was never decoded"
