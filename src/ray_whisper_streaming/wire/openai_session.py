"""The session object of OpenAI's Realtime transcription sessions: read, merged, checked, and made into options.

A ``session.update`` names only what it changes: objects are merged into what holds, ``null`` restores the default
(for ``turn_detection``: turns it off). What the client then reads back is what really holds: noise reduction, which
there is none of here, stays ``null``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias, cast

import msgspec

from ray_whisper_streaming.core.options import AUTO, EndpointingOptions, StreamOptions
from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.wire.actions import AudioFormat
from ray_whisper_streaming.wire.openai_common import (
    MAX_TEXT,
    BadParameter,
    endpointing_fields,
    is_foreign_model,
    language_code,
)

__all__ = ["SessionConfig"]

PCM_RATE, TELEPHONE_RATE = 24_000, 8_000
"""The only rates the protocol has: 16-bit PCM and G.711."""

LOGPROBS = "item.input_audio_transcription.logprobs"

DELAYS = {"minimal": 0.2, "low": 0.35, "medium": 0.5, "high": 1.0, "xhigh": 2.0}
"""The protocol's five grades as our ``commit_delay_s``; "medium" is our default."""

EAGERNESS = {"low": (8.0, 1.0), "medium": (4.0, 0.6), "auto": (4.0, 0.6), "high": (2.0, 0.4)}
"""The protocol's grades as ``min_silence_s`` and ``sentence_silence_s``. The first are its own longest waits.
0.6 s behind a finished sentence was measured (``benchmarks/endpoints.py``): few turns end inside one; at 0.4 s more do.
"""

VOICE_OPTIONS = ("create_response", "interrupt_response", "idle_timeout_ms")
"""Of conversations; here is nobody who would respond."""

ENGLISH_ONLY = ".en"
"""How the names of Whisper's models for English alone end."""


class _Strict(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=False):
    pass


class _Pcm(_Strict, tag_field="type", tag="audio/pcm"):
    rate: Literal[24000] = 24000


class _Mulaw(_Strict, tag_field="type", tag="audio/pcmu"):
    pass


class _Alaw(_Strict, tag_field="type", tag="audio/pcma"):
    pass


class _ServerVad(_Strict, tag_field="type", tag="server_vad"):
    threshold: Annotated[float, msgspec.Meta(ge=0.01, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, msgspec.Meta(ge=0, le=5_000)] = 300
    silence_duration_ms: Annotated[int, msgspec.Meta(ge=50, le=60_000)] = 500


class _SemanticVad(_Strict, tag_field="type", tag="semantic_vad"):
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"


class _Transcription(_Strict):
    model: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    prompt: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)] = ""
    keywords: list[str] | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class _Input(_Strict):
    format: _Pcm | _Mulaw | _Alaw
    noise_reduction: None
    transcription: _Transcription
    turn_detection: _ServerVad | _SemanticVad | None


class _Audio(_Strict):
    input: _Input


class _Session(_Strict):
    type: Literal["transcription"]
    audio: _Audio
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None


_Raw: TypeAlias = dict[str, Any]


def _defaults() -> _Raw:
    return {
        "type": "transcription",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm"},
                "noise_reduction": None,
                "transcription": {},
                "turn_detection": {"type": "server_vad"},
            }
        },
        "include": None,
    }


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What holds in one session. Immutable: `updated` returns another.

    Attributes:
        session: the checked form.
        raw: what `session` was made from; the base of the next update.
        models: the names a client may give besides OpenAI's own.
        base: the server's options, which the session's go over.
    """

    session: _Session
    raw: _Raw
    models: tuple[str, ...]
    base: StreamOptions

    @classmethod
    def default(cls, models: tuple[str, ...], base: StreamOptions | None = None) -> SessionConfig:
        """What holds before any update; ``models[0]`` is the default model."""
        raw = _defaults()
        return cls(msgspec.convert(raw, _Session), raw, models, base or StreamOptions())

    def updated(self, change: object) -> SessionConfig:
        """The configuration after ``session.update`` with the session object ``change``.

        Raises:
            BadParameter: a field is unknown, of the wrong type or out of range; nothing changes.
        """
        if not isinstance(change, dict):
            raise BadParameter("session must be an object", param="session", code="invalid_type")
        change = cast(_Raw, change)
        if "type" not in change:
            raise BadParameter(
                "session.type is missing", param="session.type", code="missing_required_parameter"
            )
        if change["type"] != "transcription":
            raise BadParameter(
                "session.type must be 'transcription': this server has no other sessions",
                param="session.type",
            )
        raw = _merged(self.raw, _without_conversation(change))
        try:
            session = msgspec.convert(raw, _Session)
        except msgspec.ValidationError as error:
            raise _explained(error) from None
        config = replace(self, session=session, raw=raw)
        config.stream_options()  # whatever its checks refuse is refused now
        return config

    @property
    def voice_activity(self) -> bool:
        """Whether turns end by themselves (``server_vad``, ``semantic_vad``)."""
        return self.session.audio.input.turn_detection is not None

    @property
    def logprobs(self) -> bool:
        """Whether the client asked for the words' log probabilities."""
        return LOGPROBS in (self.session.include or ())

    @property
    def audio_format(self) -> AudioFormat:
        """How the client's audio is to be read."""
        wanted = self.session.audio.input.format
        if isinstance(wanted, _Pcm):
            return AudioFormat(encoding="s16le", sample_rate=PCM_RATE)
        return AudioFormat(
            encoding="mulaw" if isinstance(wanted, _Mulaw) else "alaw", sample_rate=TELEPHONE_RATE
        )

    @property
    def bytes_per_s(self) -> int:
        """Bytes of a second of audio."""
        return PCM_RATE * 2 if isinstance(self.session.audio.input.format, _Pcm) else TELEPHONE_RATE

    @property
    def language(self) -> str | None:
        """The language the client named, as Whisper's code."""
        named = self.session.audio.input.transcription.language
        return language_code(named) if named else None

    def stream_options(self) -> StreamOptions:
        """The options of a stream that serves this session.

        Raises:
            BadParameter: a value that the options refuse.
        """
        wanted = self.session.audio.input.transcription
        keywords = ", ".join(wanted.keywords or ())
        if len(keywords) > MAX_TEXT:
            raise BadParameter(
                "the keywords are too long", param="session.audio.input.transcription.keywords"
            )
        model = self._model(wanted.model)
        if (model or self.models[0]).endswith(ENGLISH_ONLY) and self.language not in (None, AUTO, "en"):
            raise BadParameter(
                "the model knows English alone", param="session.audio.input.transcription.language"
            )
        try:
            return replace(
                self.base,
                model=model,
                language=self.language or self.base.language,
                allowed_languages=tuple(map(language_code, wanted.languages or ()))
                or self.base.allowed_languages,
                prompt=wanted.prompt or self.base.prompt,
                hotwords=keywords or self.base.hotwords,
                commit_delay_s=DELAYS[wanted.delay] if wanted.delay else self.base.commit_delay_s,
                voice_activity=True,
                endpointing=self._endpointing(),
                # A turn is one item, however long: the client's protocol knows no parts of one.
                max_utterance_s=math.inf,
            )
        except ConfigurationError as error:
            field = {"allowed_languages": "languages"}.get(error.field, error.field)
            param = f"session.audio.input.transcription.{field}"
            raise BadParameter(f"{param} must be {error.allowed}", param=param) from None

    def public(self, session_id: str) -> _Raw:
        """The session object as the client reads it."""
        shown = cast(_Raw, msgspec.to_builtins(self.session))
        shown["audio"]["input"]["transcription"]["model"] = (
            self.session.audio.input.transcription.model or self.models[0]
        )
        return {"id": session_id, "object": "realtime.transcription_session", **shown}

    def _model(self, name: str | None) -> str | None:
        if name in self.models:
            return name
        if name is not None and not is_foreign_model(name):
            raise BadParameter(
                "this server has no model of that name; it has " + ", ".join(self.models),
                param="session.audio.input.transcription.model",
                code="model_not_found",
            )
        return self.base.model

    def _endpointing(self) -> EndpointingOptions:
        vad, base = self.session.audio.input.turn_detection, self.base.endpointing
        if vad is None:
            return base  # pauses cut what is decoded, but end no turn
        if isinstance(vad, _SemanticVad):
            longest_s, sentence_s = EAGERNESS[vad.eagerness]
            return replace(base, min_silence_s=longest_s, sentence_silence_s=sentence_s)
        fields = endpointing_fields(
            base,
            threshold=vad.threshold,
            silence_ms=vad.silence_duration_ms,
            padding_ms=vad.prefix_padding_ms,
        )
        return replace(base, **fields)


def _merged(base: _Raw, change: _Raw, path: str = "") -> _Raw:
    """``change`` over ``base``, object by object; an object of another ``type`` replaces the one that was."""
    merged = dict(base)
    for key, value in change.items():
        held = merged.get(key)
        inner = f"{path}.{key}" if path else key
        if isinstance(value, dict) and isinstance(held, dict):
            held, value = cast(_Raw, held), cast(_Raw, value)
            other = value.get("type", held.get("type")) != held.get("type")
            merged[key] = value if other else _merged(held, value, inner)
        elif value is None and isinstance(held, dict) and key != "turn_detection":
            merged[key] = _at(_defaults(), inner)
        else:
            merged[key] = value
    return merged


def _at(raw: _Raw, path: str) -> object:
    found: Any = raw
    for key in path.split("."):
        found = found[key]
    return found


def _without_conversation(change: _Raw) -> _Raw:
    """The update without what only conversations have, and without noise reduction: accepted, to no effect."""
    change = _copied(change)
    audio = change.get("audio")
    inside = cast(_Raw, audio).get("input") if isinstance(audio, dict) else None
    if isinstance(inside, dict):
        inside = cast(_Raw, inside)
        if isinstance(inside.get("noise_reduction"), dict):
            del inside["noise_reduction"]
        vad = inside.get("turn_detection")
        if isinstance(vad, dict):
            for key in VOICE_OPTIONS:
                cast(_Raw, vad).pop(key, None)
    return change


def _copied(raw: _Raw) -> _Raw:
    return {
        key: _copied(cast(_Raw, value)) if isinstance(value, dict) else value for key, value in raw.items()
    }


def _explained(error: msgspec.ValidationError) -> BadParameter:
    """A validation error as the protocol says it. It quotes field names and types, never values."""
    text = str(error)
    what, _, where = text.partition(" - at `$")
    param = "session" + where.rstrip("`")
    if unknown := re.search(r"unknown field `(.*)`$", what):
        param = f"{param}.{unknown[1]}"[:200]
        return BadParameter(f"unknown parameter: {param}", param=param, code="unknown_parameter")
    code = "missing_required_parameter" if "missing required field" in what else "invalid_value"
    return BadParameter(f"{param}: {what}", param=param, code=code)
