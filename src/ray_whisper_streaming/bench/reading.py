"""What a stream is like to read: how soon its first words come, how soon it is known that an utterance is over, and
how much of what was shown changes.

Times are seconds since the stream's first sample, as in `scoring`.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from ray_whisper_streaming.bench.scoring import StreamLog, align, split_tokens
from ray_whisper_streaming.core.transcript import Word

__all__ = ["PartialWords", "Turns", "count_partial_words", "measure_turns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """How the utterances of a stream began and ended.

    Attributes:
        first_partial_delays_s: from the start of an utterance's first word until any text of it was seen; of
            utterances behind a silence, and the first.
        endpoint_delays_s: from the end of an utterance's last word until it was reported as complete; of utterances
            that a silence ended.
    """

    first_partial_delays_s: tuple[float, ...] = ()
    endpoint_delays_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class PartialWords:
    """Words shown before they were committed. A word counts once, for as long as it stays as it is.

    Attributes:
        shown: how many.
        changed: those of them that became another word, or went away, instead of being committed.
    """

    shown: int = 0
    changed: int = 0

    def __add__(self, other: PartialWords) -> PartialWords:
        return PartialWords(self.shown + other.shown, self.changed + other.changed)

    @property
    def changed_share(self) -> float | None:
        """Part of them that changed, 0 to 1; None if there were none."""
        return self.changed / self.shown if self.shown else None


def measure_turns(reference: Sequence[Word], log: StreamLog, audio_s: float) -> Turns:
    """How the utterances of a stream began and ended.

    Which words of the reference an utterance holds is told by time: all up to the last that began before the utterance
    ended by the system's own account.

    Args:
        reference: what was said, with times; if it is empty the system's own words and times stand for it.
        log: what the reader saw.
        audio_s: length of the audio. What ends there was ended by no silence.
    """
    starts_s = [word.start_s for word in reference]
    first_delays_s: list[float] = []
    end_delays_s: list[float] = []
    fresh = True
    position = 0
    for utterance in log.utterances:
        words = list(utterance.words)
        if reference:
            behind = bisect.bisect_left(starts_s, utterance.words[-1].end_s)
            words = list(reference[position:behind])
            position = max(position, behind)
        by_silence = utterance.silent_at_s is not None and utterance.silent_at_s < audio_s
        if words and fresh:
            first_delays_s.append(utterance.shown_at_s - words[0].start_s)
        if words and by_silence:
            end_delays_s.append(utterance.final_at_s - words[-1].end_s)
        fresh = by_silence
    return Turns(first_partial_delays_s=tuple(first_delays_s), endpoint_delays_s=tuple(end_delays_s))


def count_partial_words(log: StreamLog, language: str = "en") -> PartialWords:
    """How many words were shown before they were committed, and how many of them changed.

    Each partial text is aligned with what took its place: the words committed since, and the next partial. Case and
    punctuation do not count.
    """
    shown = changed = 0
    partial: list[str] = []
    committed: list[str] = []
    for update in log.shown:
        tokens = [token.text for token in split_tokens(update.words, language)]
        if update.committed:
            committed += tokens
            continue
        kept = align(partial, committed + tokens).equal
        changed += len(partial) - len(kept)
        shown += sum(place not in kept for place in range(len(committed), len(committed) + len(tokens)))
        partial, committed = tokens, []
    changed += len(partial) - len(align(partial, committed).equal)
    return PartialWords(shown, changed)
