"""One trial: so many streams at once on one pool, and the row of figures that comes of it."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

from ray_whisper_streaming.api import AsyncPool
from ray_whisper_streaming.bench.load import DRAIN_LIMIT_S, run_streams
from ray_whisper_streaming.bench.machine import MemoryPeak
from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.bench.report import make_row, pool_use
from ray_whisper_streaming.core.options import StreamOptions

__all__ = ["run_trial"]


async def run_trial(
    pool: AsyncPool,
    materials: Sequence[Clip],
    options: StreamOptions,
    *,
    language: str = "en",
    texts: bool = False,
    drain_limit_s: float = DRAIN_LIMIT_S,
) -> dict[str, Any]:
    """Play the materials, one stream each, and measure. Arguments: see `run_streams` and `make_row`."""
    gc.collect()
    before, began_s = await pool.stats(), time.monotonic()
    with MemoryPeak() as memory:
        logs = await run_streams(pool, materials, options, drain_limit_s=drain_limit_s)
    wall_s, after = time.monotonic() - began_s, await pool.stats()
    audio_s = sum(clip.seconds for clip in materials)
    return {
        **make_row(materials, logs, language=language, texts=texts),
        **pool_use(before, after, wall_s=wall_s, audio_s=audio_s),
        "peak_rss_mb": memory.peak_mb,
    }
