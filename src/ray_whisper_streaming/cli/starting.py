"""Starting a pool while telling what is waited for, and stopping it whatever happens."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ray_whisper_streaming import AsyncPool

__all__ = ["started_pool"]

TELL_S = 0.2


@asynccontextmanager
async def started_pool(tell: Callable[[str], None], **options: Any) -> AsyncGenerator[AsyncPool, None]:
    """A started `AsyncPool` made from ``options``; ``tell`` is called with what is being waited for."""
    pool = AsyncPool(**options)
    began_at = time.monotonic()
    starting = asyncio.create_task(pool.start())
    try:
        while not starting.done():
            what = (
                "starting Ray"
                if options["backend"] != "local" and not _ray_is_up()
                else f"loading {pool.model}"
            )
            tell(f"{what} ... {time.monotonic() - began_at:.0f} s")
            await asyncio.wait([starting], timeout=TELL_S)
        await starting
        yield pool
    finally:
        tell("ending ...")
        # Closing also ends a start that is still going on, which would otherwise hold up Ctrl-C.
        await pool.aclose()
        await asyncio.gather(starting, return_exceptions=True)


def _ray_is_up() -> bool:
    ray: Any = sys.modules.get("ray")
    return bool(ray and ray.is_initialized())
