from __future__ import annotations

import inspect
import pickle

import pytest

from ray_whisper_streaming import errors
from ray_whisper_streaming.errors import (
    AudioError,
    ConfigurationError,
    DeviceLost,
    EngineError,
    EngineTimeout,
    ModelNotFound,
    Overloaded,
    RayWhisperError,
    StartupTimeout,
    StreamClosed,
    WorkerDied,
)

EXAMPLES = [
    RayWhisperError("text"),
    ConfigurationError("beam_size", 0, "at least 1"),
    ModelNotFound("model", "huge", "a model that is here"),
    AudioError("text"),
    Overloaded("the queue", limit=10, current=10, retry_after_s=1.5),
    EngineError("text", job_id="s/1"),
    EngineTimeout("text", job_id="s/1", retryable=True),
    WorkerDied("text", job_id="s/1", retryable=False),
    DeviceLost("text"),
    StreamClosed("text"),
    StartupTimeout("text"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_travel_between_processes_whole(error: RayWhisperError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_everything_public_is_in_the_tree_and_drawn_in_it() -> None:
    drawing = errors.__doc__ or ""
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, RayWhisperError)
        assert name in drawing
    kinds = {name for name, _ in inspect.getmembers(errors, inspect.isclass) if name != "Any"}
    assert {name for name in kinds if issubclass(getattr(errors, name), Exception)} == set(errors.__all__)


def test_builtin_kinds_catch_what_they_should() -> None:
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(AudioError, ValueError)
    assert issubclass(EngineTimeout, TimeoutError)
    assert issubclass(StartupTimeout, TimeoutError)


def test_facts_stand_on_attributes_and_in_the_sentence() -> None:
    error = Overloaded("the queue", limit=10, current=12, retry_after_s=1.5)
    assert (error.limit, error.current, error.retry_after_s) == (10, 12, 1.5)
    assert str(error) == "the queue is full (12 of 10); try again in 1.5 s"
    wrong = ConfigurationError("beam_size", 0, "at least 1")
    assert str(wrong) == "beam_size is 0; it must be at least 1"
