"""``ray-whisper``: its commands, each of which imports what it needs only when it runs."""

from __future__ import annotations

import os
from typing import Annotated

# Ray 2.60 makes every worker of a driver under `uv run` start by `uv run` again, with a copy of the project and the
# network; here the workers run in the environment that is there. Must be set before Ray is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Ray announces a coming change with a warning otherwise; CPU workers never touch a GPU anyway.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray would report its use to its makers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import typer

from ray_whisper_streaming import __version__
from ray_whisper_streaming.cli import client_commands, keys, measure_commands, pool_commands, server_commands
from ray_whisper_streaming.cli.console import Commands

__all__ = ["app", "run"]

app = typer.Typer(
    cls=Commands,
    name="ray-whisper",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ray-whisper {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Many live audio streams into text, with one pool of Whisper workers."""


for command in (
    pool_commands.demo,
    pool_commands.transcribe,
    measure_commands.evaluate,
    client_commands.listen,
    client_commands.top,
    pool_commands.models,
    server_commands.serve,
    pool_commands.pool,
):
    app.command()(command)
app.add_typer(server_commands.config_app, name="config")
app.add_typer(keys.app, name="keys")


def run() -> None:
    """The console script."""
    app()
