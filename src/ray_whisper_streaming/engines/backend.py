"""What the window decoder asks of a model runtime."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples, Task
from ray_whisper_streaming.engines.mel import HOP, Float32, MelCache
from ray_whisper_streaming.engines.tokens import TextTokenizer
from ray_whisper_streaming.engines.words import Alignment

__all__ = [
    "FRAMES_PER_POSITION",
    "SAMPLES_PER_POSITION",
    "SECONDS_PER_POSITION",
    "Backend",
    "Encoded",
    "Generated",
    "Source",
    "spectrograms",
]

FRAMES_PER_POSITION = 2
"""Mel frames under one position of an encoder's output: 20 ms of audio."""

SAMPLES_PER_POSITION = FRAMES_PER_POSITION * HOP
SECONDS_PER_POSITION = SAMPLES_PER_POSITION / SAMPLE_RATE

Encoded = TypeVar("Encoded")


@dataclass(frozen=True, slots=True)
class Source:
    """The audio of a window, and where it comes from: a backend may know it from earlier passes.

    Attributes:
        stream_id: whose audio it is.
        start_sample: where it begins in the stream.
        audio: int16, 16 kHz, shape (samples,); never changed.
    """

    stream_id: str
    start_sample: int
    audio: Int16Samples = field(repr=False)

    @property
    def frames(self) -> int:
        """Mel frames of its audio."""
        return len(self.audio) // HOP

    @property
    def seed(self) -> int:
        """Of what is drawn for it: the same for the same audio in the same place alone."""
        return zlib.crc32(self.audio.tobytes(), self.start_sample)


def spectrograms(cache: MelCache, sources: Sequence[Source], padded_frames: Sequence[int]) -> list[Float32]:
    """What `Backend.encode` is given as spectrograms, for a runtime that computes none itself."""
    return [
        cache.padded(source.stream_id, source.start_sample, source.audio, frames)
        for source, frames in zip(sources, padded_frames, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Generated:
    """What the decoder made of one window.

    Attributes:
        tokens: with the forced prefix, without the end of text.
        no_speech_probability: of the no-speech token at the start of transcript.
    """

    tokens: list[int]
    no_speech_probability: float


class Backend(Protocol[Encoded]):
    """A Whisper model in some runtime. ``Encoded`` is its encoder output for a batch."""

    @property
    def ragged(self) -> bool:
        """Whether the windows of one call of `encode` may differ in length, the prompts of one call of `generate` too,
        and the start sequences of one call of `align` in everything but length.
        """
        ...

    @property
    def multilingual(self) -> bool:
        """Whether it knows languages other than English, and translation."""
        ...

    def encode(
        self, sources: Sequence[Source], padded_frames: Sequence[int], *, anew: bool = False
    ) -> Encoded:
        """Encode windows of audio.

        Args:
            sources: the audio; at least one frame each.
            padded_frames: how many mel frames each is lengthened to: even, and equal, if not `ragged`.
            anew: not by way of earlier passes.
        """
        ...

    def take(self, encoded: Encoded, rows: Sequence[int]) -> Encoded:
        """Some rows of an encoder output, as a batch of their own; all of them in order is the output
        itself.
        """
        ...

    def detect_languages(self, encoded: Encoded) -> list[dict[str, float]]:
        """Probability of each language, for each row."""
        ...

    def generate(
        self,
        encoded: Encoded,
        prompts: Sequence[Sequence[int]],
        prefixes: Sequence[Sequence[int]],
        *,
        max_tokens: Sequence[int],
        beam_size: int,
        suppress_blank: bool,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[Generated]:
        """Decode each row behind its prompt (of equal length, if not `ragged`) and prefix (of any).

        Args:
            encoded: the windows.
            prompts: of each row.
            prefixes: of each row.
            max_tokens: what each row may have, prefix included. More is allowed where a runtime knows one limit for
                all.
            beam_size: beams of each row; 1 is greedy.
            suppress_blank: forbid an empty answer as the first token.
            temperature: above 0, so many samples are drawn for each row instead, and the best is the answer.
            seeds: of what is drawn for each row, where a runtime has a random generator for each.
        """
        ...

    def align(
        self,
        encoded: Encoded,
        start_sequence: Sequence[int],
        texts: Sequence[Sequence[int]],
        frames: Sequence[int],
    ) -> list[Alignment]:
        """When each token of each row's text was said, given how many mel frames of the row are audio."""
        ...

    def tokenizer(self, language: str, task: Task) -> TextTokenizer:
        """The tokenizer for a language and task."""
        ...
