"""How whisper_streaming and its Ray fork work, on the same material: what `streams.py --baseline` compares
with. And the same program with nothing but its recogniser changed for ours: `streams.py --whisper-online`.

The original: one job at a time for the whole machine, first come, first served; the whole audio buffer, padded to 30 s
windows, at beam 5 with word timestamps, temperature fallback and a voice filter; LocalAgreement-2 and segment
trimming at 15 s. Each stream asks for a pass when it has at least a second of new audio, as the original's
programs do.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_whisper import WhisperModel

from ray_whisper_streaming.bench.load import LEAD_S, PACKET_S
from ray_whisper_streaming.bench.machine import MemoryPeak
from ray_whisper_streaming.bench.material import Clip, load_clips, make_material
from ray_whisper_streaming.bench.offline import BEAM_SIZE, load_whisper, transcribe_offline
from ray_whisper_streaming.bench.report import make_row, pool_use
from ray_whisper_streaming.bench.scoring import Shown, StreamLog
from ray_whisper_streaming.compat.asr import RecognizerASR
from ray_whisper_streaming.core.audio import as_float32
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.factory import EngineName, engine_factory_for
from ray_whisper_streaming.pool.base import PoolStats
from ray_whisper_streaming.pool.local import LocalPool
from whisper_online import OnlineASRProcessor

MIN_CHUNK_S = 1.0
"""New audio before a stream asks for a pass: the original's ``--min-chunk-size``."""

NO_SPEECH_LIMIT = 0.9
"""The original leaves out segments that Whisper itself thinks are no speech with more than this
probability."""


@dataclass(frozen=True)
class Task:
    """What a child process is to do; plain data."""

    model: str
    device: str
    compute_type: str
    language: str
    folder: Path
    seconds: float
    engine: EngineName = "auto"

    def load_model(self) -> WhisperModel:
        return load_whisper(self.model, self.device, self.compute_type)

    def materials(self, indices: range) -> list[Clip]:
        clips = load_clips(self.folder, self.language)
        return [make_material(clips, index, self.seconds) for index in indices]


def run_offline(task: Task, streams: int) -> dict[str, list[str]]:
    """The text of each of the first so many streams, transcribed in one go by faster-whisper: greedily, and
    with the search it has by default, which is what the model can do.

    Returns:
        one text a stream for each search, by the key its word error rate has in a report.
    """
    model, materials = task.load_model(), task.materials(range(streams))
    return {
        key: transcribe_offline(model, materials, task.language, beam_size=beam_size)
        for key, beam_size in (("offline_greedy_wer", 1), ("offline_wer", BEAM_SIZE))
    }


def run_original(task: Task, streams: int) -> dict[str, Any]:
    """So many streams at once, the original's way. A row as of `bench.trial.run_trial`."""
    with _Worker(task.load_model(), task.language) as worker:
        return _play(task, streams, _Recogniser(worker), worker.stats)


def run_whisper_online(task: Task, streams: int) -> dict[str, Any]:
    """So many streams at once, each the same program on `whisper_online`. A row as of `bench.trial.run_trial`."""
    factory = engine_factory_for(
        task.engine, model=task.model, device=task.device, compute_type=task.compute_type
    )
    with closing(LocalPool(factory)) as pool:
        pool.start()
        recogniser = _PoolASR(task.language, pool, task.model)
        return _play(task, streams, recogniser, lambda: asyncio.run(pool.stats()))


def _play(task: Task, streams: int, recogniser: Any, stats: Callable[[], PoolStats]) -> dict[str, Any]:
    materials = task.materials(range(streams))
    with MemoryPeak() as memory:
        recogniser.transcribe(np.zeros(SAMPLE_RATE, np.float32))
        before, began_s = stats(), time.monotonic()
        first_s = began_s + LEAD_S
        starts_s = [first_s + index * MIN_CHUNK_S / streams for index in range(streams)]
        with ThreadPoolExecutor(max_workers=streams, thread_name_prefix="stream") as threads:
            logs = list(threads.map(_follow, materials, [recogniser] * streams, starts_s))
        wall_s, after = time.monotonic() - began_s, stats()
    audio_s = sum(clip.seconds for clip in materials)
    return {
        **make_row(materials, logs, language=task.language),
        **pool_use(before, after, wall_s=wall_s, audio_s=audio_s),
        "peak_rss_mb": memory.peak_mb,
    }


def _follow(clip: Clip, recogniser: Any, start_s: float) -> StreamLog:
    """One client: takes all audio that was spoken by now, has a pass made, waits for it, and so on."""
    log = StreamLog()
    with contextlib.redirect_stderr(io.StringIO()):
        processor = OnlineASRProcessor(recogniser, logfile=io.StringIO())
    audio = as_float32(clip.audio)
    packet, chunk = round(PACKET_S * SAMPLE_RATE), round(MIN_CHUNK_S * SAMPLE_RATE)
    taken = 0

    def keep(start_s_: float | None, end_s: float | None, text: str) -> None:
        if start_s_ is not None and end_s is not None:
            at_s = time.monotonic() - start_s
            log.shown.append(Shown(at_s, committed=True, words=(Word(f" {text.strip()}", start_s_, end_s),)))

    while taken < len(audio):
        wanted = min(taken + chunk, len(audio))
        time.sleep(max(0.0, start_s + wanted / SAMPLE_RATE - time.monotonic()))
        spoken = int((time.monotonic() - start_s) * SAMPLE_RATE) // packet * packet
        spoken = min(max(spoken, wanted), len(audio))
        processor.insert_audio_chunk(audio[taken:spoken])
        taken = spoken
        keep(*processor.process_iter())
    keep(*processor.finish())
    log.ended_at_s = time.monotonic() - start_s
    return log


class _PoolASR(RecognizerASR):
    """A recogniser of `whisper_online` on a pool whose figures are wanted."""

    def __init__(self, language: str, pool: LocalPool, model: str) -> None:
        super().__init__(language)
        self._pool, self._model = pool, model

    def _recognizer(self) -> tuple[LocalPool, str]:
        return self._pool, self._model


class _Worker:
    """The machine's one worker: a thread, a queue, a job at a time."""

    def __init__(self, model: WhisperModel, language: str) -> None:
        self._model = model
        self._language = language
        # Each stream waits for its answer, so that no more jobs can wait than there are streams.
        self._jobs: queue.SimpleQueue[tuple[float, np.ndarray, str, Future[list[Any]]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self._done = 0
        self._busy_s = self._waited_s = self._audio_s = 0.0

    def __enter__(self) -> _Worker:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._jobs.put(None)
        self._thread.join()

    def decode(self, audio: np.ndarray, prompt: str) -> Future[list[Any]]:
        answer: Future[list[Any]] = Future()
        self._jobs.put((time.monotonic(), audio, prompt, answer))
        return answer

    def stats(self) -> PoolStats:
        done = max(1, self._done)
        return PoolStats(
            workers=1,
            jobs_done=self._done,
            batches=self._done,
            batch_size_mean=1.0,
            queue_wait_s=self._waited_s / done,
            inference_s=self._busy_s / done,
            audio_s=self._audio_s,
        )

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            queued_s, audio, prompt, answer = job
            began_s = time.monotonic()
            try:
                segments, _ = self._model.transcribe(
                    audio,
                    language=self._language,
                    initial_prompt=prompt,
                    beam_size=BEAM_SIZE,
                    word_timestamps=True,
                    condition_on_previous_text=True,
                    vad_filter=True,
                )
                decoded = list(segments)
            except Exception as error:
                answer.set_exception(error)
                continue
            self._done += 1
            self._waited_s += began_s - queued_s
            self._busy_s += time.monotonic() - began_s
            self._audio_s += len(audio) / SAMPLE_RATE
            answer.set_result(decoded)


class _Recogniser:
    """What `OnlineASRProcessor` asks of a recogniser."""

    sep = ""

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker

    def transcribe(self, audio: np.ndarray, init_prompt: str = "") -> Sequence[Any]:
        return self._worker.decode(audio, init_prompt).result()

    def ts_words(self, segments: Sequence[Any]) -> list[tuple[float, float, str]]:
        return [
            (word.start, word.end, word.word)
            for segment in segments
            if segment.words and segment.no_speech_prob <= NO_SPEECH_LIMIT
            for word in segment.words
        ]

    def segments_end_ts(self, segments: Sequence[Any]) -> list[float]:
        return [segment.end for segment in segments]
