"""Unit tests start no Ray."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray was imported, make starting it an error."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a unit test starts Ray")

    if "ray" in sys.modules:
        monkeypatch.setattr("ray.init", refuse)
