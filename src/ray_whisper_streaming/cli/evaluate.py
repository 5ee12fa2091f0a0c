"""``ray-whisper evaluate``: live text measured on recordings whose words are known."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ray_whisper_streaming import AsyncPool
from ray_whisper_streaming.bench.conditions import CLEAN, Condition, parse_condition
from ray_whisper_streaming.bench.evaluation import Figures, as_row
from ray_whisper_streaming.bench.evaluation_page import render_page
from ray_whisper_streaming.bench.evaluation_run import (
    Material,
    choose_entries,
    evaluate_at_pace,
    evaluate_in_steps,
)
from ray_whisper_streaming.bench.evaluation_table import make_table, tell_coverage
from ray_whisper_streaming.bench.machine import describe_machine
from ray_whisper_streaming.bench.material import Clip, Entry, load_clip, read_manifest
from ray_whisper_streaming.bench.text_errors import check_extra
from ray_whisper_streaming.bench.variants import Variant, parse_variant
from ray_whisper_streaming.cli.console import FAILURE, StdoutConsole, complain, errors
from ray_whisper_streaming.core.languages import check_language
from ray_whisper_streaming.core.options import ENGLISH_ONLY, StreamOptions, check_model_knows
from ray_whisper_streaming.engines.factory import EngineName, engine_factory_for
from ray_whisper_streaming.errors import AudioError, ConfigurationError

__all__ = ["Plan", "find_entries", "make_conditions", "make_variants", "run"]

console = StdoutConsole()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How it is measured.

    Attributes:
        model: name, folder, or hub id.
        engine: see `engine_factory_for`.
        device: likewise.
        step_s: audio between two passes; None: at the pace of speech.
        at_once: recordings at a time, at the pace of speech.
        offline: give each recording to the model in one go, too.
        json: where the figures go.
        html: where the page goes.
    """

    model: str
    engine: EngineName
    device: str
    step_s: float | None
    at_once: int
    offline: bool
    json: Path | None
    html: Path | None

    def __post_init__(self) -> None:
        for name, path in (("--json", self.json), ("--html", self.html)):
            if path is not None and (path.is_dir() or not path.parent.is_dir()):
                raise ConfigurationError(name, str(path), "a file in a folder that exists")

    @property
    def how(self) -> str:
        """In words."""
        if self.step_s is None:
            return f"at the pace of speech, {self.at_once} at a time"
        return f"in steps of {self.step_s:g} s of audio, as fast as the machine can"


def make_variants(policies: Sequence[str], written: Sequence[str], *, vad: bool) -> list[Variant]:
    """What is compared: a variant for each policy, then those written out; the default policy if there are none.

    Raises:
        ConfigurationError: see `parse_variant`; or two have one name.
    """
    default = StreamOptions().policy
    named = policies or ([] if written else [default])
    variants = [Variant(policy, {"policy": policy}) for policy in named]
    variants += [parse_variant(text) for text in written]
    names = [variant.name for variant in variants]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ConfigurationError("variant", double, "given once, or named by name=...")
    return [Variant(variant.name, {"voice_activity": vad, **variant.values}) for variant in variants]


def find_entries(
    audio: Sequence[Path],
    references: Sequence[Path],
    manifest: Path | None,
    *,
    languages: Sequence[str],
    limit: int | None,
    model: str,
) -> list[Entry]:
    """The recordings and what is said in them.

    Raises:
        ConfigurationError: they are not given one way or the other, or the model doesn't know the language.
        AudioError: a recording is missing.
    """
    for language in languages:
        check_language("language", language)
        check_model_knows(model, language)
    if manifest is None:
        entries = _paired(audio, references, languages)
    elif audio or references:
        raise ConfigurationError("manifest", str(manifest), "given alone, without AUDIO and --reference")
    else:
        only = list(languages) or (["en"] if model.endswith(ENGLISH_ONLY) else [])
        entries = choose_entries(read_manifest(manifest), only, limit)
    for entry in entries:
        if entry.text:
            check_language("language", entry.language)
        if not entry.path.is_file():
            raise AudioError(f"{entry.path} does not exist")
    return entries


def make_conditions(written: Sequence[str], entries: Sequence[Entry]) -> list[Condition]:
    """The conditions that the recordings are played under; clean, if there are none.

    Raises:
        ConfigurationError: see `parse_condition`; or one is given twice, or lacks recordings without speech.
    """
    conditions = [parse_condition(text) for text in written] or [CLEAN]
    names = [condition.name for condition in conditions]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ConfigurationError("condition", double, "given once")
    silence = any(not entry.text for entry in entries)
    for condition in conditions:
        if condition.needs_background and not silence:
            raise ConfigurationError("condition", condition.name, "given with recordings without speech")
    return conditions


def run(
    plan: Plan,
    variants: Sequence[Variant],
    entries: Sequence[Entry],
    conditions: Sequence[Condition],
    *,
    quiet: bool,
) -> int:
    """Measure, print the table, write the files after every line of it; return the exit code."""
    try:
        check_extra()
    except ModuleNotFoundError as error:
        complain(error)
        return FAILURE
    report = _Report(plan)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:.0f} of {task.total:.0f} s of audio"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=quiet or not errors.is_terminal,
    ) as progress:
        clean = _sorted([load_clip(entry) for entry in entries])
        seconds = clean.seconds * len(variants)
        if plan.offline:
            seconds += sum(clip.seconds for clips in clean.speech.values() for clip in clips)
        # About: some conditions join recordings, cut their pauses out, or leave those without speech alone.
        task = progress.add_task("", total=seconds * len(conditions))

        def heard(what: str, seconds: float) -> None:
            progress.update(task, description=what, advance=seconds)

        try:
            for condition in conditions:
                material = clean.under(condition)
                if plan.offline:
                    material = _with_offline(plan, material, heard)
                _measure(plan, variants, material, report.add, heard)
        finally:
            # Also when ended by Ctrl-C: what was measured until then.
            progress.stop()
            if report.rows:
                console.print(make_table(report.rows, f"{plan.model}, {plan.how}"))
                for line in itertools.chain.from_iterable(map(tell_coverage, report.rows)):
                    console.print(line, markup=False)
    return FAILURE if any(row.failures for row in report.rows) else 0


@dataclass(slots=True)
class _Report:
    """What was measured so far, and the files it is written to."""

    plan: Plan
    rows: list[Figures] = field(default_factory=list[Figures])
    machine: dict[str, Any] = field(default_factory=describe_machine)

    def add(self, figures: Figures) -> None:
        self.rows.append(figures)
        plan = self.plan
        if plan.json is not None:
            document = {
                "mode": "steps" if plan.step_s is not None else "real_time",
                "step_s": plan.step_s,
                "streams_at_once": plan.at_once if plan.step_s is None else None,
                "model": plan.model,
                "engine": plan.engine,
                "device": plan.device,
                "machine": self.machine,
                "results": [as_row(row) for row in self.rows],
            }
            plan.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if plan.html is not None:
            plan.html.write_text(render_page(self.rows, self._about()), encoding="utf-8")

    def _about(self) -> dict[str, str]:
        machine, plan = self.machine, self.plan
        gpus = ", ".join(machine["gpus"])
        return {
            "model": f"{plan.model} (engine {plan.engine}, device {plan.device})",
            "played": plan.how,
            "machine": f"{machine['processor']}, {machine['cores']} cores" + (f", {gpus}" if gpus else ""),
            "versions": ", ".join(f"{name} {number}" for name, number in machine["versions"].items()),
            "command": " ".join(machine["command_line"]),
        }


def _measure(
    plan: Plan,
    variants: Sequence[Variant],
    material: Material,
    add: Callable[[Figures], None],
    heard: Callable[[str, float], None],
) -> None:
    heard(f"loading {plan.model}", 0.0)
    if plan.step_s is None:
        asyncio.run(_measure_at_pace(plan, variants, material, add, heard))
        return
    engine = engine_factory_for(plan.engine, model=plan.model, device=plan.device)()
    with closing(engine):
        engine.warm_up()
        for figures in evaluate_in_steps(engine, variants, material, plan.step_s, heard):
            add(figures)


async def _measure_at_pace(
    plan: Plan,
    variants: Sequence[Variant],
    material: Material,
    add: Callable[[Figures], None],
    heard: Callable[[str, float], None],
) -> None:
    async with (
        AsyncPool(plan.model, backend="local", engine=plan.engine, device=plan.device) as pool,
        aclosing(evaluate_at_pace(pool, variants, material, plan.at_once, heard)) as rows,
    ):
        async for figures in rows:
            add(figures)


def _with_offline(plan: Plan, material: Material, heard: Callable[[str, float], None]) -> Material:
    from ray_whisper_streaming.bench.offline import load_whisper, transcribe_offline

    heard("offline", 0.0)
    whisper = load_whisper(plan.model, plan.device)
    texts = {
        language: transcribe_offline(whisper, clips, language, lambda seconds: heard("offline", seconds))
        for language, clips in material.speech.items()
    }
    return replace(material, offline=texts)


def _sorted(clips: Sequence[Clip]) -> Material:
    languages = dict.fromkeys(clip.language for clip in clips if clip.text)
    speech = {
        language: [clip for clip in clips if clip.text and clip.language == language]
        for language in languages
    }
    return Material(speech, [clip for clip in clips if not clip.text])


def _paired(audio: Sequence[Path], references: Sequence[Path], languages: Sequence[str]) -> list[Entry]:
    """An entry for each recording and its text."""
    if not audio:
        raise ConfigurationError("AUDIO", "nothing", "recordings with --reference for each, or --manifest")
    if len(references) != len(audio):
        given = f"{len(references)} of them"
        raise ConfigurationError("--reference", given, f"one text file for each of {len(audio)} recordings")
    if len(languages) > 1:
        raise ConfigurationError(
            "language", ", ".join(languages), "one for all recordings; or write a manifest"
        )
    return [
        Entry(path=path, language=next(iter(languages), "en"), text=_read(reference))
        for path, reference in zip(audio, references, strict=True)
    ]


def _read(reference: Path) -> str:
    try:
        text = reference.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text.strip():
        raise ConfigurationError("--reference", str(reference), "a text file in UTF-8 with what is said")
    return text
