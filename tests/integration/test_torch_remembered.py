"""Where the PyTorch encoder's memory keeps what: no row is two windows', whatever comes, goes and has no room."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `torch`")

from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.small_whisper import WEIGHTS, WIDTH

from ray_whisper_streaming.engines.backend import SAMPLES_PER_POSITION, Source
from ray_whisper_streaming.engines.remembering import SETTLED, WHOLE_BELOW
from ray_whisper_streaming.engines.torch.memory import position_bytes, shape_of
from ray_whisper_streaming.engines.torch.remembered import Remembered
from ray_whisper_streaming.engines.torch.runtime import torch

SHAPE = shape_of(WEIGHTS)
SHORTEST = WHOLE_BELOW - SETTLED
AUDIO = np.arange(1500 * SAMPLES_PER_POSITION, dtype=np.int16)


def window(stream: int, positions: int, start: int = 0) -> Source:
    return Source(str(stream), start, AUDIO[start : start + positions * SAMPLES_PER_POSITION])


def memory_of(positions: int) -> Remembered:
    return Remembered(SHAPE, positions, device=torch.device("cpu"), number_type=torch.float32)


def test_its_buffers_are_those_of_the_plan():
    taken = sum(each.numel() * each.itemsize for each in memory_of(9).tensors)
    assert taken == 9 * position_bytes(SHAPE, 4)


def test_keys_and_values_come_back_to_within_half_a_step():
    memory = memory_of(9)
    generator = torch.Generator().manual_seed(1)
    wanted = torch.randn(4, 2 * WIDTH, generator=generator)
    wanted[0] *= 1e-5  # nearly nothing stays nearly nothing
    rows = torch.tensor([7, 0, 3, 8])
    for layer in range(2):
        memory.put(layer, rows, wanted * (layer + 1))
    for layer in range(2):
        given_back = memory.get(layer, rows)
        parts = (wanted * (layer + 1)).unflatten(1, (4, -1))
        steps = parts.abs().amax(dim=-1, keepdim=True).clamp_min(1e-2) / 127
        error = (given_back.unflatten(1, (4, -1)) - parts).abs() / steps
        assert float(error.max()) < 0.57  # half a step, and a step that is rounded to 11 bits, 127 times


passes = st.lists(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(200, 700), st.sampled_from([0, 0, 0, 160])), max_size=4
    ),
    max_size=30,
)


@given(room=st.integers(0, 4 * SHORTEST), passes=passes)
def test_what_is_read_is_what_the_window_wrote(room: int, passes: list[list[tuple[int, int, int]]]):
    memory = memory_of(room)
    most = 0
    for batch in passes:
        # All that is known is asked for before anything is written, and read while others write.
        sources = [window(*each) for each in batch]
        known = [memory.recall(source) for source in sources]
        rows = [memory.settle(source, one) for source, one in zip(sources, known, strict=True)]
        for source, each in zip(sources, rows, strict=True):
            mark = int(source.stream_id) * 10_000 + source.start_sample * 10
            if len(each.new):
                place = torch.from_numpy(each.new)
                values = mark + torch.arange(len(each.known), len(each.known) + len(each.new))
                memory.put_outputs(place, values[:, None].expand(-1, WIDTH).float())
        for source, each in zip(sources, rows, strict=True):
            mark = int(source.stream_id) * 10_000 + source.start_sample * 10
            if len(each.known):
                wanted = mark + np.arange(len(each.known))
                assert (memory.outputs(torch.from_numpy(each.known))[:, 0].numpy() == wanted).all()
        memory.release()
        most = max(most, memory._windows.positions)
        assert memory._windows.positions <= room
        assert memory._free == room - memory._windows.positions
    if most:
        memory.forget([window(stream, 1) for stream in range(5)])
        memory.release()
        assert memory._free == room
        assert sorted(memory._rows) == list(range(room))


def test_rows_of_a_window_forgotten_during_a_pass_are_nobody_elses_until_it_is_over():
    memory = memory_of(SHORTEST)
    old, new = window(1, WHOLE_BELOW), window(2, WHOLE_BELOW)
    memory.settle(old, None)
    known = None
    while (latest := memory.recall(old)) is not None:
        known = latest
        rows = memory.settle(new, memory.recall(new))  # in the end it makes room for itself
        assert not len(rows.new)
    still_read = memory.settle(old, known)
    assert len(still_read.known) == SHORTEST
    assert not len(still_read.new)
    memory.release()
    assert sorted(memory.settle(new, None).new) == sorted(still_read.known)


def test_a_pass_that_fails_leaves_nothing_half_written(monkeypatch: pytest.MonkeyPatch):
    from ray_whisper_streaming.engines.torch.encoder import Encoder
    from ray_whisper_streaming.engines.torch.layers import Parameters

    memory = memory_of(2 * SHORTEST)
    encoder = Encoder(Parameters(WEIGHTS, torch.device("cpu"), torch.float32), batch=1, memory=memory)
    source = window(1, WHOLE_BELOW)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(encoder, "_run", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        encoder.run([source], [2 * WHOLE_BELOW])
    assert memory.recall(source) is None
    assert memory._free == 2 * SHORTEST
