"""A Ray cluster of workers, and the recogniser that uses it, by the names of the Ray fork of whisper_streaming."""

from __future__ import annotations

import atexit
import sys
import threading
from typing import Any, TextIO

from ray_whisper_streaming.compat.asr import RecognizerASR
from ray_whisper_streaming.core.languages import check_language
from ray_whisper_streaming.core.options import AUTO
from ray_whisper_streaming.errors import ConfigurationError, NotReady
from ray_whisper_streaming.pool.base import Recognizer

__all__ = ["AsrQueue", "FasterWhisperWorkerCluster", "RayFasterWhisperASR"]


class AsrQueue:
    """The shared queue of a cluster. Can be pickled: hand it to other processes and Ray actors.

    Made by `FasterWhisperWorkerCluster.get_global_asr_queue`.
    """

    def __init__(self, handle: Recognizer, model: str, language: str) -> None:
        self.model = model
        self.language = language
        self._handle = handle
        self._others: dict[str, Recognizer] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return AsrQueue, (self._handle, self.model, self.language)

    def recognizer(self, model: str) -> Recognizer:
        """The workers for a model. Those of another model than the cluster's are started at the first call.

        They belong to the process that asked first, and end with it.
        """
        if model == self.model:
            return self._handle
        with self._lock:
            if model not in self._others:
                pool = _make_pool(model, None)
                pool.start()
                atexit.register(pool.close)
                self._others[model] = pool
            return self._others[model]


class FasterWhisperWorkerCluster:
    """Workers on all GPUs of the Ray cluster, or on its CPUs if it has none.

    Args:
        lan: language of streams that name none.
        model_size_or_path: the model's name, path or hub id.
        max_worker_count: at most so many workers.
    """

    def __init__(
        self, lan: str = "zh", model_size_or_path: str = "large-v2", max_worker_count: int | None = None
    ) -> None:
        if lan != AUTO:
            check_language("lan", lan)
        self._language = lan
        self._model = model_size_or_path
        self._pool = _make_pool(model_size_or_path, max_worker_count)
        self._queue: AsrQueue | None = None

    def run(self) -> None:
        """Start the workers; returns when they have loaded the model. Safe to call twice.

        Raises:
            ModelNotFound, StartupTimeout, PoolError: they could not be started.
            StreamClosed: after `close`; make another cluster.
        """
        if self._queue is None:
            self._pool.start()
            atexit.register(self.close)
            self._queue = AsrQueue(self._pool.handle(), self._model, self._language)

    def get_global_asr_queue(self) -> AsrQueue:
        """The queue that all streams share.

        Raises:
            NotReady: before `run`.
        """
        if self._queue is None:
            raise NotReady("call run() before get_global_asr_queue()")
        return self._queue

    def close(self) -> None:
        """Stop the workers; leaves no process. Called at the end of the program if you don't. Safe to call twice."""
        atexit.unregister(self.close)
        self._queue = None
        self._pool.close()

    def __enter__(self) -> FasterWhisperWorkerCluster:
        self.run()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class RayFasterWhisperASR(RecognizerASR):
    """A recogniser that uses a cluster's queue.

    Args:
        global_asr_queue: from `FasterWhisperWorkerCluster.get_global_asr_queue`.
        lan: this stream's language; None takes the cluster's (whose default, ``"zh"``, is the original's).
        modelsize: another model than the cluster's, if wanted: its workers are started at the first use.
        cache_dir: kept for programs that pass it; not used.
        model_dir: folder of another model; goes before ``modelsize``.
        logfile: not written to.
        device_index: kept for programs that pass it; Ray says which GPU a worker has.
    """

    def __init__(
        self,
        global_asr_queue: AsrQueue,
        lan: str | None = None,
        modelsize: str | None = None,
        cache_dir: str | None = None,
        model_dir: str | None = None,
        logfile: TextIO | None = sys.stderr,
        device_index: int = 0,
    ) -> None:
        if not isinstance(global_asr_queue, AsrQueue):  # pyright: ignore[reportUnnecessaryIsInstance]
            allowed = "what get_global_asr_queue() returned"
            raise ConfigurationError("global_asr_queue", type(global_asr_queue).__name__, allowed)
        super().__init__(lan or global_asr_queue.language, logfile)
        self._queue = global_asr_queue
        self._model = model_dir or modelsize or global_asr_queue.model

    def _recognizer(self) -> tuple[Recognizer, str]:
        return self._queue.recognizer(self._model), self._model


def _make_pool(model: str, max_worker_count: int | None) -> Any:
    from ray_whisper_streaming.engines.factory import engine_factory_for
    from ray_whisper_streaming.pool.ray_pool import RayPool  # Ray takes a second to import

    return RayPool(engine_factory_for("auto", model=model), max_worker_count=max_worker_count)
