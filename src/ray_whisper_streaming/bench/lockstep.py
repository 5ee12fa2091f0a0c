"""Streams played in fixed steps, as fast as the machine can: what the policy does, apart from what the machine costs.

Every stream gets the same amount of audio, then all their jobs are decoded, then the next step comes; a word is
committed at the audio position of its step ("computation-unaware" in the literature). Longer steps stand for a busy
pool, whose passes are further apart. Unlike a live run this one gives the same figures every time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.bench.scoring import Pass, StreamLog
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Failure, Job, Result
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.stream import Stream
from ray_whisper_streaming.engines.base import Engine
from ray_whisper_streaming.engines.vad import SileroVad, VadState

__all__ = ["Work", "run_lockstep"]


@dataclass(slots=True)
class Work:
    """What the streams cost.

    Attributes:
        jobs: windows decoded.
        audio_s: audio in them, seconds; the same second counts in each.
        window_s: length of their buckets, seconds.
        decoding_s: the engine's time for them; the only figure that depends on the machine.
    """

    jobs: int = 0
    audio_s: float = 0.0
    window_s: float = 0.0
    decoding_s: float = 0.0

    def add(self, jobs: Sequence[Job]) -> None:
        """Count these jobs."""
        self.jobs += len(jobs)
        self.audio_s += sum(job.audio_s for job in jobs)
        self.window_s += sum(job.window_s for job in jobs)


def run_lockstep(
    engine: Engine,
    clips: Sequence[Clip],
    options: StreamOptions,
    *,
    step_s: float,
    max_batch_size: int = 8,
    heard: Callable[[float], None] | None = None,
) -> tuple[list[StreamLog], Work]:
    """Play all clips at once, each into a stream of its own.

    Args:
        engine: warmed up.
        clips: one for each stream.
        options: of all streams.
        step_s: audio between two passes, seconds.
        max_batch_size: jobs given to the engine at once.
        heard: called after every step with the seconds of audio in it, of all streams together.

    Returns:
        One log a stream, in order, and what they cost.
    """
    vad = SileroVad()
    # Numbered, because an engine knows streams by their ids.
    players = [_Player(clip, Stream(f"{index}/{clip.name}", options)) for index, clip in enumerate(clips)]
    work = Work()
    step = round(step_s * SAMPLE_RATE)
    position = 0
    while not all(player.over for player in players):
        position += step
        new_s = sum(player.hear(position, vad) for player in players)
        # A step may need several rounds: a final job, then the first of the next utterance.
        while jobs := [(player, job) for player in players if (job := player.next_job()) is not None]:
            for first in range(0, len(jobs), max_batch_size):
                piece = jobs[first : first + max_batch_size]
                work.add([job for _, job in piece])
                began_s = time.perf_counter()
                outcomes = engine.transcribe([job for _, job in piece])
                work.decoding_s += time.perf_counter() - began_s
                for (player, job), outcome in zip(piece, outcomes, strict=True):
                    if isinstance(outcome, Failure):
                        player.stream.fail(outcome.error)
                    else:
                        player.receive(job, outcome)
        for player in players:
            player.write_down(position / SAMPLE_RATE)
        if heard is not None:
            heard(new_s)
    return [player.log for player in players], work


class _Player:
    """A clip, the stream it is played into, and the stream's log."""

    def __init__(self, clip: Clip, stream: Stream) -> None:
        self.stream = stream
        self._passes: list[Pass] = []
        self.log = StreamLog(passes=self._passes)
        self._audio = clip.audio
        self._given = 0
        self._voice = VadState()

    @property
    def over(self) -> bool:
        return self.log.ended_at_s is not None

    def hear(self, position: int, vad: SileroVad) -> float:
        """Play the clip up to ``position``; return the seconds of audio that were new."""
        if self.over:
            return 0.0
        before = self._given
        if self._given < len(self._audio):
            self.stream.receive_audio(self._audio[self._given : position])
            self._given = min(position, len(self._audio))
            if self._given == len(self._audio):
                self.stream.receive_eof()
        while (samples := self.stream.voice_input()) is not None:
            self.stream.receive_voice(vad.score([self._voice], [samples])[0])
        return (self._given - before) / SAMPLE_RATE

    def next_job(self) -> Job | None:
        return None if self.over else self.stream.next_job(now=0.0)

    def receive(self, job: Job, result: Result) -> None:
        start_s = job.start_sample / SAMPLE_RATE
        self._passes.append(Pass(start_s, start_s + job.audio_s, result.words))
        self.stream.receive_result(result)

    def write_down(self, at_s: float) -> None:
        """Log what happened in a step; nothing is known before the clip's own end."""
        at_s = min(at_s, len(self._audio) / SAMPLE_RATE)
        for event in self.stream.events():
            self.log.record(event, at_s)
        if self.stream.over:
            self.log.ended_at_s = at_s
