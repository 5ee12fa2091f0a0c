"""How many streams a GPU carries: recorded passes of real streams, played at their own pace through a pool.

    python benchmarks/card.py record tape.npz --model tiny.en --audio FOLDER
    python benchmarks/card.py play tape.npz --shape large-v3-turbo --streams 200 400 --json card.json
    python benchmarks/card.py play tape.npz --model tiny.en --streams 800

``record`` plays recordings into streams, one pass each ``--step`` seconds, and writes down every window that was
decoded: its audio, what was forced and given with it, what was said, and how long after its end each word was
committed. It needs no GPU. ``play`` sends those windows to a pool with one engine on the device, as so many streams
would: each begins somewhere else on the tape, and at the end goes on from its start. What comes out is measured: from
sending a window to having its words; and each word's commit latency, which is the tape's and that delay.

With ``--shape`` the weights are random, in the shape of a real model, and each answer is dictated: all is computed
that the model would compute, and as many tokens as were said, but the words are the tape's. With ``--model`` all is
real, and windows whose words differ from the tape's are counted.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ray_whisper_streaming.bench.machine import write_report
from ray_whisper_streaming.core.events import Committed
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Job, Result
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.scheduling import SchedulerConfig
from ray_whisper_streaming.core.stream import Stream
from ray_whisper_streaming.core.transcript import join_text
from ray_whisper_streaming.engines.backend import Source
from ray_whisper_streaming.engines.search import Candidates, Request
from ray_whisper_streaming.engines.tokens import prefix_tokens
from ray_whisper_streaming.pool.local import LocalPool

WARM_UP_S = 4.0
"""The first so many seconds of a level don't count: queues fill, and all streams begin at once."""

BUSY_EVERY_S = 0.02


@dataclass
class Taped:
    """One window of a recording."""

    clip: int
    at_s: float
    start_sample: int
    samples: int
    prefix: str
    context: str
    said: str
    late_s: list[float] = field(default_factory=list)
    """Of each word that was committed on it: how long after its end."""


@dataclass
class Tape:
    audio: list[np.ndarray]
    passes: list[Taped]
    step_s: float
    model: str

    def save(self, path: Path) -> None:
        about = {"step_s": self.step_s, "model": self.model, "passes": [vars(one) for one in self.passes]}
        arrays = {f"audio{index}": audio for index, audio in enumerate(self.audio)}
        np.savez_compressed(path, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: Path) -> Tape:
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            audio = [file[f"audio{index}"] for index in range(len(file.files) - 1)]
        return cls(audio, [Taped(**one) for one in about["passes"]], about["step_s"], about["model"])

    def audio_of(self, one: Taped) -> np.ndarray:
        return self.audio[one.clip][one.start_sample : one.start_sample + one.samples]


def record(args: argparse.Namespace) -> int:
    from ray_whisper_streaming.bench.material import find_material, load_clips
    from ray_whisper_streaming.engines.factory import engine_factory_for
    from ray_whisper_streaming.engines.vad import SileroVad, VadState

    clips = load_clips(find_material(args.audio))[: args.clips]
    engine = engine_factory_for(args.engine, model=args.model, device="cpu", compute_type=args.compute_type)()
    engine.warm_up()
    options = StreamOptions(language="en", model=args.model, beam_size=1)
    step = round(args.step * SAMPLE_RATE)
    passes: list[Taped] = []
    vad = SileroVad()
    for number, clip in enumerate(clips):
        stream, voice = Stream(str(number), options), VadState()
        audio = clip.audio[: round(args.seconds * SAMPLE_RATE)]
        for position in range(step, len(audio) + step, step):
            stream.receive_audio(audio[position - step : position])
            if position >= len(audio):
                stream.receive_eof()
            while (samples := stream.voice_input()) is not None:
                stream.receive_voice(vad.score([voice], [samples])[0])
            while not stream.over and (job := stream.next_job(now=0.0)) is not None:
                [outcome] = engine.transcribe([job])
                assert isinstance(outcome, Result)
                at_s = position / SAMPLE_RATE
                said = join_text(outcome.words)
                taped = Taped(number, at_s, job.start_sample, len(job.audio), job.prefix, job.context, said)
                passes.append(taped)
                stream.receive_result(outcome)
                for event in stream.events():
                    if isinstance(event, Committed):
                        taped.late_s += [at_s - word.end_s for word in event.words]
        print(f"{clip.name}: {len(passes)} passes so far", flush=True)
    Tape(
        [clip.audio[: round(args.seconds * SAMPLE_RATE)] for clip in clips], passes, args.step, args.model
    ).save(args.tape)
    late = np.array([late for one in passes for late in one.late_s])
    print(f"{len(passes)} passes; commit latency without any delay: {_told(late)} s")
    return 0


class Dictated:
    """Steps of a real decoder that find the words of a tape (`engines.search.Steps`)."""

    def __init__(self, steps: Any, texts: Sequence[Sequence[int]], end_of_text: int) -> None:
        self._steps = steps
        self._texts = texts
        self._end = end_of_text
        self._live: list[tuple[Sequence[int], int]] = []

    def begin(self, requests: Sequence[Request], beam_size: int) -> tuple[Candidates, Any]:
        found, no_speech = self._steps.begin(requests, beam_size)
        self._live = [
            (text, len(request.prefix)) for text, request in zip(self._texts, requests, strict=True)
        ]
        return self._next(found), no_speech

    def advance(self, staying: Sequence[int], parents: Any, tokens: Any) -> Candidates:
        found = self._steps.advance(staying, parents, tokens)
        self._live = [(text, place + 1) for text, place in (self._live[row] for row in staying)]
        return self._next(found)

    def attention(self, paths: Sequence[Sequence[int]]) -> Any:
        return self._steps.attention(paths)

    def _next(self, found: Candidates) -> Candidates:
        tokens = np.full_like(found.tokens, self._end)
        for row, (text, place) in enumerate(self._live):
            if place < len(text):
                tokens[row] = text[place]
        return Candidates(tokens, found.probabilities, found.logarithms)


def dictating_engine(shape: str, tape: Tape, args: argparse.Namespace) -> Any:
    """An engine of random weights that says what the tape does."""
    import gpu

    from ray_whisper_streaming.engines.models import resolve_model
    from ray_whisper_streaming.engines.tokenizers import Vocabulary
    from ray_whisper_streaming.engines.torch.backend import EncodedWindows, TorchBackend
    from ray_whisper_streaming.engines.torch.engine import MAX_BATCH_SIZE, memory_limit
    from ray_whisper_streaming.engines.torch.memory import plan_memory, shape_of
    from ray_whisper_streaming.engines.torch.runtime import torch
    from ray_whisper_streaming.engines.window_engine import LoadedModel, WindowEngine

    texts = {(one.clip, one.start_sample, one.samples): one.said for one in tape.passes}

    class DictatingBackend(TorchBackend):
        dictated: list[Sequence[int]]

        def encode(
            self, sources: Sequence[Source], padded_frames: Sequence[int], *, anew: bool = False
        ) -> EncodedWindows:
            tokenizer = self.tokenizer("en", "transcribe")
            keys = [(int(one.stream_id.split("/")[0]), one.start_sample, len(one.audio)) for one in sources]
            self.dictated = [prefix_tokens(tokenizer, texts.get(key, "")) for key in keys]
            return super().encode(sources, padded_frames, anew=anew)

        def _steps(self, outputs: Sequence[Any], *, suppress_blank: bool) -> Any:
            mine, self.dictated = self.dictated[: len(outputs)], self.dictated[len(outputs) :]
            steps = super()._steps(outputs, suppress_blank=suppress_blank)
            return Dictated(steps, mine, self.tokenizer("en", "transcribe").eot)

    class DictatingEngine(WindowEngine[EncodedWindows]):
        def _load(self) -> LoadedModel[EncodedWindows]:
            weights = gpu.random_weights(gpu.SHAPES[shape])
            vocabulary = Vocabulary(resolve_model(tape.model), multilingual=False)
            number_type = getattr(torch, args.number_type)
            plan = plan_memory(
                shape_of(weights),
                number_bytes=number_type.itemsize,
                max_batch_size=args.batch or MAX_BATCH_SIZE[args.device],
                limit_bytes=memory_limit(args.device),
            )
            device = torch.device(args.device)
            backend = DictatingBackend(weights, vocabulary, plan, device=device, number_type=number_type)
            backend.multilingual = False
            backend.warm_up(1)
            return LoadedModel(
                backend=backend,
                device=args.device,
                languages=frozenset({"en"}),
                max_batch_size=plan.slots,
            )

    return DictatingEngine("torch", shape)


@dataclass(frozen=True)
class Sent:
    at_s: float
    stream: int
    taped: Taped


def schedule(tape: Tape, streams: int, seconds: float) -> list[Sent]:
    """What so many streams send in so many seconds, in order of time."""
    by_clip: dict[int, list[Taped]] = {}
    for one in tape.passes:
        by_clip.setdefault(one.clip, []).append(one)
    clips = sorted(by_clip)
    lengths = {clip: len(tape.audio[clip]) / SAMPLE_RATE for clip in clips}
    chance = random.Random(0)

    def sent(stream: int) -> Iterator[Sent]:
        clip = clips[stream % len(clips)]
        offset_s = chance.uniform(0, lengths[clip])
        for turn in range(int((seconds + offset_s) // lengths[clip]) + 1):
            for one in by_clip[clip]:
                at_s = turn * lengths[clip] + one.at_s - offset_s
                if 0 <= at_s < seconds:
                    yield Sent(at_s, stream, one)

    return sorted((one for stream in range(streams) for one in sent(stream)), key=lambda one: one.at_s)


class BusyShare:
    """Samples how much of the time the GPU computes something, as its driver tells."""

    def __init__(self) -> None:
        self._values: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> BusyShare:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            while not self._over.wait(BUSY_EVERY_S):
                self._values.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except Exception as error:
            print(f"no busy share: {error}")

    @property
    def value(self) -> float | None:
        return float(np.mean(self._values)) / 100 if self._values else None


def play_level(pool: LocalPool, tape: Tape, streams: int, args: argparse.Namespace) -> dict[str, Any]:
    """Play for a while; how late windows and words came."""
    plan = schedule(tape, streams, args.seconds)
    took_s: dict[int, float] = {}
    waited_s: list[float] = []
    batches: list[int] = []
    late_start_s = 0.0
    failed = different = 0
    done = threading.Semaphore(0)
    lock = threading.Lock()

    def answered(index: int, sent: Sent, future: Any, due: float) -> None:
        nonlocal failed, different
        now = time.monotonic()
        error = future.exception()
        with lock:
            if error is not None:
                failed += 1
            else:
                result = future.result()
                took_s[index] = now - due
                waited_s.append(result.timings.queue_wait_s)
                batches.append(result.timings.batch_size)
                different += join_text(result.words) != sent.taped.said
        done.release()

    with BusyShare() as busy:
        began = time.monotonic()
        cpu_began = time.process_time()
        for index, sent in enumerate(plan):
            due = began + sent.at_s
            ahead = due - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            late_start_s = max(late_start_s, -ahead)
            one = sent.taped
            job = Job(
                job_id=f"{streams}/{index}",
                stream_id=f"{one.clip}/{sent.stream}",
                audio=tape.audio_of(one),
                start_sample=one.start_sample,
                language="en",
                prefix=one.prefix,
                context=one.context,
            )
            future = pool.submit_nowait(job)
            future.add_done_callback(
                lambda future, index=index, sent=sent, due=due: answered(index, sent, future, due)
            )
        for _ in plan:
            done.acquire(timeout=60)
        over_s = time.monotonic() - began
        cpu_s = time.process_time() - cpu_began
    counted = [(index, sent) for index, sent in enumerate(plan) if sent.at_s >= WARM_UP_S and index in took_s]
    took = np.array([took_s[index] for index, _ in counted])
    commit = np.array([late + took_s[index] for index, sent in counted for late in sent.taped.late_s])
    return {
        "streams": streams,
        "jobs_per_s": len(plan) / args.seconds,
        "job_p50_s": float(np.percentile(took, 50)),
        "job_p95_s": float(np.percentile(took, 95)),
        "commit_mean_s": float(commit.mean()),
        "commit_p95_s": float(np.percentile(commit, 95)),
        "batch": float(np.mean(batches)),
        "wait_p95_s": float(np.percentile(waited_s, 95)),
        "over_by_s": over_s - args.seconds,
        "gpu_busy": busy.value,
        "cpu_cores": cpu_s / over_s,
        "cpu_ms_per_job": cpu_s / len(plan) * 1000,
        "sent_late_s": late_start_s,
        "failed": failed,
        "other_words": different,
    }


def play(args: argparse.Namespace) -> int:
    sys.path.insert(0, str(Path(__file__).parent))
    tape = Tape.load(args.tape)

    def factory() -> Any:
        if args.shape:
            return dictating_engine(args.shape, tape, args)
        from ray_whisper_streaming.engines.torch.engine import TorchEngine

        return TorchEngine(
            args.model or tape.model,
            device=args.device,
            compute_type=args.number_type,
            max_batch_size=args.batch,
        )

    started = time.monotonic()
    rows: list[dict[str, Any]] = []
    with LocalPool(
        factory,
        workers=args.workers,
        scheduler=SchedulerConfig(max_queued=100_000, target_batch_s=args.target),
    ) as pool:
        what = args.shape or args.model or tape.model
        print(f"{what}: ready in {time.monotonic() - started:.1f} s; {args.workers} workers", flush=True)
        for streams in args.streams:
            row = {"model": what, "step_s": tape.step_s, "workers": args.workers}
            row |= play_level(pool, tape, streams, args)
            rows.append(row)
            print("  ".join(f"{key}={_short(value)}" for key, value in row.items()), flush=True)
            if row["over_by_s"] > args.seconds / 4:
                break
    if args.json:
        write_report(args.json, rows)
    return 0


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _told(values: np.ndarray) -> str:
    return f"{values.mean():.2f} mean, {np.percentile(values, 95):.2f} at the 95th percentile"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    recording = commands.add_parser("record", help="make a tape; needs no GPU")
    recording.set_defaults(run=record)
    recording.add_argument("tape", type=Path)
    recording.add_argument("--model", default="tiny.en")
    recording.add_argument("--engine", default="auto")
    recording.add_argument("--compute-type", default="auto")
    recording.add_argument("--audio", type=Path, help="folder of clips; without it, those of the package")
    recording.add_argument("--clips", type=int, default=16)
    recording.add_argument("--seconds", type=float, default=45.0, help="of each clip, at most")
    recording.add_argument("--step", type=float, default=1.0, help="seconds between passes")
    playing = commands.add_parser("play", help="play a tape")
    playing.set_defaults(run=play)
    playing.add_argument("tape", type=Path)
    playing.add_argument("--shape", help="random weights in the shape of this model")
    playing.add_argument("--model", help="a real model; without it and --shape, the tape's")
    playing.add_argument("--streams", type=int, nargs="+", default=[100, 200, 400])
    playing.add_argument("--seconds", type=float, default=20.0, help="of each level")
    playing.add_argument("--workers", type=int, default=2, help="engines on the device")
    playing.add_argument("--batch", type=int, help="windows decoded at once, at most")
    playing.add_argument("--target", type=float, default=1.0, help="seconds a batch is meant to take")
    playing.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    playing.add_argument("--number-type", default="float16")
    playing.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
