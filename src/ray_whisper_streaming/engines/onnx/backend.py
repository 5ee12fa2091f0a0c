"""`engines.backend.Backend` over ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ray_whisper_streaming.core.jobs import Task
from ray_whisper_streaming.engines.alignment import aligned_text
from ray_whisper_streaming.engines.backend import Generated, Source, spectrograms
from ray_whisper_streaming.engines.mel import MelCache
from ray_whisper_streaming.engines.onnx.sessions import CrossCache, Decoder, Encoder
from ray_whisper_streaming.engines.onnx.steps import OnnxSteps
from ray_whisper_streaming.engines.search import Request, TokenRules, Transcript, decode_with_beams
from ray_whisper_streaming.engines.tokenizers import Vocabulary
from ray_whisper_streaming.engines.tokens import TextTokenizer
from ray_whisper_streaming.engines.weights import WhisperWeights
from ray_whisper_streaming.engines.words import Alignment

__all__ = ["EncodedWindows", "OnnxBackend"]


@dataclass(slots=True)
class EncodedWindows:
    """Encoded windows of a batch, and what was decoded of them.

    Attributes:
        cross: what the decoder attends to. `OnnxBackend.generate` uses it up.
        transcripts: one per window, once `OnnxBackend.generate` was called.
    """

    cross: CrossCache
    transcripts: list[Transcript] = field(default_factory=list[Transcript])


class OnnxBackend:
    """A Whisper model in ONNX Runtime: the alignment is made while decoding.

    Args:
        weights: of the model.
        vocabulary: of the model.
        threads: of one call.
        quantise: compute in 8 bits.
    """

    ragged = True

    def __init__(
        self, weights: WhisperWeights, vocabulary: Vocabulary, *, threads: int, quantise: bool
    ) -> None:
        self.multilingual = weights.multilingual
        self._mel = MelCache(weights.mel_bands)
        self._vocabulary = vocabulary
        self._encoder = Encoder(weights, threads=threads, quantise=quantise)
        self._decoder = Decoder(weights, threads=threads, quantise=quantise)
        self._suppressed = np.array(vocabulary.suppressed)
        self._blanks = np.array(weights.blank_ids, np.intp)

    def encode(
        self, sources: Sequence[Source], padded_frames: Sequence[int], *, anew: bool = False
    ) -> EncodedWindows:
        """See `Backend.encode`."""
        known = [None if anew else source for source in sources]
        return EncodedWindows(self._encoder.run(spectrograms(self._mel, sources, padded_frames), known))

    def take(self, encoded: EncodedWindows, rows: Sequence[int]) -> EncodedWindows:
        """See `Backend.take`."""
        if list(rows) == list(range(encoded.cross.rows)):
            return encoded
        transcripts = [encoded.transcripts[row] for row in rows] if encoded.transcripts else []
        return EncodedWindows(encoded.cross.take(rows), transcripts)

    def detect_languages(self, encoded: EncodedWindows) -> list[dict[str, float]]:
        """See `Backend.detect_languages`."""
        rows = encoded.cross.rows
        [start, *_] = self.tokenizer("en", "transcribe").sot_sequence
        output = self._decoder.run(
            np.full((rows, 1), start),
            np.zeros((rows, 1), np.int64),
            np.zeros((rows, 1, 1, 1), np.float32),
            np.arange(rows),
            self._decoder.empty_cache(rows),
            encoded.cross,
        )
        codes = self._vocabulary.language_tokens
        shares = output.chances[:, list(codes.values())].astype(np.float64)
        shares /= shares.sum(axis=1, keepdims=True)
        return [dict(zip(codes, map(float, row), strict=True)) for row in shares]

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
        """See `Backend.generate`."""
        tokenizer = self.tokenizer("en", "transcribe")
        start = tokenizer.sot_sequence[0]
        rules = TokenRules(
            end_of_text=tokenizer.eot,
            no_speech=self._vocabulary.no_speech,
            suppressed=self._suppressed,
            blanks=self._blanks if suppress_blank else self._blanks[:0],
        )
        encoded.transcripts = decode_with_beams(
            OnnxSteps(self._decoder, encoded.cross, rules),
            Request.of_batch(start, prompts, prefixes, max_tokens, seeds),
            beam_size=beam_size,
            end_of_text=rules.end_of_text,
            temperature=temperature,
        )
        return [Generated(list(one.tokens), one.no_speech_probability) for one in encoded.transcripts]

    def align(
        self,
        encoded: EncodedWindows,
        start_sequence: Sequence[int],
        texts: Sequence[Sequence[int]],
        frames: Sequence[int],
    ) -> list[Alignment]:
        """See `Backend.align`. The start sequence counts by its length alone."""
        return [
            aligned_text(one, text, start_tokens=len(start_sequence), frames=count)
            for one, text, count in zip(encoded.transcripts, texts, frames, strict=True)
        ]

    def tokenizer(self, language: str, task: Task) -> TextTokenizer:
        """See `Backend.tokenizer`."""
        return self._vocabulary.tokenizer(language, task)
