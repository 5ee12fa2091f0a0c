"""What the streams of a measurement say: recorded clips, and streams put together from them."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.core.transcript import Word, join_text
from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.media import decode_file

__all__ = ["Clip", "find_material", "load_clips", "make_material"]

SPEECH_VARIABLE = "RWS_SPEECH_DIR"
"""Environment variable that names a folder of recorded speech with a ``manifest.jsonl``."""

PHASE = (5**0.5 - 1) / 2
"""Share of a clip by which the start of each stream moves on: multiples of the golden ratio never bunch."""

PAUSE_S = 0.2
"""Silence between two words that makes a place to begin or to end a stream."""

EDGE_S = 0.2
"""Audio left before the first and behind the last word of a stream cut out of a clip, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Speech, and what is said in it.

    Attributes:
        name: for reports.
        audio: int16 mono 16 kHz, shape (samples,).
        text: everything said in it.
        words: the same with times, where they are known; else empty.
    """

    name: str
    audio: Int16Samples = field(repr=False)
    text: str = field(repr=False)
    words: tuple[Word, ...] = field(default=(), repr=False)

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.audio) / SAMPLE_RATE


def find_material(folder: Path | None = None, speech: Path | None = None) -> Path:
    """The folder the clips are in.

    Args:
        folder: the one that is wanted. None: long recordings (``longform/`` in the folder of recorded speech)
            if there are any, else the samples that come with the package.
        speech: the folder of recorded speech, where ``RWS_SPEECH_DIR`` names none.

    Raises:
        ConfigurationError: there are no clips in ``folder``.
    """
    if folder is not None:
        if _list_of(folder) is None:
            raise ConfigurationError("audio", str(folder), "a folder with manifest.jsonl or samples.json")
        return folder
    named = os.environ.get(SPEECH_VARIABLE)
    speech = Path(named) if named else speech
    if speech is not None and (speech / "manifest.jsonl").is_file():
        return speech / "longform"
    return Path(str(resources.files("ray_whisper_streaming") / "samples"))


def load_clips(folder: Path, language: str = "en") -> list[Clip]:
    """The clips in a folder that speak one language.

    ``manifest.jsonl`` (in the folder or the one above) or ``samples.json`` says what they are: an object a
    clip with ``path`` or ``file``, ``language``, ``text`` and maybe ``words`` (``word``, ``start``, ``end``).
    If any have word times, those without are left out.

    Raises:
        ConfigurationError: there is none.
        AudioError: a file can't be decoded.
    """
    source = _list_of(folder)
    entries: list[dict[str, Any]] = []
    if source is not None:
        text = source.read_text(encoding="utf-8")
        listed = (
            json.loads(text) if source.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
        )
        for entry in listed:
            path = source.parent / (entry.get("path") or entry["file"])
            if entry["language"] == language and path.resolve().is_relative_to(folder.resolve()):
                entries.append({**entry, "path": path})
    if any(entry.get("words") for entry in entries):
        entries = [entry for entry in entries if entry.get("words")]
    if not entries:
        raise ConfigurationError("audio", str(folder), f"a folder with clips in the language {language!r}")
    return [_load(entry) for entry in entries]


def make_material(clips: Sequence[Clip], index: int, seconds: float) -> Clip:
    """What stream number ``index`` says: clips one after the other, beginning with another clip and at
    another place in it than the streams before; the first stream begins at the beginning of the first clip.

    With word times it begins and ends at a pause, up to a phrase short of ``seconds``. Without them only
    whole clips are taken, at least one, because it isn't known what is said in a part.
    """
    first = clips[index % len(clips)]
    order = itertools.chain([_tail(first, index * PHASE % 1.0)], itertools.cycle(_rotated(clips, index + 1)))
    parts: list[Clip] = []
    missing_s = seconds
    for clip in order:
        if clip.seconds > missing_s:
            if clip.words:
                parts.append(_cut(clip, 0.0, missing_s))
            elif not parts:
                parts.append(clip)
            break
        parts.append(clip)
        missing_s -= clip.seconds
    return _join(f"stream {index}", parts)


def _list_of(folder: Path) -> Path | None:
    candidates = (folder / "samples.json", folder / "manifest.jsonl", folder.parent / "manifest.jsonl")
    return next((path for path in candidates if path.is_file()), None)


def _load(entry: dict[str, Any]) -> Clip:
    words = tuple(Word(f" {w['word']}", w["start"], w["end"]) for w in entry.get("words") or ())
    path: Path = entry["path"]
    return Clip(
        name=path.stem, audio=np.concatenate(list(decode_file(path))), text=entry["text"], words=words
    )


def _rotated(clips: Sequence[Clip], index: int) -> list[Clip]:
    shift = index % len(clips)
    return [*clips[shift:], *clips[:shift]]


def _tail(clip: Clip, share: float) -> Clip:
    """The clip from the first pause behind ``share`` of it."""
    begin_s = share * clip.seconds
    start_s = next(
        (
            b.start_s
            for a, b in itertools.pairwise(clip.words)
            if b.start_s >= begin_s and b.start_s - a.end_s >= PAUSE_S
        ),
        0.0,
    )
    return _cut(clip, start_s, clip.seconds) if share and start_s else clip


def _cut(clip: Clip, start_s: float, end_s: float) -> Clip:
    """The words wholly inside, as far as the last pause; the audio from a little before to a little behind
    them.
    """
    words = [word for word in clip.words if word.start_s >= start_s and word.end_s <= end_s]
    if not words:
        return Clip(name=clip.name, audio=clip.audio[:0], text="")
    before_s = max((word.end_s for word in clip.words if word.end_s <= words[0].start_s), default=0.0)
    behind_s = min(
        (word.start_s for word in clip.words if word.start_s >= words[-1].end_s), default=clip.seconds
    )
    starts_s = [*(word.start_s for word in words[1:]), behind_s]
    last = max(
        (i for i, word in enumerate(words) if starts_s[i] - word.end_s >= PAUSE_S), default=len(words) - 1
    )
    words, behind_s = words[: last + 1], starts_s[last]
    begin_s = max((before_s + words[0].start_s) / 2, words[0].start_s - EDGE_S)
    stop_s = min((words[-1].end_s + behind_s) / 2, words[-1].end_s + EDGE_S, end_s)
    audio = clip.audio[round(begin_s * SAMPLE_RATE) : round(stop_s * SAMPLE_RATE)]
    moved = tuple(word.shifted(-begin_s) for word in words)
    return Clip(name=clip.name, audio=audio, text=join_text(moved), words=moved)


def _join(name: str, parts: Sequence[Clip]) -> Clip:
    words: list[Word] = []
    offset_s = 0.0
    for part in parts:
        words += [word.shifted(offset_s) for word in part.words]
        offset_s += part.seconds
    text = " ".join(part.text for part in parts if part.text)
    return Clip(
        name=name, audio=np.concatenate([part.audio for part in parts]), text=text, words=tuple(words)
    )
