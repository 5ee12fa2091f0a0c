"""Sentences in every language of Whisper."""

from __future__ import annotations

import pytest

from ray_whisper_streaming.compat.tokenizer import create_tokenizer
from ray_whisper_streaming.core.languages import LANGUAGES
from ray_whisper_streaming.errors import ConfigurationError


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_every_language_splits(language: str) -> None:
    text = "One is here. Two is there."
    assert " ".join(create_tokenizer(language).split(text)) == text


def test_sentences() -> None:
    assert create_tokenizer("zh").split("今天天气很好。我们去公园吧！") == [
        "今天天气很好。",
        "我们去公园吧！",
    ]
    assert create_tokenizer("en").split("Mr. Hale came. Why?") == ["Mr. Hale came.", "Why?"]
    assert create_tokenizer("en").split("Yes.") == ["Yes."]
    assert create_tokenizer("en").split("") == []


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        create_tokenizer("xx")
