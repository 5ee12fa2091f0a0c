"""``ray-whisper transcribe``: recordings, or stdin, into text and subtitles."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from ray_whisper_streaming import (
    AsyncLiveStream,
    AsyncPool,
    Committed,
    Final,
    StreamFailed,
    StreamOptions,
    Word,
)
from ray_whisper_streaming.cli.feeding import decode_aside, paced
from ray_whisper_streaming.errors import RayWhisperError
from ray_whisper_streaming.media import AudioConverter
from ray_whisper_streaming.subtitles import make_cues, to_srt, to_vtt

__all__ = ["run"]

STDIN = "-"
READ_BYTES = 8192
SUFFIXES = {"text": ".txt", "jsonl": ".jsonl", "srt": ".srt", "vtt": ".vtt"}

errors = Console(stderr=True, highlight=False)


@dataclass(slots=True)
class _Transcript:
    name: str
    finals: list[Final] = field(default_factory=list[Final])
    error: RayWhisperError | None = None

    @property
    def words(self) -> list[Word]:
        return [word for final in self.finals for word in final.words]


async def run(
    files: Sequence[str],
    *,
    options: StreamOptions,
    realtime: bool,
    form: str,
    output: Path | None,
    at_once: int,
    stdin_format: tuple[int, int],
    pool_options: dict[str, Any],
) -> int:
    """Transcribe ``files`` and write what was asked for; return the exit code."""
    many = len(files) > 1
    gate = asyncio.Semaphore(at_once)
    async with AsyncPool(**pool_options) as pool:
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[heard]}"),
            TimeElapsedColumn(),
            console=errors,
            transient=True,
            disable=not errors.is_terminal or STDIN in files,
        ) as progress:

            async def one(number: int, name: str) -> _Transcript:
                async with gate:
                    task = progress.add_task(Path(name).name, total=None, heard="")
                    stream = pool.stream(options, stream_id=f"{number}")
                    async with stream:
                        live = form == "text" and output is None and name == STDIN
                        audio = _stdin(*stdin_format) if name == STDIN else decode_aside(name)
                        if realtime and name != STDIN:
                            audio = paced(audio, time.monotonic())
                        transcript = await _transcribe(stream, name, audio, live, progress, task)
                    progress.remove_task(task)
                    return transcript

            jobs = [asyncio.create_task(one(number, name)) for number, name in enumerate(files, 1)]
            failed = False
            for job in jobs:
                transcript = await job
                if transcript.error is not None:
                    failed = True
                    errors.print(f"[red]ray-whisper:[/] {transcript.error}", soft_wrap=True)
                if transcript.finals:
                    _write(transcript, form, output, header=many)
    return 1 if failed else 0


async def _transcribe(
    stream: AsyncLiveStream,
    name: str,
    audio: AsyncIterator[Any],
    live: bool,
    progress: Progress,
    task: TaskID,
) -> _Transcript:
    transcript = _Transcript(name)
    feeding = asyncio.create_task(_feed(stream, audio))
    async for event in stream:
        if isinstance(event, Committed):
            progress.update(task, heard=f"{event.words[-1].end_s:.0f} s")
            if live:
                print("".join(word.text for word in event.words), end="", flush=True)
        elif isinstance(event, Final):
            if event.words:
                transcript.finals.append(event)
                if live:
                    print(flush=True)
        elif isinstance(event, StreamFailed):
            transcript.error = event.error
    try:
        await feeding
    except RayWhisperError as error:
        transcript.error = transcript.error or error
    if live:
        transcript.finals.clear()  # already written
    return transcript


async def _feed(stream: AsyncLiveStream, audio: AsyncIterator[Any]) -> None:
    """Push all of it; a recording that breaks off is transcribed as far as it goes."""
    try:
        async for samples in audio:
            await stream.push(samples)
    finally:
        await stream.finish()


async def _stdin(rate: int, channels: int) -> AsyncIterator[Any]:
    converter = AudioConverter(rate, channels)
    source: Any = sys.stdin.buffer
    while raw := await asyncio.to_thread(source.read1, READ_BYTES):
        yield converter.convert(raw)
    yield converter.flush()


def _write(transcript: _Transcript, form: str, output: Path | None, *, header: bool) -> None:
    text = _formatted(transcript, form)
    if output is None:
        if header and form != "jsonl":
            print(f"# {transcript.name}")
        print(text)
        return
    if output.is_dir() or header or not output.suffix:
        output.mkdir(parents=True, exist_ok=True)
        stem = "stdin" if transcript.name == STDIN else Path(transcript.name).stem
        output = output / (stem + SUFFIXES[form])
    output.write_text(text + "\n", encoding="utf-8")


def _formatted(transcript: _Transcript, form: str) -> str:
    if form == "srt":
        return to_srt(make_cues(transcript.words))
    if form == "vtt":
        return to_vtt(make_cues(transcript.words))
    if form == "jsonl":
        return "\n".join(_json_line(transcript.name, final) for final in transcript.finals)
    return "\n".join(final.text for final in transcript.finals)


def _json_line(name: str, final: Final) -> str:
    """One utterance: file, start and end in seconds, text, and its words."""
    return msgspec.json.encode(
        {
            "file": name,
            "start": round(final.start_s or 0.0, 3),
            "end": round(final.end_s or 0.0, 3),
            "text": final.text,
            "words": [
                {
                    "word": word.text.strip(),
                    "start": round(word.start_s, 3),
                    "end": round(word.end_s, 3),
                    "probability": round(word.probability, 3),
                }
                for word in final.words
            ],
        }
    ).decode()
