"""Prompts, caps and words, with a tokenizer of one token per character."""

import numpy as np
import pytest

from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.tokens import (
    MAX_TOKENS,
    context_tokens,
    prefix_tokens,
    token_cap,
    whole_characters,
)
from ray_whisper_streaming.engines.words import Alignment, words_of

SOT_PREV = 0x110001


class CharTokenizer:
    """Tokens are code points; words are split in front of spaces and around punctuation, as Whisper's are."""

    eot = 0x110000
    sot_prev = SOT_PREV
    no_timestamps = 0x110002
    non_speech_tokens = ()

    def __init__(self, language_code: str = "en") -> None:
        self.language_code = language_code
        self.sot_sequence = [0x110003]

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(token) for token in tokens if token < self.eot)

    def split_to_word_tokens(self, tokens: list[int]) -> tuple[list[str], list[list[int]]]:
        words: list[str] = []
        for char in self.decode(tokens):
            if not words or char in ' .,"' or words[-1] in ".,":
                words.append(char)
            else:
                words[-1] += char
        return words, [self.encode(word) for word in words]


TOKENIZER = CharTokenizer()


def text(tokens: list[int]) -> str:
    assert not tokens or tokens[0] == SOT_PREV
    return TOKENIZER.decode(tokens)


@pytest.mark.parametrize(("length", "bucket"), [(0, 0), (30, 0), (31, 32), (62, 32), (63, 64), (500, 64)])
def test_context_comes_in_exact_lengths_and_keeps_its_tail(length: int, bucket: int):
    context = "".join(chr(ord("a") + index % 26) for index in range(length))  # one token more with its space
    tokens = context_tokens(TOKENIZER, "", context)
    assert len(tokens) == (bucket + 1 if bucket else 0)
    assert (" " + context).endswith(text(tokens))


def test_hotwords_stand_first_and_share_the_bucket():
    tokens = context_tokens(TOKENIZER, "h" * 100, "c" * 100)
    assert text(tokens) == " " + "h" * 31 + "c" * 32
    assert text(context_tokens(TOKENIZER, "h" * 100, "")) == " " + "h" * 63
    assert text(context_tokens(TOKENIZER, "hot", "c" * 100)) == " hot" + "c" * 60


def test_few_hotwords_are_kept_and_filled_up():
    assert text(context_tokens(TOKENIZER, "Kubernetes", "")).lstrip() == "Kubernetes"
    assert text(context_tokens(TOKENIZER, "Kubernetes", "so far")).lstrip() == "Kubernetes so far"
    assert len(context_tokens(TOKENIZER, "Kubernetes", "so far")) == 33


@pytest.mark.parametrize(("language", "expected"), [("en", " so far"), ("ja", "so far")])
def test_a_prefix_begins_as_whisper_writes_the_language(language: str, expected: str):
    tokenizer = CharTokenizer(language)
    assert tokenizer.decode(prefix_tokens(tokenizer, " so far ")) == expected
    assert prefix_tokens(tokenizer, "  ") == []


def test_the_cap_grows_with_the_audio_and_with_the_script():
    assert token_cap("en", 0.2) >= 8
    assert token_cap("en", 10.0) == 88
    assert token_cap("te", 5.0) > 2 * token_cap("en", 5.0)
    assert token_cap("te", 30.0) == MAX_TOKENS


def test_an_unfinished_character_at_the_end_is_dropped():
    cut = [ord("a"), 0xFFFD, 0xFFFD]
    assert whole_characters(TOKENIZER, cut) == [ord("a")]
    assert whole_characters(TOKENIZER, [ord("a"), TOKENIZER.eot]) == [ord("a")]


def words(said: str, starts_s: list[float]) -> list[Word]:
    tokens = TOKENIZER.encode(said)
    return words_of(
        TOKENIZER,
        tokens,
        Alignment(np.array(starts_s), np.array([0.5 + 0.01 * i for i in range(len(tokens))])),
    )


def test_words_take_their_times_and_mean_probability_from_their_tokens():
    found = words(" ab cd", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert [(word.text, word.start_s, word.end_s) for word in found] == [(" ab", 0.0, 0.3), (" cd", 0.3, 0.6)]
    assert found[0].probability == pytest.approx(0.51)


def test_spaces_at_the_end_are_no_words():
    found = words(" ab cd   ", [0.1 * step for step in range(10)])
    assert [(word.text, word.end_s) for word in found] == [
        (" ab", pytest.approx(0.3)),
        (" cd", pytest.approx(0.6)),
    ]


def test_no_tokens_are_no_words():
    assert words_of(TOKENIZER, [], Alignment(np.zeros(1), np.zeros(0))) == []


def test_punctuation_joins_its_word_and_the_pause_under_it_belongs_to_none():
    found = words(" a. b", [0.0, 0.1, 0.3, 2.0, 2.1, 2.3])
    assert [(word.text, word.start_s, word.end_s) for word in found] == [(" a.", 0.0, 0.3), (" b", 2.0, 2.3)]


def test_an_opening_quote_joins_the_word_behind_it():
    found = words(' "a b', [0.0, 0.1, 0.2, 0.4, 0.5, 0.6])
    assert [word.text for word in found] == [' "a', " b"]


def test_marks_alone_at_the_start_are_no_words():
    assert [word.text for word in words(" . ... a .", [0.1 * place for place in range(12)])] == [" a", " ."]
    assert words(" .", [0.0, 0.1, 0.2]) == []


def test_a_long_word_at_the_start_or_behind_a_sentence_starts_late():
    found = words(" a b. c d", [0.0, 1.0, 3.0, 3.1, 3.2, 3.3, 3.4, 5.0, 5.1, 5.2])
    assert [word.text for word in found] == [" a", " b.", " c", " d"]
    # Two medians (0.2 s) are left of the first word and of the one behind the full stop.
    assert [word.start_s for word in found] == pytest.approx([2.6, 3.0, 4.6, 5.0])
    assert [word.end_s for word in found] == pytest.approx([3.0, 3.2, 5.0, 5.2])
