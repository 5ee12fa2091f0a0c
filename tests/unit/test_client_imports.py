"""The client is for machines without Ray, models or codecs."""

from __future__ import annotations

import subprocess
import sys
import textwrap

BLOCKED = (
    "av",
    "ctranslate2",
    "faster_whisper",
    "onnx",
    "onnxruntime",
    "prometheus_client",
    "ray",
    "rich",
    "sentencex",
    "sounddevice",
    "soxr",
    "starlette",
    "torch",
    "typer",
    "uvicorn",
    "uvloop",
)

PROGRAM = """
import asyncio, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is not here")

sys.meta_path.insert(0, Blocker())

from ray_whisper_streaming import Unreachable
from ray_whisper_streaming.client import AsyncClient, Client, microphone
from ray_whisper_streaming.errors import ConfigurationError

{body}
"""


def run(body: str) -> str:
    program = PROGRAM.format(blocked=set(BLOCKED), body=textwrap.dedent(body))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_without_ray_models_codecs_and_server() -> None:
    said = run("""
        with Client("ws://127.0.0.1:9") as client:
            try:
                client.stream(language="en").start()
            except Unreachable:
                print("nobody there")
    """)
    assert said == "nobody there\n"


def test_what_to_install_for_the_microphone_is_said() -> None:
    said = run("""
        try:
            microphone()
        except ConfigurationError as error:
            print(error)
    """)
    assert "pip install 'ray-whisper-streaming[microphone]'" in said


def test_what_to_install_for_recordings_is_said() -> None:
    said = run("""
        from ray_whisper_streaming.client.files import pieces_of
        try:
            asyncio.run(anext(pieces_of("a.wav")))
        except ConfigurationError as error:
            print(error)
    """)
    assert "av and soxr" in said
