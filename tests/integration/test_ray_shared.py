"""Pools in Ray that one process keeps, and others use."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from tests.helpers.pool_engines import ObedientEngine
from tests.integration.test_pool_contract import answer, make_job, text

from ray_whisper_streaming import Pool
from ray_whisper_streaming.api import make_recognizer
from ray_whisper_streaming.core.jobs import Job
from ray_whisper_streaming.errors import ConfigurationError, StartupTimeout, StreamClosed
from ray_whisper_streaming.pool.base import Recognizer

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@contextmanager
def kept(name: str) -> Generator[Recognizer]:
    pool = make_recognizer(backend="ray", name=name, engine_factory=ObedientEngine, workers=1)
    try:
        pool.start(60)
        yield pool
    finally:
        pool.close()


@pytest.fixture
def user() -> Iterator[Recognizer]:
    user = make_recognizer("model a", backend="shared")
    yield user
    user.close()


def job(samples: int) -> Job:
    return make_job(audio=np.ones(samples, np.int16))


def test_two_users_of_a_pool_that_comes_later(user: Recognizer) -> None:
    starting = threading.Thread(target=user.start, args=(60,))
    starting.start()
    other = make_recognizer("another model", backend="shared", name="model a")
    with kept("model a") as pool:
        starting.join()
        other.start(60)
        assert [text(answer(each.submit_nowait(job(4)))) for each in (user, other)] == ["4", "4"]
        other.close()
        # Who leaves takes nothing along.
        assert text(answer(user.submit_nowait(job(5)))) == "5"
        assert text(answer(pool.submit_nowait(job(6)))) == "6"


def test_what_is_unanswered_when_the_pool_is_ended_its_successor_answers(user: Recognizer) -> None:
    with kept("model a"):
        user.start(60)
        assert text(answer(user.submit_nowait(job(1)))) == "1"
    waiting = [user.submit_nowait(job(2))]
    with kept("model a"):
        waiting.append(user.submit_nowait(job(3)))
        assert [future.result(60).words[0].text for future in waiting] == [" 2", " 3"]


def test_a_pool_that_does_not_come(user: Recognizer) -> None:
    with pytest.raises(StartupTimeout, match="model a"):
        user.start(0.1)
    user.close()
    with pytest.raises(StreamClosed):
        user.start(5)
    with pytest.raises(ConfigurationError, match="shared"):
        Pool(backend="elsewhere")  # type: ignore[arg-type]


def test_a_name_is_given_once() -> None:
    with kept("model a"), pytest.raises(ConfigurationError, match="name"), kept("model a"):
        pass
