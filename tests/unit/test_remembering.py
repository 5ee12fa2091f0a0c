"""Which windows an engine remembers, where two passes get in each other's way."""

from __future__ import annotations

import numpy as np

from ray_whisper_streaming.engines.backend import SAMPLES_PER_POSITION, Source
from ray_whisper_streaming.engines.remembering import ROUNDS_KEPT, SETTLED, WHOLE_BELOW, KnownWindows

LEAST = WHOLE_BELOW - SETTLED


def window(stream: str, positions: int = WHOLE_BELOW) -> Source:
    return Source(stream, 0, np.zeros(positions * SAMPLES_PER_POSITION, np.int16))


def remember(windows: KnownWindows[str], source: Source) -> int:
    positions = windows.settle(source, windows.recall(source))
    if positions:
        windows.keep(source, positions, source.stream_id)
    return positions


def test_what_is_forgotten_after_it_was_asked_for_is_not_remembered_further():
    forgotten: list[str] = []
    windows = KnownWindows[str](LEAST, forgotten.append)
    assert remember(windows, window("a")) == LEAST
    known = windows.recall(window("a"))
    assert known is not None
    for number in range(2 * ROUNDS_KEPT):
        remember(windows, window(f"b{number}"))
    assert forgotten[0] == "a"
    assert windows.settle(window("a"), known) == 0


def test_a_window_with_no_room_to_grow_keeps_what_is_known_of_it():
    forgotten: list[str] = []
    windows = KnownWindows[str](2 * LEAST + 10, forgotten.append)
    remember(windows, window("a"))
    remember(windows, window("b"))
    assert remember(windows, window("a", WHOLE_BELOW + 10)) == LEAST + 10
    assert remember(windows, window("b", WHOLE_BELOW + 10)) == LEAST
    known = windows.recall(window("b", WHOLE_BELOW + 10))
    assert known is not None
    assert known.positions == LEAST
    assert windows.positions == 2 * LEAST + 10
    assert not forgotten
