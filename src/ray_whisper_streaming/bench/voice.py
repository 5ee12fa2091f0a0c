"""Where a whole recording holds voice, told as a stream tells it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from ray_whisper_streaming.core.endpointing import VOICE_FRAME, Endpointer
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.core.options import EndpointingOptions
from ray_whisper_streaming.engines.vad import SileroVad, VadState

__all__ = ["Span", "clip_spans", "find_voice", "overlap_s"]

Span: TypeAlias = tuple[float, float]
"""Start and end, in seconds."""


def find_voice(audio: Int16Samples, options: EndpointingOptions | None = None) -> list[Span]:
    """The stretches with voice, in order: runs of voiced frames long enough to be speech (``min_speech_s``).

    Args:
        audio: int16 mono 16 kHz, shape (samples,).
        options: when a frame counts as voiced; the defaults of streams.
    """
    endpointer = Endpointer(options or EndpointingOptions())
    whole = np.pad(audio, (0, -len(audio) % VOICE_FRAME))
    probabilities = SileroVad().score([VadState()], [whole])[0]
    found: list[Span] = []
    begun: int | None = None
    for frame, probability in enumerate(probabilities):
        start = frame * VOICE_FRAME
        endpointer.receive([float(probability)])
        if endpointer.voiced_until > start:
            begun = start if begun is None else begun
            # A click that begins no speech is no voice; within speech every voiced frame is.
            if endpointer.speaking:
                stop_s = min(endpointer.voiced_until, len(audio)) / SAMPLE_RATE
                if found and found[-1][0] == begun / SAMPLE_RATE:
                    found.pop()
                found.append((begun / SAMPLE_RATE, stop_s))
        else:
            begun = None
    return found


def clip_spans(spans: Sequence[Span], start_s: float, end_s: float) -> list[Span]:
    """What of the spans lies between the two moments, in seconds from the first of them."""
    return [
        (max(a, start_s) - start_s, min(b, end_s) - start_s) for a, b in spans if a < end_s and b > start_s
    ]


def overlap_s(spans: Sequence[Span], start_s: float, end_s: float) -> float:
    """Seconds of the spans that lie between the two moments."""
    return sum(max(0.0, min(end_s, b) - max(start_s, a)) for a, b in spans)
