"""What the streams of a variant come to, in one language: from logs to figures, and from figures to JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ray_whisper_streaming.bench.coverage import LostStretch, find_lost, uncovered_s
from ray_whisper_streaming.bench.lockstep import Work
from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.bench.reading import PartialWords, count_partial_words, measure_turns
from ray_whisper_streaming.bench.report import FROM_OWN_TIMES, FROM_WORD_TIMES
from ray_whisper_streaming.bench.scoring import StreamLog, percentiles, score_stream, split_tokens
from ray_whisper_streaming.bench.text_errors import (
    Edit,
    ErrorCount,
    count_errors,
    counts_letters,
    find_edits,
)
from ray_whisper_streaming.bench.word_quality import WordQuality, judge_words
from ray_whisper_streaming.core.options import StreamOptions

__all__ = ["ClipText", "Figures", "Heard", "Hallucinated", "Spread", "as_row", "summarise"]

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A clip, what was made of it live, and in one go (None: not tried)."""

    clip: Clip
    log: StreamLog
    offline: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a delay is spread, in seconds; None where there was nothing to measure."""

    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipText:
    """A clip's text against its reference.

    Attributes:
        name: of the clip.
        edits: live.
        offline_edits: of the same model in one go; None: not tried.
        lost: stretches of speech without a committed word.
        uncovered_s: voice that no pass covered; None: passes were not recorded.
    """

    name: str
    edits: tuple[Edit, ...] = field(repr=False)
    offline_edits: tuple[Edit, ...] | None = field(default=None, repr=False)
    lost: tuple[LostStretch, ...] = ()
    uncovered_s: float | None = None

    @property
    def errors(self) -> ErrorCount:
        """Of the live text."""
        return count_errors(self.edits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hallucinated:
    """Words that were committed where nobody spoke.

    Attributes:
        audio_s: audio without speech that was played.
        words: committed in it.
        texts: (clip, what was committed), where anything was.
    """

    audio_s: float = 0.0
    words: int = 0
    texts: tuple[tuple[str, str], ...] = ()

    @property
    def words_per_hour(self) -> float | None:
        """None if no such audio was played."""
        return self.words / self.audio_s * HOUR_S if self.audio_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A variant in one language.

    Attributes:
        variant: its name.
        condition: under which the recordings were played.
        options: of its streams.
        language: what is spoken.
        letters: letters are counted, not words.
        audio_s: audio with speech.
        clips: in the order they were played.
        errors: of all clips.
        offline_errors: of the same model in one go; None: not tried.
        commit_latency_s: from the end of a word until it was committed; of words that were heard right.
        first_shown_latency_s: the same until it was first shown in that form.
        first_partial_latency_s: from the start of an utterance until any text of it was shown.
        endpoint_delay_s: from the end of an utterance until it was reported as complete.
        word_times: whether latencies are against the recordings' word times, and not the system's own.
        words_timed: words with a commit latency.
        utterances: that were reported as complete; and
        utterances_ended: by silence, which have an endpoint delay.
        partial_words: words shown before they were committed.
        word_quality: what probabilities and times of the committed words are worth.
        decoded_s: audio decoded for the clips with speech, as often as it was; and
        jobs: in so many windows.
        hallucinated: in recordings without speech.
        failures: streams that failed.
    """

    variant: str
    condition: str
    options: StreamOptions
    language: str
    letters: bool
    audio_s: float
    clips: tuple[ClipText, ...]
    errors: ErrorCount
    offline_errors: ErrorCount | None
    commit_latency_s: Spread
    first_shown_latency_s: Spread
    first_partial_latency_s: Spread
    endpoint_delay_s: Spread
    word_times: bool
    words_timed: int
    utterances: int
    utterances_ended: int
    partial_words: PartialWords
    word_quality: WordQuality = field(repr=False)
    decoded_s: float
    jobs: int
    hallucinated: Hallucinated
    failures: int

    @property
    def lost(self) -> list[tuple[str, LostStretch]]:
        """(clip, stretch) of all clips, but for stretches that the model doesn't have in one go either."""
        return [
            (clip.name, stretch)
            for clip in self.clips
            for stretch in clip.lost
            if stretch.offline is not False
        ]

    @property
    def uncovered_s(self) -> float | None:
        """Voice that no pass covered, of all clips; None: passes were not recorded."""
        each = [clip.uncovered_s for clip in self.clips if clip.uncovered_s is not None]
        return sum(each) if each else None


def summarise(
    variant: str,
    options: StreamOptions,
    language: str,
    speech: Sequence[Heard],
    work: Work,
    silence: Sequence[Heard] = (),
    condition: str = "clean",
) -> Figures:
    """The figures of a variant in one language.

    Latencies are those of the clips with word times, if there are any; else of all, by the system's own times.

    Args:
        variant: its name.
        options: of its streams.
        language: of the clips.
        speech: clips in which somebody speaks.
        work: what these cost.
        silence: clips in which nobody does.
        condition: under which they were played.
    """
    word_times = any(heard.clip.words for heard in speech)
    timed = [heard for heard in speech if heard.clip.words or not word_times]
    scores = [score_stream(h.clip.words, h.log, h.clip.seconds, language) for h in timed]
    turns = [measure_turns(h.clip.words, h.log, h.clip.seconds) for h in timed]
    commits = [latency_s for score in scores for _, latency_s in score.commit_latencies]
    ends = [delay_s for turn in turns for delay_s in turn.endpoint_delays_s]
    clips = [_compare(heard, language) for heard in speech]
    offline = [count_errors(clip.offline_edits) for clip in clips if clip.offline_edits is not None]
    return Figures(
        variant=variant,
        condition=condition,
        options=options,
        language=language,
        letters=counts_letters(language),
        audio_s=sum(heard.clip.seconds for heard in speech),
        clips=tuple(clips),
        errors=sum((clip.errors for clip in clips), ErrorCount()),
        offline_errors=sum(offline, ErrorCount()) if offline else None,
        commit_latency_s=_spread(commits),
        first_shown_latency_s=_spread([s for score in scores for s in score.first_shown_latencies_s]),
        first_partial_latency_s=_spread([s for turn in turns for s in turn.first_partial_delays_s]),
        endpoint_delay_s=_spread(ends),
        word_times=word_times,
        words_timed=len(commits),
        utterances=sum(len(heard.log.utterances) for heard in timed),
        utterances_ended=len(ends),
        partial_words=sum((count_partial_words(heard.log, language) for heard in speech), PartialWords()),
        word_quality=WordQuality(
            tuple(w for h in speech for w in judge_words(h.clip.text, h.clip.words, h.log, language))
        ),
        decoded_s=work.audio_s,
        jobs=work.jobs,
        hallucinated=_hallucinated(silence, language),
        failures=sum(bool(heard.log.failure) for heard in [*speech, *silence]),
    )


def as_row(figures: Figures) -> dict[str, Any]:
    """The figures as JSON. Keys and units: ``docs/evaluate.md``."""
    live, offline = figures.errors.rate, figures.offline_errors and figures.offline_errors.rate
    rates = {"wer": (live, offline), "cer": (None, None)}
    if figures.letters:
        rates = {"wer": (None, None), "cer": (live, offline)}
    return {
        "variant": figures.variant,
        "condition": figures.condition,
        "options": asdict(figures.options),
        "language": figures.language,
        "words": figures.errors.words,
        "audio_s": figures.audio_s,
        **{name: rate for name, (rate, _) in rates.items()},
        **{f"offline_{name}": rate for name, (_, rate) in rates.items()},
        "substitutions": figures.errors.substitutions,
        "deletions": figures.errors.deletions,
        "insertions": figures.errors.insertions,
        "commit_latency_s": asdict(figures.commit_latency_s),
        "first_shown_latency_s": asdict(figures.first_shown_latency_s),
        "first_partial_latency_s": asdict(figures.first_partial_latency_s),
        "endpoint_delay_s": asdict(figures.endpoint_delay_s),
        "latency_reference": FROM_WORD_TIMES if figures.word_times else FROM_OWN_TIMES,
        "words_timed": figures.words_timed,
        "utterances": figures.utterances,
        "utterances_ended_by_silence": figures.utterances_ended,
        "partial_words": figures.partial_words.shown,
        "partial_changed_share": figures.partial_words.changed_share,
        "wrong_share": figures.word_quality.wrong_share,
        "unsure_wrong_share": figures.word_quality.unsure_wrong_share,
        "word_time_error_s": figures.word_quality.time_error_s,
        "decoded_seconds_per_audio_second": figures.decoded_s / figures.audio_s if figures.audio_s else None,
        "jobs_per_audio_second": figures.jobs / figures.audio_s if figures.audio_s else None,
        "non_speech_s": figures.hallucinated.audio_s,
        "hallucinated_words": figures.hallucinated.words,
        "hallucinated_words_per_hour": figures.hallucinated.words_per_hour,
        "uncovered_voice_s": figures.uncovered_s,
        "lost_stretches": len(figures.lost),
        "failures": figures.failures,
        "clips": [_clip_row(clip) for clip in figures.clips],
    }


def _clip_row(clip: ClipText) -> dict[str, Any]:
    """A clip as JSON: figures, and no word of what was said."""
    lost = [asdict(stretch) for stretch in clip.lost]
    for stretch in lost:
        del stretch["said"]
    return {
        "name": clip.name,
        "words": clip.errors.words,
        "errors": clip.errors.errors,
        "uncovered_voice_s": clip.uncovered_s,
        "lost": lost,
    }


def _compare(heard: Heard, language: str) -> ClipText:
    said, offline, log = heard.clip.text, heard.offline, heard.log
    voice = heard.clip.with_voice().voice or ()
    return ClipText(
        name=heard.clip.name,
        edits=tuple(find_edits(said, log.text, language)),
        offline_edits=None if offline is None else tuple(find_edits(said, offline, language)),
        lost=tuple(find_lost(said, heard.clip.words, log, voice, offline, language)),
        uncovered_s=None if log.passes is None else uncovered_s(voice, log.passes),
    )


def _hallucinated(silence: Sequence[Heard], language: str) -> Hallucinated:
    return Hallucinated(
        audio_s=sum(heard.clip.seconds for heard in silence),
        words=sum(len(split_tokens(heard.log.committed, language)) for heard in silence),
        texts=tuple((heard.clip.name, heard.log.text) for heard in silence if heard.log.text),
    )


def _spread(values: Sequence[float]) -> Spread:
    mean = statistics.fmean(values) if values else None
    return Spread(mean=mean, **percentiles(values, 50, 95, 99))
