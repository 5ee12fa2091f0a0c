"""Audio that says itself what it is, containers and Opus packets, decoded as it comes in; a decoder per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import av
import numpy as np
from av.error import FFmpegError

from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.errors import AudioError, ConfigurationError
from ray_whisper_streaming.media import MAX_CHANNELS, AudioConverter, Encoding, frame_samples
from ray_whisper_streaming.server.audio import AudioFormat, Decoder
from ray_whisper_streaming.server.containers import MAX_DAMAGED, ContainerSource, Frame

__all__ = ["CodedAudio", "audio_format", "framed"]

Codec: TypeAlias = Literal["container", "opus"]

NOMINAL_BYTES_PER_S = 16_000
"""What coded speech takes at most, as a rule (128 kbit/s)."""

OPUS_RATE = 48_000
OPUS_CHANNELS = 2

LENGTH_BYTES = 4
MAX_PACKET_BYTES = 48 * 1276
"""120 ms in 48 frames of the greatest length (RFC 6716, 3.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedAudio(AudioFormat):
    """The audio of a session whose bytes are a container in pieces, or Opus packets, each `framed`.

    Attributes:
        codec: which of both. ``encoding`` and ``sample_rate`` say nothing then.
    """

    codec: Codec = "container"

    def __post_init__(self) -> None:
        most = OPUS_CHANNELS if self.codec == "opus" else MAX_CHANNELS
        if not 1 <= self.channels <= most:
            raise ConfigurationError("channels", self.channels, f"from 1 to {most}")
        AudioFormat.__post_init__(self)

    @property
    def bytes_per_second(self) -> int:
        """Of what is sent, about."""
        return NOMINAL_BYTES_PER_S * self.channels

    @property
    def is_plain(self) -> bool:
        """Never."""
        return False

    @property
    def may_hang(self) -> bool:
        """A container's thread is waited for."""
        return self.codec == "container"

    @property
    def is_coded(self) -> bool:
        """Always."""
        return True

    def decoders(self) -> list[Decoder]:
        """A new decoder for each stream; they share the work."""
        source = ContainerSource() if self.codec == "container" else _OpusPackets(self.channels)
        shared = _Shared(source, self.streams if self.split else None)
        return [_ChannelDecoder(shared, number) for number in range(self.streams)]


def audio_format(
    encoding: Encoding | Codec, *, sample_rate: int = SAMPLE_RATE, channels: int = 1, split: bool = False
) -> AudioFormat:
    """The audio of a session, as clients name it.

    Args:
        encoding: of samples, or ``"opus"`` (packets) or ``"container"``.
        sample_rate: of samples; what is coded says itself.
        channels: interleaved in samples, or in an Opus packet; of a container only where they are kept apart.
        split: a stream per channel.

    Raises:
        ConfigurationError: what can't be.
    """
    if encoding == "container" or encoding == "opus":
        return CodedAudio(codec=encoding, channels=channels, split=split)
    return AudioFormat(encoding=encoding, sample_rate=sample_rate, channels=channels, split=split)


def framed(packet: bytes) -> bytes:
    """An Opus packet with its length before it: on their way packets become one piece of bytes."""
    return len(packet).to_bytes(LENGTH_BYTES, "big") + packet


class _OpusPackets:
    """Opus packets without a container, as telephony and WebRTC send them."""

    def __init__(self, channels: int) -> None:
        self._context: Any = av.CodecContext.create("libopus", "r")
        self._context.sample_rate = OPUS_RATE
        self._context.layout = "mono" if channels == 1 else "stereo"
        self._damaged = 0
        self._heard = False

    def push(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        start = 0
        while start < len(data):
            packet = start + LENGTH_BYTES
            start = packet + int.from_bytes(data[start:packet], "big")
            frames += self._decode(data[packet:start])
        if not frames and (self._damaged > MAX_DAMAGED or not self._heard):
            raise AudioError("it is no Opus packet")
        return frames

    def _decode(self, packet: bytes) -> list[Frame]:
        frames: list[Any] = []
        if 0 < len(packet) <= MAX_PACKET_BYTES:  # an empty one is the end of the stream, to FFmpeg
            try:
                frames = self._context.decode(av.Packet(packet))
            except (FFmpegError, ValueError):
                pass
        if frames:
            self._damaged, self._heard = 0, True
        else:
            self._damaged += 1
        return [(frame_samples(frame), frame.sample_rate) for frame in frames]

    def end(self) -> list[Frame]:
        return []


class _Shared:
    """One source behind the decoders of all channels: the first one asked pushes, the others get their part.

    Args:
        source: of the frames.
        split: how many channels are kept apart; None: they are mixed.
    """

    def __init__(self, source: ContainerSource | _OpusPackets, split: int | None) -> None:
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

    def _convert(self, frames: Sequence[Frame]) -> list[Int16Samples]:
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
            try:
                self._converters = [AudioConverter(rate, channels, channel=number) for number in chosen]
            except ConfigurationError as error:
                raise AudioError(f"its {error}") from None
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
