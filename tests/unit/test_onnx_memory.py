"""What the encoder remembers of streams."""

from __future__ import annotations

import numpy as np

from ray_whisper_streaming.engines.backend import SAMPLES_PER_POSITION, Source
from ray_whisper_streaming.engines.onnx.memory import EncoderMemory, Parts
from ray_whisper_streaming.engines.remembering import SETTLED, WHOLE_BELOW, Known

TENSORS, SIZE, PARTS = 3, 4, 2
POSITION_BYTES = TENSORS * (SIZE + 2 * PARTS)
LEAST_BYTES = (WHOLE_BELOW - SETTLED) * POSITION_BYTES
"""Of the shortest window that is remembered."""


def source(positions: int, stream: str = "a", *, start: int = 0, seed: int = 0) -> Source:
    audio = np.random.default_rng(seed).integers(-999, 999, 1500 * SAMPLES_PER_POSITION)
    return Source(stream, start, audio[: positions * SAMPLES_PER_POSITION].astype(np.int16))


def fresh(count: int, value: int) -> Parts:
    tensors = np.arange(TENSORS)[:, None]
    return Parts(
        np.broadcast_to((value + tensors).astype(np.int8), (count, TENSORS, SIZE)),
        np.broadcast_to((value + tensors + 0.5).astype(np.float16), (count, TENSORS, PARTS)),
    )


def heard(memory: EncoderMemory, window: Source, value: int = 1) -> Known[Parts] | None:
    """One pass over a window, padded by 100 positions."""
    known = memory.recall(window)
    positions = len(window.audio) // SAMPLES_PER_POSITION + 100
    memory.keep(window, known, fresh(positions - (known.positions if known else 0), value))
    return known


def test_a_window_that_grew_is_known_but_for_its_last_second():
    memory = EncoderMemory(TENSORS, SIZE, PARTS)
    assert heard(memory, source(340), 1) is None
    known = heard(memory, source(400), 5)
    assert known is not None
    # What was remembered first stays; only what settled since is new.
    known = memory.recall(source(410))
    assert known is not None
    assert known.positions == 400 - SETTLED
    assert known.held.numbers[340 - SETTLED - 1, 0, 0] == 1
    assert known.held.numbers[340 - SETTLED, 2, 0] == 7
    assert known.held.steps[340 - SETTLED - 1, 0, 0] == 1.5
    assert known.held.steps[340 - SETTLED, 2, 0] == 7.5


def test_other_audio_is_not_taken_for_what_is_known():
    memory = EncoderMemory(TENSORS, SIZE, PARTS)
    heard(memory, source(300))
    assert memory.recall(source(300, start=160)) is None
    assert memory.recall(source(300, seed=1)) is None
    assert memory.recall(source(300, "b")) is None
    assert memory.recall(source(300 - SETTLED - 1)) is None
    assert memory.recall(None) is None
    assert memory.recall(source(300 - SETTLED)) is not None


def test_a_window_that_begins_elsewhere_takes_the_place_of_the_one_before():
    memory = EncoderMemory(TENSORS, SIZE, PARTS)
    heard(memory, source(600))
    heard(memory, source(300, start=160))
    assert memory.recall(source(600)) is None
    assert memory.recall(source(300, start=160)) is not None
    assert memory.held_bytes == LEAST_BYTES


def test_short_windows_are_not_remembered():
    memory = EncoderMemory(TENSORS, SIZE, PARTS)
    heard(memory, source(WHOLE_BELOW - 1))
    heard(memory, source(20, "b"))
    assert memory.recall(source(WHOLE_BELOW - 1)) is None
    assert memory.held_bytes == 0


def test_streams_that_have_gone_make_room_for_new_ones_and_live_ones_do_not():
    memory = EncoderMemory(TENSORS, SIZE, PARTS, max_bytes=3 * LEAST_BYTES)
    for _ in range(2):
        for stream in "abcd":
            heard(memory, source(WHOLE_BELOW, stream))
    assert memory.held_bytes == 3 * LEAST_BYTES
    assert [memory.recall(source(WHOLE_BELOW, stream)) is not None for stream in "abcd"] == [
        True,
        True,
        True,
        False,
    ]
    for _ in range(6):
        for stream in "acd":
            heard(memory, source(WHOLE_BELOW, stream))
    assert [memory.recall(source(WHOLE_BELOW, stream)) is not None for stream in "abcd"] == [
        True,
        False,
        True,
        True,
    ]
    assert memory.held_bytes == 3 * LEAST_BYTES
