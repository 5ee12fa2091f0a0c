"""Whisper's decoder: one pass over prompts of any lengths, then steps of a token per beam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ray_whisper_streaming.engines.torch.attention import attend_one
from ray_whisper_streaming.engines.torch.cache import Cache
from ray_whisper_streaming.engines.torch.layers import (
    FeedForward,
    Linear,
    Norm,
    Parameters,
    added_and_normalised,
    attend,
    joined,
    split,
)
from ray_whisper_streaming.engines.torch.runtime import Tensor, functional, torch

__all__ = ["Decoder"]

_OwnAttention: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attends within the text: layer, queries, keys and values in, what was attended to out; shape (..., width)."""

_WindowAttention: TypeAlias = Callable[[int, Tensor], Tensor]
"""Attends to the window: layer and queries in, what was attended to out; shape (..., width)."""


@dataclass(frozen=True, slots=True)
class _Layer:
    own_norm: Norm
    own_in: Linear
    own_out: Linear
    window_norm: Norm
    window_in: Linear
    window_keys_values: Linear
    window_out: Linear
    feed_forward: FeedForward
    aligned: Tensor | None
    """Its alignment heads, if it has any."""


class Decoder:
    """The decoder's layers over a `Cache`.

    Texts begin at the front of their row. A token sees those before it, so that what stands behind a shorter text is
    never seen, without a mask.
    """

    def __init__(self, parameters: Parameters) -> None:
        weights = parameters.weights
        self._heads = weights.decoder_heads
        self._embeddings = parameters.tensor("decoder/embeddings/weight")
        tied = weights.tensors["decoder/projection/weight"] is weights.tensors["decoder/embeddings/weight"]
        self._projection = self._embeddings if tied else parameters.tensor("decoder/projection/weight")
        self._places = parameters.tensor("decoder/position_encodings/encodings")
        self._norm = parameters.norm("decoder")
        self._layers = [
            _Layer(
                parameters.norm(f"{name}/self_attention"),
                parameters.linear(f"{name}/self_attention/linear_0"),
                parameters.linear(f"{name}/self_attention/linear_1"),
                parameters.norm(f"{name}/attention"),
                parameters.linear(f"{name}/attention/linear_0"),
                parameters.linear(f"{name}/attention/linear_1"),
                parameters.linear(f"{name}/attention/linear_2"),
                parameters.feed_forward(name),
                _heads_of(layer, parameters),
            )
            for layer in range(weights.layers("decoder"))
            for name in [f"decoder/layer_{layer}"]
        ]

    def load(self, cache: Cache, outputs: Sequence[Tensor]) -> None:
        """Put what the encoder made of some windows into the first slots; shape (positions, width) each."""
        together = torch.cat(list(outputs))
        cache.fill(
            (layer.window_keys_values(together) for layer in self._layers),
            [len(output) for output in outputs],
        )

    def read(self, cache: Cache, tokens: Tensor, *, positions: int, beams: int) -> tuple[Tensor, Tensor]:
        """Texts from their beginning, one per window in the first slots; kept in the first row of each.

        Args:
            cache: with the windows.
            tokens: shape (windows, tokens); anything behind the shorter texts.
            positions: of the windows that are looked at: those of the longest or more.
            beams: rows of a slot.

        Returns:
            what `scores` takes, shape (windows, tokens, width); and the queries of the alignment heads, shape (windows,
            tokens, alignment heads, size).
        """
        windows, count = tokens.shape
        rows = slice(0, windows * beams, beams)
        seen = cache.window(windows, positions)

        def own(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            keys, values = split(keys, self._heads), split(values, self._heads)
            cache.own_keys[layer][rows, :, :count] = keys
            cache.own_values[layer][rows, :, :count] = values
            return joined(attend(split(queries, self._heads), keys, values, causal=True))

        def window(layer: int, queries: Tensor) -> Tensor:
            return joined(
                attend(split(queries, self._heads), seen.keys[layer], seen.values[layer], seen.mask)
            )

        return self._through(self._embeddings[tokens] + self._places[:count], own, window)

    def step(self, cache: Cache, *, windows: int, beams: int) -> tuple[Tensor, Tensor]:
        """Go on by the token that `Cache.tokens` and `Cache.places` hold for each row.

        The same step may be done twice: what it writes depends on those alone.

        Args:
            cache: with the windows and texts.
            windows: the first so many slots.
            beams: rows of each.

        Returns:
            what `scores` takes, shape (rows, width); and the queries of the alignment heads, shape (rows, alignment
            heads, size).
        """
        rows = windows * beams
        places = cache.places[:rows]

        def own(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            held = cache.own_keys[layer], cache.own_values[layer]
            return attend_one(queries, *held, places, new=(keys, values))

        def window(layer: int, queries: Tensor) -> Tensor:
            return attend_one(queries, cache.keys[layer], cache.values[layer], cache.lengths, beams=beams)

        return self._through(self._embeddings[cache.tokens[:rows]] + self._places[places], own, window)

    def scores(self, hidden: Tensor) -> Tensor:
        """Of each token to come next: shape (..., width) to (..., vocabulary)."""
        return functional.linear(hidden, self._projection)

    def alignment_keys(self, outputs: Tensor) -> Tensor:
        """What the alignment heads' queries meet: shape (windows, positions, width) to (windows, alignment heads,
        positions, size).
        """
        found: list[Tensor] = []
        for layer in self._layers:
            if layer.aligned is not None:
                width = outputs.shape[-1]
                weight, bias = layer.window_keys_values.weight[:width], layer.window_keys_values.bias[:width]
                chosen = (
                    part.unflatten(0, (self._heads, -1)).index_select(0, layer.aligned).flatten(0, 1)
                    for part in (weight, bias)
                )
                found.append(split(Linear(*chosen)(outputs), len(layer.aligned)))
        return torch.cat(found, dim=1)

    def _through(self, hidden: Tensor, own: _OwnAttention, window: _WindowAttention) -> tuple[Tensor, Tensor]:
        asked: list[Tensor] = []
        change = None
        for number, layer in enumerate(self._layers):
            hidden, normalised = added_and_normalised(hidden, change, layer.own_norm)
            change = layer.own_out(own(number, *layer.own_in(normalised).chunk(3, dim=-1)))
            hidden, normalised = added_and_normalised(hidden, change, layer.window_norm)
            queries = layer.window_in(normalised)
            if layer.aligned is not None:
                asked.append(queries.unflatten(-1, (self._heads, -1)).index_select(-2, layer.aligned))
            change = layer.window_out(window(number, queries))
            hidden, normalised = added_and_normalised(hidden, change, layer.feed_forward.norm)
            change = layer.feed_forward(normalised)
        return added_and_normalised(hidden, change, self._norm)[1], torch.cat(asked, dim=-2)


def _heads_of(layer: int, parameters: Parameters) -> Tensor | None:
    heads = [head for place, head in parameters.weights.alignment_heads if place == layer]
    return torch.tensor(heads, device=parameters.device) if heads else None
