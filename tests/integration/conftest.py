"""Fixtures of the tests that run real parts together."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

import pytest

from ray_whisper_streaming.bench.material import Clip, find_material, load_clips


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for the whole run: it takes about 10 s to start."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def samples() -> list[Clip]:
    """The recordings that come with the package."""
    with resources.as_file(resources.files("ray_whisper_streaming") / "samples") as folder:
        return load_clips(find_material(folder))
