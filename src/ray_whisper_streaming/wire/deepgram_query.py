"""The query of Deepgram's ``/v1/listen``: read, checked, and made into options.

What would change the answer and is not to be had here (speakers, redaction, callbacks, ...) is refused; what only
concerns looks that Whisper has anyway (``smart_format``, ``numerals``) or bookkeeping (``tag``) is taken to no effect.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ray_whisper_streaming.core.options import AUTO, StreamOptions
from ray_whisper_streaming.errors import ConfigurationError, ProtocolError
from ray_whisper_streaming.wire.actions import AudioFormat, IncomingEncoding

__all__ = ["BadQuery", "ListenQuery"]

ENCODINGS: dict[str, IncomingEncoding] = {
    "linear16": "s16le",
    "mulaw": "mulaw",
    "alaw": "alaw",
    "opus": "opus",
    "ogg-opus": "container",
    "flac": "container",
}
"""The protocol's names of encodings; without one the audio says itself what it is."""

RAW = frozenset({"linear16", "mulaw", "alaw"})

OPUS_RATES = frozenset({8_000, 12_000, 16_000, 24_000, 48_000})
"""What Opus can be decoded to (RFC 6716, section 2)."""

MAX_CHANNELS = 8
"""Channels of one connection: each may be a stream of its own."""

DEFAULT_ENDPOINTING_MS = 300
"""Where the client names none. (Deepgram's own default, 10 ms, would cut every breath.)"""

MIN_ENDPOINTING_MS, MAX_ENDPOINTING_MS = 50, 60_000
"""What endpointing takes; shorter wishes get the shortest."""

MIN_UTTERANCE_END_MS, MAX_UTTERANCE_END_MS = 1_000, 5_000
"""The protocol's own limits."""

MAX_TERMS, MAX_TERM = 100, 100
"""Keywords, and characters of one: the protocol's own limit, and more than any name has."""

REFUSED = frozenset(
    {
        "callback",
        "detect_entities",
        "diarize",
        "diarize_model",
        "profanity_filter",
        "redact",
        "replace",
        "search",
    }
)
"""Features whose absence would go unnoticed until it hurts."""

GENERIC_MODELS = re.compile(
    r"(nova|enhanced|general|meeting|phonecall|finance|conversationalai|voicemail|video|medical|custom)\b.*"
)
"""Names of Deepgram's own models: programs written for it name them; they get the default model. (Its ``base`` is a
Whisper model's name here.)"""

FALSE, TRUE = "false", "true"


class BadQuery(ProtocolError):
    """The query can't be served; the connection is refused with it (HTTP 400).

    Attributes:
        field: the parameter.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}", code="INVALID_QUERY_PARAMETER")
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenQuery:
    """What one connection wants.

    Attributes:
        audio: how its bytes are to be read.
        options: of its streams.
        model: its name, as metadata tells it.
        interim_results: tell words that may still change.
        punctuate: punctuation and capitals; otherwise bare words.
        endpointing: whether pauses end utterances (``speech_final``).
        utterance_end_s: silence after which ``UtteranceEnd`` is told; None: never.
        vad_events: tell ``SpeechStarted``.
    """

    audio: AudioFormat
    options: StreamOptions
    model: str
    interim_results: bool = False
    punctuate: bool = False
    endpointing: bool = True
    utterance_end_s: float | None = None
    vad_events: bool = False

    @classmethod
    def parse(
        cls,
        query: Iterable[tuple[str, str]],
        models: Sequence[str],
        base: StreamOptions | None = None,
    ) -> ListenQuery:
        """Read a query.

        Args:
            query: its parameters, in order; names may come several times.
            models: the names a client may give besides Deepgram's own; the first is the default.
            base: the server's options, which the query's go over.

        Raises:
            BadQuery: a value that can't be, or a feature there is none of here.
        """
        given: dict[str, list[str]] = {}
        for name, value in query:
            given.setdefault(name, []).append(value)
        for name in sorted(REFUSED.intersection(given)):
            if any(value not in (FALSE, "") for value in given[name]):
                raise BadQuery(name, "this server has no such feature")
        one = {name: values[-1] for name, values in given.items()}
        base = base or StreamOptions()
        model, named = _model(one.get("model", ""), models, base)
        interim = _flag(one, "interim_results")
        end_ms = _number(one, "utterance_end_ms", MIN_UTTERANCE_END_MS, MAX_UTTERANCE_END_MS)
        if end_ms is not None and not interim:
            raise BadQuery("utterance_end_ms", "needs interim_results=true")
        endpointing_ms = _endpointing_ms(one.get("endpointing", TRUE))
        # Where pauses are not to be told, they still cut what is decoded.
        silence_s = base.endpointing.min_silence_s if endpointing_ms is None else endpointing_ms / 1000
        language = one.get("language", "")
        try:
            options = replace(
                base,
                model=model,
                language=_language(language) or base.language,
                hotwords=", ".join(_terms(given)) or base.hotwords,
                endpointing=replace(
                    base.endpointing,
                    min_silence_s=silence_s,
                    end_padding_s=min(base.endpointing.end_padding_s, silence_s),
                ),
                # An utterance ends at a pause, however late.
                max_utterance_s=math.inf,
            )
        except ConfigurationError as error:
            raise BadQuery(error.field, f"must be {error.allowed}") from None
        return cls(
            audio=_audio(one),
            options=options,
            model=named,
            interim_results=interim,
            punctuate=_flag(one, "punctuate") or _flag(one, "smart_format"),
            endpointing=endpointing_ms is not None,
            utterance_end_s=None if end_ms is None else end_ms / 1000,
            vad_events=_flag(one, "vad_events"),
        )


def _flag(one: dict[str, str], name: str) -> bool:
    value = one.get(name, FALSE).lower()
    if value not in (FALSE, TRUE, ""):
        raise BadQuery(name, "must be true or false")
    return value == TRUE


def _number(one: dict[str, str], name: str, low: int, high: int) -> int | None:
    if name not in one:
        return None
    value = one[name]
    # int() would take signs, blanks, underscores and other scripts' digits.
    if not re.fullmatch("[0-9]{1,9}", value) or not low <= int(value) <= high:
        raise BadQuery(name, f"must be a whole number from {low} to {high}")
    return int(value)


def _endpointing_ms(value: str) -> int | None:
    """None where endpointing is off."""
    if value.lower() == FALSE:
        return None
    if value.lower() in (TRUE, ""):
        return DEFAULT_ENDPOINTING_MS
    wanted = _number({"endpointing": value}, "endpointing", 0, MAX_ENDPOINTING_MS)
    return max(MIN_ENDPOINTING_MS, wanted or 0)


def _audio(one: dict[str, str]) -> AudioFormat:
    encoding = one.get("encoding", "")
    if encoding and encoding not in ENCODINGS:
        raise BadQuery("encoding", "must be one of " + ", ".join(ENCODINGS))
    channels = _number(one, "channels", 1, MAX_CHANNELS) or 1
    separate = _flag(one, "multichannel")
    if separate and "channels" not in one:
        raise BadQuery("channels", "is needed with multichannel=true")
    if not encoding:
        return AudioFormat(encoding="container", channels=channels, separate=separate)
    rate = _number(one, "sample_rate", 4_000, 192_000)
    if encoding in RAW and rate is None:
        raise BadQuery("sample_rate", f"is needed with encoding={encoding}")
    if encoding == "opus":
        rate = 48_000 if rate not in OPUS_RATES else rate
        if channels > 2:
            raise BadQuery("channels", "Opus packets hold one or two")
    return AudioFormat(
        encoding=ENCODINGS[encoding], sample_rate=rate or 48_000, channels=channels, separate=separate
    )


def _model(name: str, models: Sequence[str], base: StreamOptions) -> tuple[str | None, str]:
    """The model of the streams (None: the server's own), and its name."""
    if name in models:
        return name, name
    if name and not GENERIC_MODELS.fullmatch(name.lower()):
        raise BadQuery("model", "this server has no model of that name; it has " + ", ".join(models))
    return base.model, base.model or models[0]


def _language(tag: str) -> str:
    """Whisper's code of a language tag; ``multi`` leaves it to the audio."""
    tag = tag.lower()
    return AUTO if tag == "multi" else re.split("[-_]", tag, maxsplit=1)[0]


def _terms(given: dict[str, list[str]]) -> list[str]:
    """Keywords without their boosts, and key terms."""
    weighted = [re.sub(r":-?[0-9.]+$", "", value) for value in given.get("keywords", ())]
    terms = [term.strip() for term in [*weighted, *given.get("keyterm", ())]]
    if len(terms) > MAX_TERMS or any(len(term) > MAX_TERM for term in terms):
        raise BadQuery("keywords", f"at most {MAX_TERMS} terms of {MAX_TERM} characters")
    return [term for term in terms if term]
