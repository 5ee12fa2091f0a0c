"""The library's options, as the protocol writes them."""

from __future__ import annotations

import pytest

from ray_whisper_streaming.client.options import make_options
from ray_whisper_streaming.core.options import EndpointingOptions
from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.wire.native_messages import Endpointing


def test_when_utterances_begin_and_end_is_said_in_the_librarys_words_or_the_protocols() -> None:
    wanted = EndpointingOptions(min_speech_s=0.1, min_silence_s=1.2, sentence_silence_s=0.4)
    written = Endpointing(min_speech=0.1, min_silence=1.2, sentence_silence=0.4)
    for endpointing in (wanted, written):
        options = make_options({"endpointing": endpointing, "max_utterance_s": 20.0}).stream_options()
        assert options.endpointing == wanted
        assert options.max_utterance_s == 20.0


def test_wrong_values_are_the_librarys_error() -> None:
    with pytest.raises(ConfigurationError, match="sentence_silence_s is 0"):
        make_options({"endpointing": Endpointing(sentence_silence=0.0)})
