"""Jobs that wait for an answer, and those who no longer want one."""

from __future__ import annotations

from concurrent.futures import wait

import numpy as np

from ray_whisper_streaming.core.jobs import Job
from ray_whisper_streaming.pool.pending import Pending


def job(job_id: str) -> Job:
    return Job(job_id=job_id, stream_id="stream", audio=np.zeros(160, np.int16))


def test_a_job_that_was_started_can_not_be_cancelled():
    pending = Pending(lambda job_id: None)
    future = pending.add(job("a"))
    assert pending.start("a") is pending.start("a") is not None
    assert not pending.cancel("a")
    assert not future.cancelled()


def test_a_job_that_was_cancelled_is_not_started_however_often_it_is_tried():
    pending = Pending(lambda job_id: None)  # it is in a batch: too late to take it back
    future = pending.add(job("a"))
    assert pending.cancel("a")
    for _ in range(2):
        assert pending.start("a") is None
    assert wait([future], 10).done == {future}
    assert len(pending) == 0
