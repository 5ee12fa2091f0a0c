"""``python -m whisper_online FILE``: a recording as if it came in live, with whisper_streaming's output lines."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TextIO, cast

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.compat.factory import add_shared_args, asr_factory, check_args
from ray_whisper_streaming.compat.processor import Output
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.errors import ConfigurationError, RayWhisperError, TranscriptionError
from ray_whisper_streaming.media import load_audio as decode_audio

__all__ = ["format_line", "load_audio", "load_audio_chunk", "main", "simulate"]

FAILURE = 1
WRONG_USAGE = 2
"""As argparse's own."""

logger = logging.getLogger("whisper_online")

Float32 = npt.NDArray[np.float32]


def load_audio(fname: str) -> Float32:
    """A file as float32 mono 16 kHz, any codec. Raises `AudioError`."""
    return decode_audio(fname)


def load_audio_chunk(fname: str, beg: float, end: float) -> Float32:
    """The part of a file from ``beg`` to ``end`` seconds. The file used last is held. Raises `AudioError`."""
    changed = os.path.getmtime(fname) if os.path.exists(fname) else 0.0
    return _whole(fname, changed)[int(beg * SAMPLE_RATE) : int(end * SAMPLE_RATE)].copy()


@lru_cache(maxsize=1)
def _whole(fname: str, changed: float) -> Float32:
    """A program that asks chunk by chunk must not decode the file for each of them."""
    return load_audio(fname)


def format_line(output: Output, emission_s: float) -> str | None:
    """whisper_streaming's line: moment of emission, start and end in milliseconds, text. None for nothing."""
    start, end, text = output
    if start is None or end is None:
        return None
    return f"{emission_s * 1000:1.4f} {start * 1000:1.0f} {end * 1000:1.0f} {text}"


def simulate(
    audio: Float32,
    online: Any,
    *,
    step_s: float,
    start_at_s: float = 0.0,
    unaware: bool = False,
    write: Callable[[str], object] = print,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Stream a recording through a processor and write a line per output.

    Args:
        audio: float32 mono 16 kHz.
        online: the processor.
        step_s: new audio before a pass, in seconds.
        start_at_s: the simulation begins here in the audio.
        unaware: don't count computing time: fixed steps, emission time is the position in the audio.
        write: takes each line.
        clock: seconds, for the real pace.
        sleep: waits.

    Raises:
        RayWhisperError: a pass failed, and would again.
    """
    total_s = len(audio) / SAMPLE_RATE
    began = clock() - start_at_s
    sent_s = start_at_s

    def emit(output: Output) -> None:
        line = format_line(output, sent_s if unaware else clock() - began)
        if line is not None:
            write(line)

    while sent_s < total_s:
        if unaware:
            now_s = min(sent_s + step_s, total_s)
        else:
            if (wait_s := sent_s + step_s - (clock() - began)) > 0:
                sleep(wait_s)
            now_s = min(clock() - began, total_s)
        online.insert_audio_chunk(audio[int(sent_s * SAMPLE_RATE) : int(now_s * SAMPLE_RATE)])
        sent_s = now_s
        try:
            emit(online.process_iter())
        except TranscriptionError as error:
            if not error.retryable:
                raise
            logger.error("a pass failed, the audio is tried again: %s", error)
    emit(online.finish())


def start(text: str) -> float:
    """An argument that may be 0: before its beginning a recording has nothing."""
    if not 0 <= (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"is {text}; it must be a number of seconds from 0 on")
    return number


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """The command line. Returns the exit code: 0; 1 if the file or the model can't be had, or nothing be written or
    decoded; 2 for wrong usage.
    """
    parser = argparse.ArgumentParser(prog="python -m whisper_online", description=__doc__)
    parser.add_argument("audio_path", help="the recording; any codec")
    add_shared_args(parser)
    parser.add_argument("--start_at", type=start, default=0.0, help="begin at this second of the audio")
    parser.add_argument("--offline", action="store_true", help="one pass over the whole recording")
    parser.add_argument(
        "--comp_unaware", action="store_true", help="fixed steps; emission time is the position in the audio"
    )
    args = parser.parse_args(arguments)
    if args.offline and args.comp_unaware:
        parser.error("--offline and --comp_unaware exclude each other")
    logging.basicConfig(level=args.log_level, stream=sys.stderr)

    def write(line: str) -> None:
        print(line, file=out or sys.stdout, flush=True)

    if out is None and cast("TextIO | None", sys.stdout) is None:
        return _complain(OSError("stdout is closed"), FAILURE)
    try:
        check_args(args)
    except ConfigurationError as error:
        return _complain(error, WRONG_USAGE)
    try:
        audio = load_audio(args.audio_path)
        asr, online = asr_factory(args)
        try:
            if args.offline:
                words = asr.ts_words(asr.transcribe(audio[int(args.start_at * SAMPLE_RATE) :]))
                if words:
                    text = asr.sep.join(word[2] for word in words)
                    start_s, end_s = words[0][0] + args.start_at, words[-1][1] + args.start_at
                    write(format_line((start_s, end_s, text), len(audio) / SAMPLE_RATE) or "")
                return 0
            step_s = args.vac_chunk_size if args.vac else args.min_chunk_size
            simulate(
                audio, online, step_s=step_s, start_at_s=args.start_at, unaware=args.comp_unaware, write=write
            )
            return 0
        finally:
            asr.close()
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing to complain about, and nowhere to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RayWhisperError, OSError) as error:
        return _complain(error, FAILURE)
    except KeyboardInterrupt:
        return 130


def _complain(error: Exception, code: int) -> int:
    print(f"whisper_online: {error}", file=sys.stderr)
    return code
