"""Variants of a stream's options, as they are written on a command line: ``policy=cutoff,commit_delay_s=0.8``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_origin, get_type_hints

from ray_whisper_streaming.core.options import EndpointingOptions, StreamOptions, TrimmingOptions
from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["Variant", "known_fields", "parse_variant"]

NAME = "name"
"""What a variant may be called, instead of what it is made of."""

NO_VARIANTS = {"model", "tenant"}
"""Fields that are of the pool, not of how a stream is transcribed."""

LIST_SEPARATOR = "+"
"""Between the items of a list; commas are taken."""

STEP_SHARE = 0.9
LONGEST_INTERVAL_S = StreamOptions().update_interval_s
SHORTEST_INTERVAL_S = 0.1
"""Streams that are played in steps ask for a pass in every step: their interval is at most so much of it (all of it
would miss steps whose last voice frame is not whole), and no longer or shorter than in life."""

_WORDS_OF_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to transcribe.

    Attributes:
        name: for tables and plots.
        values: fields of `StreamOptions`, `TrimmingOptions` and `EndpointingOptions` by name; the others keep their
            defaults.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def options(self, language: str) -> StreamOptions:
        """Options of a stream in this language, unless the variant names another.

        Raises:
            ConfigurationError: a value is out of range.
        """
        values = {"language": language, **self.values}
        return StreamOptions(
            **_of(StreamOptions, values),
            trimming=TrimmingOptions(**_of(TrimmingOptions, values)),
            endpointing=EndpointingOptions(**_of(EndpointingOptions, values)),
        )

    def in_steps(self, step_s: float) -> Variant:
        """The same for streams that are played in steps of ``step_s`` seconds: no interval holds a pass back, and
        window lengths that were given hold, however long the step.
        """
        interval_s = min(LONGEST_INTERVAL_S, max(SHORTEST_INTERVAL_S, STEP_SHARE * step_s))
        added: dict[str, Any] = {"update_interval_s": interval_s}
        if self.values.keys() & {"trim_after_s", "keep_s"}:
            added["busy_after_s"] = 2 * step_s
        return Variant(self.name, {**added, **self.values})


def parse_variant(text: str) -> Variant:
    """A variant from ``field=value`` pairs with commas between; ``name=...`` among them says what it is called.

    Raises:
        ConfigurationError: no such field, or a value that it can't have; it names the field and what is allowed.
    """
    kinds = known_fields()
    values: dict[str, Any] = {}
    name = text
    for pair in text.split(","):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ConfigurationError("variant", pair, "field=value pairs with commas between")
        if key == NAME:
            name = value
        elif key not in kinds:
            raise ConfigurationError("variant", key, "a field: " + ", ".join([NAME, *sorted(kinds)]))
        elif key in values:
            raise ConfigurationError("variant", text, f"one with each field once; {key} is there twice")
        else:
            values[key] = kinds[key](key, value)
    variant = Variant(name, values)
    variant.options("en")
    return variant


def known_fields() -> dict[str, Callable[[str, str], Any]]:
    """The fields that a variant may set, and what reads the value of each."""
    return {
        each.name: _reader(get_type_hints(group)[each.name])
        for group in (StreamOptions, TrimmingOptions, EndpointingOptions)
        for each in fields(group)
        if each.name not in NO_VARIANTS | {"trimming", "endpointing"}
    }


def _of(group: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(group)}
    return {name: value for name, value in values.items() if name in names}


def _reader(kind: Any) -> Callable[[str, str], Any]:
    """What turns the written value of a field of this type into the value."""
    if kind is bool:
        return _truth
    if get_origin(kind) is tuple:
        return lambda _, value: tuple(filter(None, value.split(LIST_SEPARATOR)))
    for number, described in ((float, "a number"), (int, "a whole number")):
        if kind is number or number in get_args(kind):
            return lambda name, value: _number(number, described, name, value)
    return lambda _, value: value


def _truth(name: str, value: str) -> bool:
    if value.lower() not in _WORDS_OF_TRUTH:
        raise ConfigurationError(name, value, "one of " + ", ".join(_WORDS_OF_TRUTH))
    return _WORDS_OF_TRUTH[value.lower()]


def _number(kind: type[float] | type[int], described: str, name: str, value: str) -> float:
    try:
        return kind(value)
    except ValueError:
        raise ConfigurationError(name, value, described) from None
