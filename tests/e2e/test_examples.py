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
    assert "market hall" in run("first_program.py").replace("\n", " ").lower()


@pytest.mark.model
def test_async_streams() -> None:
    lines = run("async_streams.py")
    for name in ("city_tour", "soup_recipe", "support_call", "weather_report"):
        assert f"{name}: " in lines


@pytest.mark.model
@pytest.mark.ray
def test_seed_program() -> None:
    said: dict[str, str] = {}
    for line in run("seed.py", "--seconds", "6").splitlines():
        name, _, text = line.partition(": ")
        said[name] = f"{said.get(name, '')} {text}".lower()
    assert sorted(said) == ["city_tour", "soup_recipe", "support_call", "weather_report"]
    for name, phrase in {
        "city_tour": "old town",
        "soup_recipe": "two onions",
        "support_call": "customer support",
        "weather_report": "good morning",
    }.items():
        assert phrase in said[name]


@pytest.mark.model
def test_seed_program_without_recordings_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "seed.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "no recordings" in done.stderr
