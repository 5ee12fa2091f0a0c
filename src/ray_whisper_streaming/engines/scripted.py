"""An engine without a model: it knows beforehand what every stream says. For tests, demonstrations and load
trials.

It keeps the engines' contract (one outcome per job, in order; a bad job fails alone; the same result alone
and in any batch) and can be told to be slow, imprecise or broken.
"""

from __future__ import annotations

import os
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Failure, Job, Outcome, Result, Timings
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.base import EngineCapabilities
from ray_whisper_streaming.errors import EngineError, NotReady

__all__ = ["Fault", "ScriptedEngine"]

NAME = "scripted"

MISHEARD = " hm"
"""What a misheard word becomes."""

HANG_S = 3600.0
"""How long a hanging job takes: longer than anybody waits."""

MIN_VISIBLE = 0.5
"""Share of a word that must lie inside a window for it to be heard."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with a job.

    Attributes:
        kind: ``"fail"``: the job ends as a `Failure` that may be retried, ``"reject"``: as one that may not,
            ``"raise"``: the whole call raises, ``"hang"``: the call does not come back, ``"die"``: the
            process ends at once.
        times: how often, counted by each engine for itself; afterwards all is well.
    """

    kind: Literal["fail", "reject", "raise", "hang", "die"]
    times: int = 1


class ScriptedEngine:
    """Answers each window with the words its script has inside it. Satisfies `engines.base.Engine`; can be
    pickled.

    The same window always gets the same answer, whatever the seed's noise does to it.

    Args:
        scripts: words of each stream by stream id, on the stream's time line, one after the other.
        default: words of every other stream.
        latency_s: seconds a call takes, and
        latency_per_job_s: seconds more for each job in it.
        time_jitter_s: word times are off by up to this much.
        misheard_last: probability that the last word of a window is heard wrong, as it happens to words cut
            off.
        faults: what goes wrong, by job id or stream id.
        language: reported where a job names none.
        max_batch_size: jobs of one call.
        seed: of the noise.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        scripts: Mapping[str, Sequence[Word]] | None = None,
        default: Sequence[Word] = (),
        *,
        latency_s: float = 0.0,
        latency_per_job_s: float = 0.0,
        time_jitter_s: float = 0.0,
        misheard_last: float = 0.0,
        faults: Mapping[str, Fault] | None = None,
        language: str = "en",
        max_batch_size: int = 16,
        seed: int = 0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._scripts = {stream: tuple(words) for stream, words in (scripts or {}).items()}
        self._default = tuple(default)
        self._latency_s = latency_s
        self._latency_per_job_s = latency_per_job_s
        self._time_jitter_s = time_jitter_s
        self._misheard_last = misheard_last
        self._faults = {key: [fault.kind] * fault.times for key, fault in (faults or {}).items()}
        self._language = language
        self._max_batch_size = max_batch_size
        self._seed = seed
        self._sleep = sleep
        self._warm = False

    @property
    def capabilities(self) -> EngineCapabilities:
        """Always known: there is no model."""
        return EngineCapabilities(
            name=NAME, device="cpu", multilingual=True, max_batch_size=self._max_batch_size
        )

    def warm_up(self) -> None:
        """Nothing to load."""
        self._warm = True

    def transcribe(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Answer from the script, after the latency.

        Raises:
            NotReady: before `warm_up` or after `close`.
            RuntimeError: a fault of kind ``"raise"``.
        """
        if not self._warm:
            raise NotReady(f"engine {NAME} is not warm; call warm_up()")
        faults = [self._next_fault(job) for job in jobs]
        if "die" in faults:
            os._exit(1)
        latency_s = self._latency_s + self._latency_per_job_s * len(jobs)
        if "hang" in faults:
            latency_s = HANG_S
        if latency_s:
            self._sleep(latency_s)
        if "raise" in faults:
            raise RuntimeError("a scripted fault")
        timings = Timings(inference_s=latency_s, batch_size=len(jobs))
        return [self._answer(job, fault, timings) for job, fault in zip(jobs, faults, strict=True)]

    def close(self) -> None:
        """Nothing to free."""
        self._warm = False

    def _next_fault(self, job: Job) -> str | None:
        for key in (job.job_id, job.stream_id):
            if self._faults.get(key):
                return self._faults[key].pop()
        return None

    def _answer(self, job: Job, fault: str | None, timings: Timings) -> Outcome:
        if fault in ("fail", "reject"):
            error = EngineError("a scripted fault", job_id=job.job_id, retryable=fault == "fail")
            return Failure(job_id=job.job_id, error=error)
        return Result(
            job_id=job.job_id,
            words=tuple(self._heard(job)),
            language=job.language or self._language,
            timings=timings,
            engine=NAME,
            model=job.model,
        )

    def _heard(self, job: Job) -> list[Word]:
        start_s = job.start_sample / SAMPLE_RATE
        end_s = start_s + job.audio_s
        # Seeded by the window, so that a job's answer doesn't depend on what was asked before.
        noise = random.Random(f"{self._seed} {job.stream_id} {job.start_sample} {len(job.audio)}")
        heard: list[Word] = []
        last_s = start_s
        script = self._scripts.get(job.stream_id, self._default)
        first = bisect_left(script, start_s, key=lambda word: word.end_s)
        for word in script[first:]:
            if word.start_s > end_s:
                break
            visible_s = min(word.end_s, end_s) - max(word.start_s, start_s)
            if visible_s < MIN_VISIBLE * (word.end_s - word.start_s):
                continue
            # Never before the word in front, never outside the window.
            first_s, second_s = (
                min(max(at_s + noise.uniform(-1, 1) * self._time_jitter_s, last_s), end_s)
                for at_s in (word.start_s, word.end_s)
            )
            heard.append(replace(word, start_s=first_s, end_s=max(first_s, second_s)))
            last_s = heard[-1].end_s
        if heard and noise.random() < self._misheard_last:
            heard[-1] = replace(heard[-1], text=MISHEARD)
        return heard
