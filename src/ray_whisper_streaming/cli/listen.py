"""``ray-whisper listen``: live captions through a running server."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from ray_whisper_streaming.cli.console import FAILURE, INTERRUPTED, complain, errors
from ray_whisper_streaming.cli.feeding import STDIN, check_stdin, read_stdin
from ray_whisper_streaming.cli.live_output import JsonEvents, Output, TerminalCaptions, TextLines, notice
from ray_whisper_streaming.client import AsyncClient, AsyncRemoteStream, Closed, StreamFailed, microphone
from ray_whisper_streaming.client.files import paced, pieces_of
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.errors import AudioError, RayWhisperError

__all__ = ["run"]

MICROPHONE = "microphone"

LAST_WORDS_S = 30.0
"""How long the last words may take after Ctrl-C. Another Ctrl-C ends at once."""

EXPECTED_ENDS = ("client", "draining")

Audio: TypeAlias = AsyncIterator[Int16Samples] | AsyncIterator[bytes]


async def run(
    source: str,
    *,
    client: AsyncClient,
    options: dict[str, Any],
    form: str,
    device: str | None,
    quiet: bool,
) -> int:
    """Caption a source until it ends, or Ctrl-C; return the exit code.

    Raises:
        AudioError, ConfigurationError: the source can't be had.
        Unreachable, Refused, ProtocolError: the server can't.
    """
    with ExitStack() as sources:
        audio = _open(source, options, device, sources)
        async with client.stream(**options) as stream:
            with _output(form) as output:
                return await _caption(stream, audio, output, quiet=quiet, endless=source == MICROPHONE)


def _open(source: str, options: dict[str, Any], device: str | None, sources: ExitStack) -> Audio:
    """The audio; ``options`` are told its format."""
    if source == MICROPHONE:
        index = int(device) if device is not None and device.isdigit() else device
        sound = microphone(options["sample_rate"], options["channels"], device=index)
        return aiter(sources.enter_context(sound))
    if source == STDIN:
        check_stdin()
        return read_stdin()
    if not Path(source).is_file():
        raise AudioError(f"{source} is no file")
    options.update(sample_rate=SAMPLE_RATE, channels=1)
    return paced(pieces_of(source))


def _output(form: str) -> Output:
    if form == "jsonl":
        return JsonEvents()
    return TerminalCaptions(Console(highlight=False)) if sys.stdout.isatty() else TextLines()


async def _caption(
    stream: AsyncRemoteStream, audio: Audio, output: Output, *, quiet: bool, endless: bool
) -> int:
    loop, listening = asyncio.get_running_loop(), asyncio.current_task()
    assert listening is not None
    feeding = asyncio.create_task(_feed(stream, audio))
    presses = 0

    def interrupt() -> None:
        nonlocal presses
        presses += 1
        if presses == 1:
            feeding.cancel()
            loop.call_later(LAST_WORDS_S, listening.cancel)
        else:
            listening.cancel()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    ended_well = False
    try:
        async for event in stream:
            output.write(event)
            if not quiet and (told := notice(event)):
                errors.print(told, style="dim", markup=False, soft_wrap=True)
            if isinstance(event, StreamFailed):
                complain(event.error)
            ended_well = isinstance(event, Closed) and event.reason in EXPECTED_ENDS
    except asyncio.CancelledError:
        if not presses:
            raise
        return INTERRUPTED
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        feeding.cancel()
        (outcome,) = await asyncio.gather(feeding, return_exceptions=True)
    if ended_well and isinstance(outcome, (RayWhisperError, OSError)):
        raise outcome
    if not ended_well:
        return FAILURE
    # A microphone has no other end than this one.
    return INTERRUPTED if presses and not endless else 0


async def _feed(stream: AsyncRemoteStream, audio: Audio) -> None:
    try:
        async for samples in audio:
            await stream.push(samples)
    finally:
        await stream.finish()
