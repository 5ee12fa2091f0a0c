"""OpenAI's requests for recordings: the form's fields, and the bodies of the answers."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.audio import Transcription, TranscriptionVerbose

from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.wire.openai_common import BadParameter, logprobs
from ray_whisper_streaming.wire.openai_rest import (
    Transcript,
    TranscriptionRequest,
    json_body,
    sse,
    verbose_body,
)

MODELS = ("tiny.en", "base")
HEARD = Transcript(
    words=(
        Word(" Hé,", 0.5, 0.9, 0.8),
        Word(" you.", 1.0, 1.25, 0.5),
        Word(" Go", 3.0, 3.3, 1.0),
    ),
    duration_s=4.00049,
    language="de",
)


def parse(*more: tuple[str, str], **one: str) -> TranscriptionRequest:
    fields = {"model": "whisper-1", **one}
    return TranscriptionRequest.parse([*fields.items(), *more], MODELS, StreamOptions(tenant="t"))


def parse_translation(**one: str) -> TranscriptionRequest:
    return TranscriptionRequest.parse([("model", "base"), *one.items()], MODELS, translate=True)


def test_defaults() -> None:
    request = parse()
    assert (request.form, request.stream, request.model) == ("json", False, "tiny.en")
    assert (request.options.model, request.options.task, request.options.tenant) == (None, "transcribe", "t")
    assert (request.options.update_interval_s, request.options.temperature) == (10.0, 0.0)


def test_all_fields() -> None:
    request = parse(
        ("timestamp_granularities[]", "word"),
        ("timestamp_granularities[]", "segment"),
        ("keywords[]", "Ada"),
        ("keywords[]", "Grace"),
        ("languages[]", "de-AT"),
        ("languages[]", "en"),
        model="base",
        prompt="Hm.",
        response_format="verbose_json",
        temperature="0.2",
    )
    assert (request.words, request.segments) == (True, True)
    assert request.options.hotwords == "Ada, Grace"
    assert request.options.allowed_languages == ("de", "en")
    assert (request.options.model, request.options.prompt) == ("base", "Hm.")
    assert request.options.temperature == 0.2


def test_translation_is_never_streamed() -> None:
    request = parse_translation(stream="true")
    assert (request.options.task, request.stream) == ("translate", False)


@pytest.mark.parametrize(
    "fields",
    [
        {"chunking_strategy": '{"type": "server_vad", "silence_duration_ms": 300, "threshold": 0.6}'},
        {
            "chunking_strategy[type]": "server_vad",
            "chunking_strategy[silence_duration_ms]": "300",
            "chunking_strategy[threshold]": "0.6",
        },
    ],
)
def test_chunking(fields: dict[str, str]) -> None:
    endpointing = parse(**fields).options.endpointing
    assert (endpointing.min_silence_s, endpointing.threshold) == (0.3, 0.6)
    assert endpointing.release == pytest.approx(0.45)
    assert parse(chunking_strategy="auto").options.endpointing == StreamOptions().endpointing


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("model", {"model": "parakeet"}),
        ("response_format", {"response_format": "xml"}),
        ("response_format", {"response_format": "vtt", "stream": "true"}),
        ("stream", {"stream": "perhaps"}),
        ("temperature", {"temperature": "nan"}),
        ("temperature", {"temperature": "-1"}),
        ("temperature", {"temperature": "1.1"}),
        ("temperature", {"temperature": "warm"}),
        ("temperature", {"temperature": ""}),
        ("include", {"include": "usage"}),
        ("include", {"include": "logprobs", "response_format": "text"}),
        ("timestamp_granularities", {"timestamp_granularities[]": "word"}),
        ("timestamp_granularities", {"timestamp_granularities": "letter", "response_format": "verbose_json"}),
        ("known_speaker_names", {"known_speaker_names[]": "me"}),
        ("language", {"language": "tlh"}),
        ("languages", {"languages[]": "tlh"}),
        ("prompt", {"prompt": "x" * 5_000}),
        ("chunking_strategy", {"chunking_strategy": "often"}),
        ("chunking_strategy[type]", {"chunking_strategy": '{"type": "semantic"}'}),
        ("chunking_strategy[threshold]", {"chunking_strategy": '{"type": "server_vad", "threshold": []}'}),
        ("chunking_strategy[threshold]", {"chunking_strategy": '{"type": "server_vad", "threshold": 9}'}),
        (
            "chunking_strategy[silence_duration_ms]",
            {"chunking_strategy[type]": "server_vad", "chunking_strategy[silence_duration_ms]": "-5"},
        ),
    ],
)
def test_bad_forms(param: str, fields: dict[str, str]) -> None:
    with pytest.raises(BadParameter) as caught:
        parse(**fields)
    assert caught.value.param == param


def test_a_form_without_a_model() -> None:
    with pytest.raises(BadParameter) as caught:
        TranscriptionRequest.parse([], MODELS)
    assert (caught.value.param, caught.value.code) == ("model", "missing_required_parameter")


def test_json() -> None:
    body = json_body(HEARD, parse())
    assert body == {"text": "Hé, you. Go", "usage": {"type": "duration", "seconds": 4.0}}
    Transcription.model_validate(body, strict=True)
    with_logprobs = json_body(HEARD, parse(("include[]", "logprobs")))
    assert with_logprobs["logprobs"] == logprobs(HEARD.words)
    assert logprobs(HEARD.words)[0] == {"token": " Hé,", "bytes": list(" Hé,".encode()), "logprob": -0.2231}


def test_verbose() -> None:
    request = parse(("timestamp_granularities[]", "word"), response_format="verbose_json")
    body = verbose_body(HEARD, request)
    assert (body["task"], body["language"], body["duration"]) == ("transcribe", "german", 4.0)
    assert body["words"][1] == {"word": "you.", "start": 1.0, "end": 1.25}
    assert "segments" not in body
    segments: list[dict[str, Any]] = verbose_body(HEARD, parse(response_format="verbose_json"))["segments"]
    assert [(each["id"], each["text"], each["start"], each["end"]) for each in segments] == [
        (0, " Hé, you.", 0.5, 1.25),
        (1, " Go", 3.0, 3.3),
    ]
    assert {each["temperature"] for each in segments} == {0.0}
    assert segments[0]["avg_logprob"] == pytest.approx(-0.4581, abs=1e-4)
    TranscriptionVerbose.model_validate({**body, "segments": segments}, strict=True)


def test_a_verbose_answer_tells_its_temperature() -> None:
    body = verbose_body(HEARD, parse(response_format="verbose_json", temperature="0.4"))
    assert [each["temperature"] for each in body["segments"]] == [0.4, 0.4]
    base = StreamOptions(temperature=0.3)
    for given, wanted in (((), 0.3), ((("temperature", "0"),), 0.0)):
        request = TranscriptionRequest.parse([("model", "tiny.en"), *given], MODELS, base)
        assert request.options.temperature == wanted


def test_a_translation_is_english() -> None:
    assert verbose_body(HEARD, parse_translation(response_format="verbose_json"))["language"] == "english"


def test_nothing_said() -> None:
    silence = Transcript(words=(), duration_s=1.0, language="")
    body = verbose_body(silence, parse(response_format="verbose_json"))
    assert (body["text"], body["segments"], body["language"]) == ("", [], "")


def test_events_are_one_line() -> None:
    assert sse({"type": "x", "delta": "a\nb"}) == b'data: {"type":"x","delta":"a\\nb"}\n\n'
