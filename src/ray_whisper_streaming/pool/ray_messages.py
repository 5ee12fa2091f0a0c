"""What clients, dispatcher and workers of a Ray pool send each other.

Audio and words pass the dispatcher unread: a job is a reference into the object store, an outcome is pickled
bytes.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, TypeAlias

from ray_whisper_streaming.core.jobs import Failure, Outcome
from ray_whisper_streaming.core.scheduling import QueuedJob
from ray_whisper_streaming.errors import RayWhisperError

__all__ = [
    "Answer",
    "DecodeOrder",
    "JobRef",
    "Mail",
    "Progress",
    "Ready",
    "Report",
    "Submission",
    "pack_answer",
    "unpack_answer",
]

JobRef: TypeAlias = Any
"""A `ray.ObjectRef` of a `Job`. Always inside of something: so Ray hands on the reference and not the job."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Client to dispatcher: a job. ``queued.deadline`` is seconds from now: clocks of machines differ."""

    queued: QueuedJob
    job: JobRef


@dataclass(frozen=True, slots=True)
class Answer:
    """Worker to dispatcher to client: how a job ended. ``packed`` is for `unpack_answer`."""

    job_id: str
    decoded: bool
    packed: bytes


@dataclass(frozen=True, slots=True)
class DecodeOrder:
    """Dispatcher to worker: a batch."""

    job_ids: tuple[str, ...]
    jobs: tuple[JobRef, ...]
    queue_waits_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker to dispatcher: the engine is warm."""

    max_batch_size: int
    ragged: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Worker to dispatcher: a batch is done."""

    answers: tuple[Answer, ...]
    inference_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """Dispatcher to pool: how the start goes. ``errors``: of the workers that could not load their engine."""

    ready: int
    workers: int
    errors: tuple[RayWhisperError, ...]


@dataclass(frozen=True, slots=True)
class Mail:
    """Dispatcher to client: answers, of which the first bears the number ``first``.

    ``epoch`` names the dispatcher's record of the client: a new one knows none of its jobs.
    """

    epoch: str
    first: int
    answers: tuple[Answer, ...]


def pack_answer(job_id: str, ending: Outcome | RayWhisperError) -> Answer:
    """The answer to a job, for its client."""
    decoded = not isinstance(ending, (Failure, RayWhisperError))
    told = ending.error if isinstance(ending, Failure) else ending
    return Answer(job_id, decoded, pickle.dumps(told, pickle.HIGHEST_PROTOCOL))


def unpack_answer(answer: Answer) -> Any:
    """The `Result` or the `RayWhisperError` of an answer made by this pool's own actors."""
    return pickle.loads(answer.packed)
