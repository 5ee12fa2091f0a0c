"""The buffer against the simplest thing that could be right: one long array."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ray_whisper_streaming.core.audio import AudioBuffer


class BufferModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.buffer = AudioBuffer()
        self.everything = np.zeros(0, np.int16)
        self.start = 0

    @rule(count=st.integers(0, 50) | st.integers(8_000, 40_000))  # within a block, and into the next ones
    def append(self, count: int) -> None:
        end = len(self.everything)
        samples = (np.arange(end, end + count) % 30_011).astype(np.int16)
        self.buffer.append(samples)
        self.everything = np.concatenate((self.everything, samples))

    @rule(sample=st.integers(0, 2000) | st.integers(0, 400_000))
    def trim(self, sample: int) -> None:
        self.buffer.trim(sample)
        self.start = max(self.start, min(sample, len(self.everything)))

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(self.start, len(self.everything)))
        end = data.draw(st.integers(start, len(self.everything)))
        assert np.array_equal(self.buffer.read(start, end), self.everything[start:end])

    @invariant()
    def positions_agree(self) -> None:
        assert self.buffer.start_sample == self.start
        assert self.buffer.end_sample == len(self.everything)
        assert len(self.buffer) == len(self.everything) - self.start


TestBufferModel = BufferModel.TestCase
