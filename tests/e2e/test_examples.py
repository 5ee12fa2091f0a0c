"""The examples run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.model
def test_first_program() -> None:
    assert "market hall" in run("first_program.py").replace("\n", " ")


@pytest.mark.model
def test_async_streams() -> None:
    lines = run("async_streams.py")
    for name in ("city_tour", "soup_recipe", "support_call", "weather_report"):
        assert f"{name}: " in lines


@pytest.mark.model
@pytest.mark.ray
def test_seed_program() -> None:
    lines = run("seed.py", "--seconds", "9")
    assert "city_tour" in lines
    assert "Old Town" in lines or "old town" in lines
