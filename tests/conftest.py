"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes is the machine's affair; a test that hangs is ended by its timeout.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Share the tests out to processes (pytest-xdist) by files, whose fixtures are costly; one process has Ray."""
    if not config.pluginmanager.has_plugin("xdist"):
        return
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


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
