"""`engines.backend.Backend` over PyTorch."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from ray_whisper_streaming.core.jobs import Task
from ray_whisper_streaming.engines.alignment import alignment_of, attended_rows, audio_positions
from ray_whisper_streaming.engines.backend import Generated, Source
from ray_whisper_streaming.engines.search import Request, Steps, TokenRules, Transcript, decode_with_beams
from ray_whisper_streaming.engines.tokenizers import Vocabulary
from ray_whisper_streaming.engines.tokens import TextTokenizer
from ray_whisper_streaming.engines.torch.alignment import Int64, first_positions
from ray_whisper_streaming.engines.torch.cache import Cache
from ray_whisper_streaming.engines.torch.decoder import Decoder
from ray_whisper_streaming.engines.torch.encoder import Encoder
from ray_whisper_streaming.engines.torch.graphs import CapturedSteps, PlainSteps
from ray_whisper_streaming.engines.torch.layers import Parameters
from ray_whisper_streaming.engines.torch.memory import ALIGNED_AT_ONCE, MemoryPlan, shape_of
from ray_whisper_streaming.engines.torch.remembered import Remembered
from ray_whisper_streaming.engines.torch.runtime import Tensor, on_cpu, to_device, torch
from ray_whisper_streaming.engines.torch.steps import Asked, Chooser, Stepper, TorchSteps
from ray_whisper_streaming.engines.weights import WhisperWeights
from ray_whisper_streaming.engines.words import Alignment

__all__ = ["EncodedWindows", "TorchBackend"]


@dataclass(slots=True)
class EncodedWindows:
    """Encoded windows of a batch, and what was decoded of them.

    Attributes:
        outputs: what the encoder made of each, shape (positions, width).
        transcripts: one per window, once `TorchBackend.generate` was called.
    """

    outputs: list[Tensor] = field(repr=False)
    transcripts: list[Transcript] = field(default_factory=list[Transcript])


class TorchBackend:
    """A Whisper model in PyTorch: the alignment is made while decoding.

    Args:
        weights: of the model.
        vocabulary: of the model.
        plan: how much is computed at once.
        device: a `torch.device`.
        number_type: a floating-point type of PyTorch's.
    """

    ragged = True

    def __init__(
        self,
        weights: WhisperWeights,
        vocabulary: Vocabulary,
        plan: MemoryPlan,
        *,
        device: Tensor,
        number_type: Tensor,
    ) -> None:
        self.multilingual = weights.multilingual
        self._vocabulary = vocabulary
        self._device = device
        # A queue of its own on the GPU: another worker's is computed meanwhile.
        self._queue = torch.cuda.Stream(device) if device.type == "cuda" else None
        with self._computing():
            parameters = Parameters(weights, device, number_type)
            shape = shape_of(weights)
            memory = Remembered(shape, plan.remembered_positions, device=device, number_type=number_type)
            self._encoder = Encoder(parameters, batch=plan.encoder_batch, memory=memory)
            self._decoder = Decoder(parameters)
            self._alignment_heads = len(weights.alignment_heads)
            self._cache = Cache(
                shape, slots=plan.slots, rows=plan.rows, device=device, number_type=number_type
            )
            tokenizer = self.tokenizer("en", "transcribe")
            self._end_of_text, self._start = tokenizer.eot, tokenizer.sot_sequence[0]
            rules = TokenRules(
                end_of_text=tokenizer.eot,
                no_speech=vocabulary.no_speech,
                suppressed=np.array(vocabulary.suppressed),
                blanks=np.array(weights.blank_ids, np.intp),
            )
            self._stepper = Stepper(
                self._decoder,
                self._cache,
                Chooser(rules, weights.vocabulary, device),
                CapturedSteps() if device.type == "cuda" else PlainSteps(),
            )

    def warm_up(self, beam_size: int) -> int:
        """Record a step of each shape, and say how many there are; a CPU has nothing to record."""
        if self._device.type == "cpu":
            return 0
        with self._computing():
            return self._stepper.warm_up(beam_size)

    def encode(
        self, sources: Sequence[Source], padded_frames: Sequence[int], *, anew: bool = False
    ) -> EncodedWindows:
        """See `Backend.encode`."""
        with self._computing():
            return EncodedWindows(self._encoder.run(sources, padded_frames, anew=anew))

    def take(self, encoded: EncodedWindows, rows: Sequence[int]) -> EncodedWindows:
        """See `Backend.take`."""
        if list(rows) == list(range(len(encoded.outputs))):
            return encoded
        transcripts = [encoded.transcripts[row] for row in rows] if encoded.transcripts else []
        return EncodedWindows([encoded.outputs[row] for row in rows], transcripts)

    def detect_languages(self, encoded: EncodedWindows) -> list[dict[str, float]]:
        """See `Backend.detect_languages`."""
        codes = self._vocabulary.language_tokens
        chosen = torch.tensor(list(codes.values()), device=self._device)
        found: list[dict[str, float]] = []
        with self._computing():
            for first in range(0, len(encoded.outputs), self._cache.slots):
                outputs = encoded.outputs[first : first + self._cache.slots]
                self._decoder.load(self._cache, outputs)
                hidden, _ = self._decoder.read(
                    self._cache,
                    torch.full((len(outputs), 1), self._start, device=self._device),
                    positions=max(map(len, outputs)),
                    beams=1,
                )
                shares = self._decoder.scores(hidden[:, 0])[:, chosen].float().softmax(dim=1)
                found += [dict(zip(codes, row, strict=True)) for row in on_cpu(shares).tolist()]
        return found

    def generate(
        self,
        encoded: EncodedWindows,
        prompts: Sequence[Sequence[int]],
        prefixes: Sequence[Sequence[int]],
        *,
        max_tokens: Sequence[int],
        beam_size: int,
        suppress_blank: bool,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[Generated]:
        """See `Backend.generate`.

        Raises:
            ValueError: more beams than there is room for.
        """
        at_once = min(self._cache.slots, self._cache.rows // beam_size)
        if not at_once:
            raise ValueError(f"beam_size is {beam_size}; there is room for {self._cache.rows} beams")
        requests = Request.of_batch(self._start, prompts, prefixes, max_tokens, seeds)
        encoded.transcripts = []
        with self._computing():
            for first in range(0, len(requests), at_once):
                piece = slice(first, first + at_once)
                encoded.transcripts += decode_with_beams(
                    self._steps(encoded.outputs[piece], suppress_blank=suppress_blank),
                    requests[piece],
                    beam_size=beam_size,
                    end_of_text=self._end_of_text,
                    temperature=temperature,
                )
        return [Generated(list(one.tokens), one.no_speech_probability) for one in encoded.transcripts]

    def _steps(self, outputs: Sequence[Tensor], *, suppress_blank: bool) -> Steps:
        return TorchSteps(self._stepper, outputs, suppress_blank=suppress_blank)

    def align(
        self,
        encoded: EncodedWindows,
        start_sequence: Sequence[int],
        texts: Sequence[Sequence[int]],
        frames: Sequence[int],
    ) -> list[Alignment]:
        """See `Backend.align`. The start sequence counts by its length alone."""
        first = len(start_sequence)
        chosen = [
            attended_rows(one, text, first, one.attention.tokens)
            for one, text in zip(encoded.transcripts, texts, strict=True)
        ]
        positions = [audio_positions(count) for count in frames]
        most = max(len(rows) for rows, _ in chosen) * max(map(len, encoded.outputs))
        at_once = max(1, ALIGNED_AT_ONCE // (most * self._alignment_heads))
        found: list[Int64] = []
        with self._computing():
            for begin in range(0, len(texts), at_once):
                piece = slice(begin, begin + at_once)
                asked = [one.attention for one in encoded.transcripts[piece]]
                rows = [rows for rows, _ in chosen[piece]]
                found += first_positions(
                    _gathered(asked, rows, self._device),
                    self._decoder.alignment_keys(
                        torch.nn.utils.rnn.pad_sequence(encoded.outputs[piece], batch_first=True)
                    ),
                    tokens=list(map(len, rows)),
                    window_positions=list(map(len, encoded.outputs[piece])),
                    positions=positions[piece],
                    first_row=first,
                )
        return [
            alignment_of(one, kept, starts, count)
            for one, (_, kept), starts, count in zip(
                encoded.transcripts, chosen, found, positions, strict=True
            )
        ]

    @contextmanager
    def _computing(self) -> Generator[None]:
        with torch.inference_mode(), torch.cuda.stream(self._queue):
            yield

    def tokenizer(self, language: str, task: Task) -> TextTokenizer:
        """See `Backend.tokenizer`."""
        return self._vocabulary.tokenizer(language, task)


def _gathered(asked: Sequence[Asked], rows: Sequence[Sequence[int]], device: Tensor) -> Tensor:
    """Some tokens' queries of each text side by side; shape (texts, tokens, alignment heads, size)."""
    batches = {id(one.queries): one.queries for one in asked}
    sizes = accumulate((batch.shape[0] * batch.shape[1] for batch in batches.values()), initial=0)
    offsets = dict(zip(batches, sizes, strict=False))
    places = np.zeros((len(asked), max(map(len, rows))), np.int64)
    for place, one, chosen in zip(places, asked, rows, strict=True):
        place[: len(chosen)] = offsets[id(one.queries)] + one.row * one.queries.shape[1] + np.array(chosen)
    together = torch.cat([batch.flatten(0, 1) for batch in batches.values()])
    return together[to_device(places, device)]
