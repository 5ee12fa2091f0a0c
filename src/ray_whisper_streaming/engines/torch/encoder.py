"""Whisper's encoder, for windows of any lengths side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_whisper_streaming.engines.backend import FRAMES_PER_POSITION
from ray_whisper_streaming.engines.mel import Float32
from ray_whisper_streaming.engines.torch.layers import (
    FeedForward,
    Linear,
    Norm,
    Parameters,
    attend,
    joined,
    split,
)
from ray_whisper_streaming.engines.torch.runtime import Tensor, functional, torch

__all__ = ["Encoder"]


@dataclass(frozen=True, slots=True)
class _Layer:
    norm: Norm
    queries_keys_values: Linear
    out: Linear
    feed_forward: FeedForward


class Encoder:
    """Encodes windows; what comes out for one does not depend on its neighbours, but for rounding.

    Windows of one length need no mask, which lets the quickest attention be used; those of a batch are sorted by
    length, so that little is padded.

    Args:
        parameters: of the model.
        batch: windows computed at once.
    """

    def __init__(self, parameters: Parameters, *, batch: int) -> None:
        self._batch = batch
        self._device, self._number_type = parameters.device, parameters.number_type
        self._heads = parameters.weights.encoder_heads
        self._convolutions = [parameters.linear(f"encoder/conv{number}") for number in (1, 2)]
        self._positions = parameters.tensor("encoder/position_encodings/encodings")
        names = [f"encoder/layer_{layer}" for layer in range(parameters.weights.layers("encoder"))]
        self._layers = [
            _Layer(
                parameters.norm(f"{name}/self_attention"),
                parameters.linear(f"{name}/self_attention/linear_0"),
                parameters.linear(f"{name}/self_attention/linear_1"),
                parameters.feed_forward(name),
            )
            for name in names
        ]
        self._norm = parameters.norm("encoder")

    def run(self, mels: Sequence[Float32]) -> list[Tensor]:
        """Encode spectrograms of shape (bands, frames), frames even: for each, shape (positions, width)."""
        order = sorted(range(len(mels)), key=lambda index: mels[index].shape[1])
        found: dict[int, Tensor] = {}
        for first in range(0, len(order), self._batch):
            rows = order[first : first + self._batch]
            frames = [mels[row].shape[1] for row in rows]
            padded = np.zeros((len(rows), mels[rows[0]].shape[0], frames[-1]), np.float32)
            for place, row in enumerate(rows):
                padded[place, :, : frames[place]] = mels[row]
            ragged = frames[0] != frames[-1]
            output = self(
                torch.from_numpy(padded).to(self._device, self._number_type),
                torch.tensor(frames, device=self._device) if ragged else None,
            )
            for place, row in enumerate(rows):
                found[row] = output[place, : frames[place] // FRAMES_PER_POSITION]
        return [found[row] for row in range(len(mels))]

    def __call__(self, mels: Tensor, frames: Tensor | None = None) -> Tensor:
        """One pass.

        Args:
            mels: shape (windows, bands, frames), zeros behind the shorter ones.
            frames: of each window, where they differ.

        Returns:
            shape (windows, positions, width); of no meaning behind a window's end.
        """
        first, second = self._convolutions
        hidden = functional.gelu(functional.conv1d(mels, first.weight, first.bias, padding=1))
        # No convolution's output within a window reaches behind it, but for the zeros that a lone one sees there too.
        hidden = functional.gelu(
            functional.conv1d(hidden, second.weight, second.bias, stride=FRAMES_PER_POSITION, padding=1)
        ).transpose(1, 2)
        hidden = hidden + self._positions[: hidden.shape[1]]
        mask = None
        if frames is not None:
            inside = (
                torch.arange(hidden.shape[1], device=hidden.device) < frames[:, None] // FRAMES_PER_POSITION
            )
            mask = inside[:, None, None]
        for layer in self._layers:
            queries, keys, values = layer.queries_keys_values(layer.norm(hidden)).chunk(3, dim=-1)
            attended = attend(
                split(queries, self._heads), split(keys, self._heads), split(values, self._heads), mask
            )
            hidden = layer.feed_forward(hidden + layer.out(joined(attended)))
        return self._norm(hidden)
