"""Audio that says itself what it is: containers (WebM, Ogg, MP3, ...) and Opus packets, decoded as they come in.

FFmpeg's demuxers pull: they read when they want to. Here bytes are pushed. So each container has a thread in which
FFmpeg reads from a `_Pipe`; pushing wakes it and waits until it wants more, so that what comes back is all that could
be decoded from the bytes so far.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from ray_whisper_streaming.core.jobs import Int16Samples
from ray_whisper_streaming.errors import AudioError
from ray_whisper_streaming.media import SAFE_FORMATS, AudioConverter, frame_samples
from ray_whisper_streaming.server.audio import AudioFormat, Decoder

__all__ = ["CodedAudio", "framed"]

Codec: TypeAlias = Literal["container", "opus"]

NOMINAL_BYTES_PER_S = 16_000
"""What coded speech takes at most, as a rule (128 kbit/s)."""

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

STUCK_S = 5.0
"""A decoder that is still busy with one push after so long is given up."""

MAX_DAMAGED = 50
"""Packets in a row that can't be decoded: then it is no audio, not a lost packet or two."""

OPUS_RATE = 48_000

LENGTH_BYTES = 2
MAX_PACKET_BYTES = 48 * 1276
"""120 ms in 48 frames of the greatest length (RFC 6716, 3.2)."""

_Frame: TypeAlias = tuple[npt.NDArray[Any], int]
"""Samples of shape (frames, channels), and their rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedAudio(AudioFormat):
    """The audio of a session whose bytes are a container in pieces, or Opus packets, each `framed`.

    Attributes:
        codec: which of both. ``encoding`` and ``sample_rate`` say nothing then.
    """

    codec: Codec = "container"

    @property
    def bytes_per_second(self) -> int:
        """Of what is sent, about."""
        return NOMINAL_BYTES_PER_S * self.channels

    @property
    def is_plain(self) -> bool:
        """Never."""
        return False

    def decoders(self) -> list[Decoder]:
        """A new decoder for each stream; they share the work."""
        source = _Container() if self.codec == "container" else _OpusPackets(self.channels)
        shared = _Shared(source, self.streams if self.split else None)
        return [_ChannelDecoder(shared, number) for number in range(self.streams)]


class _Container:
    """A container that comes in pieces."""

    def __init__(self) -> None:
        self._pipe = _Pipe()
        self._thread: threading.Thread | None = None
        # The thread knows the pipe alone: with the last reference to this it is told to end.
        weakref.finalize(self, _Pipe.close, self._pipe)

    def push(self, data: bytes) -> list[_Frame]:
        self._start()
        return self._pipe.push(data)

    def end(self) -> list[_Frame]:
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
        self._frames: list[_Frame] = []
        self._frames_s = 0.0
        self._ended = False
        self._closed = False
        self._hungry = False
        self._done = False
        self._error: AudioError | None = None

    # The session's side.

    def push(self, data: bytes) -> list[_Frame]:
        with self._turn:
            self._bytes += data
            return self._exchange()

    def end(self) -> list[_Frame]:
        with self._turn:
            self._ended = True
            return self._exchange()

    def close(self) -> None:
        with self._turn:
            self._closed = True
            self._turn.notify_all()

    def _exchange(self) -> list[_Frame]:
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


def framed(packet: bytes) -> bytes:
    """An Opus packet with its length before it: on their way packets become one piece of bytes.

    Raises:
        AudioError: no Opus packet is that long.
    """
    if len(packet) > MAX_PACKET_BYTES:
        raise AudioError("it is no Opus packet")
    return len(packet).to_bytes(LENGTH_BYTES, "big") + packet


class _OpusPackets:
    """Opus packets without a container, as telephony and WebRTC send them."""

    def __init__(self, channels: int) -> None:
        self._context: Any = av.CodecContext.create("libopus", "r")
        self._context.sample_rate = OPUS_RATE
        self._context.layout = "mono" if channels == 1 else "stereo"
        self._damaged = 0
        self._heard = False

    def push(self, data: bytes) -> list[_Frame]:
        frames: list[_Frame] = []
        start = 0
        while start < len(data):
            packet = start + LENGTH_BYTES
            start = packet + int.from_bytes(data[start:packet], "big")
            frames += self._decode(data[packet:start])
        return frames

    def _decode(self, packet: bytes) -> list[_Frame]:
        try:
            frames = self._context.decode(av.Packet(packet))
        except (FFmpegError, ValueError) as error:
            self._damaged += 1
            if self._damaged > MAX_DAMAGED or not self._heard:
                raise AudioError("it is no Opus packet") from error
            return []
        self._damaged, self._heard = 0, True
        return [(frame_samples(frame), frame.sample_rate) for frame in frames]

    def end(self) -> list[_Frame]:
        return []


class _Shared:
    """One source behind the decoders of all channels: the first one asked pushes, the others get their part.

    Args:
        source: of the frames.
        split: how many channels are kept apart; None: they are mixed.
    """

    def __init__(self, source: _Container | _OpusPackets, split: int | None) -> None:
        self._source = source
        self._split = split
        self._shape: tuple[int, int] | None = None
        self._converters: list[AudioConverter] = []
        self._parts: list[Int16Samples] = []

    def push(self, data: bytes) -> None:
        self._parts = self._convert(self._source.push(data))

    def end(self) -> None:
        parts = self._convert(self._source.end())
        tails = [converter.flush() for converter in self._converters]
        self._parts = [np.concatenate(both) for both in zip(parts, tails, strict=True)] if tails else parts

    def part(self, number: int) -> Int16Samples:
        return self._parts[number]

    def _convert(self, frames: Sequence[_Frame]) -> list[Int16Samples]:
        pieces: list[list[Int16Samples]] = [[np.zeros(0, np.int16)] for _ in range(self._split or 1)]
        for samples, rate in frames:
            for piece, converter in zip(pieces, self._converters_for(rate, samples.shape[1]), strict=True):
                piece.append(converter.convert(samples))
        return [np.concatenate(piece) for piece in pieces]

    def _converters_for(self, rate: int, channels: int) -> list[AudioConverter]:
        """Those at hand; others where the audio changes its shape on the way, as chained Ogg files may."""
        if self._shape != (rate, channels):
            if self._split is not None and channels != self._split:
                raise AudioError(f"the audio has {channels} channels, not {self._split}")
            self._shape = rate, channels
            chosen = [None] if self._split is None else range(channels)
            self._converters = [AudioConverter(rate, channels, channel=number) for number in chosen]
        return self._converters


class _ChannelDecoder:
    """The decoder of one channel; see `audio.Decoder`. The channels are asked in order."""

    def __init__(self, shared: _Shared, number: int) -> None:
        self._shared = shared
        self._number = number

    def convert(self, samples: bytes) -> Int16Samples:
        """See `audio.Decoder`."""
        if self._number == 0:
            self._shared.push(samples)
        return self._shared.part(self._number)

    def flush(self) -> Int16Samples:
        """See `audio.Decoder`. Raises `AudioError`, too, where there was no audio in it."""
        if self._number == 0:
            self._shared.end()
        return self._shared.part(self._number)
