"""Nothing that is used here reports its use to its makers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOAD_VOICE_ACTIVITY = "from ray_whisper_streaming.engines.vad import SileroVad; SileroVad().load()"

SILENCING = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
"""Variables of test machines, which users have not, that would keep ONNX Runtime quiet."""


def files_left_at_home(program: str, home: Path) -> list[Path]:
    environment = {name: value for name, value in os.environ.items() if name not in SILENCING}
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    subprocess.run([sys.executable, "-c", program], env={**environment, **places}, check=True, timeout=120)
    return [file for file in home.rglob("*") if file.is_file()]


def test_onnx_runtime_keeps_no_id_of_the_machine_and_no_events(tmp_path: Path) -> None:
    alone, ours = tmp_path / "alone", tmp_path / "ours"
    alone.mkdir()
    ours.mkdir()
    if not files_left_at_home("import onnxruntime", alone):
        pytest.skip("this build of ONNX Runtime has no telemetry")
    assert files_left_at_home(LOAD_VOICE_ACTIVITY, ours) == []
