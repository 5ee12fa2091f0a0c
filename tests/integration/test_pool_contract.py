"""What every pool promises, checked on each of them."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from tests.helpers.pool_engines import ObedientEngine

from ray_whisper_streaming.core.jobs import Job, Result
from ray_whisper_streaming.core.scheduling import SchedulerConfig
from ray_whisper_streaming.errors import (
    DeviceLost,
    EngineError,
    EngineTimeout,
    InvalidState,
    ModelNotFound,
    NotReady,
    Overloaded,
    PoolError,
    StartupTimeout,
    StreamClosed,
    TranscriptionError,
    WorkerDied,
)
from ray_whisper_streaming.pool import local
from ray_whisper_streaming.pool.base import Recognizer
from ray_whisper_streaming.pool.local import LocalPool

ANSWER_TIMEOUT_S = 20.0

_numbers = itertools.count()


def make_job(context: str = "", **facts: Any) -> Job:
    number = next(_numbers)
    defaults: dict[str, Any] = {
        "job_id": f"job {number}",
        "stream_id": f"stream {number}",
        "audio": np.full(16_000, number % 100, np.int16),
        "context": context,
    }
    return Job(**{**defaults, **facts})


def answer(future: Future[Result]) -> Result:
    return future.result(ANSWER_TIMEOUT_S)


def text(result: Result) -> str:
    return "".join(word.text for word in result.words).strip()


def keep_busy(pool: Recognizer, seconds: float) -> Future[Result]:
    """Give the pool's only worker a job that lasts, and wait until it has begun."""
    future = pool.submit_nowait(make_job(f"sleep {seconds}"))
    until(lambda: asyncio.run(pool.stats()).in_flight == 1)
    return future


def until(condition, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def make_pool(request):
    """A function that makes a pool of the kind under test, not started."""
    if request.param == "local":
        return LocalPool
    request.getfixturevalue("ray_cluster")
    from ray_whisper_streaming.pool.ray_pool import RayPool

    return RayPool


@pytest.fixture(scope="module")
def shared(make_pool):
    """A started pool of one worker."""
    pool = make_pool(ObedientEngine, workers=1)
    pool.start()
    yield pool
    pool.close()


@pytest.fixture
def own(make_pool):
    """A function that makes and starts a pool for one test."""
    pools = []

    def start(**options) -> Recognizer:
        pool = make_pool(ObedientEngine, **options)
        pools.append(pool)
        pool.start()
        return pool

    yield start
    for pool in pools:
        pool.close()


def test_it_is_a_recognizer(shared):
    assert isinstance(shared, Recognizer)


def test_each_job_gets_its_own_answer(shared):
    jobs = [make_job() for _ in range(20)]
    futures = [shared.submit_nowait(job) for job in jobs]
    for job, future in zip(jobs, futures, strict=True):
        result = answer(future)
        assert result.job_id == job.job_id
        assert text(result) == str(int(job.audio[0]) * 16_000)
        assert result.timings.queue_wait_s >= 0


async def test_from_many_tasks(shared):
    jobs = [make_job() for _ in range(20)]
    results = await asyncio.gather(*(shared.submit(job) for job in jobs))
    assert [result.job_id for result in results] == [job.job_id for job in jobs]


def test_from_many_threads_and_event_loops(shared):
    async def one_by_one() -> list[str]:
        return [
            text(await shared.submit(make_job(audio=np.ones(number, np.int16)))) for number in range(1, 6)
        ]

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(lambda: asyncio.run(one_by_one())) for _ in range(4)]:
            assert future.result(ANSWER_TIMEOUT_S) == ["1", "2", "3", "4", "5"]


def test_streams_share_batches(shared):
    busy = keep_busy(shared, 0.3)
    futures = [shared.submit_nowait(make_job()) for _ in range(8)]
    sizes = [answer(future).timings.batch_size for future in futures]
    assert sizes == [8] * 8
    assert answer(futures[0]).timings.queue_wait_s > 0.1
    assert answer(busy).timings.inference_s >= 0.3


def test_one_bad_job_fails_alone(shared):
    keep_busy(shared, 0.2)
    good, bad, also_good = (shared.submit_nowait(make_job(context)) for context in ("", "fail", ""))
    assert answer(good).timings.batch_size == 3
    assert answer(also_good)
    with pytest.raises(EngineError) as caught:
        answer(bad)
    assert not caught.value.retryable


def test_an_engine_that_raises_fails_its_batch_and_goes_on(shared):
    job = make_job("raise")
    with pytest.raises(EngineError) as caught:
        answer(shared.submit_nowait(job))
    assert caught.value.job_id == job.job_id
    assert "as told" not in str(caught.value)  # an engine's words may quote what was heard
    assert answer(shared.submit_nowait(make_job()))


def test_a_cancelled_job_is_withdrawn(shared):
    before = asyncio.run(shared.stats())
    busy = keep_busy(shared, 0.3)
    future = shared.submit_nowait(make_job())
    assert future.cancel()
    until(lambda: asyncio.run(shared.stats()).queued == 0)
    answer(busy)
    asyncio.run(shared.drain())
    after = asyncio.run(shared.stats())
    assert after.jobs_done == before.jobs_done + 1
    assert after.jobs_failed == before.jobs_failed


async def test_a_cancelled_task_withdraws_its_job(shared):
    busy = asyncio.create_task(shared.submit(make_job("sleep 0.3")))
    await asyncio.sleep(0.1)
    task = asyncio.create_task(shared.submit(make_job()))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await busy
    await shared.drain()
    assert (await shared.stats()).queued == 0


def test_a_job_is_given_once(shared):
    busy = keep_busy(shared, 0.1)
    job = make_job()
    future = shared.submit_nowait(job)
    with pytest.raises(InvalidState):
        shared.submit_nowait(job)
    assert answer(future)
    answer(busy)


def test_drain_waits_for_all(shared):
    futures = [shared.submit_nowait(make_job(context)) for context in ("sleep 0.2", "fail", "", "")]
    asyncio.run(shared.drain())
    assert all(future.done() for future in futures)
    asyncio.run(shared.drain())


def test_finals_go_first_then_the_earliest_deadline(own):
    pool = own(workers=1, scheduler=SchedulerConfig(max_batch_size=1))
    busy = keep_busy(pool, 0.3)
    now = time.monotonic()
    ends: list[str] = []
    for name, deadline, final in (
        ("later", now + 5, False),
        ("soon", now + 2, False),
        ("end", now + 9, True),
    ):
        future = pool.submit_nowait(make_job(job_id=name, deadline=deadline, final=final))
        future.add_done_callback(lambda _, name=name: ends.append(name))
    answer(busy)
    until(lambda: len(ends) == 3)
    assert ends == ["end", "soon", "later"]


def test_overload_is_told_not_queued(own):
    pool = own(workers=1, scheduler=SchedulerConfig(max_queued=2))
    busy = keep_busy(pool, 0.4)
    accepted = [pool.submit_nowait(make_job()) for _ in range(2)]
    with pytest.raises(Overloaded) as caught:  # at once or, over Ray, in the future
        answer(pool.submit_nowait(make_job()))
    assert not busy.done()
    assert caught.value.limit == 2
    assert caught.value.retry_after_s > 0
    for future in [busy, *accepted]:
        assert answer(future)


def test_a_hung_engine_fails_its_jobs_and_is_replaced(own):
    pool = own(workers=1, job_timeout_s=0.4)
    hung = keep_busy(pool, 2.0)
    waiting = pool.submit_nowait(make_job())
    with pytest.raises(EngineTimeout):
        answer(hung)
    assert answer(waiting)
    assert asyncio.run(pool.stats()).workers == 1


def test_the_jobs_of_a_worker_that_loses_its_device_go_to_another(own, tmp_path):
    pool = own(workers=2, job_timeout_s=4.0)
    lost = pool.submit_nowait(make_job(f"lose once {tmp_path / 'lost'}"))
    assert lost.result(local.RELOAD_DELAY_S - 1.0)  # by the one that was idle
    assert asyncio.run(pool.stats()).jobs_retried == 1
    until(lambda: asyncio.run(pool.stats()).workers == 2)


def test_a_job_that_always_loses_the_device_is_given_up_and_its_company_survives(own):
    pool = own(workers=3, scheduler=SchedulerConfig(max_tries=2))
    busy = [pool.submit_nowait(make_job("sleep 0.5")) for _ in range(3)]
    until(lambda: asyncio.run(pool.stats()).in_flight == 3)
    deadly, harmless = pool.submit_nowait(make_job("lose")), pool.submit_nowait(make_job())
    with pytest.raises(WorkerDied):
        answer(deadly)
    for future in [*busy, harmless]:
        assert answer(future)


def test_closing_answers_everything(own):
    pool = own(workers=1)
    busy = keep_busy(pool, 0.5)
    waiting = pool.submit_nowait(make_job())
    pool.close()
    for future in (busy, waiting):
        with pytest.raises(StreamClosed):
            future.result(0)
    with pytest.raises(StreamClosed):
        pool.submit_nowait(make_job())
    with pytest.raises(StreamClosed):
        pool.start()
    pool.close()


def test_before_the_start(make_pool):
    pool = make_pool(ObedientEngine)
    with pytest.raises(NotReady):
        pool.submit_nowait(make_job())
    pool.close()


def test_stats_count_what_happened(own):
    pool = own(workers=1)
    pool.start()  # again: nothing happens
    futures = [pool.submit_nowait(make_job(context)) for context in ("", "", "fail")]
    for future in futures[:2]:
        answer(future)
    with pytest.raises(EngineError):
        answer(futures[2])
    stats = asyncio.run(pool.stats())
    assert (stats.workers, stats.jobs_done, stats.jobs_failed) == (1, 2, 1)
    assert (stats.queued, stats.in_flight, stats.audio_s) == (0, 0, 2.0)
    assert stats.batch_size_mean * stats.batches == 3
    [worker] = stats.workers_by_id.values()
    assert (worker.jobs_done, worker.audio_s) == (2, 2.0)
    assert worker.inference_s == pytest.approx(stats.inference_s * stats.batches)


def test_two_workers_work_at_once(own):
    pool = own(workers=2)
    futures = [pool.submit_nowait(make_job("sleep 0.4")) for _ in range(2)]
    for future in futures:
        answer(future)
    assert len(asyncio.run(pool.stats()).workers_by_id) == 2


def test_a_missing_model_is_told_as_such(make_pool):
    pool = make_pool(partial(ObedientEngine, load_error="model"), workers=1)
    with pytest.raises(ModelNotFound) as caught:
        pool.start()
    assert caught.value.value == "nonsense"
    pool.close()


def test_another_error_of_the_load_is_a_pool_error(make_pool):
    pool = make_pool(partial(ObedientEngine, load_error="no such kernel"), workers=1)
    with pytest.raises(PoolError, match="no such kernel"):
        pool.start()
    pool.close()


def test_a_device_that_is_lost_from_the_start_is_told_as_such(make_pool, tmp_path):
    (tmp_path / "lost").touch()
    pool = make_pool(partial(ObedientEngine, lost_file=str(tmp_path / "lost")), workers=1)
    with pytest.raises(DeviceLost):
        pool.start()
    pool.close()


def test_threads_without_a_device_say_that_the_process_must_be_restarted(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "RELOAD_DELAY_S", 0.2)
    lost = tmp_path / "lost"
    with LocalPool(partial(ObedientEngine, lost_file=str(lost)), workers=1, job_timeout_s=2.0) as pool:
        busy = keep_busy(pool, 0.3)
        lost.touch()
        futures = [pool.submit_nowait(make_job(context)) for context in ("lose", "")]
        assert answer(busy)
        for future in futures:
            with pytest.raises(EngineError, match="restart this process"):
                answer(future)
        assert asyncio.run(pool.stats()).workers == 0
        with pytest.raises(EngineError, match="restart this process"):  # it was loaded again, in vain
            answer(pool.submit_nowait(make_job()))
        assert asyncio.run(pool.stats()).workers == 0


def test_jobs_fail_though_one_of_the_workers_without_an_engine_is_always_trying_again(monkeypatch):
    monkeypatch.setattr(local, "RELOAD_DELAY_S", 0.05)
    lost, loading, enough = threading.Event(), threading.Event(), threading.Event()

    class Engine(ObedientEngine):
        def warm_up(self) -> None:
            if lost.is_set():
                if threading.current_thread().name == "pool-worker-0":
                    loading.set()
                    enough.wait(3 * ANSWER_TIMEOUT_S)
                raise DeviceLost("restart this process")

    with LocalPool(Engine, workers=2, job_timeout_s=1.0) as pool:
        lost.set()
        with pool._lock:  # until both are there: one for each worker
            futures = [pool.submit_nowait(make_job("lose")) for _ in range(2)]
        for future in futures:
            with pytest.raises(TranscriptionError):
                answer(future)
        assert loading.wait(ANSWER_TIMEOUT_S)
        with pytest.raises(EngineError, match="restart this process"):
            answer(pool.submit_nowait(make_job()))
        enough.set()


def test_a_job_cancelled_in_its_batch_is_not_decoded_and_harms_no_worker(tmp_path):
    class Pool(LocalPool):
        cancelled: Future[Result] | None = None

        def _next_batch(self, worker):
            batch = super()._next_batch(worker)
            if batch and self.cancelled and "unwanted" in [job.job_id for job in batch.jobs]:
                assert self.cancelled.cancel()
            return batch

    with Pool(ObedientEngine, workers=2) as pool:
        with pool._lock:  # until all are there: two for each worker
            lost = pool.submit_nowait(make_job(f"lose once {tmp_path / 'lost'}"))
            pool.cancelled = pool.submit_nowait(make_job(job_id="unwanted"))
            others = [pool.submit_nowait(make_job()) for _ in range(2)]
        for future in (
            *others,
            lost,
        ):  # the latter by the other worker, which gets what is left of that batch
            assert answer(future)
        until(lambda: asyncio.run(pool.stats()).in_flight == 0)
        stats = asyncio.run(pool.stats())
        assert (stats.jobs_done, stats.queued, pool.cancelled.cancelled()) == (3, 0, True)


def test_a_slow_load_runs_out_of_time(make_pool):
    pool = make_pool(partial(ObedientEngine, load_s=30.0), workers=1)
    with pytest.raises(StartupTimeout):
        pool.start(timeout_s=0.5)
    closing = threading.Thread(target=pool.close)
    closing.start()
    closing.join(ANSWER_TIMEOUT_S)
    assert not closing.is_alive()


async def test_as_a_context(make_pool):
    async with make_pool(ObedientEngine, workers=1) as pool:
        assert await pool.submit(make_job())
    with pytest.raises(StreamClosed):
        await pool.submit(make_job())
