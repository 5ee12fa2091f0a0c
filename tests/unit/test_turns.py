from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_whisper_streaming.core.transcript import SENTENCE_ENDINGS
from ray_whisper_streaming.core.turns import ABBREVIATIONS, DANGLING, TRAILING_OFF, ends_sentence

words = st.text(st.characters(categories=("L",)), min_size=2, max_size=8)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Put it on the table.", "en"),
        (" table.", "en"),
        ("Is that all?", "en"),
        ("Stop!", "en"),
        ("She said, “I am done.”", "en"),
        ("It works (mostly.)", "en"),
        ("So did I.", "en"),
        ("Das war alles.", "de"),
        ("今天天气很好。", "zh"),
        ("本当ですか？", "ja"),
        ("यह अच्छा है।", "hi"),
        ("هل هذا كل شيء؟", "ar"),
        ("Das ist die.", "en"),
        ("We saw the.", None),
        ("And?", "en"),
        ("Room 101!", "en"),
    ],
)
def test_a_finished_sentence(text: str, language: str | None) -> None:
    assert ends_sentence(text, language)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "en"),
        ("   ", "en"),
        ("Put it on", "en"),
        ("Put it on,", "en"),
        ("Well...", "en"),
        ("Well…", "en"),
        ("Good morning, Mr.", "en"),
        ("Guten Tag, Hr.", "de"),
        ("By J.", "en"),
        ("The number is 0 4 1.", "en"),
        ("It costs 3.", "en"),
        ("Room 101.", "en"),
        ("Put it on the.", "en"),
        ("Put it on THE.”", "en"),
        ("Ich bleibe, weil.", "de"),
        ("Fui al.", "es"),
        ("Je veux le.", "fr"),
        (".", "en"),
    ],
)
def test_an_unfinished_one(text: str, language: str) -> None:
    assert not ends_sentence(text, language)


@given(
    words,
    st.sampled_from([end for end in SENTENCE_ENDINGS if end != "…"]),
    st.sampled_from(["", '"', "」", "”)"]),
)
def test_a_word_that_is_in_no_list_ends_a_sentence_in_every_script(word: str, end: str, closer: str) -> None:
    assert ends_sentence(f" {word}{end}{closer}")
    assert not ends_sentence(f" {word}{closer}")


@given(words, st.sampled_from(TRAILING_OFF))
def test_who_trails_off_goes_on(word: str, dots: str) -> None:
    assert not ends_sentence(word + dots, "en")


@given(st.text(max_size=30), words)
def test_only_the_last_word_counts(before: str, word: str) -> None:
    for end in (word, f"{word}.", f"{word}?"):
        assert ends_sentence(f"{before} {end}", "en") == ends_sentence(end, "en")


def test_what_is_listed_is_in_the_form_it_is_compared_in() -> None:
    for listed in (ABBREVIATIONS, DANGLING):
        for language, each in listed.items():
            assert not any(ends_sentence(f"so {word}.", language) for word in each)
            assert not any(ends_sentence(f"So {word.upper()}.", language) for word in each)
