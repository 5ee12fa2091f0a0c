"""Scores of a stream: how right, how late, whether the delay grows, whether the tail arrived.

Times are measured against the moment a word ended in the audio as it was played: `StreamLog` counts seconds
from the stream's first sample, and words carry seconds of the same time line.
"""

from __future__ import annotations

import bisect
import importlib
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from ray_whisper_streaming.core.transcript import Word, join_text, normalise

__all__ = [
    "Alignment",
    "Lag",
    "Shown",
    "StreamLog",
    "StreamScore",
    "align",
    "measure_lag",
    "errors_by_place",
    "percentiles",
    "score_stream",
    "split_tokens",
    "word_error_rate",
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


@dataclass(slots=True)
class StreamLog:
    """What became of one stream.

    Attributes:
        shown: everything its reader saw, in order.
        ended_at_s: when its terminal event came; None: it never did.
        failure: the error's type if the stream failed.
        failed_jobs: jobs that failed; the stream tries again.
        late_s: how late each packet of audio was given, seconds behind the plan.
    """

    shown: list[Shown] = field(default_factory=list[Shown])
    ended_at_s: float | None = None
    failure: str = ""
    failed_jobs: int = 0
    late_s: list[float] = field(default_factory=list[float])

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


def split_tokens(words: Sequence[Word]) -> list[Word]:
    """The words in their bare form (see `normalise`), split at hyphens, without bare punctuation."""
    return [replace(word, text=normalise(part)) for word in words for part in _TOKEN.findall(word.text)]


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> Alignment:
    """Align two texts with the fewest edits (Levenshtein distance over words)."""
    jiwer = _extra("jiwer")
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


def score_stream(reference: Sequence[Word], log: StreamLog, audio_s: float) -> StreamScore:
    """Score one stream.

    A word counts as committed (shown) when a word equal to it was, at its place in the text: found by
    aligning all committed words with the whole reference, and each partial text with the reference words
    behind the committed ones that had begun by then.

    Args:
        reference: what was said, with times. If it is empty the system's own committed words and times stand
            for it; then nothing can be lost.
        log: what the reader saw.
        audio_s: length of the audio.
    """
    spoken = split_tokens(reference or log.committed)
    texts = [token.text for token in spoken]
    committed = [
        (shown.at_s, token) for shown in log.shown if shown.committed for token in split_tokens(shown.words)
    ]
    final = align(texts, [token.text for _, token in committed])
    first_shown = {index: committed[position][0] for position, index in final.equal.items()}
    commits = sorted((spoken[i].end_s, at_s - spoken[i].end_s) for i, at_s in first_shown.items())

    starts = [token.start_s for token in spoken]
    count = position = 0
    for shown in log.shown:
        tokens = split_tokens(shown.words)
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


def word_error_rate(
    references: Sequence[str], hypotheses: Sequence[str], language: str = "en"
) -> float | None:
    """Errors per word of the reference over all texts together; None if nothing was said.

    Both sides go through Whisper's own text normaliser, as in its paper (Radford et al., 2022, appendix C).
    """
    normaliser = _text_normaliser(language)
    pairs = [
        (normaliser(said), normaliser(heard)) for said, heard in zip(references, hypotheses, strict=True)
    ]
    if not any(said.strip() for said, _ in pairs):
        return None
    score = _extra("jiwer").process_words([said for said, _ in pairs], [heard for _, heard in pairs])
    return float(score.wer)


PLACES = (1, 6, 16, 31, 61, 101)
"""First words of the parts that `errors_by_place` tells apart."""


def errors_by_place(
    references: Sequence[str], hypotheses: Sequence[str], language: str = "en"
) -> dict[str, float | None]:
    """`word_error_rate` of the words from the 1st, the 6th ... of each text on, up to the next of `PLACES`.

    A word too many counts where the word before which it stands does.
    """
    normaliser = _text_normaliser(language)
    words, errors = [0] * len(PLACES), [0] * len(PLACES)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        said: str = normaliser(reference)
        heard: str = normaliser(hypothesis)
        count = len(said.split())
        if not count:
            continue
        for place in range(count):
            words[bisect.bisect(PLACES, place + 1) - 1] += 1
        for chunk in _extra("jiwer").process_words(said, heard).alignments[0]:
            if chunk.type == "insert":
                place = min(chunk.ref_start_idx, count - 1)
                errors[bisect.bisect(PLACES, place + 1) - 1] += chunk.hyp_end_idx - chunk.hyp_start_idx
            elif chunk.type != "equal":
                for place in range(chunk.ref_start_idx, chunk.ref_end_idx):
                    errors[bisect.bisect(PLACES, place + 1) - 1] += 1
    return {
        str(first): wrong / of if of else None for first, wrong, of in zip(PLACES, errors, words, strict=True)
    }


def percentiles(values: Sequence[float], *wanted: int) -> dict[str, float | None]:
    """``{"p50": ..}`` of the values, interpolated; None where there are no values."""
    return {
        f"p{percent}": float(np.percentile(np.asarray(values, np.float64), percent)) if len(values) else None
        for percent in wanted
    }


@cache
def _text_normaliser(language: str) -> Any:
    if language == "en":
        return _extra("whisper_normalizer.english").EnglishTextNormalizer()
    return _extra("whisper_normalizer.basic").BasicTextNormalizer()


def _extra(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        hint = "scores need the extra `bench`: pip install 'ray-whisper-streaming[bench]'"
        raise ModuleNotFoundError(hint, name=module) from error
