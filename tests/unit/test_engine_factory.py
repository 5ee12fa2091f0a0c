"""Which engine a name stands for where PyTorch is not installed."""

from __future__ import annotations

import pytest

from ray_whisper_streaming.engines import factory
from ray_whisper_streaming.errors import ConfigurationError


@pytest.fixture(autouse=True)
def no_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "find_spec", lambda name: None)


def test_its_engine_says_what_to_install_where_it_would_be_made():
    # The caller needs no PyTorch: the worker does.
    make = factory.engine_factory_for("torch", model="tiny.en")
    with pytest.raises(ConfigurationError, match="pip install") as caught:
        make()
    assert caught.value.field == "engine"
