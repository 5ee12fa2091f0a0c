"""What the streams of a measurement say: recorded clips, and streams put together from them."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np

from ray_whisper_streaming.bench.voice import Span, clip_spans, find_voice
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.core.transcript import Word, join_text
from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.media import decode_file

__all__ = [
    "Clip",
    "Entry",
    "find_material",
    "join_clips",
    "load_clip",
    "load_clips",
    "make_material",
    "read_manifest",
    "split_at_pauses",
]

SPEECH_VARIABLE = "RWS_SPEECH_DIR"
"""Environment variable that names a folder of recorded speech with a ``manifest.jsonl``."""

PHASE = (5**0.5 - 1) / 2
"""Share of a clip by which the start of each stream moves on: multiples of the golden ratio never bunch."""

PAUSE_S = 0.2
"""Silence between two words that makes a place to begin or to end a stream."""

EDGE_S = 0.2
"""Audio left before the first and behind the last word of a stream cut out of a clip, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a manifest says of a recording.

    Attributes:
        path: where it is.
        language: what is spoken, Whisper's code; anything where nothing is.
        text: everything said in it; empty: no speech.
        words: the same with times, where they are known.
    """

    path: Path
    language: str
    text: str = field(repr=False)
    words: tuple[Word, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Speech, and what is said in it.

    Attributes:
        name: for reports.
        audio: int16 mono 16 kHz, shape (samples,).
        text: everything said in it.
        words: the same with times, where they are known; else empty.
        language: what is spoken, Whisper's code.
        voice: where there is voice, of a recording that is hard to hear; None: as found in this audio.
    """

    name: str
    audio: Int16Samples = field(repr=False)
    text: str = field(repr=False)
    words: tuple[Word, ...] = field(default=(), repr=False)
    language: str = "en"
    voice: tuple[Span, ...] | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.audio) / SAMPLE_RATE

    def with_voice(self) -> Clip:
        """The same; where there is voice is known from now on, whatever is done to its audio."""
        return self if self.voice is not None else replace(self, voice=tuple(find_voice(self.audio)))


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
    entries = [
        entry
        for entry in ([] if source is None else read_manifest(source))
        if entry.language == language and entry.path.resolve().is_relative_to(folder.resolve())
    ]
    if any(entry.words for entry in entries):
        entries = [entry for entry in entries if entry.words]
    if not entries:
        raise ConfigurationError("audio", str(folder), f"a folder with clips in the language {language!r}")
    return [load_clip(entry) for entry in entries]


def read_manifest(source: Path) -> list[Entry]:
    """What a manifest lists: one JSON object a line, or (``.json``) a list of them. For their keys see `load_clips`.

    Raises:
        ConfigurationError: it isn't one; names the line and what is wrong there.
    """
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no UTF-8"
        raise ConfigurationError("manifest", str(source), f"a file that can be read ({why})") from error
    if source.suffix == ".json":
        listed: Any = _parsed(text, source.name)
        if not isinstance(listed, list):
            raise ConfigurationError(source.name, type(listed).__name__, "a list")
        items = cast("list[Any]", listed)
        return [_entry(item, f"{source.name}, item {n}", source.parent) for n, item in enumerate(items, 1)]
    lines = [(f"{source.name}, line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [_entry(_parsed(line, where), where, source.parent) for where, line in lines]


def load_clip(entry: Entry) -> Clip:
    """Read the recording of an entry. Raises `AudioError` if it can't be decoded."""
    audio = np.concatenate(list(decode_file(entry.path)))
    return Clip(
        name=entry.path.stem, audio=audio, text=entry.text, words=entry.words, language=entry.language
    )


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
    return join_clips(f"stream {index}", parts)


def _list_of(folder: Path) -> Path | None:
    candidates = (folder / "samples.json", folder / "manifest.jsonl", folder.parent / "manifest.jsonl")
    return next((path for path in candidates if path.is_file()), None)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(where, f"no JSON from column {error.colno} on", "a JSON object") from error


def _entry(item: Any, where: str, folder: Path) -> Entry:
    """An entry of a manifest in ``folder``. What it says is told to nobody: it may be private."""
    if not isinstance(item, dict):
        raise ConfigurationError(where, type(item).__name__, "a JSON object")
    found = cast("dict[str, Any]", item)
    path, language, text = found.get("path") or found.get("file"), found.get("language"), found.get("text")
    if not (isinstance(path, str) and isinstance(language, str) and isinstance(text, str)):
        keys = ", ".join(found) or "nothing"
        raise ConfigurationError(where, keys, "an object with path, language and text, each a string")
    try:
        words = tuple(
            Word(f" {word['word']}", float(word["start"]), float(word["end"]))
            for word in found.get("words") or ()
        )
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(where, "words", "a list of objects with word, start and end") from None
    return Entry(path=folder / path, language=language, text=text, words=words)


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


def split_at_pauses(clip: Clip, seconds: float) -> list[Clip]:
    """The clip in parts, each cut at the first pause between words after so many seconds of it; whole, if it has no
    word times: then it isn't known what is said in a part.
    """
    parts: list[Clip] = []
    first, begin_s = 0, 0.0
    for i, (word, following) in enumerate(itertools.pairwise(clip.words), 1):
        if following.start_s - begin_s >= seconds and following.start_s - word.end_s >= PAUSE_S:
            middle_s = (word.end_s + following.start_s) / 2
            parts.append(_part(clip, first, i, begin_s, middle_s))
            first, begin_s = i, middle_s
    return [*parts, _part(clip, first, len(clip.words), begin_s, clip.seconds)] if parts else [clip]


def _part(clip: Clip, first: int, last: int, begin_s: float, end_s: float) -> Clip:
    words = tuple(word.shifted(-begin_s) for word in clip.words[first:last])
    audio = clip.audio[round(begin_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]
    voice = None if clip.voice is None else tuple(clip_spans(clip.voice, begin_s, end_s))
    return replace(clip, audio=audio, text=join_text(words), words=words, voice=voice)


def join_clips(name: str, parts: Sequence[Clip]) -> Clip:
    """The clips one after the other; with word times only if all of them have some."""
    words: list[Word] = []
    voice: list[Span] = []
    offset_s = 0.0
    for part in parts:
        words += [word.shifted(offset_s) for word in part.words]
        voice += [(start_s + offset_s, end_s + offset_s) for start_s, end_s in part.voice or ()]
        offset_s += part.seconds
    text = " ".join(part.text for part in parts if part.text)
    return Clip(
        name=name,
        audio=np.concatenate([part.audio for part in parts]),
        text=text,
        words=tuple(words) if all(part.words or not part.text for part in parts) else (),
        language=parts[0].language,
        voice=tuple(voice) if all(part.voice is not None for part in parts) else None,
    )
