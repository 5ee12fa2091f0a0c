"""The parts that Whisper's encoder and decoder are made of, over weights on a device."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_whisper_streaming.engines.torch.runtime import Tensor, functional, torch
from ray_whisper_streaming.engines.weights import WhisperWeights

__all__ = ["FeedForward", "Linear", "Norm", "Parameters", "added_and_normalised", "attend", "joined", "split"]


@dataclass(frozen=True, slots=True)
class Linear:
    """``weight``: shape (outputs, inputs)."""

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)

    def __call__(self, value: Tensor) -> Tensor:
        """Shape (..., inputs) to (..., outputs)."""
        return functional.linear(value, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm over the last dimension."""

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)

    def __call__(self, value: Tensor) -> Tensor:
        """The shape stays."""
        return functional.layer_norm(value, self.weight.shape, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class FeedForward:
    """What follows the attentions of a layer, behind a norm."""

    norm: Norm
    widen: Linear
    narrow: Linear

    def __call__(self, normalised: Tensor) -> Tensor:
        """The shape stays; to be added to what was normalised."""
        return self.narrow(functional.gelu(self.widen(normalised)))


class Parameters:
    """A model's numbers on a device, by CTranslate2's names.

    Args:
        weights: of the model.
        device: where they go.
        number_type: a floating-point type of PyTorch's that they take.
    """

    def __init__(self, weights: WhisperWeights, device: Tensor, number_type: Tensor) -> None:
        self.weights = weights
        self.device = device
        self.number_type = number_type

    def tensor(self, name: str) -> Tensor:
        """One of them."""
        return torch.as_tensor(self.weights.tensors[name]).to(self.device, self.number_type)

    def linear(self, name: str) -> Linear:
        """A layer's weight and bias."""
        return Linear(self.tensor(f"{name}/weight"), self.tensor(f"{name}/bias"))

    def norm(self, name: str) -> Norm:
        """The norm in front of a block, or behind all layers."""
        return Norm(self.tensor(f"{name}/layer_norm/gamma"), self.tensor(f"{name}/layer_norm/beta"))

    def feed_forward(self, layer: str) -> FeedForward:
        """The last block of a layer."""
        name = f"{layer}/ffn"
        return FeedForward(self.norm(name), self.linear(f"{name}/linear_0"), self.linear(f"{name}/linear_1"))


def added_and_normalised(hidden: Tensor, change: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """A sum, and the norm of it; shape (..., width). On a GPU in one kernel: most of what it costs is reading it."""
    if change is None:
        return hidden, norm(hidden)
    if hidden.device.type == "cuda":
        from ray_whisper_streaming.engines.torch.kernels import add_and_normalise

        return add_and_normalise(hidden, change, norm.weight, norm.bias)
    hidden = hidden + change
    return hidden, norm(hidden)


def split(value: Tensor, heads: int) -> Tensor:
    """Shape (batch, tokens, width) to (batch, heads, tokens, size)."""
    return value.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(value: Tensor) -> Tensor:
    """Shape (batch, heads, tokens, size) to (batch, tokens, width)."""
    return value.transpose(1, 2).flatten(-2)


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """Attention over all heads in one kernel.

    Args:
        queries: shape (batch, heads, tokens, size).
        keys: shape (batch, heads, positions, size), as values.
        values: what is attended to.
        mask: true where it may be; to be broadcast to (batch, heads, tokens, positions).
        causal: each token sees those before it and itself.
    """
    return functional.scaled_dot_product_attention(queries, keys, values, mask, is_causal=causal)
