"""Whisper's decoder: one pass over prompts of any lengths, then steps of a token per beam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ray_whisper_streaming.engines.torch.cache import Cache, Window
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

__all__ = ["Decoder"]

_OwnAttention: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attends within the text: layer, queries, keys and values in, what was attended to out; shape (windows, tokens,
width)."""


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
        side_by_side = torch.nn.utils.rnn.pad_sequence(list(outputs), batch_first=True)
        for number, layer in enumerate(self._layers):
            keys, values = layer.window_keys_values(side_by_side).chunk(2, dim=-1)
            cache.fill(number, split(keys, self._heads), split(values, self._heads))
        cache.set_lengths([len(output) for output in outputs])

    def read(self, cache: Cache, tokens: Tensor, *, positions: int, beams: int) -> tuple[Tensor, Tensor]:
        """Texts from their beginning, one per window in the first slots; kept in the first row of each.

        Args:
            cache: with the windows.
            tokens: shape (windows, tokens); anything behind the shorter texts.
            positions: of the windows that are looked at: those of the longest or more.
            beams: rows of a slot.

        Returns:
            what `scores` takes, shape (windows, tokens, width); and the alignment heads' attention, shape (windows,
            alignment heads, tokens, positions).
        """
        windows, count = tokens.shape
        rows = torch.arange(windows, device=tokens.device) * beams

        def own(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            keys, values = split(keys, self._heads), split(values, self._heads)
            cache.own_keys[layer][rows, :, :count] = keys
            cache.own_values[layer][rows, :, :count] = values
            return joined(attend(split(queries, self._heads), keys, values, causal=True))

        hidden = self._embeddings[tokens] + self._places[:count]
        return self._through(hidden, own, cache.window(windows, positions))

    def step(
        self, cache: Cache, *, windows: int, beams: int, tokens: int, positions: int
    ) -> tuple[Tensor, Tensor]:
        """Go on by the token that `Cache.tokens` and `Cache.places` hold for each row.

        The same step may be done twice: what it writes depends on those alone.

        Args:
            cache: with the windows and texts.
            windows: the first so many slots.
            beams: rows of each.
            tokens: of a text that are looked at: those of the longest, the new one included, or more.
            positions: the same for windows.

        Returns:
            what `scores` takes, shape (windows, beams, width); and the alignment heads' attention, shape (windows,
            alignment heads, beams, positions).
        """
        rows = windows * beams
        every = torch.arange(rows, device=cache.device)
        places = cache.places[:rows]
        seen = (torch.arange(tokens, device=cache.device) <= places[:, None])[:, None, None]

        def own(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            # A beam is a text of one token here.
            queries, keys, values = (
                split(part.reshape(rows, 1, -1), self._heads) for part in (queries, keys, values)
            )
            all_keys, all_values = cache.own_keys[layer], cache.own_values[layer]
            all_keys[every, :, places] = keys[:, :, 0]
            all_values[every, :, places] = values[:, :, 0]
            attended = attend(queries, all_keys[:rows, :, :tokens], all_values[:rows, :, :tokens], seen)
            return joined(attended).view(windows, beams, -1)

        hidden = self._embeddings[cache.tokens[:rows]] + self._places[places]
        return self._through(hidden.view(windows, beams, -1), own, cache.window(windows, positions))

    def scores(self, hidden: Tensor) -> Tensor:
        """Of each token to come next: shape (..., width) to (..., vocabulary), float32."""
        return functional.linear(hidden, self._projection).float()

    def _through(self, hidden: Tensor, own: _OwnAttention, window: Window) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        for number, layer in enumerate(self._layers):
            hidden = hidden + layer.own_out(
                own(number, *layer.own_in(layer.own_norm(hidden)).chunk(3, dim=-1))
            )
            queries = split(layer.window_in(layer.window_norm(hidden)), self._heads)
            keys, values = window.keys[number], window.values[number]
            hidden = hidden + layer.window_out(joined(attend(queries, keys, values, window.mask)))
            if layer.aligned is not None:
                queries, keys = (part.index_select(1, layer.aligned) for part in (queries, keys))
                seen.append(_shares(queries, keys, window.mask))
            hidden = layer.feed_forward(hidden)
        return self._norm(hidden), torch.cat(seen, dim=1)


def _heads_of(layer: int, parameters: Parameters) -> Tensor | None:
    heads = [head for place, head in parameters.weights.alignment_heads if place == layer]
    return torch.tensor(heads, device=parameters.device) if heads else None


def _shares(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """What `attend` weighs the values by, which it does not tell; float32."""
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    return scores.float().masked_fill(~mask, float("-inf")).softmax(dim=-1)
