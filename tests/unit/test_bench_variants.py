"""Options as they are written on a command line."""

from __future__ import annotations

import pytest

from ray_whisper_streaming.bench.variants import Variant, known_fields, parse_variant
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.errors import ConfigurationError


def test_fields_of_all_options_are_read_in_their_types():
    variant = parse_variant(
        "policy=cutoff, commit_delay_s=0.8,beam_size=5,context=yes,allowed_languages=en+de,keep_s=7,at=sentence,"
        "min_silence_s=0.5,prompt=a=b"
    )
    options = variant.options("de")
    assert (options.policy, options.commit_delay_s, options.beam_size) == ("cutoff", 0.8, 5)
    assert (options.context, options.allowed_languages, options.prompt) == (True, ("en", "de"), "a=b")
    assert (options.trimming.keep_s, options.trimming.at) == (7.0, "sentence")
    assert options.endpointing.min_silence_s == 0.5
    assert options.language == "de"


def test_what_is_not_written_keeps_its_default():
    assert parse_variant("beam_size=2").options("en") == StreamOptions(language="en", beam_size=2)
    assert parse_variant("temperature=0.4").options("en") == StreamOptions(language="en", temperature=0.4)


def test_it_may_name_a_language_for_all_clips_and_have_a_name():
    variant = parse_variant("name=any language,language=auto")
    assert variant.name == "any language"
    assert variant.options("de").language == "auto"
    assert parse_variant("beam_size=2").name == "beam_size=2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("polcy=cutoff", r"variant is 'polcy'; it must be a field: name, .*\bcommit_delay_s\b.*\bpolicy\b"),
        ("model=base", "variant is 'model'"),  # the pool has one model
        ("trimming=short", "variant is 'trimming'"),
        ("policy=best", "policy is 'best'; it must be one of hybrid, cutoff, agreement"),
        ("commit_delay_s=soon", "commit_delay_s is 'soon'; it must be a number"),
        ("commit_delay_s=11", "commit_delay_s is 11.0; it must be from 0 to 10"),
        ("commit_delay_s=nan", "commit_delay_s is nan; it must be from 0 to 10"),
        ("temperature=2", "temperature is 2.0; it must be from 0 to 1"),
        ("beam_size=2.5", "beam_size is '2.5'; it must be a whole number"),
        ("keep_s=22", "trim_after_s is 22.0; it must be from 22.5 to 27"),
        ("context=perhaps", "context is 'perhaps'; it must be one of true, yes"),
        ("cutoff", "variant is 'cutoff'; it must be field=value pairs"),
        ("", "variant is ''; it must be field=value pairs"),
        ("beam_size=1,beam_size=2", "beam_size is there twice"),
    ],
)
def test_what_is_wrong_is_told_by_its_name(text: str, said: str):
    with pytest.raises(ConfigurationError, match=said):
        parse_variant(text)


def test_every_field_can_be_given():
    """No field of the options has a type that can't be written."""
    defaults = {"policy": "hybrid", "task": "transcribe", "at": "word", "language": "en"}
    optional = {"beam_size": (int, "1"), "sentence_silence_s": (float, "0.4")}
    options = StreamOptions()
    for name, read in known_fields().items():
        holder = next(
            each for each in (options, options.trimming, options.endpointing) if hasattr(each, name)
        )
        default = getattr(holder, name)
        if name in optional:
            kind, written = optional[name]
            assert default is None
            assert type(read(name, written)) is kind
            continue
        written = defaults.get(name, "" if default == () else str(default))
        assert type(read(name, written)) is type(default)


class TestInSteps:
    def test_no_interval_holds_a_pass_back(self):
        assert Variant("", {}).in_steps(2.0).options("en").update_interval_s == 0.8
        assert Variant("", {}).in_steps(0.5).options("en").update_interval_s == 0.45
        assert Variant("", {}).in_steps(0.1).options("en").update_interval_s == 0.1
        assert Variant("", {"update_interval_s": 2.0}).in_steps(0.5).options("en").update_interval_s == 2.0

    def test_windows_that_were_asked_for_hold_however_long_the_step(self):
        assert not Variant("", {"trim_after_s": 20.0}).in_steps(2.0).options("en").busy(2.0)
        assert Variant("", {}).in_steps(2.0).options("en").busy(2.0)
