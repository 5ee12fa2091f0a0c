"""What only a Ray pool can promise: it outlives the death of its parts, and leaves none behind."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.helpers.pool_engines import ObedientEngine
from tests.integration.test_pool_contract import answer, keep_busy, make_job, text, until

from ray_whisper_streaming.core.jobs import Job
from ray_whisper_streaming.errors import EngineError, NotReady, StreamClosed, WorkerDied

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def pool():
    """A pool that tests may wound."""
    from ray_whisper_streaming.pool.ray_pool import RayPool

    with RayPool(ObedientEngine, workers=1) as pool:
        yield pool


def run_script(script: str) -> None:
    """In a process of its own, which must print "done"."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(root)])}
    environment.pop("RAY_ADDRESS", None)
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stdout.strip() == "done", ended.stderr
    assert ended.returncode == 0


def worker_pid(pool) -> int:
    return int(answer(pool.submit_nowait(make_job())).engine)


@pytest.mark.parametrize("how", ["SIGKILL", "ray.kill"])
def test_a_worker_that_dies_costs_no_answer(pool, how):
    import ray

    pid = worker_pid(pool)
    retried = asyncio.run(pool.stats()).jobs_retried
    busy = keep_busy(pool, 1.0)
    waiting = pool.submit_nowait(make_job())
    if how == "SIGKILL":
        os.kill(pid, signal.SIGKILL)
    else:
        ray.kill(pool._actors[0], no_restart=False)
    for future in (busy, waiting):
        assert answer(future).engine != str(pid)
    stats = asyncio.run(pool.stats())
    assert (stats.workers, stats.jobs_retried - retried) == (1, 1)


def test_a_job_that_kills_its_worker_once_is_answered_at_the_second_try(pool, tmp_path):
    assert answer(pool.submit_nowait(make_job(f"die once {tmp_path / 'died'}")))


def test_a_job_that_always_kills_is_given_up_and_its_company_survives(pool):
    busy = keep_busy(pool, 0.3)
    deadly, harmless = pool.submit_nowait(make_job("die")), pool.submit_nowait(make_job())
    answer(busy)
    with pytest.raises(WorkerDied):
        deadly.result(30)
    assert answer(harmless)


def test_a_worker_that_loses_its_device_gets_another_process(pool, tmp_path):
    pid = worker_pid(pool)
    busy = keep_busy(pool, 0.3)
    lost, company = (
        pool.submit_nowait(make_job(context)) for context in (f"lose once {tmp_path / 'lost'}", "")
    )
    assert answer(busy).engine == str(pid)
    for future in (lost, company):
        assert answer(future).engine != str(pid)
    assert not psutil.pid_exists(pid)
    assert asyncio.run(pool.stats()).workers == 1


@pytest.mark.slow
def test_a_device_that_comes_back_is_found_by_a_new_process_alone(tmp_path):
    from ray_whisper_streaming.pool.ray_pool import RayPool

    lost = tmp_path / "lost"
    with RayPool(partial(ObedientEngine, lost_file=str(lost)), workers=1) as own:
        pid = worker_pid(own)
        lost.touch()
        with pytest.raises(EngineError, match="no worker"):
            answer(own.submit_nowait(make_job("lose")))
        assert asyncio.run(own.stats()).workers == 0
        lost.unlink()
        assert worker_pid(own) != pid


def test_the_death_of_the_dispatcher_costs_no_answer(pool):
    import ray

    busy = keep_busy(pool, 1.0)
    waiting = [pool.submit_nowait(make_job()) for _ in range(3)]
    ray.kill(pool._actors[-1], no_restart=False)
    later = pool.submit_nowait(make_job())
    for future in [busy, *waiting, later]:
        assert answer(future)
    assert asyncio.run(pool.stats()).workers == 1


def test_the_dispatcher_and_the_worker_die_together(pool):
    import ray

    pid = worker_pid(pool)
    busy = keep_busy(pool, 1.0)
    os.kill(pid, signal.SIGKILL)
    ray.kill(pool._actors[-1], no_restart=False)
    assert answer(busy).engine != str(pid)


def test_jobs_of_equal_names_in_two_clients(pool):
    other = pool.handle()
    job, twin = (
        make_job(job_id="twin", audio=np.ones(3, np.int16)),
        make_job(job_id="twin", audio=np.ones(5, np.int16)),
    )
    busy = keep_busy(pool, 0.3)
    futures = [pool.submit_nowait(job), other.submit_nowait(twin)]
    assert [text(answer(future)) for future in futures] == ["3", "5"]
    answer(busy)
    other.close()
    assert answer(pool.submit_nowait(make_job()))


def test_a_handle_works_inside_an_actor(pool):
    import ray

    @ray.remote(num_cpus=0)
    class Processor:
        def __init__(self, recognizer: Any) -> None:
            self.recognizer = recognizer

        async def hear(self, jobs: list[Job]) -> list[str]:
            results = await asyncio.gather(*(self.recognizer.submit(job) for job in jobs))
            return [text(result) for result in results]

        def hear_blocking(self, job: Job) -> str:
            return text(self.recognizer.submit_nowait(job).result(20))

    processors: list[Any] = [Processor.remote(recognizer) for recognizer in (pool, pool.handle())]
    jobs = [make_job(audio=np.ones(number, np.int16)) for number in range(1, 6)]
    for processor in processors:
        assert ray.get(processor.hear.remote(jobs), timeout=60) == ["1", "2", "3", "4", "5"]
        assert ray.get(processor.hear_blocking.remote(jobs[0]), timeout=60) == "1"
        ray.kill(processor)


def test_attaching_by_name(pool):
    from ray_whisper_streaming.pool.ray_pool import RayPoolHandle

    handle = RayPoolHandle.attach(pool.name)
    assert answer(handle.submit_nowait(make_job()))
    handle.close()
    with pytest.raises(NotReady):
        RayPoolHandle.attach("nobody has this name")


def test_a_pool_without_a_start_can_not_be_handed_on():
    from ray_whisper_streaming.pool.ray_pool import RayPool

    with pytest.raises(NotReady):
        pickle.dumps(RayPool(ObedientEngine))


def test_two_pools_on_two_cores_and_closing_one(pool):
    from ray_whisper_streaming.pool.ray_pool import RayPool

    second = RayPool(ObedientEngine)  # as many workers as it thinks fit: one
    second.start()
    handle = second.handle()
    pid = worker_pid(second)
    assert asyncio.run(second.stats()).workers == 1
    assert answer(handle.submit_nowait(make_job()))
    until(lambda: asyncio.run(second.stats()).in_flight == 0)
    busy = handle.submit_nowait(make_job("sleep 5"))
    second.close()
    with pytest.raises(StreamClosed):
        answer(busy)
    until(lambda: not psutil.pid_exists(pid))
    with pytest.raises(StreamClosed):
        handle.submit_nowait(make_job())
    assert worker_pid(pool) != pid  # the other one is as it was


def test_what_a_pool_calls_starts_no_ray_where_it_was_just_shut_down():
    script = """
        import ray
        from ray.exceptions import RayError
        from ray_whisper_streaming.pool.ray_session import without_connecting

        ray.init(include_dashboard=False, log_to_driver=False)
        answer = without_connecting(ray.put)(1)
        assert without_connecting(ray.get)(answer, timeout=10) == 1
        ray.shutdown()
        for function, given in ((ray.get, answer), (ray.put, 1), (ray.get_actor, "name")):
            try:
                without_connecting(function)(given)
            except RayError:
                continue
            raise AssertionError(function)
        assert not ray.is_initialized()
        print("done")
    """
    run_script(script)


@pytest.mark.slow
def test_a_pool_with_a_ray_of_its_own_leaves_no_process():
    script = """
        import os, sys
        import numpy as np, psutil, ray
        from ray_whisper_streaming.core.jobs import Job
        from ray_whisper_streaming.errors import PoolError, StreamClosed
        from ray_whisper_streaming.pool.ray_pool import RayPool
        from tests.helpers.pool_engines import ObedientEngine

        with RayPool(ObedientEngine) as first:
            with RayPool(ObedientEngine) as second:
                for pool in (first, second):
                    job = Job(job_id="a", stream_id="s", audio=np.ones(7, np.int16))
                    assert pool.submit_nowait(job).result(20).words[0].text == " 7"
                assert len(psutil.Process().children(recursive=True)) > 2
            assert ray.is_initialized()
        assert not ray.is_initialized()
        gone, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=10)
        assert not alive, alive

        # Whoever shuts Ray down under a pool gets an error, and no second Ray.
        ray.init(include_dashboard=False, log_to_driver=False)
        pool = RayPool(ObedientEngine)
        pool.start()
        pool.submit_nowait(job).result(20)
        ray.shutdown()
        try:
            pool.submit_nowait(job).result(20)
        except (PoolError, StreamClosed):
            print("done")
        assert not ray.is_initialized()
        pool.close()
    """
    run_script(script)


@pytest.mark.parametrize(
    ("gpus", "workers", "plans"),
    [
        (1, (None, None), [(1, 1 / 2), (1, 1 / 2)]),
        (4, (None, None), [(2, 1), (2, 1)]),
        (3, (None, None, None), [(1, 1)] * 3),
        (2, (None, None, None), [(1, 1 / 2)] * 3),
        (4, (3, 1), [(3, 1), (1, 1)]),
        (1, (2, 1), [(2, 1 / 3), (1, 1 / 3)]),
        (0, (2, 1), [(2, 0), (1, 0)]),
        (2, (3,), [(3, 1)]),  # alone it waits for GPUs that a growing cluster may bring
    ],
)
def test_the_pools_of_several_models_fit_on_the_gpus(monkeypatch, gpus, workers, plans):
    import ray

    from ray_whisper_streaming.server.config import ServerConfig
    from ray_whisper_streaming.server.models import make_pools

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": float(gpus)} if gpus else {})
    models = tuple(f"model-{number}" for number in range(len(workers)))
    config = ServerConfig(model=models, backend="ray", workers=() if workers[0] is None else workers)
    made = [pool.recognizer._plan() for pool in make_pools(config)]  # type: ignore[attr-defined]
    assert [(len(plan.strategies), pytest.approx(plan.num_gpus)) for plan in made] == plans


def test_two_pools_share_one_gpu():
    """Ray only counts GPUs, so that none needs to be there."""
    script = """
        import numpy as np, ray
        from ray_whisper_streaming.core.jobs import Job
        from ray_whisper_streaming.pool.ray_pool import RayPool
        from tests.helpers.pool_engines import ObedientEngine

        ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
        job = Job(job_id="a", stream_id="s", audio=np.ones(7, np.int16))
        with RayPool(ObedientEngine, gpu_share=0.5) as one, RayPool(ObedientEngine, gpu_share=0.5) as other:
            engines = {pool.submit_nowait(job).result(20).engine for pool in (one, other)}
            assert len(engines) == 2
            assert ray.available_resources().get("GPU", 0.0) == 0.0
        print("done")
        ray.shutdown()
    """
    run_script(script)
