"""Engines for tests of pools, importable in Ray's workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_whisper_streaming.core.jobs import Failure, Job, Outcome, Result
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.base import EngineCapabilities
from ray_whisper_streaming.engines.onnx.backend import EncodedWindows
from ray_whisper_streaming.engines.onnx.engine import OnnxEngine
from ray_whisper_streaming.engines.onnx.memory import EncoderMemory
from ray_whisper_streaming.engines.window_engine import LoadedModel
from ray_whisper_streaming.errors import DeviceLost, EngineError, ModelNotFound

_lost: set[str] = set()
"""Files that this process found there; see `ObedientEngine`."""


class ForgetfulEngine(OnnxEngine):
    """Encodes every window whole, so that its answers do not depend on what it decoded before."""

    def _load(self) -> LoadedModel[EncodedWindows]:
        loaded = super()._load()
        encoder: Any = loaded.backend
        memory: EncoderMemory = encoder._encoder._memory
        memory._windows._most_positions = 0
        return loaded


class ObedientEngine:
    """Does what a job's ``context`` tells it.

    Answers each job with the sum of its samples as a word, and the process id as the engine's name.

    Commands in ``Job.context``: ``sleep SECONDS``, ``fail`` (this job alone), ``raise`` (the whole call),
    ``die`` (kill the process), ``lose`` (the device), and either ``once FILE`` (only while FILE is not there).

    Args:
        load_s: seconds that loading takes.
        load_error: ``"model"`` or the text of another error that loading ends with.
        lost_file: loading fails while this file is there, and in a process where it did so: the device is lost to it.
    """

    def __init__(self, *, load_s: float = 0.0, load_error: str = "", lost_file: str = "") -> None:
        self._load_s = load_s
        self._load_error = load_error
        self._lost_file = lost_file

    @property
    def capabilities(self) -> EngineCapabilities:
        return EngineCapabilities(name="obedient", device="cpu", multilingual=True, max_batch_size=16)

    def warm_up(self) -> None:
        time.sleep(self._load_s)
        if self._lost_file in _lost or (self._lost_file and Path(self._lost_file).exists()):
            _lost.add(self._lost_file)
            raise DeviceLost("as told: restart this process")
        if self._load_error == "model":
            raise ModelNotFound("model", "nonsense", "a model that is here")
        if self._load_error:
            raise RuntimeError(self._load_error)

    def transcribe(self, jobs: Sequence[Job]) -> list[Outcome]:
        return [self._obey(job) for job in jobs]

    def close(self) -> None:
        pass

    def _obey(self, job: Job) -> Outcome:
        command, _, argument = job.context.partition(" ")
        if command == "sleep":
            time.sleep(float(argument))
        elif command == "fail":
            return Failure(
                job_id=job.job_id, error=EngineError("as told", job_id=job.job_id, retryable=False)
            )
        elif command == "raise":
            raise ValueError("as told")
        elif command in ("die", "lose"):
            flag = Path(argument.removeprefix("once ")) if argument else None
            if flag is None or not flag.exists():
                if flag is not None:
                    flag.touch()
                if command == "lose":
                    time.sleep(0.1)  # until other workers wait, who must be woken for this job
                    raise DeviceLost("as told: restart this process")
                os.kill(os.getpid(), signal.SIGKILL)
        words = (Word(f" {int(job.audio.astype(np.int64).sum())}", 0.0, job.audio_s),)
        return Result(job_id=job.job_id, words=words, engine=str(os.getpid()), model=job.model)
