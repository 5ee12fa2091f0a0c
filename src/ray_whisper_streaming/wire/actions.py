"""What a protocol of another maker asks of the shell that runs it: open a stream, feed it, flush it, end it.

The shell does them in order. One stream is fed at a time (one per channel, where channels are kept apart); an older
one that was finished goes on telling its events until its terminal one, and only then come those of the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ray_whisper_streaming.core.options import StreamOptions

__all__ = [
    "Action",
    "AudioFormat",
    "FeedAudio",
    "FinishStream",
    "FlushStream",
    "IncomingEncoding",
    "OpenStream",
]

IncomingEncoding: TypeAlias = Literal["s16le", "mulaw", "alaw", "opus", "container"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFormat:
    """How the bytes that follow are to be read.

    Attributes:
        encoding: of raw samples; ``"opus"``: one packet per message; ``"container"``: a file of its own kind, sent
            in pieces (WebM, Ogg, WAV, MP3, ...).
        sample_rate: per second; of raw samples only.
        channels: interleaved in raw samples, or in an Opus packet; of a container, where they are kept apart.
        separate: a stream for every channel; otherwise they are mixed.
    """

    encoding: IncomingEncoding = "s16le"
    sample_rate: int = 16_000
    channels: int = 1
    separate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStream:
    """Open a stream; what is fed from now on is for it."""

    options: StreamOptions
    audio: AudioFormat


@dataclass(frozen=True, slots=True)
class FeedAudio:
    """Give bytes to the open stream."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FlushStream:
    """Have everything fed so far decoded; a `Flushed` event with the id follows."""

    flush_id: str


@dataclass(frozen=True, slots=True)
class FinishStream:
    """No more comes for the open stream; its events go on until the terminal one."""


Action: TypeAlias = OpenStream | FeedAudio | FlushStream | FinishStream
