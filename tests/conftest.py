"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run `async def` tests on asyncio, the one event loop the project supports."""
    return "asyncio"


@pytest.fixture(scope="session")
def speech_dir() -> Path:
    """Recordings with their texts (``manifest.jsonl``) that are no part of the repository: larger, and of people."""
    default = Path(__file__).resolve().parents[2] / "shared" / "speech"
    folder = Path(os.environ.get("RWS_SPEECH_DIR") or default)
    if not (folder / "manifest.jsonl").is_file():
        pytest.skip("recorded speech is not here; RWS_SPEECH_DIR may name its folder")
    return folder
