"""Jobs of recordings, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ray_whisper_streaming.core.jobs import DecodeOptions, Int16Samples, Job, Outcome, Result
from ray_whisper_streaming.core.transcript import normalise

SECOND = 16_000
NEAR_S = 0.04
"""Two positions of the encoder: word times that are the same but for rounding."""


def job(
    name: str, audio: Int16Samples, start_s: float = 0.0, seconds: float | None = None, **options: object
) -> Job:
    first = round(start_s * SECOND)
    last = len(audio) if seconds is None else first + round(seconds * SECOND)
    settings = {"options": DecodeOptions(window_s=10, beam_size=1), **options}
    return Job(job_id=name, stream_id=name, audio=audio[first:last], start_sample=first, **settings)  # type: ignore[arg-type]


def result(outcome: Outcome) -> Result:
    assert isinstance(outcome, Result), outcome
    return outcome


def words(outcome: Outcome) -> list[str]:
    return [word.text for word in result(outcome).words]


def spoken(outcome: Outcome) -> list[str]:
    return [normalise(word) for word in words(outcome)]


def errors(found: Sequence[str], wanted: Sequence[str]) -> int:
    """Word edit distance."""
    row = list(range(len(wanted) + 1))
    for index, word in enumerate(found, 1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(wanted, 1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (word != other)),
            )
    return row[-1]


def cuts(audios: Sequence[Int16Samples], seconds: float) -> list[Job]:
    """Windows of a few seconds from everywhere in the recordings."""
    return [
        job(f"{index}-{start}", audio, start, seconds)
        for index, audio in enumerate(audios)
        for start in range(0, max(1, int(len(audio) / SECOND - seconds)), 3)
    ]


def compare(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> tuple[int, list[float]]:
    """How many windows have other words, and how far apart the times are of those that have the same."""
    different, apart_s = 0, []
    for one, other in zip(ours, theirs, strict=True):
        if words(one) != words(other):
            different += 1
            continue
        for word, same in zip(result(one).words, result(other).words, strict=True):
            apart_s += [abs(word.start_s - same.start_s), abs(word.end_s - same.end_s)]
            assert word.probability == pytest.approx(same.probability, abs=0.01)
        assert result(one).no_speech_probability == pytest.approx(
            result(other).no_speech_probability, abs=1e-3
        )
    return different, apart_s
