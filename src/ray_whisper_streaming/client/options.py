"""What a stream is asked for: the library's options, as the protocol writes them."""

from __future__ import annotations

from typing import Any

import msgspec

from ray_whisper_streaming.core.options import EndpointingOptions, check_range
from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.wire.native_messages import Endpointing, Options

__all__ = ["CODED", "CODED_BYTES_PER_S", "SAMPLE_BYTES", "make_options"]

SAMPLE_BYTES = {"s16le": 2, "f32le": 4, "mulaw": 1, "alaw": 1}

CODED = ("opus", "container")
"""Encodings whose bytes tell nothing of their length in seconds."""

CODED_BYTES_PER_S = 16_000
"""What they take at most, as a rule: 128 kbit/s."""

PROTOCOL_NAMES = {
    "allowed_languages": "languages",
    "commit_delay_s": "commit_delay",
    "update_interval_s": "update_interval",
    "max_utterance_s": "max_utterance",
}
"""The library's names of options that the protocol calls otherwise."""

RATES, MAX_CHANNELS = (4_000, 384_000), 64
"""What the protocol allows."""


def make_options(given: dict[str, Any]) -> Options:
    """The protocol's options.

    Args:
        given: by the library's names (`StreamOptions`) or the protocol's.

    Raises:
        ConfigurationError: an unknown name, or a value that is not allowed.
    """
    values: dict[str, Any] = {PROTOCOL_NAMES.get(name, name): value for name, value in given.items()}
    for name in values:
        if name not in Options.__struct_fields__ or name in ("word_times", "partial_words"):
            allowed = "an option of streams; see docs/protocol.md"
            raise ConfigurationError("option", name, allowed)
    endpointing = values.get("endpointing")
    if isinstance(endpointing, EndpointingOptions):
        values["endpointing"] = Endpointing(
            threshold=endpointing.threshold,
            min_speech=endpointing.min_speech_s,
            min_silence=endpointing.min_silence_s,
            sentence_silence=endpointing.sentence_silence_s,
        )
    try:
        # Words are needed to go on in another session.
        wanted = msgspec.convert(
            msgspec.to_builtins(Options(**values, word_times=True, partial_words=True)), Options
        )
    except (msgspec.ValidationError, TypeError) as error:  # TypeError: of no kind that can be written
        raise ConfigurationError("options", given, f"of the right kinds ({error})") from None
    check_range("sample_rate", wanted.sample_rate, *RATES)
    check_range("channels", wanted.channels, 1, MAX_CHANNELS)
    wanted.stream_options()
    return wanted
