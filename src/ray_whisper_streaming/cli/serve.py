"""``ray-whisper serve``: the server, from its configuration to its end."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import nullcontext

from rich.console import Console

from ray_whisper_streaming.cli.console import own_signals
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.logs import JsonFormatter, TextFormatter
from ray_whisper_streaming.server.models import make_pools
from ray_whisper_streaming.server.serving import Server, calm_collector, check_exposure

__all__ = ["configure_logging", "run"]


async def run(config: ServerConfig, *, quiet: bool = False) -> int:
    """Serve until SIGTERM or SIGINT, and end in good order. Returns the exit code.

    Raises:
        ConfigurationError, PoolError, OSError: it can't be started.
    """
    check_exposure(config)  # before a model is loaded
    server = Server(Gateway(make_pools(config), config))
    console = Console(stderr=True, highlight=False)
    ready = asyncio.Event()
    waiting = (
        nullcontext()
        if quiet or not sys.stderr.isatty()
        else console.status(f"loading {', '.join(config.model)} ...")
    )

    async def show_waiting() -> None:
        with waiting:
            await ready.wait()

    showing = asyncio.create_task(show_waiting())

    def announce() -> None:
        ready.set()
        own_signals()
        calm_collector()
        if not quiet:
            print("\n".join(_addresses(server, config)), flush=True)

    try:
        await server.run(announce)
    finally:
        ready.set()
        await showing
    return 0


def configure_logging(config: ServerConfig, level: int) -> None:
    """Log to stderr in the format the configuration says."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else TextFormatter())
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("ray_whisper_streaming").setLevel(level)


def _addresses(server: Server, config: ServerConfig) -> list[str]:
    lines = [
        f"Serving {', '.join(config.model)} on {server.url}",
        f"  captions     {server.url}/ in a browser; the pool: {server.url}/status",
        f"  live audio   {server.url.replace('http', 'ws', 1)}/v1/stream",
    ]
    if server.tcp_port is not None:
        lines.append(f"  raw TCP      nc {config.host} {server.tcp_port}")
    if config.keys_file is None:
        lines.append("  No keys: whoever reaches it may use it.")
    return lines
