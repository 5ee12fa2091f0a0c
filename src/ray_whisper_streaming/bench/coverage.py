"""Whether anything that was said got lost: voice that no pass heard, and stretches of speech without a word.

An error rate hides both: a sentence that is missing weighs as much as its words heard wrong here and there, but it is
what a reader can't guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, TypeAlias

from ray_whisper_streaming.bench.scoring import Pass, StreamLog, align, split_tokens
from ray_whisper_streaming.bench.text_errors import counts_letters
from ray_whisper_streaming.bench.voice import Span, overlap_s
from ray_whisper_streaming.core.transcript import Word

__all__ = ["LOST_VOICE_S", "LostStretch", "Reason", "find_lost", "uncovered_s"]

LOST_VOICE_S = 2.0
"""Voice that a lost stretch has at least: less is a few words, which the error rate counts."""

LOST_WORDS = 5
"""Words in a row that a lost stretch lacks at least: what is said in `LOST_VOICE_S` of unhurried speech, 150 words a
minute."""

LOST_LETTERS = 8
"""The same in letters, of scripts that are counted in them: Mandarin is read at about four a second."""

HEARD_SHARE = 0.5
"""Share of the missing words that the model must have in one go for them to count as heard by it; likewise the share of
the stretch's words that a pass must have had for them to count as heard and dropped."""

Reason: TypeAlias = Literal["not decoded", "heard, then dropped", "decoded, nothing heard", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LostStretch:
    """A stretch in which something was said and nothing committed.

    Attributes:
        start_s: its start and
        end_s: its end, seconds of the recording; as exact as the words around it.
        voiced_s: voice in it.
        words: how many are missing (letters, where a script has no spaces), and
        said: which.
        reason: what the passes that heard it made of it; unknown where they were not recorded.
        offline: whether the model has most of it in one go; None: not tried.
    """

    start_s: float
    end_s: float
    voiced_s: float
    words: int
    said: str = field(repr=False)
    reason: Reason
    offline: bool | None


def uncovered_s(voice: Sequence[Span], passes: Sequence[Pass]) -> float:
    """Seconds of voice that no pass covered."""
    covered: list[Span] = []
    for each in sorted(passes, key=lambda each: each.start_s):
        if covered and each.start_s <= covered[-1][1]:
            covered[-1] = (covered[-1][0], max(covered[-1][1], each.end_s))
        else:
            covered.append((each.start_s, each.end_s))
    missed_s = sum(end - start - overlap_s(covered, start, end) for start, end in voice)
    return round(missed_s, 6)  # less than a sample is rounding


def find_lost(
    text: str,
    words: Sequence[Word],
    log: StreamLog,
    voice: Sequence[Span],
    offline: str | None = None,
    language: str = "en",
) -> list[LostStretch]:
    """The stretches of at least `LOST_VOICE_S` of voice and `LOST_WORDS` words for which nothing was committed.

    What was said is aligned with what was committed, with the fewest edits; words of a row that got nothing make a
    stretch. Where the recording has no word times it lies between the committed words around it.

    Args:
        text: everything said.
        words: the same with times, where they are known.
        log: what the stream's reader saw, and the passes, if they were recorded.
        voice: where the recording holds voice.
        offline: what the model made of the recording in one go; None: not tried.
        language: what is spoken.
    """
    spoken = split_tokens(words, language)
    said = [token.text for token in spoken] or _tokens(text, language)
    committed = split_tokens(log.committed, language)
    found = align(said, [token.text for token in committed])
    offline_lacks = None if offline is None else align(said, _tokens(offline, language)).deleted
    least = LOST_LETTERS if counts_letters(language) else LOST_WORDS
    stretches: list[LostStretch] = []
    for first, last in _runs(found.deleted):
        count = last - first + 1
        if count < least:
            continue
        if spoken:
            start_s, end_s = spoken[first].start_s, spoken[last].end_s
        else:
            before = max((i for i, j in found.equal.items() if j < first), default=None)
            behind = min((i for i, j in found.equal.items() if j > last), default=None)
            start_s = 0.0 if before is None else committed[before].start_s
            end_s = voice[-1][1] if behind is None and voice else 0.0
            end_s = end_s if behind is None else committed[behind].end_s
        voiced_s = overlap_s(voice, start_s, end_s)
        if voiced_s < LOST_VOICE_S:
            continue
        missing = said[first : last + 1]
        lacking = None if offline_lacks is None else sum(i in offline_lacks for i in range(first, last + 1))
        stretches.append(
            LostStretch(
                start_s=start_s,
                end_s=end_s,
                voiced_s=voiced_s,
                words=count,
                said=("" if counts_letters(language) else " ").join(missing),
                reason=_reason(log.passes, voice, start_s, end_s, count),
                offline=None if lacking is None else lacking <= (1.0 - HEARD_SHARE) * count,
            )
        )
    return stretches


def _tokens(text: str, language: str) -> list[str]:
    return [token.text for token in split_tokens([Word(text, 0.0, 0.0)], language)]


def _runs(numbers: frozenset[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1]


def _reason(
    passes: Sequence[Pass] | None, voice: Sequence[Span], start_s: float, end_s: float, count: int
) -> Reason:
    if passes is None:
        return "unknown"
    inside = [(max(a, start_s), min(b, end_s)) for a, b in voice if a < end_s and b > start_s]
    if uncovered_s(inside, passes) > 0:
        return "not decoded"
    for each in passes:
        heard = sum(start_s <= (word.start_s + word.end_s) / 2 <= end_s for word in each.words)
        if heard >= HEARD_SHARE * count:
            return "heard, then dropped"
    return "decoded, nothing heard"
