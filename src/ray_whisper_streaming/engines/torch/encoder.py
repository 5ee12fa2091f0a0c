"""Whisper's encoder, for windows of any lengths one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_whisper_streaming.engines.backend import FRAMES_PER_POSITION, Source
from ray_whisper_streaming.engines.torch.attention import Spans, attend_within
from ray_whisper_streaming.engines.torch.layers import (
    FeedForward,
    Linear,
    Norm,
    Parameters,
    added_and_normalised,
)
from ray_whisper_streaming.engines.torch.memory import WINDOW_POSITIONS
from ray_whisper_streaming.engines.torch.runtime import Tensor, functional, to_device
from ray_whisper_streaming.engines.torch.spectrogram import Spectrogram

__all__ = ["Encoder"]


@dataclass(frozen=True, slots=True)
class _Layer:
    norm: Norm
    queries_keys_values: Linear
    out: Linear
    feed_forward: FeedForward


class Encoder:
    """Encodes windows; what comes out for one does not depend on its neighbours, but for rounding.

    From the convolutions on, the windows of a batch stand one behind the other, without padding: shorter ones cost
    less. For the convolutions they are sorted by length, so that little is padded there.

    Args:
        parameters: of the model.
        batch: windows of full length computed at once; of shorter ones, so many more.
    """

    def __init__(self, parameters: Parameters, *, batch: int) -> None:
        self._frames_at_once = batch * WINDOW_POSITIONS * FRAMES_PER_POSITION
        self._device = parameters.device
        self._heads = parameters.weights.encoder_heads
        self.spectrogram = Spectrogram(
            parameters.weights.mel_bands, parameters.device, parameters.number_type
        )
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

    def run(self, sources: Sequence[Source], padded_frames: Sequence[int]) -> list[Tensor]:
        """Encode windows of audio, lengthened to so many frames: for each, shape (positions, width)."""
        order = sorted(range(len(sources)), key=lambda row: padded_frames[row])
        sounds = self.spectrogram.upload([sources[row].audio for row in order])
        audible = to_device(np.array([sources[row].frames for row in order]), self._device)
        found: dict[int, Tensor] = {}
        first = 0
        while first < len(order):
            last = first + 1
            while (
                last < len(order) and (last + 1 - first) * padded_frames[order[last]] <= self._frames_at_once
            ):
                last += 1
            rows = order[first:last]
            mels = self.spectrogram(sounds[first:last], audible[first:last], padded_frames[rows[-1]])
            found |= zip(rows, self(mels, [padded_frames[row] for row in rows]), strict=True)
            first = last
        return [found[row] for row in range(len(sources))]

    def __call__(self, mels: Tensor, frames: Sequence[int]) -> Sequence[Tensor]:
        """One pass.

        Args:
            mels: shape (windows, bands, frames), zeros behind the shorter ones.
            frames: of each window, even.

        Returns:
            of each window, shape (positions, width).
        """
        first, second = self._convolutions
        hidden = functional.gelu(functional.conv1d(mels, first.weight, first.bias, padding=1))
        # No convolution's output within a window reaches behind it, but for the zeros that a lone one sees there too.
        hidden = functional.gelu(
            functional.conv1d(hidden, second.weight, second.bias, stride=FRAMES_PER_POSITION, padding=1)
        )
        # As it is wanted from here on: a transposed view would stay one through all sums to come, and slow them down.
        hidden = hidden.transpose(1, 2).contiguous()
        lengths = [count // FRAMES_PER_POSITION for count in frames]
        hidden = _packed(hidden + self._positions[: hidden.shape[1]], lengths)
        spans = Spans.of(lengths, hidden.device)
        change = None
        for layer in self._layers:
            hidden, normalised = added_and_normalised(hidden, change, layer.norm)
            queries, keys, values = layer.queries_keys_values(normalised).chunk(3, dim=-1)
            change = layer.out(attend_within(queries, keys, values, spans, self._heads))
            hidden, normalised = added_and_normalised(hidden, change, layer.feed_forward.norm)
            change = layer.feed_forward(normalised)
        return added_and_normalised(hidden, change, self._norm)[1].split(lengths)


def _packed(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """Windows one behind the other: shape (windows, positions, width) to (positions of all, width)."""
    width: int = hidden.shape[1]
    if all(length == width for length in lengths):
        return hidden.flatten(0, 1)
    kept = np.arange(width) < np.array(lengths)[:, None]
    return hidden.flatten(0, 1)[to_device(np.flatnonzero(kept), hidden.device)]
