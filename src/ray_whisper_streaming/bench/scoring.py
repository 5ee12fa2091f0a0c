"""Scores of a stream: how right, how late, whether the delay grows, whether the tail arrived.

Times are measured against the moment a word ended in the audio as it was played: `StreamLog` counts seconds
from the stream's first sample, and words carry seconds of the same time line.
"""

from __future__ import annotations

import bisect
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from ray_whisper_streaming.bench.text_errors import counts_letters, extra
from ray_whisper_streaming.core.events import (
    Committed,
    Event,
    Final,
    JobFailed,
    Partial,
    SpeechEnded,
    StreamFailed,
)
from ray_whisper_streaming.core.transcript import Word, join_text, normalise

__all__ = [
    "Alignment",
    "Lag",
    "Pass",
    "Shown",
    "StreamLog",
    "StreamScore",
    "Utterance",
    "align",
    "measure_lag",
    "percentiles",
    "score_stream",
    "split_tokens",
]

SAME_UPDATE_S = 0.02
"""Events closer together than this reach a reader as one update: a pass commits words and shows the rest at
once."""

TAIL_S = 3.0
"""The end of a stream where words get lost: a live system has not decoded it yet when it closes."""

LAG_LIMIT_S = 0.5
"""Growth of the median commit latency, from the first third of a run to the last, that counts as growing."""

MIN_LAG_WORDS = 5
"""Words a third of the run must have for its median to mean anything."""

_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_LETTER = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class Shown:
    """Words that reached the reader.

    Attributes:
        at_s: when, in seconds since the stream's first sample was spoken.
        committed: whether they stay; else they replace the last uncommitted ones.
        words: the words.
    """

    at_s: float
    committed: bool
    words: tuple[Word, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """Words that were reported as complete.

    Attributes:
        words: all of them, with the system's own times.
        shown_at_s: when the first text of it was seen.
        final_at_s: when it was known to be complete.
        silent_at_s: when the silence that ended it was noticed; None: it was cut, or the stream's audio ended.
    """

    words: tuple[Word, ...] = field(repr=False)
    shown_at_s: float
    final_at_s: float
    silent_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Pass:
    """A window that was decoded.

    Attributes:
        start_s: where it began.
        end_s: where it ended.
        words: what the engine answered, before the stream judged it.
    """

    start_s: float
    end_s: float
    words: tuple[Word, ...] = field(default=(), repr=False)


@dataclass(slots=True)
class StreamLog:
    """What became of one stream.

    Attributes:
        shown: everything its reader saw, in order.
        utterances: those with words, in order.
        ended_at_s: when its terminal event came; None: it never did.
        failure: the error's type if the stream failed.
        failed_jobs: jobs that failed; the stream tries again.
        late_s: how late each packet of audio was given, seconds behind the plan.
        passes: the windows that were decoded, in order; None: they can't be seen (at the pace of speech).
    """

    shown: list[Shown] = field(default_factory=list[Shown])
    utterances: list[Utterance] = field(default_factory=list[Utterance])
    ended_at_s: float | None = None
    failure: str = ""
    failed_jobs: int = 0
    late_s: list[float] = field(default_factory=list[float])
    passes: list[Pass] | None = field(default=None, repr=False)
    _silent_at_s: list[float] = field(default_factory=list[float], repr=False)
    _shown_at_s: float | None = field(default=None, repr=False)

    def record(self, event: Event, at_s: float) -> None:
        """Write down an event that its reader received at ``at_s``."""
        match event:
            case Committed() | Partial():
                committed = isinstance(event, Committed)
                self.shown.append(Shown(at_s, committed=committed, words=event.words))
                if event.words and self._shown_at_s is None:
                    self._shown_at_s = at_s
            case SpeechEnded():
                self._silent_at_s.append(at_s)
            case Final():
                # Silences come in the order of the utterances that they end, and before their finals.
                silent_at_s = self._silent_at_s.pop(0) if self._silent_at_s else None
                if event.words:
                    utterance = Utterance(
                        words=event.words,
                        shown_at_s=at_s if self._shown_at_s is None else self._shown_at_s,
                        final_at_s=at_s,
                        silent_at_s=silent_at_s,
                    )
                    self.utterances.append(utterance)
                self._shown_at_s = None
            case JobFailed():
                self.failed_jobs += 1
            case StreamFailed():
                self.failure = type(event.error).__name__
            case _:
                pass

    @property
    def committed(self) -> list[Word]:
        """All committed words, in order."""
        return [word for shown in self.shown if shown.committed for word in shown.words]

    @property
    def text(self) -> str:
        """All committed words as one text."""
        return join_text(self.committed)

    @property
    def updates(self) -> int:
        """How often what the reader sees changed."""
        times = [shown.at_s for shown in self.shown]
        return sum(later - earlier > SAME_UPDATE_S for earlier, later in pairwise(times)) + bool(times)


@dataclass(frozen=True, slots=True)
class Alignment:
    """Which words of two texts stand for each other.

    Attributes:
        equal: index in the hypothesis -> index in the reference, for words that are equal.
        deleted: indices of the reference that the hypothesis has nothing for, not even a wrong word.
    """

    equal: dict[int, int]
    deleted: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamScore:
    """One stream's figures.

    Attributes:
        commit_latencies: (end of the word in the audio, seconds from there until it was committed).
        first_shown_latencies_s: seconds from a word's end until it was first shown in its right form.
        tail_words: words of the reference in the last `TAIL_S` seconds.
        tail_words_lost: those of them that nothing was ever committed for.
        words_lost_at_end: words behind the last one that anything was committed for.
        updates: how often the text changed.
    """

    commit_latencies: list[tuple[float, float]]
    first_shown_latencies_s: list[float]
    tail_words: int
    tail_words_lost: int
    words_lost_at_end: int
    updates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How the commit latency moves while a run goes on.

    Attributes:
        slope_s_per_min: least squares over all words.
        growth_s: median of the last third of the run less that of the first; None: too few words to tell.
    """

    slope_s_per_min: float = 0.0
    growth_s: float | None = None

    @property
    def grows(self) -> bool:
        """Whether it grows by more than `LAG_LIMIT_S`, or too little is committed to tell."""
        return self.growth_s is None or self.growth_s > LAG_LIMIT_S


def split_tokens(words: Sequence[Word], language: str = "en") -> list[Word]:
    """The words in their bare form (see `normalise`), split at hyphens, without bare punctuation; letters, where
    the language is written without spaces.
    """
    pattern = _LETTER if counts_letters(language) else _TOKEN
    return [replace(word, text=normalise(part)) for word in words for part in pattern.findall(word.text)]


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> Alignment:
    """Align two texts with the fewest edits (Levenshtein distance over words)."""
    jiwer = extra("jiwer")
    chunks = jiwer.process_words(" ".join(reference), " ".join(hypothesis)).alignments[0]
    equal: dict[int, int] = {}
    deleted: set[int] = set()
    for chunk in chunks:
        if chunk.type == "equal":
            shift = chunk.ref_start_idx - chunk.hyp_start_idx
            equal.update((i, i + shift) for i in range(chunk.hyp_start_idx, chunk.hyp_end_idx))
        elif chunk.type == "delete":
            deleted.update(range(chunk.ref_start_idx, chunk.ref_end_idx))
    return Alignment(equal, frozenset(deleted))


def score_stream(
    reference: Sequence[Word], log: StreamLog, audio_s: float, language: str = "en"
) -> StreamScore:
    """Score one stream.

    A word counts as committed (shown) when a word equal to it was, at its place in the text: found by
    aligning all committed words with the whole reference, and each partial text with the reference words
    behind the committed ones that had begun by then.

    Args:
        reference: what was said, with times. If it is empty the system's own committed words and times stand
            for it; then nothing can be lost.
        log: what the reader saw.
        audio_s: length of the audio.
        language: what is spoken.
    """
    spoken = split_tokens(reference or log.committed, language)
    texts = [token.text for token in spoken]
    committed = [
        (shown.at_s, token)
        for shown in log.shown
        if shown.committed
        for token in split_tokens(shown.words, language)
    ]
    final = align(texts, [token.text for _, token in committed])
    first_shown = {index: committed[position][0] for position, index in final.equal.items()}
    commits = sorted((spoken[i].end_s, at_s - spoken[i].end_s) for i, at_s in first_shown.items())

    starts = [token.start_s for token in spoken]
    count = position = 0
    for shown in log.shown:
        tokens = split_tokens(shown.words, language)
        if shown.committed:
            matched = [final.equal[i] for i in range(count, count + len(tokens)) if i in final.equal]
            position = matched[-1] + 1 if matched else position
            count += len(tokens)
        elif tokens:
            begun = bisect.bisect_right(starts, shown.at_s)
            for index in align(texts[position:begun], [token.text for token in tokens]).equal.values():
                known_s = first_shown.get(position + index)
                first_shown[position + index] = shown.at_s if known_s is None else min(known_s, shown.at_s)

    tail = {i for i, token in enumerate(spoken) if token.end_s > audio_s - TAIL_S}
    lost_at_end = next(
        (i for i in range(len(spoken)) if len(spoken) - 1 - i not in final.deleted), len(spoken)
    )
    return StreamScore(
        commit_latencies=commits,
        first_shown_latencies_s=[at_s - spoken[i].end_s for i, at_s in first_shown.items()],
        tail_words=len(tail),
        tail_words_lost=len(tail & final.deleted),
        words_lost_at_end=lost_at_end,
        updates=log.updates,
    )


def measure_lag(commit_latencies: Sequence[tuple[float, float]], audio_s: float) -> Lag:
    """Whether words are committed later and later.

    Args:
        commit_latencies: as in `StreamScore`, of one stream or of several that ran together.
        audio_s: length of the streams.
    """
    if len(commit_latencies) < 2:
        return Lag()
    ends, latencies = np.array(commit_latencies, np.float64).T
    spread = ends - ends.mean()
    variance = float((spread**2).sum())
    slope = float((spread * latencies).sum()) / variance if variance else 0.0
    first = latencies[ends <= audio_s / 3]
    last = latencies[ends > audio_s * 2 / 3]
    growth_s = None
    if min(len(first), len(last)) >= MIN_LAG_WORDS:
        growth_s = statistics.median(last.tolist()) - statistics.median(first.tolist())
    return Lag(slope_s_per_min=slope * 60, growth_s=growth_s)


def percentiles(values: Sequence[float], *wanted: int) -> dict[str, float | None]:
    """``{"p50": ..}`` of the values, interpolated; None where there are no values."""
    return {
        f"p{percent}": float(np.percentile(np.asarray(values, np.float64), percent)) if len(values) else None
        for percent in wanted
    }
