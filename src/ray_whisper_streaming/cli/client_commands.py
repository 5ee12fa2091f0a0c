"""The commands for a server that runs already."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Annotated

import typer

from ray_whisper_streaming.cli.console import configure_logging
from ray_whisper_streaming.cli.options import (
    ApiKey,
    Channels,
    Hotwords,
    Language,
    MaxUtterance,
    MinSilence,
    MinSpeech,
    Prompt,
    Quiet,
    Rate,
    SentenceSilence,
    Task,
    TaskChoice,
    Url,
    Verbose,
    VoiceActivity,
)
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.core.options import AUTO
from ray_whisper_streaming.wire.native_messages import Endpointing, Options

__all__ = ["listen", "top"]

DEFAULTS, ENDPOINTING = Options(), Endpointing()


class LiveFormatChoice(Enum):
    """What is written of a stream as it comes."""

    text = "text"
    jsonl = "jsonl"


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
    language: Language = AUTO,
    task: Task = TaskChoice.transcribe,
    prompt: Prompt = "",
    hotwords: Hotwords = "",
    vad: VoiceActivity = True,
    min_speech: MinSpeech = ENDPOINTING.min_speech,
    min_silence: MinSilence = ENDPOINTING.min_silence,
    sentence_silence: SentenceSilence = ENDPOINTING.sentence_silence,
    max_utterance: MaxUtterance = DEFAULTS.max_utterance,
    form: Annotated[
        LiveFormatChoice,
        typer.Option(
            "--format",
            "-f",
            help="text: captions on a terminal, else a line per utterance; jsonl: an object per event.",
        ),
    ] = LiveFormatChoice.text,
    rate: Rate = SAMPLE_RATE,
    channels: Channels = 1,
    device: Annotated[
        str | None,
        typer.Option(
            help="Microphone: name or number, as 'python -m sounddevice' lists them.", show_default=False
        ),
    ] = None,
    reconnect_s: Annotated[
        float, typer.Option(min=0.0, help="Bear a lost connection for so many seconds.")
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

    configure_logging(verbose, quiet)
    options = {
        "model": model,
        "language": language,
        "task": task.value,
        "prompt": prompt,
        "hotwords": hotwords,
        "voice_activity": vad,
        "endpointing": Endpointing(
            min_speech=min_speech, min_silence=min_silence, sentence_silence=sentence_silence
        ),
        "max_utterance": max_utterance,
        "sample_rate": rate,
        "channels": channels,
    }

    async def work() -> int:
        async with AsyncClient(url, api_key=api_key, reconnect_s=reconnect_s) as client:
            return await program.run(
                source, client=client, options=options, form=form.value, device=device, quiet=quiet
            )

    raise typer.Exit(asyncio.run(work()))


def top(
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = None,
    interval_s: Annotated[float, typer.Option(min=0.1, max=60.0, help="Seconds between two looks.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one table, of one interval, and exit; for scripts.")
    ] = False,
) -> None:
    """How a running server is doing, from its /metrics: sessions, jobs, waits, lag, refusals and errors.

    Exit codes: 0 done; 1 the server could not be reached, or wants a key; 2 wrong usage; 130 ended by Ctrl-C.
    """
    from ray_whisper_streaming.cli import top as program

    raise typer.Exit(asyncio.run(program.run(url, api_key=api_key, interval_s=interval_s, once=once)))
