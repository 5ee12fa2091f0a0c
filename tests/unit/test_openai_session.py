"""The session object of OpenAI's transcription sessions: merged, checked, made into options."""

from __future__ import annotations

from typing import Any

import pytest

from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.wire.openai_common import BadParameter
from ray_whisper_streaming.wire.openai_session import SessionConfig

DEFAULT = SessionConfig.default(("tiny.en", "base"), StreamOptions(model="tiny.en", tenant="t"))


def update(config: SessionConfig = DEFAULT, **audio_input: Any) -> SessionConfig:
    return config.updated({"type": "transcription", "audio": {"input": audio_input}})


def test_defaults() -> None:
    shown = DEFAULT.public("sess")
    assert shown["type"] == "transcription"
    assert shown["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert shown["audio"]["input"]["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
    }
    assert shown["audio"]["input"]["transcription"]["model"] == "tiny.en"
    assert DEFAULT.bytes_per_s == 48_000
    assert DEFAULT.stream_options().tenant == "t"


def test_an_update_changes_what_it_names_alone() -> None:
    once = update(turn_detection={"type": "server_vad", "silence_duration_ms": 900})
    twice = update(once, turn_detection={"threshold": 0.7}, transcription={"language": "en", "prompt": "Ada"})
    thrice = update(twice, transcription={"keywords": ["Grace Hopper", "COBOL"]})
    options = thrice.stream_options()
    assert (options.endpointing.min_silence_s, options.endpointing.threshold) == (0.9, 0.7)
    assert options.endpointing.release == pytest.approx(0.55)
    assert (options.language, options.prompt, options.hotwords) == ("en", "Ada", "Grace Hopper, COBOL")
    assert DEFAULT.stream_options().language == "auto"  # what held before is as it was


def test_null_turns_turn_detection_off_and_restores_the_rest() -> None:
    changed = update(turn_detection=None, transcription={"language": "en"}, format={"type": "audio/pcmu"})
    assert not changed.voice_activity
    assert changed.stream_options().voice_activity  # silence is not decoded all the same
    assert changed.stream_options().endpointing == StreamOptions().endpointing
    restored = update(changed, transcription=None, format=None, turn_detection={"type": "server_vad"})
    assert restored.public("s") == DEFAULT.public("s")
    assert changed.updated({"type": "transcription", "audio": None}).public("s") == DEFAULT.public("s")


@pytest.mark.parametrize(
    ("given", "encoding", "rate", "bytes_per_s"),
    [
        ({"type": "audio/pcm", "rate": 24000}, "s16le", 24_000, 48_000),
        ({"rate": 24000}, "s16le", 24_000, 48_000),
        ({"type": "audio/pcmu"}, "mulaw", 8_000, 8_000),
        ({"type": "audio/pcma"}, "alaw", 8_000, 8_000),
    ],
)
def test_formats(given: dict[str, Any], encoding: str, rate: int, bytes_per_s: int) -> None:
    config = update(format=given)
    assert (config.audio_format.encoding, config.audio_format.sample_rate) == (encoding, rate)
    assert config.bytes_per_s == bytes_per_s


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("whisper-1", "tiny.en"),
        ("gpt-4o-transcribe", "tiny.en"),
        ("gpt-realtime-whisper", "tiny.en"),
        ("base", "base"),
        (None, "tiny.en"),
    ],
)
def test_models(name: str | None, model: str) -> None:
    assert update(transcription={"model": name}).stream_options().model == model


def test_language_tags_and_delays() -> None:
    config = update(
        transcription={"model": "base", "language": "pt-BR", "languages": ["en", "zh_TW"], "delay": "high"}
    )
    options = config.stream_options()
    assert (options.language, options.allowed_languages, options.commit_delay_s) == ("pt", ("en", "zh"), 1.0)


def test_semantic_turns_end_sooner_behind_a_finished_sentence() -> None:
    waits: list[tuple[float, float]] = []
    for eagerness in ("low", "auto", "high"):
        given = {"type": "semantic_vad", "eagerness": eagerness, "create_response": False}
        config = update(turn_detection=given)
        shown = config.public("s")["audio"]["input"]["turn_detection"]
        assert shown == {"type": "semantic_vad", "eagerness": eagerness}
        assert config.voice_activity
        silence = config.stream_options().endpointing
        assert silence.sentence_silence_s is not None
        waits.append((silence.min_silence_s, silence.sentence_silence_s))
    assert waits == sorted(waits, reverse=True)
    assert all(sentence_s < silence_s for silence_s, sentence_s in waits)
    assert (
        update(turn_detection={"type": "semantic_vad"}).stream_options().endpointing.min_silence_s
        == waits[1][0]
    )
    # What was said of the other kind is not carried over.
    back = update(update(turn_detection={"type": "semantic_vad"}), turn_detection={"type": "server_vad"})
    assert back.stream_options().endpointing == DEFAULT.stream_options().endpointing


def test_what_only_conversations_have_is_taken_to_no_effect() -> None:
    config = update(
        noise_reduction={"type": "near_field"},
        turn_detection={"type": "server_vad", "create_response": True, "idle_timeout_ms": 5000},
    )
    assert config.public("s") == DEFAULT.public("s")


@pytest.mark.parametrize(
    ("session", "param", "code"),
    [
        (7, "session", "invalid_type"),
        ({}, "session.type", "missing_required_parameter"),
        ({"type": "realtime"}, "session.type", "invalid_value"),
        ({"type": "transcription", "voice": "x"}, "session.voice", "unknown_parameter"),
        ({"type": "transcription", "audio": 1}, "session.audio", "invalid_value"),
        ({"type": "transcription", "include": ["x"]}, "session.include[0]", "invalid_value"),
    ],
)
def test_bad_sessions(session: object, param: str, code: str) -> None:
    with pytest.raises(BadParameter) as caught:
        DEFAULT.updated(session)
    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize(
    ("audio_input", "param", "code"),
    [
        ({"format": {"type": "audio/pcm", "rate": 16000}}, "format.rate", "invalid_value"),
        ({"format": {"type": "audio/mp3"}}, "format.type", "invalid_value"),
        ({"format": "pcm16"}, "format", "invalid_value"),
        ({"turn_detection": {"type": "psychic_vad"}}, "turn_detection.type", "invalid_value"),
        (
            {"turn_detection": {"type": "semantic_vad", "eagerness": "very"}},
            "turn_detection.eagerness",
            "invalid_value",
        ),
        (
            {"turn_detection": {"type": "semantic_vad", "silence_duration_ms": 500}},
            "turn_detection.silence_duration_ms",
            "unknown_parameter",
        ),
        ({"turn_detection": {"threshold": 1.5}}, "turn_detection.threshold", "invalid_value"),
        ({"turn_detection": {"threshold": "high"}}, "turn_detection.threshold", "invalid_value"),
        (
            {"turn_detection": {"silence_duration_ms": -1}},
            "turn_detection.silence_duration_ms",
            "invalid_value",
        ),
        ({"transcription": {"languge": "en"}}, "transcription.languge", "unknown_parameter"),
        ({"transcription": {"model": "base", "language": "tlh"}}, "transcription.language", "invalid_value"),
        ({"transcription": {"language": "de"}}, "transcription.language", "invalid_value"),
        ({"transcription": {"languages": ["en", "tlh"]}}, "transcription.languages", "invalid_value"),
        ({"transcription": {"model": "parakeet"}}, "transcription.model", "model_not_found"),
        ({"transcription": {"keywords": ["x" * 5000]}}, "transcription.keywords", "invalid_value"),
        ({"noise_reduction": 3}, "noise_reduction", "invalid_value"),
    ],
)
def test_bad_inputs(audio_input: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(BadParameter) as caught:
        update(**audio_input)
    assert (caught.value.param, caught.value.code) == (f"session.audio.input.{param}", code)


def test_another_format_replaces_the_one_that_was() -> None:
    once = update(format={"type": "audio/pcm", "rate": 24000})
    assert update(once, format={"type": "audio/pcmu"}).bytes_per_s == 8_000
