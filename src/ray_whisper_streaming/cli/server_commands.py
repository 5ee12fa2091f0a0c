"""The server, and its configuration."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import typer

from ray_whisper_streaming.cli.options import Quiet, Verbose
from ray_whisper_streaming.cli.settings import with_settings
from ray_whisper_streaming.server.config import ServerConfig, to_toml

__all__ = ["config_app", "serve"]

config_app = typer.Typer(help="The server's configuration.", no_args_is_help=True)


@with_settings(verbose=(Verbose, 0), quiet=(Quiet, False))
def serve(config: ServerConfig, sources: dict[str, str], *, verbose: int, quiet: bool) -> None:
    """Serve live transcription over WebSocket, HTTP and TCP, until SIGTERM or Ctrl-C.

    Clients of this machine need no key; others do (ray-whisper keys). On SIGTERM nobody is let in any more, running
    sessions may end, and the process exits within the time that --drain-s says.

    Exit codes: 0 ended by a signal, in good order; 1 the model or the address could not be had; 2 wrong usage.
    """
    from ray_whisper_streaming.cli import serve as program

    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    program.configure_logging(config, level)
    raise typer.Exit(_fast_loop()(program.run(config, quiet=quiet)))


@config_app.command("show")
@with_settings()
def show_config(config: ServerConfig, sources: dict[str, str]) -> None:
    """Print the configuration that 'serve' would run with, as a file for --config, and where each value comes from."""
    print(to_toml(config, sources), end="")


def _fast_loop() -> Callable[[Coroutine[Any, Any, int]], int]:
    """uvloop's runner; asyncio's own where uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run
