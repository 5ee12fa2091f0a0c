"""``ray-whisper transcribe``: recordings, or stdin, into text and subtitles."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from ray_whisper_streaming import (
    AsyncLiveStream,
    Committed,
    Event,
    Final,
    StreamFailed,
    StreamOptions,
    Word,
)
from ray_whisper_streaming.cli.console import FAILURE, complain, errors
from ray_whisper_streaming.cli.feeding import STDIN, check_stdin, duration_s, find_recordings, read_stdin
from ray_whisper_streaming.cli.json_forms import json_line, utterance_fields
from ray_whisper_streaming.cli.live_output import Output, TextLines
from ray_whisper_streaming.cli.outputs import check_output
from ray_whisper_streaming.cli.starting import started_pool
from ray_whisper_streaming.client import ClientEvent
from ray_whisper_streaming.client.files import paced, pieces_of
from ray_whisper_streaming.core.jobs import Int16Samples
from ray_whisper_streaming.errors import AudioError, ConfigurationError, RayWhisperError
from ray_whisper_streaming.media import AudioConverter
from ray_whisper_streaming.subtitles import SubtitleOptions, make_cues, to_srt, to_vtt

__all__ = ["run"]

SUFFIXES = {"text": ".txt", "jsonl": ".jsonl", "srt": ".srt", "vtt": ".vtt"}
LIVE_FORMATS = ("text", "jsonl")
"""What can be written utterance by utterance; a subtitle's end depends on the one behind it."""


@dataclass(slots=True)
class _Transcript:
    name: str
    finals: list[Final] = field(default_factory=list[Final])
    error: RayWhisperError | None = None

    @property
    def words(self) -> list[Word]:
        return [word for final in self.finals for word in final.words]

    def complaint(self) -> str:
        """What went wrong, with the file's name before it unless it is told anyway."""
        text = str(self.error)
        return text if Path(self.name).name in text else f"{_title(self.name)}: {text}"


async def run(
    files: Sequence[str],
    *,
    options: StreamOptions,
    realtime: bool,
    form: str,
    subtitles: SubtitleOptions,
    output: Path | None,
    at_once: int,
    stdin_format: tuple[int, int],
    quiet: bool,
    pool_options: dict[str, Any],
) -> int:
    """Transcribe ``files`` and write what was asked for; return the exit code.

    Raises:
        ConfigurationError, OSError: the formats or the output can't be so; nothing is done yet.
    """
    files = [inside for name in files for inside in _expanded(name)]
    if files.count(STDIN) > 1:
        raise ConfigurationError("stdin", "named more than once", "named once: it can be read only once")
    if STDIN in files:
        check_stdin()
    if output is None:
        sys.stdout.write("")  # raises now what it would raise after the work, if it is closed
    targets = _targets(files, output, SUFFIXES[form])
    for target in filter(None, targets):
        _make_folder(target.parent)
        check_output("--output", target, [name for name in files if name != STDIN])
    AudioConverter(*stdin_format)  # raises now what would be raised at the first piece
    live = form in LIVE_FORMATS and output is None and len(files) == 1 and (realtime or files[0] == STDIN)
    gate = asyncio.Semaphore(at_once)
    shown = errors.is_terminal and not live and not quiet
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[heard]}"),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
        disable=not shown,
    ) as progress:
        starting = progress.add_task("", total=None, heard="")

        def tell(what: str) -> None:
            progress.update(starting, description=what, visible=True)

        async with started_pool(tell, **pool_options) as pool:
            progress.update(starting, visible=False)

            async def one(number: int, name: str) -> _Transcript:
                async with gate:
                    total_s = duration_s(name) if shown and name != STDIN else None
                    task = progress.add_task(_title(name), total=total_s, heard="")
                    audio = _stdin(*stdin_format) if name == STDIN else _recording(name)
                    if realtime and name != STDIN:
                        audio = paced(audio)
                    transcript = _Transcript(name)
                    async with pool.stream(options, stream_id=f"{number}") as stream:
                        with _live_output(name, form) if live else nullcontext() as writer:
                            await _transcribe(stream, audio, transcript, writer, progress, task)
                    progress.remove_task(task)
                    return transcript

            jobs = [asyncio.create_task(one(number, name)) for number, name in enumerate(files, 1)]
            failed = False
            try:
                for job, target in zip(jobs, targets, strict=True):
                    transcript = await job
                    if transcript.error is not None:
                        failed = True
                        complain(transcript.complaint())
                    if not live and (transcript.finals or transcript.error is None):
                        text = _formatted(transcript, form, subtitles)
                        title = transcript.name if len(files) > 1 and form != "jsonl" else None
                        _write(text, target, title=title)
            finally:
                for job in jobs:
                    job.cancel()
                await asyncio.gather(*jobs, return_exceptions=True)
    return FAILURE if failed else 0


async def _transcribe(
    stream: AsyncLiveStream,
    audio: AsyncIterator[Int16Samples],
    transcript: _Transcript,
    output: Output | None,
    progress: Progress,
    task: TaskID,
) -> None:
    """Fill the transcript or, live, write instead."""
    feeding = asyncio.create_task(_feed(stream, audio))
    try:
        async for event in stream:
            if isinstance(event, Committed):
                heard_s = event.words[-1].end_s
                progress.update(task, completed=heard_s, heard=f"{heard_s:.0f} s")
            elif isinstance(event, StreamFailed):
                transcript.error = event.error
            if output is not None:
                output.write(event)
            elif isinstance(event, Final) and event.words:
                transcript.finals.append(event)
        await feeding
    except RayWhisperError as error:
        transcript.error = transcript.error or error
    finally:
        feeding.cancel()


async def _feed(stream: AsyncLiveStream, audio: AsyncIterator[Int16Samples]) -> None:
    """Push all of it; a recording that breaks off is transcribed as far as it goes."""
    try:
        async for samples in audio:
            await stream.push(samples)
    finally:
        await stream.finish()


async def _stdin(rate: int, channels: int) -> AsyncIterator[Int16Samples]:
    converter = AudioConverter(rate, channels)
    async for raw in read_stdin():
        yield converter.convert(raw)
    yield converter.flush()


async def _recording(name: str) -> AsyncIterator[Int16Samples]:
    path, *_ = find_recordings([Path(name)])  # raises in its turn, so that the other recordings are done
    async for samples in pieces_of(path):
        yield samples


def _expanded(name: str) -> list[str]:
    """The recordings of a folder; anything else is what it is, also a folder that has none."""
    try:
        return [str(path) for path in find_recordings([Path(name)])] if Path(name).is_dir() else [name]
    except AudioError:
        return [name]


def _targets(files: Sequence[str], output: Path | None, suffix: str) -> list[Path | None]:
    """Where each transcript goes; None is stdout. Recordings of one name get numbers."""
    if output is None:
        return [None] * len(files)
    if len(files) == 1 and not output.is_dir() and output.suffix:
        return [output]
    if output.is_file():
        raise ConfigurationError("--output", str(output), "a folder, for more than one recording")
    targets: list[Path | None] = []
    for name in files:
        stem = Path(_title(name)).stem
        target, number = output / (stem + suffix), 2
        while target in targets:
            target, number = output / f"{stem}-{number}{suffix}", number + 1
        targets.append(target)
    return targets


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        allowed = f"a file in a folder that can be made ({error.strerror})"
        raise ConfigurationError("--output", str(folder), allowed) from None


def _title(name: str) -> str:
    return "stdin" if name == STDIN else Path(name).name


def _write(text: str, target: Path | None, *, title: str | None) -> None:
    """Into a file, or to stdout with a heading where there is a title."""
    if target is not None:
        target.write_text(text, encoding="utf-8")
        return
    if title is not None:
        print(f"# {title}")
    print(text, end="\n" if title is not None else "", flush=True)


def _formatted(transcript: _Transcript, form: str, subtitles: SubtitleOptions) -> str:
    if form in ("srt", "vtt"):
        cues = make_cues(transcript.words, subtitles)
        return to_srt(cues) if form == "srt" else to_vtt(cues)
    if form == "jsonl":
        utterances = (utterance_fields(transcript.name, final) for final in transcript.finals)
        return "".join(f"{json_line(fields)}\n" for fields in utterances)
    return "".join(f"{final.text}\n" for final in transcript.finals)


def _live_output(name: str, form: str) -> Output:
    return TextLines() if form == "text" else _JsonUtterances(name)


class _JsonUtterances:
    """Writes each utterance to stdout once it is complete."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> _JsonUtterances:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def write(self, event: Event | ClientEvent) -> None:
        """See `Output.write`."""
        if isinstance(event, Final) and event.words:
            print(json_line(utterance_fields(self._name, event)), flush=True)
