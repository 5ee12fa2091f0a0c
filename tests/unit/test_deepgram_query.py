"""The query of Deepgram's listen endpoint."""

from __future__ import annotations

import pytest

from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.wire.deepgram_query import BadQuery, ListenQuery

MODELS = ("tiny.en", "base")


def parse(*pairs: tuple[str, str], **one: str) -> ListenQuery:
    return ListenQuery.parse([*one.items(), *pairs], MODELS, StreamOptions(tenant="t"))


def test_a_telephone() -> None:
    query = parse(
        model="nova-2-phonecall", encoding="mulaw", sample_rate="8000", channels="2", multichannel="true"
    )
    assert (query.audio.encoding, query.audio.sample_rate) == ("mulaw", 8_000)
    assert (query.audio.channels, query.audio.separate) == (2, True)
    assert (query.model, query.options.model, query.options.tenant) == ("tiny.en", None, "t")


def test_nothing_given_is_a_container_and_final_results() -> None:
    query = parse()
    assert query.audio.encoding == "container"
    assert (query.interim_results, query.punctuate, query.vad_events) == (False, False, False)
    assert (query.endpointing, query.options.endpointing.min_silence_s) == (True, 0.3)
    assert query.utterance_end_s is None


def test_utterance_end() -> None:
    assert parse(utterance_end_ms="1500", interim_results="true").utterance_end_s == 1.5


@pytest.mark.parametrize(
    ("value", "silence_s", "on"),
    [("500", 0.5, True), ("10", 0.05, True), ("0", 0.05, True), ("true", 0.3, True), ("false", 0.8, False)],
)
def test_endpointing(value: str, silence_s: float, on: bool) -> None:
    query = parse(endpointing=value)
    assert query.options.endpointing.min_silence_s == silence_s
    assert query.options.endpointing.end_padding_s <= silence_s
    assert query.endpointing is on


def test_keywords_lose_their_boosts_and_keyterms_stay() -> None:
    query = parse(("keywords", "Ada:2"), ("keywords", "snuffle:-1.5"), ("keywords", " "), ("keyterm", "a:b"))
    assert query.options.hotwords == "Ada, snuffle, a:b"


@pytest.mark.parametrize(
    ("language", "code"),
    [("en-US", "en"), ("zh-TW", "zh"), ("multi", "auto"), ("de", "de"), ("", "auto")],
)
def test_languages(language: str, code: str) -> None:
    assert parse(language=language).options.language == code


def test_models_of_the_server_come_before_deepgrams_names() -> None:
    assert parse(model="base").options.model == "base"
    assert parse(model="nova-3").options.model is None


@pytest.mark.parametrize("name", ["smart_format", "numerals", "tag", "version", "no_delay", "filler_words"])
def test_what_changes_nothing_is_taken(name: str) -> None:
    assert parse(**{name: "true"}).audio.encoding == "container"


def test_smart_format_means_punctuation() -> None:
    assert parse(smart_format="true").punctuate


def test_features_switched_off_are_no_trouble() -> None:
    assert parse(diarize="false", redact="").audio.encoding == "container"


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("encoding", {"encoding": "speex"}),
        ("sample_rate", {"encoding": "linear16"}),
        ("sample_rate", {"encoding": "linear16", "sample_rate": "0"}),
        ("sample_rate", {"encoding": "linear16", "sample_rate": "1e4"}),
        ("sample_rate", {"encoding": "linear16", "sample_rate": "٨٠٠٠"}),
        ("channels", {"channels": "9", "encoding": "mulaw", "sample_rate": "8000"}),
        ("channels", {"channels": "0", "encoding": "mulaw", "sample_rate": "8000"}),
        ("channels", {"channels": "3", "encoding": "opus"}),
        ("channels", {"multichannel": "true"}),
        ("endpointing", {"endpointing": "soon"}),
        ("endpointing", {"endpointing": "99999999"}),
        ("utterance_end_ms", {"utterance_end_ms": "1000"}),
        ("utterance_end_ms", {"utterance_end_ms": "10", "interim_results": "true"}),
        ("interim_results", {"interim_results": "maybe"}),
        ("language", {"language": "tlh"}),
        ("model", {"model": "parakeet"}),
        ("diarize", {"diarize": "true"}),
        ("redact", {"redact": "pci"}),
        ("callback", {"callback": "https://example.org"}),
        ("keywords", {"keywords": "x" * 101}),
    ],
)
def test_bad_queries(field: str, given: dict[str, str]) -> None:
    with pytest.raises(BadQuery) as caught:
        parse(**given)
    assert caught.value.field == field
