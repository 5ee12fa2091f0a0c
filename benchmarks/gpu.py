"""The PyTorch engine's parts on a GPU, and CTranslate2's beside them where it is installed: one run, all figures.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --shapes tiny --device cpu --repeat 2 --batches 1 4

Shapes are those of real models, numbers are random: times do not depend on them. Words do, so they are compared with
the models that come as packages (``--words tiny.en base``): float16 on the device against float32 on the CPU.

In a session of a few minutes: the order of ``--shapes`` is the order of work, each row is printed when it is there, and
``--json`` is written after each shape. What can't run (no memory, a compiler that fails) becomes a row that says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_whisper_streaming.bench.machine import describe_machine
from ray_whisper_streaming.bench.material import find_material, load_clips
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, DecodeOptions, Job
from ray_whisper_streaming.engines.backend import FRAMES_PER_POSITION
from ray_whisper_streaming.engines.mel import FRAMES_PER_S
from ray_whisper_streaming.engines.remembering import SETTLED
from ray_whisper_streaming.engines.search import Candidates, Request, TokenRules, decode_with_beams
from ray_whisper_streaming.engines.torch.alignment import first_positions
from ray_whisper_streaming.engines.torch.cache import Cache
from ray_whisper_streaming.engines.torch.decoder import Decoder
from ray_whisper_streaming.engines.torch.encoder import Encoder
from ray_whisper_streaming.engines.torch.graphs import CapturedSteps, PlainSteps
from ray_whisper_streaming.engines.torch.layers import Parameters
from ray_whisper_streaming.engines.torch.memory import plan_memory, position_bytes, shape_of
from ray_whisper_streaming.engines.torch.passes import Part
from ray_whisper_streaming.engines.torch.remembered import Remembered, Rows
from ray_whisper_streaming.engines.torch.steps import Chooser, Stepper, TorchSteps
from ray_whisper_streaming.engines.weights import WhisperWeights

ENCODER_BATCH = 16
STEP_WINDOWS_S = (30, 12)
WINDOWS_S = (30, 15, 5)
TEXT = 128
"""Tokens a timed step looks at: some context and an answer."""

PROMPT, PREFIX, NEW = 64, 20, 24
"""Tokens of context, of the forced prefix, and new ones of a whole decode: a stream with one update a second."""

NEW_POSITIONS = 3 * SETTLED
"""Of a window that goes on: a second new, one that had not settled, and one of padding."""

GENERATE_WINDOW_S = 12

SPREAD = 0.02
"""Of the random numbers: as small as those of trained models, so that nothing overflows in 16 bits."""

PEAK_SIDE = 8192


@dataclass(frozen=True)
class Shape:
    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int
    bands: int
    alignment_heads: int

    def encoder_flop(self, positions: int) -> float:
        """Multiplications and additions of one window: linear layers, attention, convolutions."""
        width = self.width
        layer = 24 * width**2 * positions + 4 * positions**2 * width
        convolutions = 12 * self.bands * width * positions + 6 * width**2 * positions
        return self.encoder_layers * layer + convolutions


SHAPES = {
    "tiny": Shape(384, 6, 4, 4, 51864, 80, 8),
    "base": Shape(512, 8, 6, 6, 51865, 80, 8),
    "large-v3-turbo": Shape(1280, 20, 32, 4, 51866, 128, 6),
    "large-v3": Shape(1280, 20, 32, 32, 51866, 128, 10),
}


def random_weights(shape: Shape) -> WhisperWeights:
    """A model of random numbers; many are the same, for drawing billions of them takes minutes."""
    block = np.random.default_rng(0).normal(scale=SPREAD, size=1 << 20).astype(np.float32)
    width = shape.width
    tensors: dict[str, np.ndarray] = {}

    def linear(name: str, outputs: int, inputs: int, *kernel: int) -> None:
        tensors[f"{name}/weight"] = np.resize(block, (outputs, inputs, *kernel))
        tensors[f"{name}/bias"] = np.resize(block, outputs)

    def norm(name: str) -> None:
        tensors[f"{name}/layer_norm/gamma"] = np.ones(width, np.float32)
        tensors[f"{name}/layer_norm/beta"] = np.zeros(width, np.float32)

    linear("encoder/conv1", width, shape.bands, 3)
    linear("encoder/conv2", width, width, 3)
    tensors["encoder/position_encodings/encodings"] = np.resize(block, (1500, width))
    tensors["decoder/position_encodings/encodings"] = np.resize(block, (448, width))
    tensors["decoder/embeddings/weight"] = np.resize(block, (shape.vocabulary, width))
    tensors["decoder/projection/weight"] = tensors["decoder/embeddings/weight"]
    for part, layers in (("encoder", shape.encoder_layers), ("decoder", shape.decoder_layers)):
        norm(part)
        for layer in range(layers):
            name = f"{part}/layer_{layer}"
            blocks = ["self_attention", "ffn", *(["attention"] if part == "decoder" else [])]
            for each in blocks:
                norm(f"{name}/{each}")
            linear(f"{name}/self_attention/linear_0", 3 * width, width)
            linear(f"{name}/self_attention/linear_1", width, width)
            linear(f"{name}/ffn/linear_0", 4 * width, width)
            linear(f"{name}/ffn/linear_1", width, 4 * width)
            if part == "decoder":
                linear(f"{name}/attention/linear_0", width, width)
                linear(f"{name}/attention/linear_1", 2 * width, width)
                linear(f"{name}/attention/linear_2", width, width)
    # The heads of the last layers, as in trained models.
    heads = [
        (shape.decoder_layers - 1 - number // shape.heads, number % shape.heads)
        for number in range(shape.alignment_heads)
    ]
    return WhisperWeights(tensors, shape.heads, shape.heads, tuple(heads), (), ())


class Clock:
    """Times calls on a device: the median of several, in ms."""

    def __init__(self, device: str, repeat: int) -> None:
        self._cuda = device == "cuda"
        self._repeat = repeat

    def wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()

    def ms(self, call: Callable[[], Any], *, inner: int = 1) -> float:
        """Of one call, from several runs of ``inner`` calls after a first that does not count."""
        call()
        times = []
        for _ in range(self._repeat):
            self.wait()
            started = time.perf_counter()
            for _ in range(inner):
                call()
            self.wait()
            times.append((time.perf_counter() - started) / inner * 1000)
        return float(np.median(times))


class Report:
    """Rows, printed as they come and kept as JSON."""

    def __init__(self, path: Path | None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._path = path
        self._machine = {**describe_machine(), "torch_cuda": torch.version.cuda}

    def add(self, measure: Callable[[], dict[str, Any]], **what: Any) -> None:
        try:
            row = {**what, **measure()}
        except Exception as error:  # the next figure may be had all the same
            row = {**what, "failed": f"{type(error).__name__}: {str(error)[:200]}"}
        self.rows.append(row)
        print("  ".join(f"{key}={_told(value)}" for key, value in row.items()), flush=True)

    def save(self) -> None:
        if self._path:
            text = json.dumps({"machine": self._machine, "results": self.rows}, indent=1)
            self._path.write_text(text + "\n", encoding="utf-8")


def _told(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Ours:
    """The engine's parts over random weights."""

    def __init__(self, weights: WhisperWeights, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        number_type = getattr(torch, args.number_type)
        model = shape_of(weights)
        remembered = (
            min(ENCODER_BATCH, max(args.batches)) * max(args.windows) * FRAMES_PER_S // FRAMES_PER_POSITION
        )
        self.plan = replace(
            plan_memory(model, number_bytes=number_type.itemsize, max_batch_size=max(args.batches)),
            remembered_positions=remembered,
            remembered_bytes=remembered * position_bytes(model, number_type.itemsize),
        )
        started = time.perf_counter()
        parameters = Parameters(weights, self.device, number_type)
        memory = Remembered(model, remembered, device=self.device, number_type=number_type)
        self.encoder = Encoder(parameters, batch=ENCODER_BATCH, memory=memory)
        self.decoder = Decoder(parameters)
        self.cache = Cache(
            model,
            slots=self.plan.slots,
            rows=self.plan.rows,
            device=self.device,
            number_type=number_type,
        )
        rules = TokenRules(weights.vocabulary - 1, 0, np.empty(0, np.intp), np.empty(0, np.intp))
        # The end of text is the last token, so that no random answer is likely to end.
        chooser = Chooser(rules, weights.vocabulary, self.device)
        self.load_s = time.perf_counter() - started
        self.eager = Stepper(self.decoder, self.cache, chooser, PlainSteps())
        captured = args.device == "cuda"
        self.stepper = Stepper(self.decoder, self.cache, chooser, CapturedSteps()) if captured else self.eager
        self.number_type = number_type
        self.bands = weights.mel_bands
        self.width = weights.width

    def mels(self, count: int, seconds: int) -> torch.Tensor:
        shape = (count, self.bands, seconds * FRAMES_PER_S)
        return torch.randn(shape, device=self.device, dtype=self.number_type)

    def outputs(self, count: int, seconds: int) -> list[torch.Tensor]:
        shape = (seconds * FRAMES_PER_S // 2, self.width)
        return [torch.randn(shape, device=self.device, dtype=self.number_type) for _ in range(count)]

    def step(self, stepper: Stepper, batch: int, seconds: int) -> Callable[[], Any]:
        """A step over such windows, ready to run."""
        self.decoder.load(self.cache, self.outputs(batch, seconds))
        self.cache.places[:] = TEXT - 1
        return lambda: stepper.step(windows=batch, beams=1)

    def requests(self, count: int) -> list[Request]:
        prompt = [5] * PROMPT + [6] * 4
        return [Request(prompt, PROMPT, [7 + row % 9] * PREFIX, PREFIX + NEW) for row in range(count)]


def measure_encoder(report: Report, name: str, ours: Ours, clock: Clock, args: argparse.Namespace) -> None:
    batch = min(ENCODER_BATCH, max(args.batches))
    peak = peak_flop_per_s(ours, clock)
    report.add(lambda: {"tflop_per_s": peak / 1e12}, shape=name, part="matrix product")
    for seconds in args.windows:
        mels = ours.mels(batch, seconds)
        flop = SHAPES[name].encoder_flop(seconds * FRAMES_PER_S // 2)
        frames = seconds * FRAMES_PER_S
        parts = [Part(frames)] * batch

        def encode(
            mels: torch.Tensor = mels, parts: list[Part] = parts, flop: float = flop
        ) -> dict[str, Any]:
            ms = clock.ms(lambda: ours.encoder(mels, parts)) / batch
            return {"ms_per_item": ms, "peak_share": flop / (ms / 1000) / peak}

        report.add(encode, shape=name, part="encoder", engine="torch", window_s=seconds)

        sounds = ours.encoder.spectrogram.upload([np.ones(seconds * SAMPLE_RATE, np.int16)] * batch)
        counts = torch.full((batch,), seconds * FRAMES_PER_S, device=ours.device)

        def spectrogram(
            sounds: torch.Tensor = sounds, counts: torch.Tensor = counts, frames: int = frames
        ) -> dict[str, Any]:
            return {"ms_per_item": clock.ms(lambda: ours.encoder.spectrogram(sounds, counts, frames)) / batch}

        report.add(spectrogram, shape=name, part="spectrogram", engine="torch", window_s=seconds)

        # Windows of which all but the end is remembered.
        positions = frames // FRAMES_PER_POSITION
        going_on = [
            Part(frames, positions - length, Rows(rows[:-length], rows[-length : SETTLED - length]))
            for length in [min(NEW_POSITIONS, positions)]
            for rows in np.arange(batch * positions).reshape(batch, positions)
        ]

        def remembering(
            mels: torch.Tensor = mels, parts: list[Part] = going_on, frames: int = frames
        ) -> dict[str, Any]:
            ends = mels[:, :, parts[0].begin :].contiguous()
            return {"ms_per_item": clock.ms(lambda: ours.encoder(ends, parts)) / batch}

        report.add(
            remembering, shape=name, part="encoder", engine="torch, the rest remembered", window_s=seconds
        )

        # Windows that differ in length, from half of it on.
        several = [
            max(2, (half + row * half // batch) // 2 * 2)
            for half in [frames // 2]
            for row in range(1, batch + 1)
        ]

        def ragged(mels: torch.Tensor = mels, several: list[int] = several) -> dict[str, Any]:
            return {
                "ms_per_item": clock.ms(lambda: ours.encoder(mels, [Part(each) for each in several])) / batch,
                "mean_s": sum(several) / batch / FRAMES_PER_S,
            }

        report.add(ragged, shape=name, part="encoder", engine="torch several lengths", window_s=seconds)


def peak_flop_per_s(ours: Ours, clock: Clock) -> float:
    """Of a large matrix product: what the card can do at best."""
    side = PEAK_SIDE if ours.device.type == "cuda" else PEAK_SIDE // 16
    one = torch.randn(side, side, device=ours.device, dtype=ours.number_type)
    return 2 * side**3 / (clock.ms(lambda: one @ one) / 1000)


def measure_decoder(report: Report, name: str, ours: Ours, clock: Clock, args: argparse.Namespace) -> None:
    engines = {"torch eager": ours.eager} | ({"torch graph": ours.stepper} if args.device == "cuda" else {})
    for batch in args.batches:
        for engine, stepper in engines.items():
            for seconds in STEP_WINDOWS_S:
                step = ours.step(stepper, batch, seconds)
                report.add(
                    lambda step=step: {"ms": clock.ms(step, inner=10)},
                    shape=name,
                    part="step",
                    engine=engine,
                    batch=batch,
                    window_s=seconds,
                )

        def whole(batch: int = batch) -> dict[str, Any]:
            outputs, requests = ours.outputs(batch, GENERATE_WINDOW_S), ours.requests(batch)

            def decode() -> list[Any]:
                # Without the search, which would end a text of random tokens as a loop.
                steps = TorchSteps(ours.stepper, outputs, suppress_blank=True)
                steps.begin(requests, 1)
                for number in range(NEW):
                    steps.advance(range(batch), [[0]] * batch, [[7 + number]] * batch)
                return steps.attention([[0] * NEW] * batch)

            def begin() -> None:
                TorchSteps(ours.stepper, outputs, suppress_blank=True).begin(requests, 1)

            asked = decode()
            positions = [len(output) for output in outputs]

            def align() -> None:
                first_positions(
                    asked[0].queries,
                    ours.decoder.alignment_keys(torch.stack(outputs)),
                    tokens=[one.tokens for one in asked],
                    window_positions=positions,
                    positions=positions,
                    first_row=3,
                )

            return {
                "ms": clock.ms(decode),
                "begin_ms": clock.ms(begin),
                "load_ms": clock.ms(lambda: ours.decoder.load(ours.cache, outputs)),
                "align_ms": clock.ms(align),
                "new_tokens": NEW,
            }

        report.add(whole, shape=name, part="decode", engine="torch", batch=batch)
    if args.device == "cuda":

        def warm_up() -> dict[str, Any]:
            started = time.perf_counter()
            shapes = ours.stepper.warm_up(1)
            clock.wait()
            return {"shapes": shapes, "s": time.perf_counter() - started}

        report.add(warm_up, shape=name, part="warm-up", engine="torch graph")


class NoModel:
    """Steps that cost nothing: what is left is the search's own time on the host."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._count = 0

    def _next(self, rows: int) -> Candidates:
        self._count += 1
        shape = (rows, 1, 1)
        return Candidates(np.full(shape, 7 + self._count), np.full(shape, 0.5), np.full(shape, -0.7))

    def begin(self, requests: Sequence[Request], beam_size: int) -> tuple[Candidates, Any]:
        return self._next(self._rows), np.zeros(self._rows)

    def advance(self, staying: Sequence[int], parents: Any, tokens: Any) -> Candidates:
        return self._next(len(staying))

    def attention(self, paths: Sequence[Sequence[int]]) -> list[Any]:
        return [np.empty((1, 1, 1), np.float32) for _ in paths]


HOST_BATCHES = (1, 64)


def measure_host(report: Report, args: argparse.Namespace) -> None:
    """What the search takes of the CPU for each step, with one beam."""
    tokens = 60
    for batch in HOST_BATCHES:

        def search(batch: int = batch) -> dict[str, Any]:
            requests = [Request([5] * 4, 0, [], tokens)] * batch
            times = []
            for _ in range(args.repeat):
                # The process's own time, whatever else the machine does.
                started = time.process_time()
                decode_with_beams(NoModel(batch), requests, beam_size=1, end_of_text=50_000)
                times.append((time.process_time() - started) / tokens * 1000)
            return {"cpu_ms": float(np.median(times))}

        report.add(search, part="search", batch=batch)


def write_ctranslate2(folder: Path, weights: WhisperWeights) -> None:
    """The weights as a model that CTranslate2 loads, in 16 bits. The format is told in `engines.weights`."""
    scalars = {
        "decoder/activation": np.int8(3),
        "decoder/alibi": np.int8(0),
        "decoder/alibi_use_positive_positions": np.int8(0),
        "decoder/alignment_heads": np.int16(1),
        "decoder/alignment_layer": np.int16(-1),
        "decoder/num_heads": np.int16(weights.decoder_heads),
        "decoder/pre_norm": np.int8(1),
        "decoder/scale_alibi": np.int8(0),
        "decoder/scale_embeddings": np.int8(0),
        "decoder/start_from_zero_embedding": np.int8(0),
        "encoder/num_heads": np.int16(weights.encoder_heads),
    }
    codes = {"int8": 1, "int16": 2, "float16": 4}
    tensors = {name: value for name, value in weights.tensors.items() if name != "decoder/projection/weight"}

    def named(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    with (folder / "model.bin").open("wb") as file:
        file.write(struct.pack("<I", 6) + named("WhisperSpec"))
        file.write(struct.pack("<II", 3, len(scalars) + len(tensors)))
        for name, value in sorted({**scalars, **tensors}.items()):
            numbers = np.asarray(value if name in scalars else value.astype(np.float16))
            file.write(named(name) + struct.pack(f"<B{numbers.ndim}I", numbers.ndim, *numbers.shape))
            file.write(struct.pack("<BI", codes[numbers.dtype.name], numbers.nbytes) + numbers.tobytes())
        file.write(struct.pack("<I", 1) + named("decoder/projection/weight"))
        file.write(named("decoder/embeddings/weight"))
    words = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>", "<|nospeech|>", "<|startofprev|>"]
    words += [f"w{number}" for number in range(weights.vocabulary - len(words))]
    (folder / "vocabulary.json").write_text(json.dumps(words))
    config = {"suppress_ids": [], "suppress_ids_begin": [], "lang_ids": [], "alignment_heads": [[0, 0]]}
    (folder / "config.json").write_text(json.dumps(config))


def measure_ctranslate2(
    report: Report, name: str, weights: WhisperWeights, clock: Clock, args: argparse.Namespace
) -> None:
    import ctranslate2

    from ray_whisper_streaming.engines.ctranslate2 import _preload_cublas

    if args.device == "cuda":
        _preload_cublas()
    with tempfile.TemporaryDirectory() as folder:
        write_ctranslate2(Path(folder), weights)
        compute_type = args.number_type if args.device == "cuda" else "float32"
        whisper: Any = ctranslate2.models.Whisper(folder, device=args.device, compute_type=compute_type)
    batch = min(ENCODER_BATCH, max(args.batches))

    def encode(count: int, seconds: int) -> Any:
        mels = np.zeros((count, weights.mel_bands, seconds * FRAMES_PER_S), np.float32)
        return whisper.encode(ctranslate2.StorageView.from_array(mels))

    for seconds in args.windows:

        def encoder(seconds: int = seconds) -> dict[str, Any]:
            # A copy to the CPU ends each call: the runtime returns before it is done.
            return {
                "ms_per_item": clock.ms(
                    lambda: np.array(encode(batch, seconds).to_device(ctranslate2.Device.cpu))
                )
                / batch
            }

        report.add(encoder, shape=name, part="encoder", engine="ctranslate2", window_s=seconds)
    for count in args.batches:

        def step(count: int = count) -> dict[str, Any]:
            encoded = encode(count, STEP_WINDOWS_S[0])

            def generate(tokens: int) -> None:
                # The first token of the vocabulary ends a text; kept from that, all go on to the limit.
                whisper.generate(
                    encoded, [[1, 2]] * count, beam_size=1, max_length=2 * tokens, suppress_tokens=[0]
                )

            short, long = 16, 48
            return {
                "ms": (clock.ms(lambda: generate(long)) - clock.ms(lambda: generate(short))) / (long - short)
            }

        report.add(
            step, shape=name, part="step", engine="ctranslate2", batch=count, window_s=STEP_WINDOWS_S[0]
        )


def ratios(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How many times as long CTranslate2 takes."""
    keys = ("shape", "part", "window_s", "batch")
    theirs = {tuple(row.get(key) for key in keys): row for row in rows if row.get("engine") == "ctranslate2"}
    for row in rows:
        other = theirs.get(tuple(row.get(key) for key in keys))
        if other and row is not other and "failed" not in row and "failed" not in other:
            unit = "ms_per_item" if "ms_per_item" in row else "ms"
            where = " ".join(str(row[key]) for key in keys if row.get(key) is not None)
            times = f"{other[unit] / row[unit]:.2g} times"
            yield f"{where}, {row['engine']}: {row[unit]:.3g} ms; ctranslate2 {other[unit]:.3g}, {times}"


def compare_words(report: Report, args: argparse.Namespace) -> None:
    """Words of the packaged recordings on the device, against float32 on the CPU."""
    from ray_whisper_streaming.engines.torch.engine import TorchEngine

    options = DecodeOptions(window_s=12)
    jobs = [
        Job(
            job_id=f"{clip.name} {start}",
            stream_id=f"{clip.name} {start}",
            audio=np.ascontiguousarray(clip.audio[start * SAMPLE_RATE : (start + 9) * SAMPLE_RATE]),
            language="en",
            options=options,
        )
        for clip in load_clips(find_material())
        for start in range(0, 10, 3)
    ]
    for model in args.words:

        def compare(model: str = model) -> dict[str, Any]:
            said: list[list[list[str]]] = []
            started = time.perf_counter()
            for device, number_type in ((args.device, args.number_type), ("cpu", "float32")):
                engine = TorchEngine(model, device=device, compute_type=number_type)
                engine.warm_up()
                if not said:
                    ready_s = time.perf_counter() - started
                outcomes: list[Any] = engine.transcribe(jobs)
                said.append([[word.text for word in outcome.words] for outcome in outcomes])
                engine.close()
            different = sum(one != other for one, other in zip(*said, strict=True))
            return {
                "ready_s": ready_s,
                "windows": len(jobs),
                "words": sum(map(len, said[1])),
                "windows_that_differ": different,
            }

        report.add(compare, part="words", model=model, number_type=args.number_type)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--number-type", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--windows", type=int, nargs="+", default=list(WINDOWS_S), help="seconds")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--words", nargs="*", default=[], help="models whose words are compared")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    args.number_type = args.number_type or ("float16" if args.device == "cuda" else "float32")
    report = Report(args.json)
    clock = Clock(args.device, args.repeat)
    measure_host(report, args)
    for name in args.shapes:
        weights = random_weights(SHAPES[name])
        with torch.inference_mode():
            ours = Ours(weights, args)
            measure_encoder(report, name, ours, clock, args)
            measure_decoder(report, name, ours, clock, args)
        memory = {"load_s": ours.load_s, "planned_gb": ours.plan.total_bytes / 1e9}
        if args.device == "cuda":
            memory["most_gb"] = torch.cuda.max_memory_reserved() / 1e9
            torch.cuda.reset_peak_memory_stats()
        report.add(
            lambda memory=memory: memory, shape=name, part="memory", parameters=shape_of(weights).parameters
        )
        del ours
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()
        try:
            measure_ctranslate2(report, name, weights, clock, args)
        except Exception as error:
            print(f"ctranslate2: {type(error).__name__}: {error}")
        report.save()
    compare_words(report, args)
    report.save()
    print(*ratios(report.rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
