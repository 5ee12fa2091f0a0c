"""The dispatcher of a Ray pool and its clients' leases, in this process and without Ray."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from tests.helpers.serving import eventually

from ray_whisper_streaming.core.jobs import Job
from ray_whisper_streaming.core.scheduling import QueuedJob, SchedulerConfig
from ray_whisper_streaming.errors import Overloaded
from ray_whisper_streaming.pool import ray_dispatcher
from ray_whisper_streaming.pool.ray_dispatcher import CLIENT_LEASE_S, Dispatcher
from ray_whisper_streaming.pool.ray_messages import Submission, unpack_answer

LONG_AGO_S = 2 * CLIENT_LEASE_S


@pytest.fixture
def make_dispatcher(monkeypatch):
    """A function that makes one with room for a single job. Its worker is called, and loads its engine for ever."""
    calls: list[asyncio.Future[None]] = []

    def serve(*_) -> asyncio.Future[None]:
        calls.append(asyncio.get_running_loop().create_future())
        return calls[-1]

    worker = SimpleNamespace(serve=SimpleNamespace(remote=serve))
    fake = SimpleNamespace(
        get_actor=lambda name, namespace: worker,
        get_runtime_context=lambda: SimpleNamespace(current_actor=None),
    )
    monkeypatch.setattr(ray_dispatcher, "ray", fake)
    monkeypatch.setattr(ray_dispatcher, "WATCH_S", 0.01)
    monkeypatch.setattr(ray_dispatcher, "LAST_ANSWERS_S", 0.0)
    return lambda: Dispatcher(["worker"], "namespace", SchedulerConfig(max_queued=1), 60.0)


def submission(job_id: str) -> Submission:
    job = Job(job_id=job_id, stream_id="stream", audio=np.zeros(160, np.int16))
    return Submission(QueuedJob.of(job), job)


async def forget(dispatcher: Dispatcher, client_id: str) -> None:
    """The client is silent until its lease has ended."""
    dispatcher._clients[client_id].seen_at -= LONG_AGO_S
    await eventually(lambda: client_id not in dispatcher._clients)


async def test_a_client_that_was_forgotten_learns_it_and_its_jobs_are_taken_again(
    make_dispatcher, monkeypatch
):
    monkeypatch.setattr(ray_dispatcher, "POLL_S", 0.05)
    dispatcher = make_dispatcher()
    known = await dispatcher.poll("client", "", 0)
    await dispatcher.submit("client", [submission("client/a")])
    assert (await dispatcher.stats()).queued == 1
    await forget(dispatcher, "client")
    assert (await dispatcher.stats()).queued == 0

    mail = await dispatcher.poll("client", known.epoch, 0)
    assert mail.epoch != known.epoch
    await dispatcher.submit("client", [submission("client/a")])
    assert (await dispatcher.stats()).queued == 1
    assert (await dispatcher.poll("client", mail.epoch, 0)).epoch == mail.epoch
    await dispatcher.close()


async def test_a_client_whose_poll_waits_is_not_forgotten_however_long_ago_it_came(make_dispatcher):
    dispatcher = make_dispatcher()
    known = await dispatcher.poll("waits", "", 0)
    poll = asyncio.create_task(dispatcher.poll("waits", known.epoch, 0))
    await asyncio.sleep(0)  # it waits
    await dispatcher.poll("silent", "", 0)
    dispatcher._clients["waits"].seen_at -= LONG_AGO_S  # as after the dispatcher's process stood still
    await forget(dispatcher, "silent")

    await dispatcher.submit("waits", [submission("waits/a"), submission("waits/b")])
    mail = await poll
    [refusal] = mail.answers
    assert isinstance(unpack_answer(refusal), Overloaded)

    await dispatcher.poll("silent", "", 0)  # its lease begins anew with the answer
    await forget(dispatcher, "silent")
    assert "waits" in dispatcher._clients
    await dispatcher.close()
    assert await dispatcher.poll("waits", mail.epoch, 1) is None


async def test_a_client_that_leaves_ends_its_poll(make_dispatcher):
    dispatcher = make_dispatcher()
    known = await dispatcher.poll("client", "", 0)
    poll = asyncio.create_task(dispatcher.poll("client", known.epoch, 0))
    await asyncio.sleep(0)  # it waits
    await dispatcher.leave("client")
    assert await poll is None
    await dispatcher.close()
