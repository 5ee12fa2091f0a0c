"""PyTorch for the modules beside this one, and what it finds on this machine.

The package is an extra: type checkers need not find it, so everything of it counts as `Any`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch as _torch  # pyright: ignore[reportMissingImports]

__all__ = ["Tensor", "functional", "gpu_lost", "has_gpu", "on_cpu", "packed_attention", "to_device", "torch"]

torch: Any = _torch
functional: Any = torch.nn.functional

Tensor: TypeAlias = Any
"""A `torch.Tensor`; shapes are said where it is named."""


def has_gpu() -> bool:
    """Whether this PyTorch was built for CUDA and sees a GPU. Starts nothing on it."""
    return bool(torch.cuda.is_available())


def gpu_lost() -> bool:
    """Whether the GPU fails at whatever this process asks of it, as CUDA says of errors such as an illegal address or a
    failed assertion: all calls from then on return the same error, until the process ends (CUDA Runtime API,
    ``cudaError_t``). So it is asked, which needs no list of errors and texts; want of memory does not count, since
    waiting takes none.
    """
    if not torch.cuda.is_initialized():
        return False
    try:
        # Not the whole device: another thread may be recording a graph on a stream of its own.
        torch.cuda.current_stream().synchronize()
    except RuntimeError:
        return True
    return False


def on_cpu(tensor: Tensor) -> Any:
    """A tensor's numbers as an array; waits until they are computed."""
    return tensor.cpu().numpy()


def to_device(numbers: npt.NDArray[Any], device: Tensor) -> Tensor:
    """A small array as a tensor on a device. On a GPU the copy is queued like all other work, and not waited for."""
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(device, non_blocking=True)


def packed_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    bounds: tuple[Tensor, Tensor],
    longest: tuple[int, int],
) -> Tensor:
    """Attention within sequences one behind the other, for GPUs and numbers of 16 bits.

    Args:
        queries: shape (positions of all, heads, size), as what comes back.
        keys: what is compared, of as many sequences.
        values: what is attended to, as keys.
        bounds: where each sequence of queries begins and, last, where the last one ends, int32; the same of the keys.
        longest: positions of the longest of each.
    """
    # Not where PyTorch is loaded: its own module asks for parts that are not in every build.
    varlen: Any = import_module("torch.nn.attention.varlen")
    return varlen.varlen_attn(queries, keys, values, *bounds, *longest)
