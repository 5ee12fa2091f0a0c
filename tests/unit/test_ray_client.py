"""A client of a Ray pool and what may go wrong between it and the dispatcher, in this process and without Ray."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorUnavailableError, ObjectStoreFullError

from ray_whisper_streaming.core.jobs import Job, Result
from ray_whisper_streaming.errors import TranscriptionError
from ray_whisper_streaming.pool import ray_client
from ray_whisper_streaming.pool.ray_client import RayPoolHandle
from ray_whisper_streaming.pool.ray_messages import Answer, Mail, pack_answer

WITHIN_S = 10.0


class Reply(Future[Any]):
    """Of a call: as a reference of Ray's it can be awaited, or asked for its future."""

    def future(self) -> Future[Any]:
        return self

    def __await__(self) -> Any:
        return asyncio.wrap_future(self).__await__()


class Dispatcher:
    """Takes jobs, and decodes them when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.given: list[str] = []
        self.lose_reply_to = ""
        self._mail: list[Answer] = []
        self._changed = threading.Condition()

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *args: self._call(method, *args))

    def decode(self) -> None:
        with self._changed:
            for wire_id in self.waiting:
                result = Result(job_id=wire_id.partition("/")[2])
                self._mail.append(pack_answer(wire_id, result))
            self.waiting.clear()
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WITHIN_S)

    def _call(self, method: str, *args: Any) -> Reply:
        reply = Reply()
        if method == "poll":
            threading.Thread(target=self._poll, args=(reply, *args), daemon=True).start()
            return reply
        with self._changed:
            reply.set_result(self._take(method, args[-1]))
            self._changed.notify_all()
        if method == self.lose_reply_to:
            reply = Reply()
            reply.set_exception(ActorUnavailableError("the connection broke", b"\0" * 16))
        return reply

    def _take(self, method: str, given: Any) -> list[str]:
        if method == "submit":
            new = [submission.queued.job_id for submission in given]
            self.given += new
            self.waiting += new
        withdrawn = [wire_id for wire_id in self.waiting if method == "cancel" and wire_id in given]
        self.waiting = [wire_id for wire_id in self.waiting if wire_id not in withdrawn]
        return withdrawn

    def _poll(self, reply: Reply, client_id: str, epoch: str, seen: int) -> None:
        with self._changed:
            if epoch:
                self._changed.wait_for(lambda: len(self._mail) > seen, 0.05)
            reply.set_result(Mail("epoch", seen, tuple(self._mail[seen:])))


@pytest.fixture
def ray(monkeypatch):
    """What stands for Ray: it is there, and takes every job."""
    ray = SimpleNamespace(is_initialized=lambda: True, put=lambda job: job)
    monkeypatch.setattr(ray_client, "ray", ray)
    monkeypatch.setattr(ray_client, "session_name", lambda: "")
    return ray


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher()


@pytest.fixture
def handle(ray, dispatcher):
    handle = RayPoolHandle(dispatcher)
    yield handle
    handle.close()


def job(job_id: str) -> Job:
    return Job(job_id=job_id, stream_id="stream", audio=np.zeros(160, np.int16))


def test_a_job_whose_withdrawal_was_not_confirmed_is_submitted_again(handle, dispatcher):
    future = handle.submit_nowait(job("a"))
    dispatcher.until(lambda: len(dispatcher.waiting) == 1)
    dispatcher.lose_reply_to = "cancel"
    assert not asyncio.run(handle.withdraw("a"))
    dispatcher.until(lambda: len(dispatcher.given) == 2)
    dispatcher.decode()
    assert future.result(WITHIN_S).job_id == "a"


def test_a_job_that_was_withdrawn_is_cancelled(handle, dispatcher):
    future = handle.submit_nowait(job("a"))
    dispatcher.until(lambda: len(dispatcher.waiting) == 1)
    assert asyncio.run(handle.withdraw("a"))
    assert future.cancelled()


def test_nothing_can_be_withdrawn_from_a_pool_that_has_gone(ray, handle, dispatcher):
    handle.submit_nowait(job("a"))
    dispatcher.until(lambda: len(dispatcher.waiting) == 1)
    ray.is_initialized = lambda: False
    assert not asyncio.run(handle.withdraw("a"))
    handle.close()
    assert not asyncio.run(handle.withdraw("a"))


def test_a_job_that_the_store_does_not_take_fails_alone_and_may_be_tried_again(ray, handle, dispatcher):
    go_on = threading.Event()

    def put(job: Job) -> Job:
        go_on.wait(WITHIN_S)  # until all are there: they are sent together
        if job.job_id == "big":
            raise ObjectStoreFullError("full")
        return job

    ray.put = put
    names = ("first", "one", "big", "other")
    futures = {name: handle.submit_nowait(job(name)) for name in names}
    go_on.set()
    dispatcher.until(lambda: len(dispatcher.waiting) == 3)
    dispatcher.decode()
    assert not wait(futures.values(), WITHIN_S).not_done
    for name in ("first", "one", "other"):
        assert futures[name].result().job_id == name
    with pytest.raises(TranscriptionError, match="ObjectStoreFullError") as caught:
        futures["big"].result()
    assert (caught.value.job_id, caught.value.retryable) == ("big", True)
