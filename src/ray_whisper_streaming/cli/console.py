"""What is around every command: complaints on stderr, exit codes, the log."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TextIO, cast

import typer
from rich.console import Console
from typer.core import TyperGroup

from ray_whisper_streaming.errors import ConfigurationError, ModelNotFound, RayWhisperError

__all__ = [
    "FAILURE",
    "INTERRUPTED",
    "Commands",
    "StdoutConsole",
    "complain",
    "configure_logging",
    "errors",
    "own_signals",
]

FAILURE = 1
USAGE_ERROR = 2
"""As click's own."""
INTERRUPTED = 130
"""As shells have it: 128 and the number of SIGINT."""

errors = Console(stderr=True, highlight=False)


class StdoutConsole(Console):
    """stdout, written to in tasks too."""

    def __init__(self) -> None:
        super().__init__(highlight=False)

    def on_broken_pipe(self) -> None:
        """Pass it on, as `print` does: rich would end the process, in the middle of a task."""
        raise BrokenPipeError


class _ClosedStdout(io.StringIO):
    """What is told of a closed stdout (``>&-``), to which Python otherwise prints without a word."""

    def write(self, s: str, /) -> int:
        raise OSError("stdout is closed")


class Commands(TyperGroup):
    """Commands whose errors are told in a sentence, and become exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        if cast("TextIO | None", sys.stdout) is None:
            sys.stdout = _ClosedStdout()
        with _exit_codes():
            return super().invoke(ctx)


def complain(problem: object) -> None:
    """Say what went wrong."""
    errors.print(f"ray-whisper: {problem}", style="red", markup=False, soft_wrap=True)


def configure_logging(verbose: int, quiet: bool) -> None:
    """Log to stderr: warnings, and of this package more or less."""
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(
        level=max(level, logging.WARNING), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("ray_whisper_streaming").setLevel(level)


def own_signals() -> None:
    """Once Ray has started, it prints its stack at SIGTERM before Python hears of it: take the signals back."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.getsignal(number))


@contextmanager
def _exit_codes() -> Generator[None]:
    try:
        yield
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing to complain about, and nowhere to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (RayWhisperError, OSError) as error:
        complain(error)
        wrong_usage = isinstance(error, ConfigurationError) and not isinstance(error, ModelNotFound)
        raise typer.Exit(USAGE_ERROR if wrong_usage else FAILURE) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
