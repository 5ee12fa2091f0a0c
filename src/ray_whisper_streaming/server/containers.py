"""Containers (WebM, Ogg, MP3, ...), decoded as they come in.

FFmpeg's demuxers pull: they read when they want to. Here bytes are pushed. So each container has a thread in which
FFmpeg reads from a `_Pipe`; pushing wakes it and waits until it wants more, so that what comes back is all that could
be decoded from the bytes so far.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, TypeAlias

import av
import numpy.typing as npt
from av.error import FFmpegError

from ray_whisper_streaming.errors import AudioError
from ray_whisper_streaming.media import SAFE_FORMATS, frame_samples

__all__ = ["MAX_DAMAGED", "ContainerSource", "Frame"]

READ_BYTES = 4096
"""What FFmpeg reads at a time."""

PROBING = {
    "analyzeduration": "1",
    "probesize": "4096",
    "formatprobesize": "32768",
    "format_whitelist": SAFE_FORMATS,
}
"""FFmpeg's usual look ahead (5 s, 5 MB) would be latency; what containers' heads say is enough. What is no audio is
found out within 32 KB, not 1 MB."""

MAX_BURST_S = 600.0
"""Audio that one push may decode to: a megabyte of MP3 at its lowest. More is a bomb: silence packs a thousandfold."""

MAX_BARREN_BYTES = 8 * 1024 * 1024
"""A container that gives no audio for so long gives none any more: Matroska's reader looks for the next cluster in
noise for ever. Pictures may stand between, and before."""

STUCK_S = 5.0
"""A decoder that is still busy with one push after so long is given up."""

MAX_DAMAGED = 50
"""Packets in a row that can't be decoded: then it is no audio, not a lost packet or two."""

Frame: TypeAlias = tuple[npt.NDArray[Any], int]
"""Samples of shape (frames, channels), and their rate."""


class ContainerSource:
    """A container that comes in pieces."""

    def __init__(self) -> None:
        self._pipe = _Pipe()
        self._thread: threading.Thread | None = None
        # The thread knows the pipe alone: with the last reference to this it is told to end.
        weakref.finalize(self, _Pipe.close, self._pipe)

    def push(self, data: bytes) -> list[Frame]:
        """What can be decoded with these bytes. Raises `AudioError` where it can't be read."""
        self._start()
        return self._pipe.push(data)

    def end(self) -> list[Frame]:
        """The rest. Raises `AudioError`, too, where there was no audio."""
        self._start()
        return self._pipe.end()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=_demux, args=(self._pipe,), name="container-decoding", daemon=True
            )
            self._thread.start()


class _Pipe:
    """Bytes on their way to FFmpeg's thread, and frames on their way back."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._bytes = bytearray()
        self._frames: list[Frame] = []
        self._frames_s = 0.0
        self._barren_bytes = 0
        self._ended = False
        self._closed = False
        self._hungry = False
        self._done = False
        self._error: AudioError | None = None

    # The session's side.

    def push(self, data: bytes) -> list[Frame]:
        with self._turn:
            if not self._done:  # else nobody reads it
                self._bytes += data
            frames = self._exchange()
            self._barren_bytes = 0 if frames else self._barren_bytes + len(data)
            if self._barren_bytes > MAX_BARREN_BYTES:
                raise AudioError(f"there is no audio in the last {MAX_BARREN_BYTES >> 20} MB")
            return frames

    def end(self) -> list[Frame]:
        with self._turn:
            self._ended = True
            return self._exchange()

    def close(self) -> None:
        with self._turn:
            self._closed = True
            self._turn.notify_all()

    def _exchange(self) -> list[Frame]:
        self._hungry = False
        self._turn.notify_all()
        if not self._turn.wait_for(lambda: self._hungry or self._done, STUCK_S):
            self._closed = True
            self._error = AudioError("decoding takes too long")
        if self._error is not None:
            raise self._error
        frames, self._frames, self._frames_s = self._frames, [], 0.0
        return frames

    # The thread's side.

    def read(self, size: int) -> bytes:
        """As of a file: waits for bytes; none at the end."""
        with self._turn:
            while not (self._bytes or self._ended or self._closed):
                self._hungry = True
                self._turn.notify_all()
                self._turn.wait()
            if self._closed:
                return b""
            taken = bytes(self._bytes[:size])
            del self._bytes[:size]
            return taken

    def put(self, samples: npt.NDArray[Any], rate: int) -> None:
        with self._turn:
            if self._closed:
                raise AudioError("closed")
            self._frames_s += len(samples) / rate
            if self._frames_s > MAX_BURST_S:
                raise AudioError(f"more than {MAX_BURST_S:.0f} s of audio in one piece")
            self._frames.append((samples, rate))

    def finish(self, error: AudioError | None) -> None:
        with self._turn:
            self._error = self._error or error
            self._done = True
            self._bytes.clear()
            self._turn.notify_all()


def _demux(pipe: _Pipe) -> None:
    """The thread of one container."""
    error: AudioError | None = None
    try:
        opened: Any = av.open(pipe, "r", options=PROBING, buffer_size=READ_BYTES)
        with opened as container:
            if not container.streams.audio:
                raise AudioError("there is no audio in it")
            damaged, heard = 0, False
            for packet in container.demux(container.streams.audio[0]):
                try:
                    for frame in packet.decode():
                        pipe.put(frame_samples(frame), frame.sample_rate)
                        damaged, heard = 0, True
                except FFmpegError:
                    damaged += 1
                    if damaged > MAX_DAMAGED:
                        raise
            if not heard:
                raise AudioError("there is no audio in it")
    except AudioError as refused:
        error = refused
    except Exception as failed:  # whatever FFmpeg or PyAV make of garbage
        why = getattr(failed, "strerror", None) or type(failed).__name__
        error = AudioError(f"it can't be read as audio: {why}")
    pipe.finish(error)
