"""``ray-whisper pool`` and two servers that use its workers: real processes, a real model."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from tests.helpers.serve_command import SAMPLES, serving, word_errors

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.slow]

SAID = "soup_recipe.flac"
WER_LIMIT = 0.1


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of the cluster in which a pool of tiny.en is kept."""
    # A Ray of its own, whatever else runs here, and the same rules for all: who names an address says how to log in.
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    command = [sys.executable, "-m", "ray_whisper_streaming", "pool", "tiny.en", "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"cluster at ([0-9.:]+[0-9])", process.stdout.readline())
            assert found is not None
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert said == ""


def test_two_servers_with_one_pool(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with serving("--backend", "shared") as one, serving("--backend", "shared") as other:
        for server in (one, other):
            with (SAMPLES / SAID).open("rb") as recording:
                answer = httpx.post(
                    f"{server.url}/v1/audio/transcriptions",
                    files={"file": recording},
                    data={"model": "tiny.en"},
                    timeout=120,
                )
            assert word_errors(answer.raise_for_status().json()["text"], SAID) < WER_LIMIT
        states = [httpx.get(f"{server.url}/status.json").json() for server in (one, other)]
        assert all(state["state"] == "ready" for state in states)
