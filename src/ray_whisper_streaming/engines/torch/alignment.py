"""`engines.alignment.attention_costs` on the device: a dozen small kernels, and on a CPU most of an answer's cost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.engines.alignment import LEAST_DEVIATION, SMOOTHED_POSITIONS
from ray_whisper_streaming.engines.torch.runtime import Tensor, functional, on_cpu

__all__ = ["attention_costs"]


def attention_costs(attention: Tensor, first_row: int, positions: int) -> npt.NDArray[np.float64]:
    """See `engines.alignment.attention_costs`; ``attention`` is on a device."""
    real = attention[:, :, :positions]
    real = real / real.sum(dim=2, keepdim=True).clamp_min(LEAST_DEVIATION)
    centred = real - real.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
    normalised = (centred / deviation.clamp_min(LEAST_DEVIATION))[:, first_row:]
    reach = SMOOTHED_POSITIONS // 2
    if positions > reach:
        padded = functional.pad(normalised, (reach, reach), mode="reflect")
        normalised = padded.unfold(2, SMOOTHED_POSITIONS, 1).median(dim=3).values
    return -on_cpu(normalised.double().mean(dim=0))
