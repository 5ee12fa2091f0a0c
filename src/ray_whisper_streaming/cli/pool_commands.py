"""The commands that have a pool of workers of their own, and what they work with."""

from __future__ import annotations

import asyncio
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ray_whisper_streaming import StreamOptions
from ray_whisper_streaming.cli.console import configure_logging
from ray_whisper_streaming.cli.options import (
    Backend,
    BackendChoice,
    Channels,
    Device,
    Engine,
    EngineChoice,
    Hotwords,
    Language,
    MaxUtterance,
    MinSilence,
    MinSpeech,
    Model,
    PolicyChoice,
    Prompt,
    Quiet,
    Rate,
    SentenceSilence,
    Task,
    TaskChoice,
    Verbose,
    VoiceActivity,
    Workers,
)
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.core.options import AUTO, ENGLISH_ONLY, check_model_knows
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.subtitles import SubtitleOptions
from ray_whisper_streaming.wire.native_messages import Endpointing

__all__ = ["demo", "models", "pool", "transcribe"]

DEFAULTS, ENDPOINTING = StreamOptions(), Endpointing()

LIVE_INTERVAL_S = DEFAULTS.update_interval_s

FILE_INTERVAL_S = 10.0
"""New audio between two passes where nobody waits for partials, in seconds."""

SUBTITLES = SubtitleOptions()


class FormatChoice(Enum):
    """What is written."""

    text = "text"
    jsonl = "jsonl"
    srt = "srt"
    vtt = "vtt"


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
    language: Language = AUTO,
    backend: Backend = BackendChoice.ray,
    engine: Engine = EngineChoice.auto,
    device: Device = "auto",
    workers: Workers = None,
    update_interval: Annotated[
        float, typer.Option(help="New audio between two passes of a stream, in seconds.")
    ] = LIVE_INTERVAL_S,
    speed: Annotated[
        float, typer.Option(min=0.1, max=100.0, help="Seconds of audio played per second.")
    ] = 1.0,
    limit_s: Annotated[
        float | None,
        typer.Option(min=0.1, help="Play so many seconds of each recording only.", show_default=False),
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

    configure_logging(verbose, quiet)
    work = program.run(
        audio or [],
        streams=streams,
        options=_stream_options(model, language=language, update_interval_s=update_interval),
        speed=speed,
        limit_s=limit_s,
        plain=plain,
        pool_options=_pool_options(model, backend, engine, device, workers),
    )
    raise typer.Exit(asyncio.run(work))


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
    language: Language = AUTO,
    task: Task = TaskChoice.transcribe,
    prompt: Prompt = "",
    hotwords: Hotwords = "",
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
    temperature: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Above 0 words are drawn at random; the higher, the more."),
    ] = DEFAULTS.temperature,
    update_interval: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=20.0,
            help=f"New audio between two passes, in seconds; else {LIVE_INTERVAL_S:g} live, {FILE_INTERVAL_S:g} for "
            "files.",
            show_default=False,
        ),
    ] = None,
    vad: VoiceActivity = True,
    min_speech: MinSpeech = ENDPOINTING.min_speech,
    min_silence: MinSilence = ENDPOINTING.min_silence,
    sentence_silence: SentenceSilence = ENDPOINTING.sentence_silence,
    max_utterance: MaxUtterance = DEFAULTS.max_utterance_s,
    form: Annotated[
        FormatChoice,
        typer.Option(
            "--format",
            "-f",
            help="text: a line per utterance; jsonl: the same with times; srt, vtt: subtitles.",
        ),
    ] = FormatChoice.text,
    line_length: Annotated[int, typer.Option(help="Letters in a line of subtitles.")] = SUBTITLES.line_length,
    lines: Annotated[int, typer.Option(help="Lines of a subtitle: 1 or 2.")] = SUBTITLES.lines,
    letters_per_s: Annotated[
        float,
        typer.Option(help="Reading speed: subtitles stay long enough for it, where the next one lets them."),
    ] = SUBTITLES.letters_per_s,
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
    rate: Rate = SAMPLE_RATE,
    channels: Channels = 1,
    backend: Backend = BackendChoice.local,
    engine: Engine = EngineChoice.auto,
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
    from ray_whisper_streaming.cli.feeding import STDIN

    configure_logging(verbose, quiet)
    interval_s = LIVE_INTERVAL_S if realtime or STDIN in files else FILE_INTERVAL_S
    work = program.run(
        files,
        options=_stream_options(
            model,
            language=language,
            task=task.value,
            prompt=prompt,
            hotwords=hotwords,
            policy=policy.value,
            beam_size=beam_size,
            temperature=temperature,
            update_interval_s=update_interval or interval_s,
            voice_activity=vad,
            endpointing=Endpointing(
                min_speech=min_speech, min_silence=min_silence, sentence_silence=sentence_silence
            ).stream_options(),
            max_utterance_s=max_utterance,
        ),
        realtime=realtime,
        form=form.value,
        subtitles=SubtitleOptions(line_length=line_length, lines=lines, letters_per_s=letters_per_s),
        output=output,
        at_once=at_once,
        stdin_format=(rate, channels),
        quiet=quiet,
        pool_options=_pool_options(model, backend, engine, device, workers),
    )
    raise typer.Exit(asyncio.run(work))


def pool(
    model: Annotated[
        list[str] | None,
        typer.Argument(help="Models, each with workers of its own; tiny.en if none.", show_default=False),
    ] = None,
    workers: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Workers of each model: a number for all, or one for each in their order (--workers 2 --workers 1). "
            "Else one per GPU, or one that uses all cores.",
            show_default=False,
        ),
    ] = None,
    engine: Engine = EngineChoice.auto,
    device: Device = "auto",
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Keep workers in a Ray cluster, for any number of servers and programs, until SIGTERM or Ctrl-C.

    They use them with --backend shared (in a program: Pool(model, backend="shared")), and go on when this command is
    ended and run again. The cluster is that of RAY_ADDRESS, or of this machine ("ray start --head" makes one); else one
    is started that ends with the command, and with it whoever uses it.

    Exit codes: 0 ended by a signal; 1 a model or the cluster could not be had; 2 wrong usage.
    """
    from ray_whisper_streaming.cli import pool as program

    configure_logging(verbose, quiet)
    config = ServerConfig(
        model=tuple(model or ["tiny.en"]),
        workers=tuple(workers or ()),
        engine=engine.value,
        device=device,
        backend="ray",
    )
    asyncio.run(program.run(config, quiet=quiet))


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


def _stream_options(model: str, **fields: Any) -> StreamOptions:
    """Raises `ConfigurationError`, also for what every stream would say when its first job fails."""
    check_model_knows(model, fields["language"], fields.get("task", "transcribe"))
    return StreamOptions(**fields)


def _pool_options(
    model: str, backend: BackendChoice, engine: EngineChoice, device: str, workers: int | None
) -> dict[str, Any]:
    return {
        "model": model,
        "backend": backend.value,
        "engine": engine.value,
        "device": device,
        "workers": workers,
    }
