"""Waiting for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["within"]

T = TypeVar("T")


async def within(timeout_s: float | None, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the work returns, which begins here; it is cancelled where it takes longer.

    `asyncio.wait_for` can lose a cancellation that comes together with what it waits for, and with a timeout of 0 it
    does not begin at all. Here the work goes as far as it can without waiting, whatever the timeout.

    Raises:
        asyncio.TimeoutError: it took longer.
    """
    task = asyncio.ensure_future(work())
    try:
        done, _ = await asyncio.wait((task,), timeout=timeout_s)
        if not done:
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()
