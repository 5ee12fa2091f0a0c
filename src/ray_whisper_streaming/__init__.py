"""Many live audio streams, one pool of Whisper workers.

Start with `Pool` (or `AsyncPool`): open streams on it, push audio, read events.
"""

from __future__ import annotations

from ray_whisper_streaming.api import AsyncLiveStream, AsyncPool, LiveStream, Pool, make_recognizer
from ray_whisper_streaming.core.events import (
    Committed,
    Event,
    Final,
    Flushed,
    JobFailed,
    LanguageDetected,
    Partial,
    SpeechEnded,
    SpeechStarted,
    StreamFailed,
)
from ray_whisper_streaming.core.options import EndpointingOptions, StreamOptions, TrimmingOptions
from ray_whisper_streaming.core.transcript import Segment, Word
from ray_whisper_streaming.errors import (
    AudioError,
    ConfigurationError,
    DeviceLost,
    EngineError,
    EngineTimeout,
    InvalidState,
    ModelNotFound,
    NotReady,
    Overloaded,
    PoolError,
    ProtocolError,
    RayWhisperError,
    Refused,
    StartupTimeout,
    StreamClosed,
    TranscriptionError,
    Unauthorized,
    Unreachable,
    WorkerDied,
)
from ray_whisper_streaming.pool.base import PoolStats, Recognizer, WorkerStats

__version__ = "0.1.0"

__all__ = [
    "AsyncLiveStream",
    "AsyncPool",
    "AudioError",
    "Committed",
    "ConfigurationError",
    "DeviceLost",
    "EndpointingOptions",
    "EngineError",
    "EngineTimeout",
    "Event",
    "Final",
    "Flushed",
    "InvalidState",
    "JobFailed",
    "LanguageDetected",
    "LiveStream",
    "ModelNotFound",
    "NotReady",
    "Overloaded",
    "Partial",
    "Pool",
    "PoolError",
    "PoolStats",
    "ProtocolError",
    "RayWhisperError",
    "Recognizer",
    "Refused",
    "Segment",
    "SpeechEnded",
    "SpeechStarted",
    "StartupTimeout",
    "StreamClosed",
    "StreamFailed",
    "StreamOptions",
    "TranscriptionError",
    "TrimmingOptions",
    "Unauthorized",
    "Unreachable",
    "Word",
    "WorkerDied",
    "WorkerStats",
    "__version__",
    "make_recognizer",
]
