"""A pool of Ray actors: one dispatcher, and workers on the GPUs (or CPUs) of the whole cluster."""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

import ray as untyped_ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_whisper_streaming.core.scheduling import SchedulerConfig
from ray_whisper_streaming.engines.base import EngineFactory
from ray_whisper_streaming.errors import ConfigurationError, PoolError, StartupTimeout, StreamClosed
from ray_whisper_streaming.pool.ray_client import RayPoolHandle
from ray_whisper_streaming.pool.ray_dispatcher import Dispatcher
from ray_whisper_streaming.pool.ray_messages import Progress
from ray_whisper_streaming.pool.ray_session import session
from ray_whisper_streaming.pool.ray_worker import Worker

__all__ = ["RayPool", "RayPoolHandle"]

WORKER_CPUS = 0.1
"""CPUs a worker reserves. Only so much that Ray counts it: how many threads decode is the engine's choice,
and two pools must fit on two cores."""

LOOK_S = 0.5
"""How often a waiting `RayPool.start` looks whether the pool was closed meanwhile."""

FAREWELL_S = 2.0
"""How long the dispatcher may take to tell its clients that the pool closes."""

_log = logging.getLogger(__name__)

ray: Any = untyped_ray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Which workers to make: one for each element of ``strategies``."""

    strategies: tuple[Any, ...]
    num_gpus: float
    told: str


class RayPool(RayPoolHandle):
    """A `Recognizer` of Ray actors.

    Uses the Ray that this process is connected to; else connects to ``address`` or ``RAY_ADDRESS``; else
    starts a Ray of its own, which ends with the last pool that uses it. Under ``uv run`` Ray copies the
    project for each worker; to avoid that, set ``RAY_ENABLE_UV_RUN_RUNTIME_ENV=0`` before Ray is imported, as
    the command line of this package does.

    A worker that dies or loses its device is restarted by Ray, and its jobs run again; a dispatcher that dies is
    restarted, and clients submit again what is unanswered. Pickling a pool gives a `RayPoolHandle`.

    Args:
        engine_factory: makes an engine; must be picklable, and importable on the workers' nodes.
        workers: how many; None: one per GPU of the cluster or, without GPUs, one per node with all its cores.
        max_worker_count: at most so many.
        gpu_share: the part of the cluster's GPUs that is this pool's, if there are others; where it has fewer GPUs
            than workers, those get a part of one.
        num_gpus_per_worker: None: as above; 1 where the pool is alone, 0 where the cluster has no GPU.
        scheduler: limits of the queue and of batches. The engine's own batch limit is kept too.
        job_timeout_s: an engine call that takes longer fails its jobs with `EngineTimeout`, and the worker is
            restarted.
        name: of the dispatcher actor, for `RayPoolHandle.attach`; None: a name of its own.
        namespace: Ray's, for the name; None: that of the connection.
        address: of a Ray cluster, if this process is not connected to one.

    Call `start` next, or use it as a (sync or async) context manager.
    """

    def __init__(
        self,
        engine_factory: EngineFactory,
        *,
        workers: int | None = None,
        max_worker_count: int | None = None,
        gpu_share: float = 1.0,
        num_gpus_per_worker: float | None = None,
        scheduler: SchedulerConfig | None = None,
        job_timeout_s: float = 60.0,
        name: str | None = None,
        namespace: str | None = None,
        address: str | None = None,
    ) -> None:
        super().__init__(None)
        for field, count in (("workers", workers), ("max_worker_count", max_worker_count)):
            if count is not None and count < 1:
                raise ConfigurationError(field, count, "1 or more, or None")
        if not 0 < gpu_share <= 1:
            raise ConfigurationError("gpu_share", gpu_share, "more than 0, at most 1")
        if not job_timeout_s > 0:
            raise ConfigurationError("job_timeout_s", job_timeout_s, "more than 0 s")
        self._engine_factory = engine_factory
        self._wanted = workers
        self._max_worker_count = max_worker_count
        self._gpu_share = gpu_share
        self._num_gpus_per_worker = num_gpus_per_worker
        self._config = scheduler or SchedulerConfig()
        self._job_timeout_s = job_timeout_s
        self._name = name or f"ray-whisper-pool-{uuid.uuid4().hex[:8]}"
        self._namespace = namespace
        self._address = address
        self._life = threading.Lock()
        self._actors: list[Any] = []
        self._in_session = False

    @property
    def name(self) -> str:
        """Of the dispatcher actor, for `RayPoolHandle.attach`."""
        return self._name

    def handle(self) -> RayPoolHandle:
        """For another process, task or actor: a `Recognizer` that can be pickled.

        Raises:
            NotReady: before `start`.
        """
        return RayPoolHandle(self._connected_dispatcher())

    def start(self, timeout_s: float = 300.0) -> None:
        """See `Recognizer`. After a failure it may be called again.

        Raises:
            StartupTimeout, ModelNotFound, StreamClosed: see `Recognizer`.
            PoolError: the engine raised something else while it was loaded.
            ConfigurationError: the name is taken.
        """
        give_up_at = time.monotonic() + timeout_s
        with self._life:
            if self._closed:
                raise StreamClosed("the pool was closed")
            if self._actors:
                return
            try:
                session.enter(self._address, self._namespace)
                self._in_session = True
                dispatcher = self._make_actors()
                self._wait_for_workers(dispatcher, give_up_at, timeout_s)
            except BaseException:
                self._end_actors()
                raise
            self._dispatcher = dispatcher
            self._connect()

    def close(self) -> None:
        """See `Recognizer`. Ends the pool's actors, for all its handles."""
        super().close()
        with self._life:
            self._end_actors()

    def _make_actors(self) -> Any:
        plan = self._plan()
        _log.info("%s", plan.told)
        context = ray.get_runtime_context()
        namespace: str = self._namespace or context.namespace
        names = [f"{self._name}-worker-{number}" for number in range(len(plan.strategies))]
        here = NodeAffinitySchedulingStrategy(context.get_node_id(), soft=True)
        try:
            for name, strategy in zip(names, plan.strategies, strict=True):
                worker = ray.remote(Worker).options(
                    name=name,
                    namespace=namespace,
                    num_cpus=WORKER_CPUS,
                    num_gpus=plan.num_gpus,
                    max_restarts=-1,
                    scheduling_strategy=strategy,
                )
                self._actors.append(worker.remote(self._engine_factory))
            dispatcher = ray.remote(Dispatcher).options(
                name=self._name, namespace=namespace, num_cpus=0, max_restarts=-1, scheduling_strategy=here
            )
            self._actors.append(dispatcher.remote(names, namespace, self._config, self._job_timeout_s))
        except ValueError as error:
            raise ConfigurationError("name", self._name, "one that no other actor has") from error
        return self._actors[-1]

    def _plan(self) -> _Plan:
        gpus = ray.cluster_resources().get("GPU", 0.0)
        ours = gpus * self._gpu_share
        per_worker = self._num_gpus_per_worker
        if per_worker is None:
            # Rounded, as a third of three GPUs is one, whatever floats say.
            shared = gpus and self._gpu_share < 1
            on_each = math.ceil(round((self._wanted or 1) / ours, 6)) if shared else 1
            per_worker = 1 / max(1, on_each) if gpus else 0.0
        if per_worker:
            count = self._capped(self._wanted or max(1, int(round(ours / per_worker, 6))))
            told = f"GPUs in the Ray cluster: {gpus:g}; workers: {count}, with {per_worker:g} GPU each"
            return _Plan(strategies=("SPREAD",) * count, num_gpus=per_worker, told=told)
        why = "no GPU asked for" if gpus else "no GPU in the Ray cluster"
        if self._wanted:
            count = self._capped(self._wanted)
            return _Plan(strategies=("SPREAD",) * count, num_gpus=0, told=f"{why}; CPU workers: {count}")
        # Two engines that share the cores of a node decode no more than one that has them all.
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        nodes = nodes[: self._capped(len(nodes))] or [ray.get_runtime_context().get_node_id()]
        return _Plan(
            strategies=tuple(NodeAffinitySchedulingStrategy(node, soft=True) for node in nodes),
            num_gpus=0,
            told=f"{why}; CPU workers: {len(nodes)}, each with all cores of its node",
        )

    def _capped(self, count: int) -> int:
        return min(count, self._max_worker_count or count)

    def _wait_for_workers(self, dispatcher: Any, give_up_at: float, timeout_s: float) -> None:
        progress: Progress | None = None
        asked = dispatcher.progress.remote(progress)
        while progress is None or progress.ready < progress.workers:
            left_s = give_up_at - time.monotonic()
            if self._closed:
                raise StreamClosed("the pool was closed while it started")
            if left_s <= 0:
                ready = f"{progress.ready} of {progress.workers}" if progress else "none"
                raise StartupTimeout(f"the workers were not ready within {timeout_s:g} s: {ready} were")
            try:
                progress = ray.get(asked, timeout=min(LOOK_S, left_s))
            except GetTimeoutError:
                continue
            except RayActorError as error:
                if error.actor_init_failed:
                    raise PoolError(f"the dispatcher could not be made: {error}") from error
                progress = None
            if progress is not None and progress.errors:
                raise progress.errors[0]
            asked = dispatcher.progress.remote(progress)

    def _end_actors(self) -> None:
        actors, self._actors = self._actors, []
        dispatcher, self._dispatcher = self._dispatcher, None
        if not self._in_session:
            return
        self._in_session = False
        if ray.is_initialized():
            if dispatcher is not None:
                try:  # handles elsewhere shall know that this is no accident
                    ray.get(dispatcher.close.remote(), timeout=FAREWELL_S)
                except RayError as error:
                    _log.debug("the dispatcher did not answer on closing: %s", type(error).__name__)
            for actor in reversed(actors):
                ray.kill(actor, no_restart=True)
        session.leave()
