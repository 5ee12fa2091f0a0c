"""Log-mel spectrograms of int16 audio, each second of a stream's audio computed once and not once per window.

The windows of a stream overlap almost wholly: a second of new audio, twelve seconds seen before. A frame
depends on the 400 samples around it and on nothing else, so frames of earlier windows are taken from a cache.
Only two things belong to the window and are done anew: the frames at its two edges (where the signal is
mirrored, or zeros follow), and the clamp to 8 decades below the window's loudest value. The numbers are those
of Whisper's own front end (Slaney mel scale, Hann window of 25 ms, hop of 10 ms).

Not thread-safe: one `MelCache` per worker, used by one thread at a time, as engines are.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.core.audio import as_float32
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples

__all__ = [
    "DYNAMIC_RANGE",
    "FRAMES_PER_S",
    "HOP",
    "LOG_FLOOR",
    "WINDOW",
    "Float32",
    "MelCache",
    "hann_window",
    "mel_filters",
    "pad_frames",
    "put_with_edges",
]

Float32 = npt.NDArray[np.float32]

WINDOW = 400
"""Samples of one analysis window (25 ms)."""

HOP = 160
"""Samples from one frame to the next (10 ms)."""

FRAMES_PER_S = SAMPLE_RATE // HOP

HALF = WINDOW // 2

EDGE_FRAMES = -(-HALF // HOP)
"""Frames at a window's start that reach before its first sample: they see mirrored audio."""

LOG_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0
"""Decades below the loudest value that are kept; what is softer is raised to that."""

MAX_STREAMS = 1024
MAX_FRAMES = 400_000
"""Frames kept over all streams. One takes 320 bytes of mel (80 bands) and 320 of audio, so this is 256 MB at
most: 330 streams of 12 s."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is kept of one stream.

    Attributes:
        first: absolute index of the first frame kept; frame ``k`` is centred on sample ``k * HOP`` of the
            stream.
        frames: their log10 mel values before the clamp, shape (frames, bands).
        audio: every sample these frames were made from: a part of the window that came, not a copy.
    """

    first: int
    frames: Float32
    audio: Int16Samples

    def copy_into(self, target: Float32, first: int, audio: Int16Samples) -> int:
        """Fill the head of ``target``, whose first row is frame ``first``, with the frames known.

        Args:
            target: shape (frames, bands).
            first: absolute index of its first frame.
            audio: the samples under it, from the first one that frame sees. Where they differ, nothing is
                filled.

        Returns:
            how many frames were filled.
        """
        begin = first - self.first
        count = min(len(target), len(self.frames) - begin)
        if begin < 0 or count <= 0:
            return 0
        seen = self.audio[begin * HOP : (begin + count - 1) * HOP + WINDOW]
        if not np.array_equal(seen, audio[: len(seen)]):
            return 0
        target[:count] = self.frames[begin : begin + count]
        return count


class MelCache:
    """Computes log-mel windows and remembers the frames of each stream.

    Bounded: the streams used least recently are forgotten first. Forgetting costs time, never correctness.
    The same holds for a stream id used again for other audio: the samples are compared.

    Args:
        bands: mel bands of the model (80, or 128 for large-v3).
        max_frames: frames kept over all streams.
        max_streams: streams kept.
    """

    def __init__(self, bands: int, *, max_frames: int = MAX_FRAMES, max_streams: int = MAX_STREAMS) -> None:
        self._bands = bands
        self._max_frames = max_frames
        self._max_streams = max_streams
        self._streams: OrderedDict[str, _Known] = OrderedDict()
        self._held_frames = 0

    @property
    def held_frames(self) -> int:
        """Frames kept now, over all streams."""
        return self._held_frames

    @property
    def held_streams(self) -> int:
        """Streams of which something is kept now."""
        return len(self._streams)

    def log_mel(self, stream_id: str, start_sample: int, audio: Int16Samples) -> Float32:
        """Log-mel of one window, as Whisper takes it.

        Args:
            stream_id: whose audio this is.
            start_sample: where it starts in the stream. A multiple of 160 lets frames be reused; others are
                right, but computed whole.
            audio: int16, 16 kHz, shape (samples,). It must not change afterwards: it is compared with the next.

        Returns:
            shape (bands, samples // 160), float32: what faster-whisper's extractor gives for the same audio,
            without its last frame (which lies beyond the audio).
        """
        if len(audio) < HOP:
            return np.zeros((self._bands, 0), np.float32)
        raw = self._raw(stream_id, start_sample, audio)
        scaled = np.maximum(raw, raw.max() - DYNAMIC_RANGE)
        scaled += 4.0
        scaled *= 0.25
        return np.ascontiguousarray(scaled[:-1].T)

    def padded(self, stream_id: str, start_sample: int, audio: Int16Samples, frames: int) -> Float32:
        """`log_mel`, lengthened by `pad_frames`."""
        return pad_frames(self.log_mel(stream_id, start_sample, audio), frames)

    def forget(self, stream_id: str) -> None:
        """Drop what is kept of a stream. Needed by nobody; frees memory early."""
        known = self._streams.pop(stream_id, None)
        if known is not None:
            self._held_frames -= len(known.frames)

    def _raw(self, stream_id: str, start_sample: int, audio: Int16Samples) -> Float32:
        """All frames of the window before the clamp, shape (samples // HOP + 1, bands)."""
        total = len(audio) // HOP + 1
        # Frames [inner, end) see this window's audio only: they are the same in every window that holds them.
        inner, end = EDGE_FRAMES, (len(audio) - HALF) // HOP + 1
        if start_sample % HOP or end <= inner:
            whole = np.empty(len(audio) + WINDOW, np.int16)
            put_with_edges(audio, whole)
            return _log_frames(whole, total, self._bands)
        raw = np.empty((total, self._bands), np.float32)
        known = self._streams.get(stream_id)
        first = start_sample // HOP + inner
        reused = inner + (known.copy_into(raw[inner:end], first, audio[inner * HOP - HALF :]) if known else 0)
        raw[:inner] = _log_frames(
            np.concatenate((_mirrored_start(audio), audio[:WINDOW])), inner, self._bands
        )
        raw[reused:] = _log_frames(_silence_behind(audio[reused * HOP - HALF :]), total - reused, self._bands)
        seen = audio[inner * HOP - HALF : (end - 1) * HOP + HALF]
        self._keep(stream_id, _Known(first, raw[inner:end].copy(), seen))
        return raw

    def _keep(self, stream_id: str, known: _Known) -> None:
        self.forget(stream_id)
        self._streams[stream_id] = known
        self._held_frames += len(known.frames)
        while self._streams and (
            self._held_frames > self._max_frames or len(self._streams) > self._max_streams
        ):
            _, oldest = self._streams.popitem(last=False)
            self._held_frames -= len(oldest.frames)


def pad_frames(mel: Float32, frames: int) -> Float32:
    """Lengthen a spectrogram of shape (bands, n) to ``frames`` with zeros, as Whisper's own decoders do.

    (Zero of the scaled values: silence of middling loudness, but what the models are used to.)
    """
    return np.pad(mel, ((0, 0), (0, frames - mel.shape[1])))


def put_with_edges(audio: Int16Samples, target: Int16Samples) -> None:
    """Write a window's audio, and the half analysis windows in front of it and behind that its outermost frames see.

    Args:
        audio: shape (samples,).
        target: longer by `WINDOW` or more; what is left of it becomes silence.
    """
    target[:HALF] = _mirrored_start(audio)
    target[HALF : HALF + len(audio)] = audio
    target[HALF + len(audio) :] = 0


def mel_filters(bands: int) -> Float32:
    """The triangular filters of the mel scale as a matrix, shape (bins, bands)."""
    starts, rising, falling = _triangles(bands)
    bins = np.arange(len(rising))
    stretch = np.searchsorted(starts, bins, side="right") - 1
    # One more on either side: the first stretch has no falling side, the last no rising one.
    sides = np.zeros((len(bins), bands + 2), np.float32)
    sides[bins, stretch + 1] = rising
    sides[bins, stretch] = falling
    return np.ascontiguousarray(sides[:, 1:-1])


def _mirrored_start(audio: Int16Samples) -> Int16Samples:
    """The half window before the first sample: the audio mirrored at it."""
    return _silence_behind(audio[: HALF + 1])[HALF:0:-1]


def _silence_behind(audio: Int16Samples) -> Int16Samples:
    """The audio and what the last frames see behind it (the mirror there shows added silence only)."""
    return np.concatenate((audio, np.zeros(HALF, np.int16)))


def _log_frames(samples: Int16Samples, count: int, bands: int) -> Float32:
    """log10 mel of ``count`` frames, the first over ``samples[:WINDOW]``; shape (count, bands)."""
    if count <= 0:
        return np.empty((0, bands), np.float32)
    signal = as_float32(samples)
    windows = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[: count * HOP : HOP]
    spectrum = np.fft.rfft(windows * hann_window(), axis=-1).astype(np.complex64)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return np.log10(np.maximum(_mel_energies(power, bands), LOG_FLOOR))


def _mel_energies(power: Float32, bands: int) -> Float32:
    """Energy under each triangle; shape (frames, bins) to (frames, bands).

    Not a matrix product: most weights are zero, BLAS threads that compete for cores can take a hundred times
    as long, and this way a frame's values don't depend on how many are computed at once.
    """
    starts, rising, falling = _triangles(bands)
    # Between two neighbouring corners the bins belong to one rising and one falling side.
    up = np.add.reduceat(power * rising, starts, axis=1)
    down = np.add.reduceat(power * falling, starts, axis=1)
    # A stretch without a bin (low bands are narrower than one) adds nothing; reduceat would give the bin
    # behind it.
    empty = np.flatnonzero(np.diff(starts) == 0)
    up[:, empty] = 0.0
    down[:, empty] = 0.0
    return up[:, :bands] + down[:, 1 : bands + 1]


@cache
def hann_window() -> Float32:
    """The analysis window, shape (samples,)."""
    return np.hanning(WINDOW + 1)[:-1].astype(np.float32)


@cache
def _triangles(bands: int) -> tuple[npt.NDArray[np.intp], Float32, Float32]:
    """Triangular filters on the Slaney mel scale, each of unit area.

    The scale is linear up to 1 kHz (66.7 Hz a mel) and logarithmic above (27 steps for a factor of 6.4);
    45.2456 mel is 8 kHz. Triangle ``k`` rises from corner ``k`` to ``k + 1`` and falls to ``k + 2``.

    Returns:
        the first bin of each stretch between two corners, shape (bands + 1,), and the weight of each bin in
        the triangle that rises, and in the one that falls, where it stands; shape (bins,).
    """
    linear_hz, knee_hz, top_mel = 200.0 / 3, 1000.0, 45.245640471924965
    mels = np.linspace(0.0, top_mel, bands + 2)
    knee_mel = knee_hz / linear_hz
    corners = np.where(
        mels < knee_mel, mels * linear_hz, knee_hz * np.exp((mels - knee_mel) * np.log(6.4) / 27.0)
    )
    bins = np.fft.rfftfreq(WINDOW, 1.0 / SAMPLE_RATE)
    starts = np.searchsorted(bins, corners[:-1])
    stretch = np.searchsorted(starts, np.arange(len(bins)), side="right") - 1
    left, right = corners[stretch], corners[stretch + 1]
    height = np.concatenate(([0.0], 2.0 / (corners[2:] - corners[:-2]), [0.0]))
    rising = (bins - left) / (right - left) * height[stretch + 1]
    falling = (right - bins) / (right - left) * height[stretch]
    return starts, rising.astype(np.float32), falling.astype(np.float32)
