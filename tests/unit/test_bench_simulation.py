"""Simulated minutes of a stream: every word once, in order, and memory that stays flat."""

from __future__ import annotations

import tracemalloc

import pytest

from ray_whisper_streaming.bench.simulation import Speech, simulate
from ray_whisper_streaming.core.options import StreamOptions


@pytest.mark.parametrize("policy", ["cutoff", "agreement"])
@pytest.mark.parametrize("pause_s", [0.0, 2.0])
def test_every_word_is_committed_once(policy, pause_s):
    speech = Speech(pause_s=pause_s)
    options = StreamOptions(language="en", policy=policy)
    last = list(simulate(90.0, 30.0, options, speech))[-1]
    assert last.wrong == 0
    # An interval, an inference and the delay of the policy: the cut-off's, or a second pass for agreement.
    assert 0.5 < last.lag_s < 3
    assert abs(last.committed - len(speech.between(0.0, 90.0))) <= 1  # half a word may stand at the very end


def test_memory_stays_flat():
    tracemalloc.start()
    try:
        marks = list(simulate(150.0, 30.0, StreamOptions(language="en")))
    finally:
        tracemalloc.stop()
    held_mb = [mark.traced_mb or 0.0 for mark in marks[1:]]
    assert len(held_mb) >= 4
    assert min(held_mb) > 0
    assert max(held_mb) - held_mb[0] < 0.5
    # The window is trimmed at 22 s, at the next pass.
    assert 21 < max(mark.buffered_s for mark in marks) < 24


def test_the_script_is_the_same_however_it_is_asked():
    speech = Speech()
    whole = speech.between(0.0, 60.0)
    assert [word for word in whole if word.end_s > 20 and word.start_s < 30] == speech.between(20.0, 30.0)
    assert whole[0].text == " w0"
    assert whole[19].text == " w19."
    assert speech.voice(0, 1) == [1.0]
    assert speech.voice(int(6.5 / 0.032), 1) == [0.0]
