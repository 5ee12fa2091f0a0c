"""Clients of a Ray Whisper server: live audio in, words out, over connections that may be lost.

Start with `Client` (or `AsyncClient`). Needs neither Ray nor a model, and imports none.
"""

from __future__ import annotations

from ray_whisper_streaming.client.blocking import Client, RemoteStream
from ray_whisper_streaming.client.client import AsyncClient
from ray_whisper_streaming.client.events import (
    AudioRejected,
    ClientEvent,
    Closed,
    Committed,
    Draining,
    Ending,
    Final,
    Flushed,
    LanguageDetected,
    Partial,
    Reconnected,
    Slowed,
    SpeechEnded,
    SpeechStarted,
    StreamFailed,
    Word,
)
from ray_whisper_streaming.client.microphone import Microphone, microphone
from ray_whisper_streaming.client.stream import AsyncRemoteStream

__all__ = [
    "AsyncClient",
    "AsyncRemoteStream",
    "AudioRejected",
    "Client",
    "ClientEvent",
    "Closed",
    "Committed",
    "Draining",
    "Ending",
    "Final",
    "Flushed",
    "LanguageDetected",
    "Microphone",
    "Partial",
    "Reconnected",
    "RemoteStream",
    "Slowed",
    "SpeechEnded",
    "SpeechStarted",
    "StreamFailed",
    "Word",
    "microphone",
]
