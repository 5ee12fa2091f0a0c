"""Where the audio of commands comes from: recordings, the packaged samples, stdin."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import CancelledError
from importlib import resources
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from ray_whisper_streaming.errors import AudioError, ConfigurationError

__all__ = [
    "STDIN",
    "check_stdin",
    "duration_s",
    "find_recordings",
    "read_bytes",
    "read_stdin",
    "sample_recordings",
    "sample_texts",
]

STDIN = "-"
"""Its name on the command line."""

STDIN_FILE = 0

CONTAINER_MARKS = (b"RIFF", b"fLaC", b"OggS", b"ID3")
"""How files begin that hold no raw samples."""

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
        AudioError: a path that doesn't exist, or a folder without recordings, or that can't be read.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise AudioError(f"{path} does not exist")
        if path.is_dir():
            try:
                inside = sorted(each for each in path.iterdir() if each.suffix.lower() in AUDIO_SUFFIXES)
            except OSError as error:
                raise AudioError(f"{path} can't be read: {error.strerror}") from error
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


def check_stdin() -> None:
    """Raise `ConfigurationError` where nothing can come in, before anything is loaded."""
    if os.isatty(STDIN_FILE):
        raise ConfigurationError(
            "stdin", "a terminal", "a pipe with raw audio, for example from arecord or ffmpeg"
        )


async def read_stdin() -> AsyncIterator[bytes]:
    """Raw samples, as they come.

    Raises:
        AudioError: they are none, but a file of some format.
    """
    first = True
    async for raw in read_bytes(STDIN_FILE):
        if first and raw.startswith(CONTAINER_MARKS):
            raise AudioError(
                "stdin is a file of its own kind; raw 16-bit samples are wanted (or name the file)"
            )
        first = False
        yield raw


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
