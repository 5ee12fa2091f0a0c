"""OpenAI's requests for the transcription of recordings: the form's fields, and the bodies of the answers."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import msgspec

from ray_whisper_streaming.core.language_names import language_name
from ray_whisper_streaming.core.options import EndpointingOptions, StreamOptions
from ray_whisper_streaming.core.transcript import Segment, Word, join_text, segment_words
from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.wire.openai_common import (
    MAX_TEXT,
    BadParameter,
    endpointing_fields,
    is_foreign_model,
    language_code,
    logprobs,
    mean_logprob,
)

__all__ = ["Format", "Transcript", "TranscriptionRequest", "json_body", "sse", "verbose_body"]

Format = Literal["json", "text", "srt", "vtt", "verbose_json"]
FORMATS: tuple[Format, ...] = ("json", "text", "srt", "vtt", "verbose_json")
STREAMED: tuple[Format, ...] = ("json", "text")

FILE_INTERVAL_S = 10.0
"""New audio between two passes: nobody waits for partials of a recording."""

REFUSED = ("known_speaker_names", "known_speaker_references")
"""Fields of a feature there is none of here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionRequest:
    """What a client wants of its recording.

    Attributes:
        options: of the stream.
        model: its name.
        form: of the answer.
        words, segments: what a verbose answer lists.
        stream: answer as it goes, by server-sent events.
        logprobs: tell the words' log probabilities.
    """

    options: StreamOptions
    model: str
    form: Format = "json"
    words: bool = False
    segments: bool = True
    stream: bool = False
    logprobs: bool = False

    @classmethod
    def parse(
        cls,
        fields: Iterable[tuple[str, str]],
        models: Sequence[str],
        base: StreamOptions | None = None,
        *,
        translate: bool = False,
    ) -> TranscriptionRequest:
        """Read a form.

        Args:
            fields: its texts; a list is several fields of one name, with or without ``[]`` behind it.
            models: the names a client may give besides OpenAI's own; the first is the default.
            base: the server's options, which the form's go over.
            translate: into English.

        Raises:
            BadParameter: a value that can't be, or a feature there is none of here.
        """
        given: dict[str, list[str]] = {}
        for name, value in fields:
            given.setdefault(name.removesuffix("[]"), []).append(value)
        for name in REFUSED:
            if name in given:
                raise BadParameter("this server does not tell speakers apart", param=name)
        one = {name: values[-1] for name, values in given.items()}
        form, stream = _form(one), _flag(one, "stream") and not translate
        if stream and form not in STREAMED:
            raise BadParameter(
                "a streamed answer must be json or text", param="response_format", code="unsupported_value"
            )
        granularities = given.get("timestamp_granularities", ["segment"])
        if not {"word", "segment"}.issuperset(granularities):
            raise BadParameter("must be word or segment", param="timestamp_granularities")
        if "timestamp_granularities" in given and form != "verbose_json":
            raise BadParameter("needs response_format=verbose_json", param="timestamp_granularities")
        includes = given.get("include", [])
        if not {"logprobs"}.issuperset(includes):
            raise BadParameter("must be logprobs", param="include")
        if includes and form != "json":
            raise BadParameter("needs response_format=json", param="include")
        model, named = _model(one, models, base)
        return cls(
            options=_options(given, one, model, base or StreamOptions(), translate),
            model=named,
            form=form,
            words="word" in granularities,
            segments="segment" in granularities,
            stream=stream,
            logprobs=bool(includes),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What was heard.

    Attributes:
        words: all of them.
        duration_s: of the recording.
        language: Whisper's code; empty where nothing was said.
    """

    words: Sequence[Word]
    duration_s: float
    language: str

    @property
    def text(self) -> str:
        """The words as one text."""
        return join_text(self.words)


def json_body(transcript: Transcript, request: TranscriptionRequest) -> dict[str, Any]:
    """The body of ``json``."""
    body: dict[str, Any] = {"text": transcript.text, "usage": _usage(transcript)}
    if request.logprobs:
        body["logprobs"] = logprobs(transcript.words)
    return body


def verbose_body(transcript: Transcript, request: TranscriptionRequest) -> dict[str, Any]:
    """The body of ``verbose_json``. What is not known here (tokens, where windows began) is empty or 0."""
    task = request.options.task
    spoken = "en" if task == "translate" else transcript.language
    body: dict[str, Any] = {
        "task": task,
        "language": language_name(spoken),
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
        "usage": _usage(transcript),
    }
    if request.words:
        body["words"] = [
            {"word": word.text.strip(), "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
            for word in transcript.words
        ]
    if request.segments:
        body["segments"] = [
            _segment(number, segment, request.options.temperature)
            for number, segment in enumerate(segment_words(transcript.words))
        ]
    return body


def sse(event: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(transcript.duration_s, 3)}


def _segment(number: int, segment: Segment, temperature: float) -> dict[str, Any]:
    text = "".join(word.text for word in segment.words)
    raw = text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": text,
        "tokens": [],
        "temperature": temperature,
        "avg_logprob": round(mean_logprob(segment.words), 4),
        "compression_ratio": round(len(raw) / len(zlib.compress(raw)), 3),
        "no_speech_prob": 0.0,
    }


def _form(one: dict[str, str]) -> Format:
    form = one.get("response_format", "json")
    if form not in FORMATS:
        raise BadParameter("must be one of " + ", ".join(FORMATS), param="response_format")
    return form


def _flag(one: dict[str, str], name: str) -> bool:
    value = one.get(name, "false").lower()
    if value not in ("true", "false", ""):
        raise BadParameter("must be true or false", param=name)
    return value == "true"


def _model(one: dict[str, str], models: Sequence[str], base: StreamOptions | None) -> tuple[str | None, str]:
    """The model of the stream (None: the server's own), and its name."""
    name = one.get("model")
    if name is None:
        raise BadParameter("you must name a model", param="model", code="missing_required_parameter")
    if name in models:
        return name, name
    if not is_foreign_model(name):
        raise BadParameter(
            "this server has no model of that name; it has " + ", ".join(models),
            param="model",
            code="model_not_found",
        )
    default = base.model if base else None
    return default, default or models[0]


def _options(
    given: dict[str, list[str]], one: dict[str, str], model: str | None, base: StreamOptions, translate: bool
) -> StreamOptions:
    language = one.get("language", "")
    keywords = ", ".join(given.get("keywords", ()))
    for name, text in (("prompt", one.get("prompt", "")), ("keywords", keywords)):
        if len(text) > MAX_TEXT:
            raise BadParameter(f"longer than {MAX_TEXT} characters", param=name)
    try:
        return replace(
            base,
            model=model,
            language=language_code(language) if language else base.language,
            allowed_languages=tuple(map(language_code, given.get("languages", ()))) or base.allowed_languages,
            task="translate" if translate else "transcribe",
            prompt=one.get("prompt", "") or base.prompt,
            hotwords=keywords or base.hotwords,
            temperature=_number(one.get("temperature", base.temperature), "temperature"),
            update_interval_s=FILE_INTERVAL_S,
            endpointing=replace(base.endpointing, **_chunking(one, base.endpointing)),
        )
    except ConfigurationError as error:
        names = {
            "allowed_languages": "languages",
            "min_silence_s": "chunking_strategy[silence_duration_ms]",
            "start_padding_s": "chunking_strategy[prefix_padding_ms]",
            "threshold": "chunking_strategy[threshold]",
        }
        raise BadParameter(f"must be {error.allowed}", param=names.get(error.field, error.field)) from None


def _chunking(one: dict[str, str], base: EndpointingOptions) -> dict[str, float]:
    """The endpointing that ``chunking_strategy`` asks for: ``auto``, or an object, as JSON or field by field."""
    strategy: dict[str, Any] = {
        found[1]: value
        for name, value in one.items()
        if (found := re.fullmatch(r"chunking_strategy\[(\w+)\]", name))
    }
    whole = one.get("chunking_strategy", "auto")
    if whole not in ("auto", ""):
        try:
            decoded: object = msgspec.json.decode(whole)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            decoded = None
        if not isinstance(decoded, dict):
            raise BadParameter("must be auto or an object of type server_vad", param="chunking_strategy")
        strategy = cast("dict[str, Any]", decoded)
    if not strategy:
        return {}
    if strategy.get("type") != "server_vad":
        raise BadParameter("must be server_vad", param="chunking_strategy[type]")
    numbers = {
        name: _number(strategy[name], f"chunking_strategy[{name}]")
        for name in ("threshold", "silence_duration_ms", "prefix_padding_ms")
        if name in strategy
    }
    return endpointing_fields(
        base,
        threshold=numbers.get("threshold"),
        silence_ms=numbers.get("silence_duration_ms"),
        padding_ms=numbers.get("prefix_padding_ms"),
    )


def _number(value: object, param: str) -> float:
    try:
        return float(cast(str, value))
    except (TypeError, ValueError, OverflowError):
        raise BadParameter("must be a number", param=param) from None
