"""What clients send as audio, and the decoders that turn it into samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.media import SAMPLE_BYTES, AudioConverter, Encoding

__all__ = ["AudioFormat", "Decoder"]


class Decoder(Protocol):
    """Turns the bytes of one channel's stream into samples; keeps what it needs between calls."""

    def convert(self, samples: bytes) -> Int16Samples:
        """Decode the next bytes, cut anywhere, to int16 mono 16 kHz.

        Raises:
            AudioError: they are no such audio; the stream may go on without them.
        """
        ...

    def flush(self) -> Int16Samples:
        """The end of the input: what was kept back.

        Raises:
            AudioError: it was no such audio at all.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFormat:
    """The audio of one session.

    Attributes:
        encoding: of the samples.
        sample_rate: per second.
        channels: interleaved.
        split: a stream per channel; else they are mixed.
    """

    encoding: Encoding = "s16le"
    sample_rate: int = SAMPLE_RATE
    channels: int = 1
    split: bool = False

    def __post_init__(self) -> None:
        if self.split and self.channels > MAX_STREAMS:
            raise ConfigurationError(
                "channels", self.channels, f"from 1 to {MAX_STREAMS} where each is a stream"
            )
        self.decoders()  # checks the rest

    @property
    def streams(self) -> int:
        """How many streams there will be."""
        return self.channels if self.split else 1

    @property
    def bytes_per_second(self) -> int:
        """Of what is sent, about."""
        return SAMPLE_BYTES[self.encoding] * self.sample_rate * self.channels

    @property
    def is_plain(self) -> bool:
        """Whether decoding is no work: the samples are what streams take."""
        return (self.encoding, self.sample_rate, self.channels) == ("s16le", SAMPLE_RATE, 1)

    @property
    def may_hang(self) -> bool:
        """Whether decoding a piece may take long."""
        return False

    @property
    def is_coded(self) -> bool:
        """Whether the bytes say nothing of their length in seconds before they are decoded."""
        return False

    def decoders(self) -> list[Decoder]:
        """A new decoder for each stream.

        Raises:
            ConfigurationError: a rate, count or encoding that can't be.
        """
        return [
            AudioConverter(
                self.sample_rate, self.channels, self.encoding, channel=number if self.split else None
            )
            for number in range(self.streams)
        ]


MAX_STREAMS = 8
"""Channels of one session that may be streams of their own: what conference recorders and telephony cards have."""
