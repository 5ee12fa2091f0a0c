"""An event loop in a thread of its own, for programs without asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from ray_whisper_streaming.errors import NotReady

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for other threads, from `start` to `stop`.

    Args:
        what: whose it is, for errors: "the pool".
        name: of the thread.
        grace_s: how long calls that still wait may take to end by themselves once it is stopped.
    """

    def __init__(self, what: str, name: str, *, grace_s: float = 0.0) -> None:
        self._what = what
        self._name = name
        self._grace_s = grace_s
        # Held over what is handed to the loop: nothing gets there once it was told to stop, where nobody would see it.
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._loop is not None

    def start(self) -> None:
        """Start the thread. Safe to call twice."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._work, args=(self._loop,), name=self._name, daemon=True
                )
                self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop.

        Raises:
            NotReady: it is not running.
        """
        with self._lock:
            if self._loop is not None:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise NotReady(f"{self._what} is not running: call start(), or use it as a context manager")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it.

        Raises:
            NotReady: it is not running.
        """
        call = self.submit(work)
        try:
            return call.result()
        except BaseException:
            call.cancel()  # of the caller's Ctrl-C the other thread knows nothing
            raise

    def stop(self, last: Coroutine[Any, Any, object]) -> None:
        """Run ``last`` on the loop, then end the thread. Safe to call twice."""
        with self._lock:
            loop, thread = self._loop, self._thread
            if loop is None or thread is None:
                last.close()
                return
            call = asyncio.run_coroutine_threadsafe(last, loop)
        try:
            call.result()
        finally:
            with self._lock:
                if self._loop is loop:  # no other thread stopped it meanwhile
                    self._loop = self._thread = None
                    loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(self._end_calls())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    async def _end_calls(self) -> None:
        """Answer the calls that other threads still wait for."""
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        if not calls:
            return
        _, late = await asyncio.wait(calls, timeout=self._grace_s)
        for call in late:
            call.cancel()
        await asyncio.gather(*late, return_exceptions=True)
