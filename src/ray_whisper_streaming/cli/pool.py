"""``ray-whisper pool``: workers in a Ray cluster, for servers and programs that come and go."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, nullcontext
from typing import Any

import ray as untyped_ray
from rich.console import Console

from ray_whisper_streaming.cli.console import own_signals
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.models import make_pools

__all__ = ["run"]

ray: Any = untyped_ray


async def run(config: ServerConfig, *, quiet: bool) -> None:
    """Keep a pool for each model until SIGTERM or SIGINT.

    Raises:
        PoolError, ModelNotFound: it can't be started.
        ConfigurationError: the cluster has a pool of such a model already.
    """
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    console = Console(stderr=True, highlight=False)
    names = ", ".join(config.model)
    async with AsyncExitStack() as stack:
        starting = asyncio.gather(
            *(stack.enter_async_context(pool) for pool in make_pools(config, named=True))
        )
        stopping = asyncio.create_task(ended.wait())
        with nullcontext() if quiet or not console.is_terminal else console.status(f"loading {names} ..."):
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        await asyncio.gather(starting, return_exceptions=ended.is_set())
        own_signals()
        if not quiet and not ended.is_set():
            address: str = ray.get_runtime_context().gcs_address
            print(f"Workers for {names} are ready in the Ray cluster at {address}.")
            wanted = " ".join(f"--model {model}" for model in config.model)
            print(f"  use them     ray-whisper serve --backend shared {wanted}", flush=True)
        await stopping
