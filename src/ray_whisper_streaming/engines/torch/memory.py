"""How much memory a model takes, and what batch fits a limit. Pure: no PyTorch.

The buffers that stay (weights, `engines.torch.cache`, `engines.torch.remembered`) are counted to the byte; what is
needed for a moment is estimated from above. (docs/decisions/2026-11-27-torch-engine.md has what was planned beside what
was taken on a GPU.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ray_whisper_streaming.engines.tokens import MAX_TOKENS
from ray_whisper_streaming.engines.weights import WhisperWeights
from ray_whisper_streaming.errors import ConfigurationError

__all__ = [
    "ALIGNED_AT_ONCE",
    "MAX_POSITIONS",
    "MAX_STEPS",
    "TEXT_POSITIONS",
    "WINDOW_POSITIONS",
    "MemoryPlan",
    "ModelShape",
    "plan_memory",
    "position_bytes",
    "shape_of",
]

WINDOW_POSITIONS = 1500
"""Positions of a window of 30 s."""

MAX_POSITIONS = 1504
"""The same, rounded up to what attention kernels like to have in a row (a multiple of 16)."""

TEXT_POSITIONS = 448
"""Tokens of a text, context included: all that Whisper's decoder has positions for."""

MAX_STEPS = MAX_TOKENS
"""Steps of a decode: none has more new tokens."""

ENCODED_AT_ONCE = 16 * 1280
"""Windows encoded at once, times the model's width: 16 of the large models, more of small ones, keep a GPU busy; more
would be padded for the longest of them."""

LEAST_ROWS = 20
"""Beams there is always room for, be there one slot: the most that a job may ask for on the command line."""

ENCODER_NUMBERS = 20
"""Numbers at work for each position and unit of width in the encoder: input, norm, three projections and their heads,
attention, four times the width twice for the feed-forward; and as much again for the convolutions' two frames."""

REMEMBERED_NUMBERS = 6
"""The same for each position remembered, in a layer's turn: keys and values as they are read, and
beside the new ones."""

DECODER_NUMBERS = 16
"""The same for each token of a prompt."""

VOCABULARY_COPIES = 4
"""Arrays of a row's vocabulary in float32 while the best tokens are looked for."""

ALIGNED_AT_ONCE = 1 << 24
"""Numbers of attention (texts, heads, tokens, positions) that are aligned at once; more go in turn. A text of as many
tokens as there can be over a window of 30 s has fewer."""

ALIGNMENT_COPIES = 16
"""Arrays of these at work: a median needs one for each of the values it looks at, and their order."""

FLOAT16_BYTES = 2
FLOAT32_BYTES = 4
INT64_BYTES = 8

REMEMBERED_SHARE = 0.5
"""Of what a limit leaves, how much the encoder's memory of streams takes: a card may have to carry a second model."""

REMEMBERED_BYTES = 256 * 2**20
"""What it takes where there is no limit."""

RESERVE_BYTES = 1 << 30
"""For the CUDA context, cuBLAS's workspaces and captured graphs. An estimate, to be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What of a model decides how much memory it takes.

    Attributes:
        parameters: its numbers, each counted once.
        width: numbers per position.
        heads: of each attention of the decoder.
        encoder_heads: of the encoder.
        encoder_layers: of the encoder.
        decoder_layers: of the decoder.
        vocabulary: its tokens.
        alignment_heads: whose attention is kept.
    """

    parameters: int
    width: int
    heads: int
    encoder_heads: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int
    alignment_heads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """How a batch fits.

    Attributes:
        slots: windows decoded at once.
        rows: beams of all of them.
        encoder_batch: windows encoded at once.
        remembered_positions: of the windows of all streams, what the encoder made of so many positions is kept from
            pass to pass.
        remembered_bytes: of these.
        weight_bytes: of the weights.
        cache_bytes: of the buffers that stay.
        working_bytes: at most, for a moment.
    """

    slots: int
    rows: int
    encoder_batch: int
    weight_bytes: int
    cache_bytes: int
    working_bytes: int
    remembered_positions: int = 0
    remembered_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All that it takes."""
        return (
            self.weight_bytes + self.cache_bytes + self.working_bytes + self.remembered_bytes + RESERVE_BYTES
        )


def shape_of(weights: WhisperWeights) -> ModelShape:
    """The shape of a model that was read."""
    # Two names of one tensor (embeddings and projection) are one.
    different = {id(tensor): tensor.size for tensor in weights.tensors.values()}
    return ModelShape(
        parameters=sum(different.values()),
        width=weights.width,
        heads=weights.decoder_heads,
        encoder_heads=weights.encoder_heads,
        encoder_layers=weights.layers("encoder"),
        decoder_layers=weights.layers("decoder"),
        vocabulary=weights.vocabulary,
        alignment_heads=len(weights.alignment_heads),
    )


def plan_memory(
    shape: ModelShape,
    *,
    number_bytes: int,
    max_batch_size: int,
    beam_size: int = 1,
    limit_bytes: int | None = None,
) -> MemoryPlan:
    """The largest batch, of at most ``max_batch_size``, that fits, and a memory for the encoder out of what is left.

    Args:
        shape: of the model.
        number_bytes: of a number computed with: 2 or 4.
        max_batch_size: windows wanted.
        beam_size: beams of each, where a job names none.
        limit_bytes: what may be used; None for no limit.

    Raises:
        ConfigurationError: a limit that not even one window fits into, or a batch of none.
    """
    if max_batch_size < 1:
        raise ConfigurationError("max_batch_size", max_batch_size, "1 or more")
    plans = (_plan(shape, number_bytes, slots, beam_size) for slots in range(max_batch_size, 0, -1))
    for plan in plans:
        if limit_bytes is None or plan.total_bytes <= limit_bytes:
            left = REMEMBERED_BYTES
            if limit_bytes is not None:
                left = REMEMBERED_SHARE * (limit_bytes - plan.total_bytes)
            each = position_bytes(shape, number_bytes)
            positions = int(left // each)
            return replace(plan, remembered_positions=positions, remembered_bytes=positions * each)
    least = _plan(shape, number_bytes, 1, beam_size).total_bytes
    raise ConfigurationError("memory_limit_bytes", limit_bytes, f"at least {least} for this model")


def position_bytes(shape: ModelShape, number_bytes: int) -> int:
    """What the encoder's memory takes for a position (20 ms of audio)."""
    # Keys and values in 8 bits, a step for those of each head; and what comes out.
    layer = 2 * shape.width + 2 * shape.encoder_heads * FLOAT16_BYTES
    return shape.encoder_layers * layer + shape.width * number_bytes


def _plan(shape: ModelShape, number_bytes: int, slots: int, beam_size: int) -> MemoryPlan:
    rows = max(slots * beam_size, LEAST_ROWS)
    encoder_batch = min(slots, ENCODED_AT_ONCE // shape.width)
    both = 2 * shape.decoder_layers * shape.width * number_bytes
    asked = shape.alignment_heads * (shape.width // shape.heads) * number_bytes
    cache_bytes = (
        slots * (both * MAX_POSITIONS + INT64_BYTES)
        + rows * (both * TEXT_POSITIONS + MAX_STEPS * asked + 2 * INT64_BYTES)
        + MAX_POSITIONS * INT64_BYTES
    )
    # Of each window what the encoder made of it, once more side by side, and one layer's keys and values.
    kept = slots * 4 * shape.width * WINDOW_POSITIONS * number_bytes
    encoding = (encoder_batch * ENCODER_NUMBERS + slots * REMEMBERED_NUMBERS) * (
        shape.width * WINDOW_POSITIONS * number_bytes
    )
    reading = slots * TEXT_POSITIONS * DECODER_NUMBERS * shape.width * number_bytes
    aligning = ALIGNED_AT_ONCE * ALIGNMENT_COPIES * FLOAT32_BYTES
    choosing = rows * VOCABULARY_COPIES * shape.vocabulary * FLOAT32_BYTES
    return MemoryPlan(
        slots=slots,
        rows=rows,
        encoder_batch=encoder_batch,
        weight_bytes=shape.parameters * number_bytes,
        cache_bytes=cache_bytes,
        working_bytes=kept + max(encoding, reading + choosing, aligning),
    )
