"""A recogniser of `whisper_online` whose pool answers from a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from ray_whisper_streaming.compat.asr import RecognizerASR
from ray_whisper_streaming.core.jobs import Job, Result
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import EngineError

__all__ = ["AnsweringASR"]

Answer = Callable[[Job], Sequence[Word] | Result]


class AnsweringASR(RecognizerASR):
    """Its pool answers as it is told, in seconds of the stream; it keeps its jobs."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("en")
        self.jobs: list[Job] = []
        self._answer = answer

    def _recognizer(self) -> tuple[Any, str]:
        return self, "tiny.en"

    def submit_nowait(self, job: Job) -> Future[Result]:
        self.jobs.append(job)
        future: Future[Result] = Future()
        try:
            said = self._answer(job)
            if not isinstance(said, Result):
                said = Result(job_id=job.job_id, words=tuple(said), language="en", language_probability=1.0)
            future.set_result(said)
        except EngineError as error:
            future.set_exception(error)
        return future
