from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from ray_whisper_streaming.core.options import (
    MAX_HARD_LIMIT_S,
    MAX_WINDOW_AUDIO_S,
    EndpointingOptions,
    StreamOptions,
    TrimmingOptions,
)
from ray_whisper_streaming.errors import ConfigurationError

WRONG: list[tuple[type, str, Any]] = [
    (EndpointingOptions, "threshold", 0.0),
    (EndpointingOptions, "threshold", 1.1),
    (EndpointingOptions, "release", 0.6),
    (EndpointingOptions, "release", -0.1),
    (EndpointingOptions, "min_speech_s", -1.0),
    (EndpointingOptions, "min_silence_s", 0.0),
    (EndpointingOptions, "sentence_silence_s", 0.0),
    (EndpointingOptions, "start_padding_s", math.nan),
    (EndpointingOptions, "end_padding_s", 0.9),
    (TrimmingOptions, "at", "letter"),
    (TrimmingOptions, "keep_s", -1.0),
    (TrimmingOptions, "trim_after_s", 3.2),
    (TrimmingOptions, "hard_limit_s", 7.0),
    (TrimmingOptions, "hard_limit_s", MAX_WINDOW_AUDIO_S),
    (StreamOptions, "language", "english"),
    (StreamOptions, "task", "summarise"),
    (StreamOptions, "policy", "hope"),
    (StreamOptions, "prompt", None),
    (StreamOptions, "hotwords", ["Helstone", "router"]),
    (StreamOptions, "commit_delay_s", -0.1),
    (StreamOptions, "agreement_passes", 1),
    (StreamOptions, "update_interval_s", 0.01),
    (StreamOptions, "beam_size", 0),
    (StreamOptions, "temperature", -0.1),
    (StreamOptions, "temperature", 1.1),
    (StreamOptions, "temperature", math.nan),
    (StreamOptions, "max_utterance_s", 0.5),
    (StreamOptions, "max_buffer_s", 10.0),
    (StreamOptions, "max_buffer_s", math.nan),
]


@pytest.mark.parametrize(("kind", "field", "value"), WRONG)
def test_a_wrong_value_is_named(kind: type, field: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(**{field: value})
    error = caught.value
    assert error.field == field
    assert error.value is value or error.value == value
    assert field in str(error)
    assert error.allowed in str(error)


def test_allowed_languages_are_checked_too() -> None:
    with pytest.raises(ConfigurationError, match="allowed_languages"):
        StreamOptions(allowed_languages=("en", "klingon"))


@pytest.mark.parametrize("kind", [EndpointingOptions, TrimmingOptions, StreamOptions])
def test_defaults_are_allowed_and_frozen(kind: type) -> None:
    options = kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, dataclasses.fields(kind)[0].name, None)


def test_every_option_is_explained() -> None:
    for kind in (EndpointingOptions, TrimmingOptions, StreamOptions):
        for field in dataclasses.fields(kind):
            assert f"        {field.name}: " in (kind.__doc__ or ""), field.name


def test_a_window_can_grow_beyond_its_hard_limit() -> None:
    assert TrimmingOptions(hard_limit_s=MAX_HARD_LIMIT_S).hard_limit_s < MAX_WINDOW_AUDIO_S


def test_passes_further_apart_than_was_asked_for_say_that_the_pool_is_busy() -> None:
    assert not StreamOptions().busy(1.1)
    assert StreamOptions().busy(1.2)
    assert not StreamOptions(update_interval_s=0.3).busy(0.6)
    assert StreamOptions(update_interval_s=0.3).busy(0.7)
    assert not StreamOptions(update_interval_s=1.0).busy(1.3)
    assert StreamOptions(update_interval_s=1.0).busy(1.5)
    assert not StreamOptions(trimming=TrimmingOptions(busy_after_s=2.0)).busy(1.6)


def test_decode_options_are_what_batches_must_share() -> None:
    one = StreamOptions(beam_size=5, temperature=0.5, language="de", prompt="Hallo")
    assert one.decode_options == StreamOptions(beam_size=5, temperature=0.5).decode_options
    for other in (StreamOptions(), StreamOptions(beam_size=5), StreamOptions(temperature=0.5)):
        assert one.decode_options != other.decode_options
