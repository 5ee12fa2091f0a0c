"""What may be imported from the package, and what importing it must not drag in."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import ray_whisper_streaming

SURFACE = set(
    """
AsyncLiveStream AsyncPool AudioError Committed ConfigurationError DeviceLost EndpointingOptions EngineError
EngineTimeout Event Final Flushed InvalidState JobFailed LanguageDetected LiveStream ModelNotFound NotReady
Overloaded Partial Pool PoolError PoolStats ProtocolError RayWhisperError Recognizer Refused Segment SpeechEnded
SpeechStarted StartupTimeout StreamClosed StreamFailed StreamOptions TranscriptionError TrimmingOptions Unauthorized
Unreachable Word WorkerDied WorkerStats __version__ make_recognizer
""".split()  # noqa: SIM905 - a list of forty strings is no easier to read
)

HEAVY = ("ray", "torch", "ctranslate2", "onnxruntime", "faster_whisper", "av", "soxr", "starlette", "typer")
"""A gateway, a client or a test that imports the package pays for none of them before it uses them."""


def test_the_surface_is_exactly_this() -> None:
    assert set(ray_whisper_streaming.__all__) == SURFACE
    assert len(ray_whisper_streaming.__all__) == len(SURFACE)
    assert all(hasattr(ray_whisper_streaming, name) for name in SURFACE)


def test_every_public_name_says_what_it_is() -> None:
    for name in SURFACE:
        thing = getattr(ray_whisper_streaming, name)
        if isinstance(thing, type) or callable(thing):
            assert thing.__doc__, name


@pytest.mark.parametrize(
    "module",
    [
        "ray_whisper_streaming",
        "ray_whisper_streaming.core.stream",
        "ray_whisper_streaming.driver",
        "ray_whisper_streaming.client",
    ],
)
def test_importing_loads_no_runtime(module: str) -> None:
    # In a process of its own: here the other tests have loaded everything long since.
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert not set(json.loads(done.stdout)) & set(HEAVY)
