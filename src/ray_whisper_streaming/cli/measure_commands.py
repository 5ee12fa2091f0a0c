"""The command that measures live text on recordings, and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ray_whisper_streaming.cli.console import configure_logging
from ray_whisper_streaming.cli.options import (
    Device,
    Engine,
    EngineChoice,
    Model,
    PolicyChoice,
    Quiet,
    Verbose,
    VoiceActivity,
)
from ray_whisper_streaming.cli.outputs import check_output

__all__ = ["evaluate"]

STEP_S = 1.0
"""As the literature has it: what the original's authors measured at."""


def evaluate(
    audio: Annotated[
        list[Path] | None, typer.Argument(help="Recordings of any codec.", show_default=False)
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text file with what is said in a recording: one for each of them, in their order.",
            show_default=False,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="Instead of both: a JSON object a line with path, language, text and maybe words "
            "(word, start, end). Where text is empty, nobody speaks.",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(
            help="Code of what is spoken, such as en, de, zh; of a manifest, only these languages. Else en, or all of "
            "the manifest that the model knows.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Take the first so many of a manifest, of each language and without speech.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        list[PolicyChoice] | None,
        typer.Option(help="A commit policy to measure; again for another.", show_default=False),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Options to measure, such as policy=cutoff,commit_delay_s=0.8,beam_size=5; again for others. name=... "
            "among them is what they are called.",
            show_default=False,
        ),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="What the recordings sound like: clean, phone, monologue, or white, pink, background, clipped, quiet, "
            "overlap or turns with =DECIBELS, such as pink=10; again for others. See docs/evaluate.md.",
            show_default=False,
        ),
    ] = None,
    step_s: Annotated[
        float, typer.Option(min=0.1, max=20.0, help="Audio between two passes, in seconds.")
    ] = STEP_S,
    real_time: Annotated[
        bool,
        typer.Option(
            "--real-time",
            help="Play at the pace of speech, so that delays hold what the machine costs; --step-s means nothing then.",
        ),
    ] = False,
    at_once: Annotated[
        int, typer.Option("--streams-at-once", min=1, help="With --real-time: recordings played at a time.")
    ] = 1,
    model: Model = "tiny.en",
    engine: Engine = EngineChoice.auto,
    device: Device = "auto",
    vad: VoiceActivity = True,
    offline: Annotated[
        bool,
        typer.Option("--offline/--no-offline", help="Give each recording to the model in one go, too."),
    ] = True,
    json: Annotated[
        Path | None, typer.Option(help="Write all figures to this file.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a page with plots, and every text against its reference, to this file.",
            show_default=False,
        ),
    ] = None,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Measure live text on recordings whose words are known: errors, delays, and what they cost.

    Needs the extra 'bench'. Exit codes: 0 done; 1 a stream failed, or a recording or the model could not be had; 2
    wrong usage; 130 ended by Ctrl-C.
    """
    from ray_whisper_streaming.cli import evaluate as program

    configure_logging(verbose, quiet)
    plan = program.Plan(
        model=model,
        engine=engine.value,
        device=device,
        step_s=None if real_time else step_s,
        at_once=at_once,
        offline=offline,
        json=json,
        html=html,
    )
    for name, path in (("--json", json), ("--html", html)):
        if path is not None:
            check_output(name, path, [*(audio or []), *(reference or []), *([manifest] if manifest else [])])
    variants = program.make_variants([each.value for each in policy or []], variant or [], vad=vad)
    entries = program.find_entries(
        audio or [], reference or [], manifest, languages=language or [], limit=limit, model=model
    )
    conditions = program.make_conditions(condition or [], entries)
    raise typer.Exit(program.run(plan, variants, entries, conditions, quiet=quiet))
