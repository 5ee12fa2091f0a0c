"""Playing recordings to every variant, in steps or at the pace of speech, and collecting the figures."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from ray_whisper_streaming.api import AsyncPool
from ray_whisper_streaming.bench.conditions import CLEAN, Condition
from ray_whisper_streaming.bench.evaluation import Figures, Heard, summarise
from ray_whisper_streaming.bench.load import run_streams
from ray_whisper_streaming.bench.lockstep import Work, run_lockstep
from ray_whisper_streaming.bench.material import Clip, Entry
from ray_whisper_streaming.bench.scoring import StreamLog
from ray_whisper_streaming.bench.variants import Variant
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.engines.base import Engine
from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["Material", "choose_entries", "evaluate_at_pace", "evaluate_in_steps"]

Tell: TypeAlias = Callable[[float], None]

STREAMS_IN_STEP = 8
"""Clips that are played at once in steps: as many as an engine's batch gains by."""


@dataclass(frozen=True, slots=True)
class Material:
    """What is played.

    Attributes:
        speech: clips by language.
        silence: clips without speech; played as each of the languages.
        offline: what the same model made of the clips of a language in one go, where that was tried.
        condition: under which they are played.
    """

    speech: Mapping[str, Sequence[Clip]]
    silence: Sequence[Clip] = ()
    offline: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    condition: str = CLEAN.name

    @property
    def seconds(self) -> float:
        """Audio that one variant hears."""
        each_s = sum(clip.seconds for clip in self.silence)
        return sum(each_s + sum(clip.seconds for clip in clips) for clips in self.speech.values())

    def under(self, condition: Condition) -> Material:
        """The same under a condition, not tried offline."""
        speech = {
            language: condition.speech([clip.with_voice() for clip in clips], self.silence)
            for language, clips in self.speech.items()
        }
        return Material(speech, condition.silence(self.silence), condition=condition.name)

    def figures(
        self,
        variant: Variant,
        options: StreamOptions,
        language: str,
        spoken: Sequence[StreamLog],
        silent: Sequence[StreamLog],
        work: Work,
    ) -> Figures:
        """What comes of the logs of a language's clips and of those without speech."""
        clips = self.speech[language]
        offline = self.offline.get(language) or [None] * len(clips)
        speech = [Heard(*each) for each in zip(clips, spoken, offline, strict=True)]
        silence = [Heard(*each) for each in zip(self.silence, silent, strict=True)]
        return summarise(variant.name, options, language, speech, work, silence, self.condition)


def choose_entries(
    entries: Sequence[Entry], languages: Sequence[str] = (), limit: int | None = None
) -> list[Entry]:
    """The entries in these languages (any, if none is given) and those without speech; of each kind the first
    ``limit``.

    Raises:
        ConfigurationError: nothing is said in these languages.
    """
    counts: dict[str, int] = {}
    chosen: list[Entry] = []
    for entry in entries:
        kind = entry.language if entry.text else ""
        if kind and languages and kind not in languages:
            continue
        counts[kind] = counts.get(kind, 0) + 1
        if limit is None or counts[kind] <= limit:
            chosen.append(entry)
    spoken = {entry.language for entry in entries if entry.text}
    for language in languages or ("",):
        if language not in spoken and (language or not spoken):
            known = ", ".join(sorted(spoken)) or "nothing"
            raise ConfigurationError("language", language, f"one that is spoken in the recordings ({known})")
    return chosen


def evaluate_in_steps(
    engine: Engine,
    variants: Sequence[Variant],
    material: Material,
    step_s: float,
    heard: Callable[[str, float], None],
) -> Iterator[Figures]:
    """Every variant in every language, computation-unaware: see `run_lockstep`.

    Args:
        engine: warmed up.
        variants: what is compared.
        material: what is played.
        step_s: audio between two passes, seconds.
        heard: called with the name of the variant and the seconds of audio since the last call.
    """
    for variant in variants:
        tell = partial(heard, variant.name)
        for language, clips in material.speech.items():
            options = variant.in_steps(step_s).options(language)
            spoken, work = _play_in_steps(engine, clips, options, step_s, tell)
            silent, _ = _play_in_steps(engine, material.silence, options, step_s, tell)
            yield material.figures(variant, options, language, spoken, silent, work)


async def evaluate_at_pace(
    pool: AsyncPool,
    variants: Sequence[Variant],
    material: Material,
    at_once: int,
    heard: Callable[[str, float], None],
) -> AsyncGenerator[Figures, None]:
    """Every variant in every language, computation-aware: see `run_streams`.

    Args:
        pool: started.
        variants: what is compared.
        material: what is played.
        at_once: clips that are played at a time; they share the pool's workers.
        heard: called with the name of the variant and the seconds of audio since the last call.
    """
    for variant in variants:
        tell = partial(heard, variant.name)
        for language, clips in material.speech.items():
            options = variant.options(language)
            before = await pool.stats()
            spoken = await _play_at_pace(pool, clips, options, at_once, tell)
            after = await pool.stats()
            silent = await _play_at_pace(pool, material.silence, options, at_once, tell)
            jobs, audio_s = after.jobs_done - before.jobs_done, after.audio_s - before.audio_s
            yield material.figures(variant, options, language, spoken, silent, Work(jobs, audio_s))


def _play_in_steps(
    engine: Engine, clips: Sequence[Clip], options: StreamOptions, step_s: float, tell: Tell
) -> tuple[list[StreamLog], Work]:
    logs: list[StreamLog] = []
    total = Work()
    for part in _parts(clips, STREAMS_IN_STEP):
        part_logs, work = run_lockstep(engine, part, options, step_s=step_s, heard=tell)
        logs += part_logs
        total = Work(total.jobs + work.jobs, total.audio_s + work.audio_s)
    return logs, total


async def _play_at_pace(
    pool: AsyncPool, clips: Sequence[Clip], options: StreamOptions, at_once: int, tell: Tell
) -> list[StreamLog]:
    logs: list[StreamLog] = []
    for part in _parts(clips, at_once):
        logs += await run_streams(pool, part, options)
        tell(sum(clip.seconds for clip in part))
    return logs


def _parts(clips: Sequence[Clip], size: int) -> Iterator[Sequence[Clip]]:
    return (clips[first : first + size] for first in range(0, len(clips), size))
