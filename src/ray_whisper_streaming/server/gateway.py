"""What all endpoints share: the models, who may come in, the sessions that are open, and the watch over them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from starlette.requests import HTTPConnection

from ray_whisper_streaming.api import AsyncLiveStream, AsyncPool
from ray_whisper_streaming.core.events import Event
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.errors import RayWhisperError
from ray_whisper_streaming.server.access import Access, Principal
from ray_whisper_streaming.server.admission import Admission, Lease
from ray_whisper_streaming.server.audio import AudioFormat
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.intake import AudioIntake
from ray_whisper_streaming.server.keys import Keyring
from ray_whisper_streaming.server.metrics import Metrics
from ray_whisper_streaming.server.models import Models, ServedModel
from ray_whisper_streaming.server.refusal import Refusal
from ray_whisper_streaming.server.session import ENDINGS, Draining, Session
from ray_whisper_streaming.server.status import StatusLog

__all__ = ["Gateway"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_S = 1.0
"""How often load and limits are looked at."""

SWEEP_LOOKS = 60
"""Every so many looks, keys that use nothing are forgotten."""

LAST_WORDS_S = 5.0
"""Of the time to drain, what sessions get to decode their tails when they are ended."""

SESSION_ID_BYTES = 12


class Gateway:
    """One per process. `start` it, give it to `create_app`, `aclose` it.

    Args:
        pools: where sessions get their streams, one per model, the default first; started and closed here.
        config: the server's options.
        clock: monotonic seconds.
    """

    def __init__(
        self, pools: Sequence[AsyncPool], config: ServerConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.models = Models(pools, config, clock)
        self.config = config
        self.clock = clock
        self.access = Access(
            None if config.keys_file is None else Keyring(Path(config.keys_file)),
            allow_anonymous=config.allow_anonymous,
            allowed_origins=config.allowed_origins,
        )
        self.admission = Admission(config, clock)
        self.metrics = Metrics()
        self.status = StatusLog()
        self.sessions: dict[str, Session] = {}
        self.kept: dict[str, Session] = {}
        self.ready = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._intake = AudioIntake()
        self._starting: asyncio.Task[None] | None = None
        self._watching: list[asyncio.Task[None]] = []

    # ---------------------------------------------------------------- for endpoints

    @property
    def state(self) -> str:
        """``ready`` (at least one model is), ``starting`` (also while there is no worker) or ``draining``."""
        if self.admission.draining:
            return "draining"
        return "ready" if any(room.load.ready for room in self.models.rooms) else "starting"

    def authenticate(self, connection: HTTPConnection) -> Principal:
        """Who a request or WebSocket is from: its key or token, and its origin.

        Raises:
            Refusal: ``unauthorized`` or ``forbidden``.
        """
        return self._count_refusal(lambda: self.access.authenticate(connection))

    def check_room(self, principal: Principal) -> None:
        """Whether a session would be let in now, before its options are known: with a model that has room.

        Raises:
            Refusal: see `Admission.admit`.
        """
        self._count_refusal(lambda: self.admission.check(principal, self.models.rooms))

    async def open_session(
        self,
        principal: Principal,
        options: StreamOptions | None = None,
        audio: AudioFormat | None = None,
        *,
        protocol: str,
        live: bool = True,
        notes: bool = False,
        place: Lease | None = None,
    ) -> Session:
        """Let a session in and open its streams. Close it whatever happens.

        Args:
            principal: from `authenticate`.
            options: how it is to be transcribed; the tenant is filled in here.
            audio: what will be pushed; 16 kHz mono int16 if not said.
            protocol: its name in logs and metrics.
            live: audio comes as it is spoken; False for recordings, whose lag means nothing.
            notes: the session tells `Progress` and `Lagging`.
            place: the lease of a session that this one goes on for; it is passed on.

        Raises:
            Refusal: see `Admission.admit`, or `Lease.pass_on`; or ``unauthorized``, as the key is no longer good.
            ConfigurationError: the model is not served here, or can't do what the options want.
        """
        options, audio = options or StreamOptions(), audio or AudioFormat()
        model = self.models.choose(options.model)
        model.check(options)
        if principal.session_id is not None:
            raise self._refused(Refusal("forbidden", "this token is for following a session"))
        if not self.access.holds(principal):
            raise self._refused(Refusal("unauthorized", ENDINGS["unauthorized"]))
        if not model.is_loaded:
            if place is None:
                self._count_refusal(lambda: self.admission.check(principal, [model.room], audio.streams))
            try:
                await model.want()
            except Refusal as refusal:
                raise self._refused(refusal) from None
        lease = self._count_refusal(
            lambda: (
                self.admission.admit(principal, model.room, audio.streams)
                if place is None
                else place.pass_on(model.room)
            )
        )
        session_id = secrets.token_urlsafe(SESSION_ID_BYTES)
        streams: list[AsyncLiveStream] = []
        try:
            for channel in range(audio.streams):
                stream_id = f"{session_id}/{channel}" if audio.split else session_id
                streams.append(
                    model.pool.stream(replace(options, tenant=principal.tenant), stream_id=stream_id)
                )
            session = Session(
                session_id=session_id,
                protocol=protocol,
                model=model.name,
                streams=streams,
                audio=audio,
                lease=lease,
                intake=self._intake,
                observe=self._observe,
                forget=self._forget,
                live=live,
                notes=notes,
                clock=self.clock,
            )
        except RayWhisperError:
            lease.release()
            for stream in streams:
                await stream.aclose()
            raise
        self.sessions[session_id] = session
        self._empty.clear()
        self.metrics.session_opened(session)
        logger.info(
            "session opened",
            extra={
                "session": session_id,
                "protocol": protocol,
                "model": model.name,
                "key": principal.name,
                "streams": len(streams),
            },
        )
        return session

    def keep(self, session: Session) -> None:
        """Keep a session that has ended, for a client that lost its connection before it heard the end."""
        if not self.config.resume_s:
            return
        self.kept[session.session_id] = session
        loop = asyncio.get_running_loop()
        loop.call_later(self.config.resume_s, self.kept.pop, session.session_id, None)

    # ---------------------------------------------------------------- running

    async def start(self) -> None:
        """Read the keys and begin to start the workers; `wait_ready` says when they are warm.

        Raises:
            ConfigurationError: the file of keys can't be read.
        """
        if self._starting is None:
            if self.access.keyring is not None:
                self.access.keyring.load()
            self._starting = asyncio.create_task(self._start())

    async def wait_ready(self) -> None:
        """Wait until the workers are warm; raises what `AsyncPool.start` raises."""
        assert self._starting is not None, "start first"
        await asyncio.shield(self._starting)

    async def drain(self) -> None:
        """Let nobody in any more, and give running sessions ``drain_s`` seconds to end; then end them."""
        if self.admission.draining:
            return
        self.admission.draining = True
        self.ready.clear()
        self.metrics.draining.set(1)
        within_s = self.config.drain_s
        logger.info("draining", extra={"sessions": len(self.sessions), "within_s": within_s})
        for session in list(self.sessions.values()):
            session.notify(Draining(within_s))
        until = self.clock() + within_s
        await self._wait_until_empty(until - min(LAST_WORDS_S, within_s / 2))
        for session in list(self.sessions.values()):
            session.end("draining")
        await self._wait_until_empty(until)
        logger.info("drained", extra={"sessions": len(self.sessions)})

    async def aclose(self) -> None:
        """Close all sessions, and stop the workers. Safe to call twice."""
        self.admission.draining = True
        self.ready.clear()
        tasks = [*self._watching, *([self._starting] if self._starting else [])]
        for task in tasks:
            task.cancel()
        for session in list(self.sessions.values()):
            await session.aclose()
        await self._intake.aclose()
        await self.models.aclose()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self) -> None:
        await self.models.start()
        for model in self.models:
            await self._look(model)
        self._watching = [asyncio.create_task(self._watch(model)) for model in self.models]
        self._watching.append(asyncio.create_task(self._keep_limits()))
        self.ready.set()

    async def _wait_until_empty(self, until: float) -> None:
        try:
            await asyncio.wait_for(self._empty.wait(), max(0.0, until - self.clock()))
        except asyncio.TimeoutError:
            pass

    async def _watch(self, model: ServedModel) -> None:
        """Look at a model now and then. One that does not answer holds up no other."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look(model)

    async def _look(self, model: ServedModel) -> None:
        sessions = [session for session in self.sessions.values() if session.model == model.name]
        lags_s = [session.lag_s for session in sessions if session.is_live]
        try:
            stats = await model.look(lags_s)
        except RayWhisperError as error:
            logger.warning("the pool of %s does not answer: %s", model.name, error)
            return
        self.metrics.load_measured(model.name, stats, model.room.load)
        self.status.measured(
            model.name,
            stats,
            self.clock(),
            sessions=len(sessions),
            streams=model.room.streams,
            lags_s=lags_s,
        )

    async def _keep_limits(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(LOOK_S)
            looks += 1
            self._enforce_limits()
            for model in self.models:
                model.unload_if_idle()
            if looks % SWEEP_LOOKS == 0:
                self.admission.sweep()

    def _enforce_limits(self) -> None:
        now, config = self.clock(), self.config
        for session in list(self.sessions.values()):
            session.look()
            if not self.access.holds(session.lease.principal):
                session.end("unauthorized")
            elif session.silent_s > config.idle_s:
                session.end("idle")
            elif now - session.opened_at > config.session_s:
                session.end("session_limit")
            if not self.admission.charge(session.lease.principal, session.uncharged_s()):
                session.end("audio_quota")

    # ---------------------------------------------------------------- inside

    def _observe(self, session: Session, stream: AsyncLiveStream, event: Event) -> None:
        self.metrics.event(session, stream, event)

    def _forget(self, session: Session) -> None:
        if self.sessions.pop(session.session_id, None) is None:
            return
        if not self.sessions:
            self._empty.set()
        self.admission.charge(session.lease.principal, session.uncharged_s())
        self.metrics.session_closed(session)
        logger.info(
            "session closed",
            extra={
                "session": session.session_id,
                "protocol": session.protocol,
                "audio_s": round(session.received_s, 2),
                "open_s": round(self.clock() - session.opened_at, 2),
                "ended_by": session.ending or "client",
            },
        )

    def _count_refusal(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except Refusal as refusal:
            self.metrics.refused(refusal)
            raise

    def _refused(self, refusal: Refusal) -> Refusal:
        self.metrics.refused(refusal)
        return refusal
