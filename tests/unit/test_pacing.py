"""The interval between a stream's passes follows how long they wait."""

from __future__ import annotations

import pytest

from ray_whisper_streaming.core.pacing import LONGEST_S, SHORT_WAIT_S, Pace
from ray_whisper_streaming.core.policy import AGREEMENT_SPAN_S

DECODING_S = 0.2
LEAST_S = 0.4


def paced(*waits_s: float, least_s: float = LEAST_S, decoding_s: float = DECODING_S) -> list[float]:
    pace = Pace(least_s)
    intervals_s = [pace.interval_s]
    for wait_s in waits_s:
        pace.receive(wait_s, decoding_s)
        intervals_s.append(pace.interval_s)
    return intervals_s


def test_passes_that_need_not_wait_are_as_near_as_was_asked_for() -> None:
    assert set(paced(*[0.0, DECODING_S / 5] * 50)) == {LEAST_S}


def test_one_pass_that_waited_changes_nothing() -> None:
    assert set(paced(*[3 * DECODING_S, 0.0, 0.0] * 50)) == {LEAST_S}


def test_passes_that_always_wait_are_further_apart_but_not_for_ever() -> None:
    intervals_s = paced(*[3 * DECODING_S] * 50)
    assert intervals_s == sorted(intervals_s)
    assert intervals_s[-1] == LONGEST_S
    assert not any(LEAST_S < interval_s < AGREEMENT_SPAN_S for interval_s in intervals_s)


def test_passes_that_need_not_wait_any_more_come_nearer_again() -> None:
    busy = [3 * DECODING_S] * 50
    intervals_s = paced(*busy, *[0.0] * 50)[len(busy) :]
    assert intervals_s == sorted(intervals_s, reverse=True)
    assert intervals_s[-1] == LEAST_S


def test_a_short_wait_is_none_however_quick_the_engine() -> None:
    assert set(paced(*[SHORT_WAIT_S * 0.9] * 50, decoding_s=0.001)) == {LEAST_S}


@pytest.mark.parametrize("least_s", [0.7, 1.0, 5.0])
def test_never_nearer_than_asked_for(least_s: float) -> None:
    intervals_s = paced(*[3 * DECODING_S] * 50, *[0.0] * 100, least_s=least_s)
    assert min(intervals_s) == intervals_s[-1] == least_s
    assert max(intervals_s) == max(least_s, LONGEST_S)
