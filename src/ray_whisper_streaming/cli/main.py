"""``ray-whisper``: the commands and their options."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

# Ray 2.60 makes every worker of a driver under `uv run` start by `uv run` again, with a copy of the project and the
# network; here the workers run in the environment that is there. Must be set before Ray is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Ray announces a coming change with a warning otherwise; CPU workers never touch a GPU anyway.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray would report its use to its makers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import typer
from rich.console import Console

from ray_whisper_streaming import StreamOptions, __version__
from ray_whisper_streaming.cli import keys
from ray_whisper_streaming.cli.settings import with_settings
from ray_whisper_streaming.core.options import AUTO
from ray_whisper_streaming.errors import ConfigurationError, ModelNotFound, RayWhisperError
from ray_whisper_streaming.server.config import ENVIRONMENT_PREFIX, ServerConfig, to_toml

app = typer.Typer(
    name="ray-whisper",
    help="Many live audio streams into text, with one pool of Whisper workers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="The server's configuration.", no_args_is_help=True)
app.add_typer(keys.app, name="keys")
app.add_typer(config_app, name="config")
errors = Console(stderr=True, highlight=False)

FAILURE = 1
USAGE_ERROR = 2
"""As click's own."""
INTERRUPTED = 130
"""As shells have it: 128 and the number of SIGINT."""

ENGLISH_ONLY = ".en"
"""How the names of Whisper's models for English alone end."""

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


class LiveFormatChoice(Enum):
    """What is written of a stream as it comes."""

    text = "text"
    jsonl = "jsonl"


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
Url = Annotated[str, typer.Option(help="Of the server.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar=ENVIRONMENT_PREFIX + "API_KEY",
        help="Key or client token, where the server asks for one.",
        show_default=False,
    ),
]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, help="Log what happens; -vv in detail.", show_default=False),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors: no progress, no warnings.")
]


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
        int | None,
        typer.Option(
            "--streams",
            "-n",
            min=1,
            help="Streams at once; recordings are used again if there are fewer. Else one per recording.",
            show_default=False,
        ),
    ] = None,
    model: Model = "tiny.en",
    language: Language = "auto",
    backend: Backend = BackendChoice.ray,
    device: Device = "auto",
    workers: Workers = None,
    update_interval: Interval = LIVE_INTERVAL_S,
    speed: Annotated[
        float, typer.Option(min=0.1, max=100.0, help="Seconds of audio played per second.")
    ] = 1.0,
    limit_s: Annotated[
        float | None,
        typer.Option(
            "--limit-s", min=0.1, help="Play so many seconds of each recording only.", show_default=False
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Lines instead of the live view; so it is without a terminal.")
    ] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Stream recordings at the pace they were spoken, all at once, with live captions and a closing table.

    Exit codes: 0 all streams ended well; 1 one failed, or the model could not be had; 2 wrong usage; 130 ended by
    Ctrl-C.
    """
    from ray_whisper_streaming.cli import demo as program

    _configure_logging(verbose, quiet)
    options = stream_options(model, language=language, update_interval_s=update_interval)
    _run(
        program.run(
            audio or [],
            streams=streams,
            options=options,
            speed=speed,
            limit_s=limit_s,
            plain=plain,
            pool_options=_pool_options(model, backend, device, workers),
        )
    )


@app.command()
def transcribe(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Recordings of any codec, or folders of them; - takes raw 16-bit PCM from stdin."
        ),
    ],
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Play recordings at the pace they were spoken.")
    ] = False,
    model: Model = "tiny.en",
    language: Language = "auto",
    task: Annotated[TaskChoice, typer.Option(help="translate: into English.")] = TaskChoice.transcribe,
    prompt: Annotated[
        str, typer.Option(help="Text in the style wanted, with its names and spelling.", show_default=False)
    ] = "",
    hotwords: Annotated[str, typer.Option(help="Terms to favour.", show_default=False)] = "",
    policy: Annotated[
        PolicyChoice,
        typer.Option(
            help="When words are committed: hybrid, once two passes or much audio behind them say so; cutoff, after "
            "one pass; agreement, once two passes agree."
        ),
    ] = PolicyChoice.hybrid,
    beam_size: Annotated[
        int | None,
        typer.Option(min=1, max=20, help="1 is greedy; more is slower. [default: the engine's choice]"),
    ] = None,
    update_interval: Annotated[
        float | None,
        typer.Option(
            "--update-interval",
            min=0.1,
            max=20.0,
            help=f"New audio between two passes, in seconds; else {LIVE_INTERVAL_S:g} live, {FILE_INTERVAL_S:g} for "
            "files.",
            show_default=False,
        ),
    ] = None,
    vad: Annotated[
        bool, typer.Option(help="Listen for voice: silence is not decoded, utterances end by themselves.")
    ] = True,
    form: Annotated[
        FormatChoice,
        typer.Option(
            "--format",
            "-f",
            help="text: a line per utterance; jsonl: the same with times; srt, vtt: subtitles.",
        ),
    ] = FormatChoice.text,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File, or folder for a file per recording; else stdout, in the order given.",
            show_default=False,
        ),
    ] = None,
    at_once: Annotated[
        int, typer.Option("--streams-at-once", min=1, help="Recordings that share the workers at a time.")
    ] = 4,
    rate: Annotated[int, typer.Option(help="Samples per second of stdin.")] = 16_000,
    channels: Annotated[int, typer.Option(help="Channels of stdin, interleaved; they are mixed.")] = 1,
    backend: Backend = BackendChoice.local,
    device: Device = "auto",
    workers: Workers = None,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Transcribe recordings, many at once, or what comes in on stdin.

    Exit codes: 0 done; 1 a recording or the model could not be had (the other recordings are done); 2 wrong usage;
    130 ended by Ctrl-C.
    """
    from ray_whisper_streaming.cli import transcribe as program

    _configure_logging(verbose, quiet)
    if program.STDIN in files and sys.stdin.isatty():
        _say("stdin is a terminal; pipe raw audio into it, for example from arecord or ffmpeg")
        raise typer.Exit(USAGE_ERROR)
    live = realtime or program.STDIN in files
    options = stream_options(
        model,
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
            quiet=quiet,
            pool_options=_pool_options(model, backend, device, workers),
        )
    )


@app.command()
def listen(
    source: Annotated[
        str,
        typer.Argument(help="Recording of any codec, - for raw 16-bit PCM from stdin, or microphone."),
    ] = "microphone",
    url: Url = "ws://127.0.0.1:8000",
    api_key: ApiKey = None,
    model: Annotated[
        str | None, typer.Option(help="A model that the server knows; else its own.", show_default=False)
    ] = None,
    language: Language = "auto",
    task: Annotated[TaskChoice, typer.Option(help="translate: into English.")] = TaskChoice.transcribe,
    prompt: Annotated[
        str, typer.Option(help="Text in the style wanted, with its names and spelling.", show_default=False)
    ] = "",
    hotwords: Annotated[str, typer.Option(help="Terms to favour.", show_default=False)] = "",
    vad: Annotated[
        bool, typer.Option(help="Listen for voice: silence is not decoded, utterances end by themselves.")
    ] = True,
    form: Annotated[
        LiveFormatChoice,
        typer.Option(
            "--format",
            "-f",
            help="text: captions on a terminal, else a line per utterance; jsonl: an object per event.",
        ),
    ] = LiveFormatChoice.text,
    rate: Annotated[int, typer.Option(help="Samples per second of stdin or the microphone.")] = 16_000,
    channels: Annotated[int, typer.Option(help="Channels of stdin or the microphone; they are mixed.")] = 1,
    device: Annotated[
        str | None,
        typer.Option(
            help="Microphone: name or number, as 'python -m sounddevice' lists them.", show_default=False
        ),
    ] = None,
    reconnect_s: Annotated[
        float, typer.Option("--reconnect-s", min=0.0, help="Bear a lost connection for so many seconds.")
    ] = 60.0,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Live captions through a running server ('ray-whisper serve'), from a microphone, a recording or stdin.

    Ctrl-C ends it with the last words. Exit codes: 0 done (of a microphone also by Ctrl-C); 1 the server or the
    source could not be had or was lost; 2 wrong usage; 130 ended by Ctrl-C.
    """
    from ray_whisper_streaming.cli import listen as program
    from ray_whisper_streaming.client import AsyncClient

    _configure_logging(verbose, quiet)
    if source == program.STDIN and sys.stdin.isatty():
        _say("stdin is a terminal; pipe raw audio into it, for example from arecord or ffmpeg")
        raise typer.Exit(USAGE_ERROR)
    options = {
        "model": model,
        "language": language,
        "task": task.value,
        "prompt": prompt,
        "hotwords": hotwords,
        "voice_activity": vad,
        "sample_rate": rate,
        "channels": channels,
    }

    async def work() -> int:
        async with AsyncClient(url, api_key=api_key, reconnect_s=reconnect_s) as client:
            return await program.run(
                source, client=client, options=options, form=form.value, device=device, quiet=quiet
            )

    _run(work())


@app.command()
def top(
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = None,
    interval_s: Annotated[
        float, typer.Option("--interval-s", min=0.1, max=60.0, help="Seconds between two looks.")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one table, of one interval, and exit; for scripts.")
    ] = False,
) -> None:
    """How a running server is doing, from its /metrics: sessions, jobs, waits, lag, refusals and errors.

    Exit codes: 0 done; 1 the server could not be reached, or wants a key; 2 wrong usage; 130 ended by Ctrl-C.
    """
    from ray_whisper_streaming.cli import top as program

    _run(program.run(url, api_key=api_key, interval_s=interval_s, once=once))


@app.command()
def models() -> None:
    """List the models that are on this machine, and how to get others."""
    from ray_whisper_streaming.engines.models import INSTALL_HINT, installed_models

    installed = installed_models()
    for name, source in installed.items():
        languages = "English" if name.endswith(ENGLISH_ONLY) else "99 languages"
        print(f"{name:<{max(map(len, installed))}}  {languages:<12}  {source}")
    if not installed:
        print(f"None is here. tiny.en (English) and base (99 languages): {INSTALL_HINT}")
    print(
        "\nOthers: --model takes the folder of a CTranslate2 model, a name such as small, large-v3-turbo or large-v3,\n"
        "or a hub id (owner/name); a name or an id is fetched from the model hub at first use."
    )


def serve(config: ServerConfig, sources: dict[str, str], *, verbose: int, quiet: bool) -> None:
    """Serve live transcription over WebSocket, HTTP and TCP, until SIGTERM or Ctrl-C.

    Clients of this machine need no key; others do (ray-whisper keys). On SIGTERM nobody is let in any more, running
    sessions may end, and the process exits within the time that --drain-s says.

    Exit codes: 0 ended by a signal, in good order; 1 the model or the address could not be had; 2 wrong usage.
    """
    from ray_whisper_streaming.cli import serve as program

    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    program.configure_logging(config, level)
    _run(program.run(config, quiet=quiet), _faster_loop())


def show_config(config: ServerConfig, sources: dict[str, str]) -> None:
    """Print the configuration that 'serve' would run with, as a file for --config, and where each value comes from."""
    print(to_toml(config, sources), end="")


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """The command, a wrong configuration being told as wrong usage."""

    @wraps(command)
    def run(**given: Any) -> None:
        try:
            command(**given)
        except ConfigurationError as error:
            _say(str(error))
            raise typer.Exit(USAGE_ERROR) from None

    return run


app.command("serve")(_told(with_settings(serve, verbose=(Verbose, 0), quiet=(Quiet, False))))
config_app.command("show")(_told(with_settings(show_config)))


def run() -> None:
    """The console script."""
    app()


def stream_options(model: str, **fields: Any) -> StreamOptions:
    """`StreamOptions`, or a usage error that names the option."""
    try:
        _check_languages(model, fields["language"], fields.get("task", "transcribe"))
        return StreamOptions(**fields)
    except ConfigurationError as error:
        _say(str(error))
        raise typer.Exit(USAGE_ERROR) from None


def _check_languages(model: str, language: str, task: str) -> None:
    """Say now what otherwise every stream would say when its first job fails."""
    if not model.endswith(ENGLISH_ONLY):
        return
    multilingual = "or name a multilingual model: --model base"
    if language not in (AUTO, "en"):
        raise ConfigurationError(
            "language", language, f"en or auto, as {model} knows English alone; {multilingual}"
        )
    if task == "translate":
        raise ConfigurationError("task", task, f"transcribe, as {model} knows English alone; {multilingual}")


def _pool_options(model: str, backend: BackendChoice, device: str, workers: int | None) -> dict[str, Any]:
    return {"model": model, "backend": backend.value, "device": device, "workers": workers}


def _faster_loop() -> Callable[[Coroutine[Any, Any, int]], int]:
    """uvloop's runner; asyncio's own where uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


def _run(
    work: Coroutine[Any, Any, int], runner: Callable[[Coroutine[Any, Any, int]], int] = asyncio.run
) -> None:
    """Run a command to its end, and exit with its code."""
    try:
        code = runner(work)
    except ModelNotFound as error:
        _say(str(error))
        code = FAILURE
    except ConfigurationError as error:
        _say(str(error))
        code = USAGE_ERROR
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing to complain about, and nowhere to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (RayWhisperError, OSError) as error:
        _say(str(error))
        code = FAILURE
    except KeyboardInterrupt:
        code = INTERRUPTED
    raise typer.Exit(code)


def _say(problem: str) -> None:
    errors.print(f"ray-whisper: {problem}", style="red", markup=False, soft_wrap=True)


def _configure_logging(verbose: int, quiet: bool) -> None:
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(
        level=max(level, logging.WARNING), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("ray_whisper_streaming").setLevel(level)
