"""Whisper's encoder, for windows of any lengths one behind the other, and for what is new in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ray_whisper_streaming.engines.backend import FRAMES_PER_POSITION, Source
from ray_whisper_streaming.engines.torch.attention import attend_within
from ray_whisper_streaming.engines.torch.layers import (
    FeedForward,
    Linear,
    Norm,
    Parameters,
    added_and_normalised,
)
from ray_whisper_streaming.engines.torch.memory import WINDOW_POSITIONS, shape_of
from ray_whisper_streaming.engines.torch.passes import Part, Pass
from ray_whisper_streaming.engines.torch.remembered import Remembered
from ray_whisper_streaming.engines.torch.runtime import Tensor, functional, to_device, torch
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
    less. For the convolutions they are sorted by length, so that little is padded there. With a memory, only what is
    new in a stream's window is computed (`engines.remembering`), and attends to what is remembered as well.

    Args:
        parameters: of the model.
        batch: windows of full length computed at once; of shorter ones, so many more.
        memory: of the windows of streams; None remembers nothing.
    """

    def __init__(self, parameters: Parameters, *, batch: int, memory: Remembered | None = None) -> None:
        self._frames_at_once = batch * WINDOW_POSITIONS * FRAMES_PER_POSITION
        self._device = parameters.device
        self._heads = parameters.weights.encoder_heads
        self._memory = memory or Remembered(
            shape_of(parameters.weights), 0, device=parameters.device, number_type=parameters.number_type
        )
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

    def run(
        self, sources: Sequence[Source], padded_frames: Sequence[int], *, anew: bool = False
    ) -> list[Tensor]:
        """Encode windows of audio, lengthened to so many frames: for each, shape (positions, width).

        ``anew``: without the memory.
        """
        if anew:
            return self._run(sources, [Part(frames) for frames in padded_frames])
        known = [self._memory.recall(source) for source in sources]
        parts = [
            Part(frames, one.positions if one else 0, self._memory.settle(source, one))
            for source, frames, one in zip(sources, padded_frames, known, strict=True)
        ]
        try:
            return self._run(sources, parts)
        except BaseException:
            self._memory.forget(sources)
            raise
        finally:
            self._memory.release()

    def _run(self, sources: Sequence[Source], parts: Sequence[Part]) -> list[Tensor]:
        order = sorted(range(len(sources)), key=lambda row: parts[row].length)
        sounds = self.spectrogram.upload([sources[row].audio for row in order])
        audible = to_device(np.array([sources[row].frames for row in order]), self._device)
        found: dict[int, Tensor] = {}
        for piece in _pieces(
            [parts[row].length * FRAMES_PER_POSITION for row in order], self._frames_at_once
        ):
            rows = order[piece]
            computed = [parts[row] for row in rows]
            mels = self._spectrograms(sounds[piece], audible[piece], computed)
            found |= zip(rows, self(mels, computed), strict=True)
        return [found[row] for row in range(len(sources))]

    def _spectrograms(self, sounds: Tensor, audible: Tensor, parts: Sequence[Part]) -> Tensor:
        """What the convolutions are given, side by side; shape (windows, bands, frames), zeros behind the shorter."""
        count = max((part.length + part.overlap) * FRAMES_PER_POSITION for part in parts)
        begins = np.array([part.begin for part in parts])
        longest = max(part.frames for part in parts)
        found: list[Tensor] = []
        # All of a window's audio counts as to how loud it is, so that more is computed than taken.
        for piece in _pieces([longest] * len(parts), self._frames_at_once):
            mels = self.spectrogram(sounds[piece], audible[piece], longest + 1)
            # The last of them is behind all audio: zeros.
            columns = to_device(np.minimum(begins[piece, None] + np.arange(count), longest), self._device)
            found.append(mels.gather(2, columns[:, None].expand(-1, mels.shape[1], -1)))
        return found[0] if len(found) == 1 else torch.cat(found)

    def __call__(self, mels: Tensor, parts: Sequence[Part]) -> list[Tensor]:
        """One pass.

        Args:
            mels: the frames of each part from `Part.begin` on, shape (windows, bands, frames); with zeros
                behind the shorter ones.
            parts: what is computed of each window.

        Returns:
            of each window, what is remembered included, shape (positions, width).
        """
        first, second = self._convolutions
        hidden = functional.gelu(functional.conv1d(mels, first.weight, first.bias, padding=1))
        # No convolution's output within a window reaches behind it, but for the zeros that a lone one sees there too.
        hidden = functional.gelu(
            functional.conv1d(hidden, second.weight, second.bias, stride=FRAMES_PER_POSITION, padding=1)
        )
        pass_ = Pass(parts, self._device)
        # As it is wanted from here on: a transposed view would stay one through all sums to come, and slow them down.
        hidden = hidden.transpose(1, 2).contiguous()
        hidden = pass_.packed(hidden) + self._positions[pass_.encodings]
        change = None
        for number, layer in enumerate(self._layers):
            hidden, normalised = added_and_normalised(hidden, change, layer.norm)
            queries, keys_values = layer.queries_keys_values(normalised).split(
                [hidden.shape[1], 2 * hidden.shape[1]], dim=-1
            )
            put, get = partial(self._memory.put, number), partial(self._memory.get, number)
            keys, values = _with_remembered(pass_, keys_values, put, get).chunk(2, dim=-1)
            change = layer.out(attend_within(queries, keys, values, pass_.new, pass_.all, self._heads))
            hidden, normalised = added_and_normalised(hidden, change, layer.feed_forward.norm)
            change = layer.feed_forward(normalised)
        outputs = added_and_normalised(hidden, change, self._norm)[1]
        outputs = _with_remembered(pass_, outputs, self._memory.put_outputs, self._memory.outputs)
        return list(outputs.split(pass_.all.lengths))


def _with_remembered(
    pass_: Pass, new: Tensor, put: Callable[[Tensor, Tensor], None], get: Callable[[Tensor], Tensor]
) -> Tensor:
    """What is remembered and what is new of all windows, from what is new, some of which is remembered from now on."""
    if pass_.kept is not None:
        put(pass_.kept_rows, new[pass_.kept])
    if pass_.known_rows is None:
        return new
    return pass_.joined(get(pass_.known_rows), new)


def _pieces(frames: Sequence[int], at_once: int) -> Iterator[slice]:
    """Slices of windows in order of length, each of so few that, padded to the longest, they are no more frames."""
    first = 0
    while first < len(frames):
        last = first + 1
        while last < len(frames) and (last + 1 - first) * frames[last] <= at_once:
            last += 1
        yield slice(first, last)
        first = last
