"""The microphone of this machine, with the optional package `sounddevice`."""

from __future__ import annotations

import asyncio
import importlib
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.errors import AudioError, ConfigurationError

__all__ = ["INSTALL_HINT", "Microphone", "microphone"]

INSTALL_HINT = "pip install 'ray-whisper-streaming[microphone]'; on Linux also PortAudio (libportaudio2)"

PACKET_S = 0.1
MAX_WAITING_S = 30.0
"""Sound kept for a program that doesn't fetch it: as long as a server waits for a lost connection. Beyond it, the
oldest is dropped: a microphone can't be made to wait."""


class Microphone:
    """Sound as it comes: iterate it, with ``for`` or ``async for``, inside of ``with``.

    Args:
        sample_rate: per second.
        channels: interleaved.
        device: name or number, as ``python -m sounddevice`` lists them; None: the system's choice.
        packet_s: seconds of sound at a time.

    Attributes:
        dropped_s: seconds of sound that were lost because nobody fetched them.
    """

    def __init__(
        self,
        sample_rate: int = SAMPLE_RATE,
        channels: int = 1,
        *,
        device: str | int | None = None,
        packet_s: float = PACKET_S,
    ) -> None:
        self.sample_rate = sample_rate
        self.channels = channels
        self.dropped_s = 0.0
        self._device = device
        self._packet = max(1, round(packet_s * sample_rate))
        self._packet_s = self._packet / sample_rate
        self._packets = self._no_packets()
        self._stream: Any = None

    def start(self) -> None:
        """Begin to listen.

        Raises:
            ConfigurationError: `sounddevice`, or the PortAudio library it needs, is not installed.
            AudioError: there is no such microphone, or it can't do this.
        """
        sound = _sounddevice()
        self._packets = self._no_packets()
        try:
            self._stream = sound.RawInputStream(
                samplerate=self.sample_rate,
                channels=self.channels,
                dtype="int16",
                blocksize=self._packet,
                device=self._device,
                callback=self._take,
            )
            self._stream.start()
        except (sound.PortAudioError, ValueError) as error:
            self.close()
            raise AudioError(f"the microphone can't be used: {error}") from error

    def close(self) -> None:
        """Stop listening; what was heard can still be fetched, then the iteration ends. Safe to call twice."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
            self._put(None)

    def __iter__(self) -> Iterator[bytes]:
        """16-bit samples, until `close`."""
        while (packet := self._packets.get()) is not None:
            yield packet
        self._put(None)  # who asks once more hears the same

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """16-bit samples, until `close`."""
        while True:
            try:
                packet = self._packets.get_nowait()
            except queue.Empty:
                # A thread that waits in `get` could not be cancelled.
                await asyncio.sleep(self._packet_s / 2)
                continue
            if packet is None:
                self._put(None)  # see `__iter__`
                return
            yield packet

    def __enter__(self) -> Microphone:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _no_packets(self) -> queue.Queue[bytes | None]:
        return queue.Queue(max(1, round(MAX_WAITING_S / self._packet_s)))

    def _take(self, data: Any, frames: int, times: Any, status: Any) -> None:
        """Called by PortAudio's own thread."""
        self._put(bytes(data))

    def _put(self, packet: bytes | None) -> None:
        while True:
            try:
                self._packets.put_nowait(packet)
                return
            except queue.Full:
                try:
                    self._packets.get_nowait()
                    self.dropped_s += self._packet_s
                except queue.Empty:  # fetched meanwhile
                    pass


def microphone(
    sample_rate: int = SAMPLE_RATE, channels: int = 1, *, device: str | int | None = None
) -> Microphone:
    """The microphone of this machine; see `Microphone`.

    Raises:
        ConfigurationError: what it needs is not installed; says what to install.
    """
    _sounddevice()
    return Microphone(sample_rate, channels, device=device)


def _sounddevice() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except (ImportError, OSError) as error:  # OSError: PortAudio itself is missing
        raise ConfigurationError(
            "sounddevice", str(error), f"installed, to use the microphone: {INSTALL_HINT}"
        ) from error
