"""Audio of any kind in, int16 mono at 16 kHz out: files by PyAV (FFmpeg), samples by soxr."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, TypeAlias, cast

import av
import numpy as np
import numpy.typing as npt
import soxr
from av.error import FFmpegError

from ray_whisper_streaming.core.audio import as_float32, as_int16
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.errors import AudioError, ConfigurationError

__all__ = ["SAFE_FORMATS", "AudioConverter", "Encoding", "decode_file", "frame_samples", "load_audio"]

Float32: TypeAlias = npt.NDArray[np.float32]
Encoding: TypeAlias = Literal["s16le", "f32le", "mulaw", "alaw"]
AudioFile: TypeAlias = str | os.PathLike[str] | BinaryIO

MAX_CHANNELS = 64

MIN_RATE, MAX_RATE = 4_000, 384_000
"""Sample rates accepted: from below telephony to the highest recorders use."""

SAMPLE_BYTES = {"s16le": 2, "f32le": 4, "mulaw": 1, "alaw": 1}

# Of WAV files (RIFF, little-endian):
RIFF_HEAD, CHUNK_HEAD = 12, 8
MAX_CHUNKS = 1_000
"""Looked at in front of the audio."""

ENDLESS_BYTES = 0x7FFF0000
"""So much, or more, is announced by who writes to a pipe and can't tell the length: 2 or 4 GB, less the head. Or 0."""

SLACK_BYTES = 1_024
"""Some count their head or a filling byte as audio."""


SAFE_FORMATS = (
    "3gp,aac,ac3,aiff,amr,asf,au,avi,caf,dts,eac3,flac,flv,matroska,mov,mp3,mp4,"
    "mpeg,mpegts,ogg,rm,tta,w64,wav,webm,wv"
)
"""FFmpeg's names of containers that hold their audio themselves. Others (playlists, concatenations, session
descriptions) name files and addresses that FFmpeg would then open: whoever sent one could read what the server can."""


def decode_file(
    file: AudioFile, *, channel: int | None = None, untrusted: bool = False
) -> Iterator[Int16Samples]:
    """Decode a file piece by piece, never holding all of it.

    Args:
        file: path or binary file; any container and codec that FFmpeg knows.
        channel: take this channel alone, from 0; None mixes all.
        untrusted: it was sent by somebody: only `SAFE_FORMATS`, and no WAV that is shorter than it says.

    Yields:
        int16 mono 16 kHz, shape (n,), as long as FFmpeg's frames are.

    Raises:
        AudioError: no audio stream in it, damaged, or not to be read.
    """
    path = os.fspath(cast("os.PathLike[str]", file)) if isinstance(file, (str, os.PathLike)) else None
    name = "the input" if path is None else os.path.basename(path)
    options = {"format_whitelist": SAFE_FORMATS} if untrusted else {}
    try:
        if untrusted:
            _check_whole(file, name)
        opened: Any = av.open(path or file, "r", options=options)
        with opened as container:
            if not container.streams.audio:
                raise AudioError(f"{name} holds no audio")
            converter: AudioConverter | None = None
            for frame in container.decode(audio=0):
                samples = frame_samples(frame)
                if converter is None:
                    converter = AudioConverter(frame.sample_rate, samples.shape[1], channel=channel)
                yield converter.convert(_as_float(samples))
            if converter is None:
                raise AudioError(f"{name} holds no audio")
            yield converter.flush()
    except (FFmpegError, OSError) as error:
        why = error.strerror or type(error).__name__
        raise AudioError(f"{name} can't be read as audio: {why}") from error


def _check_whole(file: AudioFile, name: str) -> None:
    """Refuse a WAV whose end was lost on the way: FFmpeg takes what is there for all of it."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            _check_wav(opened, name)
    else:
        begin = file.tell()
        _check_wav(file, name)
        file.seek(begin)


def _check_wav(file: BinaryIO, name: str) -> None:
    head = file.read(RIFF_HEAD)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return
    for _ in range(MAX_CHUNKS):
        chunk = file.read(CHUNK_HEAD)
        if len(chunk) < CHUNK_HEAD:
            return
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            begin = file.tell()
            file.seek(0, os.SEEK_END)
            there = file.tell() - begin
            if there + SLACK_BYTES < size < ENDLESS_BYTES:
                raise AudioError(
                    f"{name} is cut off: {there} of the {size} bytes of audio it announces are there"
                )
            return
        file.seek(size + size % 2, os.SEEK_CUR)


def frame_samples(frame: Any) -> npt.NDArray[Any]:
    """The samples of a frame of PyAV, shape (frames, channels), of the type the codec gives."""
    samples, channels = frame.to_ndarray(), frame.layout.nb_channels
    # Packed formats come as one row with the channels interleaved, planar ones as a row each.
    return samples.T if frame.format.is_planar else samples.reshape(-1, channels)


def load_audio(file: AudioFile) -> Float32:
    """All of a file as float32 mono 16 kHz, shape (n,), values -1 to 1. Raises `AudioError` as `decode_file`."""
    pieces = list(decode_file(file))
    return as_float32(np.concatenate(pieces))


class AudioConverter:
    """Turns pushed samples of any rate, channel count and encoding into int16 mono 16 kHz. One per stream.

    Args:
        sample_rate: of what will be pushed, per second.
        channels: interleaved in bytes, or the second dimension of arrays.
        encoding: of pushed bytes; arrays say themselves what they are.
        channel: take this channel alone, from 0; None mixes all.

    Raises:
        ConfigurationError: a rate or count no audio has.
    """

    def __init__(
        self,
        sample_rate: int = SAMPLE_RATE,
        channels: int = 1,
        encoding: Encoding = "s16le",
        *,
        channel: int | None = None,
    ) -> None:
        if not MIN_RATE <= sample_rate <= MAX_RATE:
            raise ConfigurationError("sample_rate", sample_rate, f"from {MIN_RATE} to {MAX_RATE} per second")
        if not 1 <= channels <= MAX_CHANNELS:
            raise ConfigurationError("channels", channels, f"from 1 to {MAX_CHANNELS}")
        if channel is not None and not 0 <= channel < channels:
            raise ConfigurationError("channel", channel, f"from 0 to {channels - 1}")
        if encoding not in SAMPLE_BYTES:
            raise ConfigurationError("encoding", encoding, "one of " + ", ".join(SAMPLE_BYTES))
        self._channels = channels
        self._channel = channel
        self._encoding: Encoding = encoding
        self._left_over = b""
        self._resampler = (
            None
            if sample_rate == SAMPLE_RATE
            else soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32")
        )

    def convert(self, samples: npt.ArrayLike | bytes | bytearray | memoryview) -> Int16Samples:
        """Convert the next samples; the resampler may keep some milliseconds back until `flush`.

        Args:
            samples: bytes, cut anywhere; or an array of int16, int32 or floats of -1 to 1, shape (frames,) for one
                channel or (frames, channels).

        Raises:
            AudioError: another type or shape, NaN or infinity. Nothing of it was taken.
        """
        if isinstance(samples, (bytes, bytearray, memoryview)):
            array = self._from_bytes(bytes(cast(bytes, samples)))
        else:
            array = np.asarray(cast(npt.ArrayLike, samples))
        if array.ndim == 1 and self._channels == 1:
            array = array[:, None]
        if array.ndim != 2 or array.shape[1] != self._channels:
            raise AudioError(f"samples have shape {array.shape}; (frames, {self._channels}) is wanted")
        if array.dtype == np.int16 and self._resampler is None and self._channels == 1:
            return np.ascontiguousarray(array[:, 0])
        mono = self._mix(_as_float(array))
        return as_int16(mono if self._resampler is None else self._resampler.resample_chunk(mono))

    def flush(self) -> Int16Samples:
        """The end of the input: what the resampler kept back."""
        if self._resampler is None:
            return np.zeros(0, np.int16)
        return as_int16(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))

    def _mix(self, frames: Float32) -> Float32:
        if self._channel is not None:
            return np.ascontiguousarray(frames[:, self._channel])
        return frames[:, 0] if self._channels == 1 else frames.mean(axis=1, dtype=np.float32)

    def _from_bytes(self, raw: bytes) -> npt.NDArray[Any]:
        """Whole frames of the bytes so far; the rest waits for the next call."""
        raw = self._left_over + raw
        frame = SAMPLE_BYTES[self._encoding] * self._channels
        whole = len(raw) - len(raw) % frame
        self._left_over = raw[whole:]
        if self._encoding == "s16le":
            array: npt.NDArray[Any] = np.frombuffer(raw[:whole], "<i2")
        elif self._encoding == "f32le":
            array = np.frombuffer(raw[:whole], "<f4")
        else:
            table = _MULAW if self._encoding == "mulaw" else _ALAW
            array = table[np.frombuffer(raw[:whole], np.uint8)]
        return array.reshape(-1, self._channels)


def _as_float(array: npt.NDArray[Any]) -> Float32:
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise AudioError("samples hold NaN or infinity")
        return array.astype(np.float32, copy=False)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128.0) / 128.0
    if array.dtype.kind == "i" and array.dtype.itemsize in (2, 4):
        return array.astype(np.float32) / -float(np.iinfo(array.dtype).min)
    if array.size == 0:
        return array.astype(np.float32)
    raise AudioError(f"samples are {array.dtype}; int16, int32, or floats of -1 to 1, are wanted")


def _mulaw_table() -> Int16Samples:
    """ITU-T G.711 mu-law: 8 bits to linear, inverted bits, bias 132, 14-bit values scaled to 16."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4) & 7, code & 15
    magnitude = ((mantissa.astype(np.int32) << 3) + 132 << exponent.astype(np.int32)) - 132
    return np.where(code & 128, -magnitude, magnitude).astype(np.int16)


def _alaw_table() -> Int16Samples:
    """ITU-T G.711 A-law: even bits inverted, 13-bit values scaled to 16."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = ((code >> 4) & 7).astype(np.int32), (code & 15).astype(np.int32)
    small = (mantissa << 4) + 8
    magnitude = np.where(exponent == 0, small, small + 256 << np.maximum(exponent - 1, 0))
    return np.where(code & 128, magnitude, -magnitude).astype(np.int16)


_MULAW, _ALAW = _mulaw_table(), _alaw_table()
