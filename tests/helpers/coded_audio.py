"""Audio as clients code it: containers, and Opus packets without one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples

RATE = 48_000

PACKET_S = 0.02
"""Audio of an Opus packet."""

LIVE_WEBM = {"live": "1", "cluster_time_limit": "100"}
"""As a browser's MediaRecorder writes it: no length in its head, a cluster now and then."""


FRAGMENTED_MP4 = {"movflags": "empty_moov+default_base_moof", "frag_duration": "100000"}
"""What describes it in its head, and a fragment every 0.1 s."""


def at_48_khz(audio: Int16Samples) -> np.ndarray:
    """As floats, for `encode` and `opus_packets`."""
    return np.repeat(audio, RATE // SAMPLE_RATE).astype(np.float32) / 32768


def encode(container: str, codec: str, *channels: np.ndarray, options: dict[str, str] | None = None) -> bytes:
    """A file: its channels are floats at 48 kHz."""
    file = io.BytesIO()
    layout = "mono" if len(channels) == 1 else "stereo"
    output: Any
    with av.open(file, "w", format=container, options=options or {}) as output:
        for packet in _encoded(codec, channels, output.add_stream(codec, rate=RATE, layout=layout)):
            output.mux(packet)
    return file.getvalue()


def opus_packets(*channels: np.ndarray) -> list[bytes]:
    """Of 20 ms each."""
    context: Any = av.CodecContext.create("libopus", "w")
    context.sample_rate, context.layout = RATE, "mono" if len(channels) == 1 else "stereo"
    context.format = "flt"
    return [bytes(packet) for packet in _encoded("libopus", channels, context)]


def _encoded(codec: str, channels: tuple[np.ndarray, ...], stream: Any) -> Iterator[Any]:
    layout = "mono" if len(channels) == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(np.stack(channels), format="fltp", layout=layout)
    frame.sample_rate = RATE
    resampler: Any = av.AudioResampler(format=stream.format, layout=layout, rate=RATE, frame_size=960)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        yield from stream.encode(part)
    yield from stream.encode(None)
