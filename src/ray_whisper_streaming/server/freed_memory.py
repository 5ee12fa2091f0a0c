"""What a model that is gone has left behind, given back to the system."""

from __future__ import annotations

import ctypes
import gc

__all__ = ["give_back_memory"]


def give_back_memory() -> None:
    """Collect what only holds itself, and return free memory to the system, which glibc keeps for later otherwise.

    Takes up to tenths of a second, so call it from a thread.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other C libraries have none
        trim(0)
