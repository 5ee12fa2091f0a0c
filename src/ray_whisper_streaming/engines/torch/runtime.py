"""PyTorch for the modules beside this one, and what it finds on this machine.

The package is an extra: type checkers need not find it, so everything of it counts as `Any`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch as _torch  # pyright: ignore[reportMissingImports]

__all__ = ["Tensor", "functional", "has_gpu", "on_cpu", "to_device", "torch"]

torch: Any = _torch
functional: Any = torch.nn.functional

Tensor: TypeAlias = Any
"""A `torch.Tensor`; shapes are said where it is named."""


def has_gpu() -> bool:
    """Whether this PyTorch was built for CUDA and sees a GPU. Starts nothing on it."""
    return bool(torch.cuda.is_available())


def on_cpu(tensor: Tensor) -> Any:
    """A tensor's numbers as an array; waits until they are computed."""
    return tensor.cpu().numpy()


def to_device(numbers: npt.NDArray[Any], device: Tensor) -> Tensor:
    """A small array as a tensor on a device. On a GPU the copy is queued like all other work, and not waited for."""
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(device, non_blocking=True)
