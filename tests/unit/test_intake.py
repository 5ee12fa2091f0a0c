"""Many sessions' audio in one tick."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from ray_whisper_streaming.core.jobs import Int16Samples
from ray_whisper_streaming.server.audio import AudioFormat, Decoder
from ray_whisper_streaming.server.intake import INLETS_AT_ONCE, AudioIntake, Decoded, Received


class Inlet:
    """A session; ``log`` is of all of them."""

    def __init__(self, log: list[str], *, plain: bool = True, breaks: bool = False) -> None:
        self.is_plain = plain
        self.may_hang = False
        self.decoders: Sequence[Decoder] = AudioFormat().decoders()
        self.received: list[Received] = [bytes(640)]
        self._log, self._breaks = log, breaks

    def take(self) -> list[Received]:
        taken, self.received = self.received, []
        return taken

    def deliver(self, decoded: list[Decoded]) -> None:
        self._log.append("inlet")
        if self._breaks:
            raise RuntimeError("broken")


async def log_of(inlets: Sequence[Inlet], log: list[str]) -> list[str]:
    """What happened until all were served, other work on the loop (``turn``) among it."""
    intake = AudioIntake()
    for inlet in inlets:
        intake.touch(inlet)
    while log.count("inlet") < len(inlets):
        await asyncio.sleep(0)
        if "inlet" in log:
            log.append("turn")
    await intake.aclose()
    return log


@pytest.mark.parametrize("plain", [True, False])
async def test_all_are_served(plain: bool) -> None:
    log: list[str] = []
    inlets = [Inlet(log, plain=plain or number % 2 == 0) for number in range(5 * INLETS_AT_ONCE)]
    assert (await log_of(inlets, log)).count("inlet") == len(inlets)
    assert not any(inlet.received for inlet in inlets)


async def test_the_loop_does_other_things_between_parts_of_them() -> None:
    log: list[str] = []
    seen = await log_of([Inlet(log) for _ in range(5 * INLETS_AT_ONCE)], log)
    served_at_once = [len(part) for part in "".join(word[0] for word in seen).split("t") if part]
    assert max(served_at_once) <= INLETS_AT_ONCE


async def test_one_that_breaks_holds_up_no_other() -> None:
    log: list[str] = []
    broken: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context["exception"]))
    inlets = [Inlet(log, breaks=number == 1) for number in range(3 * INLETS_AT_ONCE)]
    assert (await log_of(inlets, log)).count("inlet") == len(inlets)
    assert [str(error) for error in broken] == ["broken"]


class Hanging:
    """A decoder that waits."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def convert(self, samples: bytes) -> Int16Samples:
        assert self.go_on.wait(30)
        return np.frombuffer(samples, np.int16)

    def flush(self) -> Int16Samples:
        return np.zeros(0, np.int16)


async def served(log: list[str], count: int) -> None:
    for _ in range(1000):
        if len(log) >= count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(log)} of {count} were served")


async def test_a_decoder_that_hangs_holds_up_no_other_session() -> None:
    log: list[str] = []
    late: list[str] = []
    decoder = Hanging()
    hanging = Inlet(late, plain=False)
    hanging.may_hang, hanging.decoders = True, [decoder]
    others = [Inlet(log, plain=number % 2 == 0) for number in range(4)]
    intake = AudioIntake()
    for inlet in [hanging, *others]:
        intake.touch(inlet)
    await served(log, len(others))
    others[0].received = others[1].received = [bytes(640)]  # nor in the next ticks
    for inlet in others[:2]:
        intake.touch(inlet)
    await served(log, len(others) + 2)
    assert not late
    decoder.go_on.set()
    await intake.aclose()
    assert late == ["inlet"]
