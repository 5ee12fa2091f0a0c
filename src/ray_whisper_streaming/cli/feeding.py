"""Getting recordings into streams: finding, decoding off the event loop, pacing."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from importlib import resources
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.errors import AudioError
from ray_whisper_streaming.media import decode_file

__all__ = [
    "PACKET_S",
    "decode_aside",
    "duration_s",
    "find_recordings",
    "paced",
    "read_bytes",
    "sample_recordings",
    "sample_texts",
]

PACKET_S = 0.1
"""Audio per packet at real pace, in seconds: what a browser or a telephone sends, within a factor of five."""

READ_BYTES = 8192
READ_AHEAD = 4

AUDIO_SUFFIXES = {".aac", ".aiff", ".flac", ".m4a", ".mka", ".mkv", ".mov", ".mp3", ".mp4"} | {
    ".oga",
    ".ogg",
    ".opus",
    ".wav",
    ".webm",
    ".wma",
}
"""What is taken for a recording when a folder is given; a file that is named is tried whatever it is called."""


def sample_recordings() -> list[Path]:
    """The synthetic recordings that come with the package."""
    return sorted(_samples().glob("*.flac"))


def sample_texts() -> dict[Path, str]:
    """What is said in each of the `sample_recordings`."""
    listed = json.loads((_samples() / "samples.json").read_text(encoding="utf-8"))
    return {_samples() / each["file"]: each["text"] for each in listed}


def _samples() -> Path:
    return Path(str(resources.files("ray_whisper_streaming") / "samples"))


def find_recordings(paths: Iterable[Path]) -> list[Path]:
    """The files given, and the recordings in the folders given, sorted.

    Raises:
        AudioError: a path that doesn't exist, or a folder without recordings.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise AudioError(f"{path} does not exist")
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in AUDIO_SUFFIXES)
            if not inside:
                raise AudioError(f"{path} holds no recordings")
            found += inside
        else:
            found.append(path)
    return found


def duration_s(path: str | Path) -> float | None:
    """How long a recording is, in seconds, by its own account; None if it has none."""
    try:
        opened: Any = av.open(str(path))
        with opened as container:
            return container.duration / av.time_base if container.duration else None
    except (FFmpegError, OSError):  # told by whoever decodes it
        return None


async def decode_aside(path: str | Path) -> AsyncIterator[Int16Samples]:
    """`decode_file` in a thread, so that other streams go on. Pieces of about a second."""
    pieces: Iterator[Int16Samples] = decode_file(path)

    def next_second() -> list[Int16Samples]:
        taken: list[Int16Samples] = []
        while sum(map(len, taken)) < SAMPLE_RATE and (piece := next(pieces, None)) is not None:
            taken.append(piece)
        return taken

    while taken := await asyncio.to_thread(next_second):
        for piece in taken:
            yield piece


async def paced(
    pieces: AsyncIterator[Int16Samples],
    started_at: float,
    limit_s: float | None = None,
    speed: float = 1.0,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Int16Samples]:
    """Packets at the pace of the audio: each when its last sample would have been spoken, without drift.

    Args:
        pieces: the audio.
        started_at: monotonic second at which the audio begins.
        limit_s: end after so many seconds of it.
        speed: seconds of audio per second.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """
    packet = round(PACKET_S * SAMPLE_RATE)
    limit = None if limit_s is None else round(limit_s * SAMPLE_RATE)
    sent = 0
    async for piece in pieces:
        for start in range(0, len(piece), packet):
            part = piece[start : start + packet][: None if limit is None else limit - sent]
            sent += len(part)
            wait_s = started_at + sent / SAMPLE_RATE / speed - clock()
            if wait_s > 0:
                await sleep(wait_s)
            yield part
            if sent == limit:
                return


async def read_bytes(file: int) -> AsyncIterator[bytes]:
    """What comes in on a file descriptor, as it comes.

    It is read by a daemon thread of its own: nothing can end a read from a silent pipe, and Ctrl-C must not wait for
    it.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[bytes] = asyncio.Queue(maxsize=READ_AHEAD)

    def read() -> None:
        raw = b"?"
        while raw:
            try:
                raw = os.read(file, READ_BYTES)
            except OSError:
                raw = b""
            if loop.is_closed():  # nobody listens any more
                return
            try:
                asyncio.run_coroutine_threadsafe(arrived.put(raw), loop).result()
            except CancelledError:
                return

    threading.Thread(target=read, name="input", daemon=True).start()
    while raw := await arrived.get():
        yield raw
