"""Events and utterances as lines of JSON. All times are seconds of the audio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ray_whisper_streaming import Committed, Final, LanguageDetected, Partial, Word

__all__ = ["event_fields", "json_line", "utterance_fields"]


def json_line(fields: dict[str, Any]) -> str:
    """One object, without the end of its line."""
    return msgspec.json.encode(fields).decode()


def utterance_fields(file: str, final: Final) -> dict[str, Any]:
    """One utterance of a recording, with its words."""
    return {"file": file, **_span(final), "text": final.text, "words": _words(final.words)}


def event_fields(event: object) -> dict[str, Any] | None:
    """An event of a live stream, with its ``type``; None: it tells nothing of the text."""
    match event:
        case Partial():
            return {"type": "partial", "text": event.spaced_text, "words": _words(event.words)}
        case Committed():
            return {
                "type": "committed",
                "text": event.spaced_text,
                "first_index": event.first_index,
                "words": _words(event.words),
            }
        case Final():
            return {
                "type": "final",
                "utterance": event.utterance,
                "text": event.text,
                **_span(event),
                "end_of_stream": event.end_of_stream,
            }
        case LanguageDetected():
            return {"type": "language", "language": event.language, "probability": event.probability}
        case _:
            return None


def _span(final: Final) -> dict[str, float | None]:
    return {"start": _rounded(final.start_s), "end": _rounded(final.end_s)}


def _words(words: Sequence[Word]) -> list[dict[str, Any]]:
    return [
        {
            "word": word.text.strip(),
            "start": _rounded(word.start_s),
            "end": _rounded(word.end_s),
            "probability": round(word.probability, 3),
        }
        for word in words
    ]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
