from __future__ import annotations

import pytest
from tests.support.world import say

from ray_whisper_streaming.core.endpointing import VoiceMap
from ray_whisper_streaming.core.hallucination import (
    COMPRESSION_RATIO_LIMIT,
    compression_ratio,
    cut_crowd,
    cut_echo,
    cut_repetition,
    cut_unheard,
    drop_unvoiced,
    is_hallucination,
)
from ray_whisper_streaming.core.jobs import Result
from ray_whisper_streaming.core.transcript import Word, join_text


def cut(text: str, before: str = "") -> str:
    return join_text(cut_repetition(say(text), say(before)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one",
        "no no no no no",
        "I think I think so",
        "the one and the one and the one and only",
        "bla bla bla and bla bla bla and on",
    ],
)
def test_what_people_do_say_stays(text: str) -> None:
    assert cut(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("no no no no no no", "no"),
        ("oh No, no. no no no NO no stop it", "oh No, stop it"),
        ("so thank you thank you thank you thank you", "so thank you"),
        ("thank you thank you thank you thank you thank", "thank you"),
        ("a b c d e f g h " * 4, "a b c d e f g h"),
        ("I know that I know that I know that I know that I said", "I know that I said"),
        ("no no no no no no yes yes yes yes yes yes", "no yes"),
    ],
)
def test_loops_are_cut_and_what_follows_stays(text: str, left: str) -> None:
    assert cut(text) == left


def test_a_loop_may_have_begun_in_the_committed_words() -> None:
    assert cut("no", before="no no no no no") == ""
    assert cut("no stop it", before="no no no no no") == "stop it"
    assert cut("you thank you fine", before="thank you thank you thank") == "fine"


def test_a_loop_among_the_committed_words_takes_nothing_new() -> None:
    assert cut("and on it goes", before="no no no no no no no") == "and on it goes"


def test_words_without_voice_are_dropped() -> None:
    voice = VoiceMap()
    voice.add(16_000, 32_000)
    words = (
        Word(" before", 0.1, 0.7),
        Word(" near", 0.5, 0.9),
        Word(" in", 1.2, 1.3),
        Word(" after", 2.5, 3.0),
    )
    assert [word.text for word in drop_unvoiced(words, voice)] == [" near", " in"]
    assert drop_unvoiced(words, VoiceMap()) == []


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({}, False),
        ({"compression_ratio": 2.3}, False),
        ({"compression_ratio": 2.5}, True),
        ({"no_speech_probability": 0.9, "average_log_probability": -0.3}, False),
        ({"no_speech_probability": 0.5, "average_log_probability": -1.9}, False),
        ({"no_speech_probability": 0.3, "average_log_probability": -2.1}, True),
        ({"no_speech_probability": 0.9, "average_log_probability": -1.1}, True),
    ],
)
def test_whole_answers_are_judged_by_compression_and_whispers_own_doubt(
    facts: dict[str, float], verdict: bool
) -> None:
    assert is_hallucination(Result(job_id="s/1", **facts)) is verdict  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("no_speech", "log_probability", "verdict"),
    [(0.5, -0.65, True), (0.3, -0.75, True), (0.3, -0.65, False), (0.15, -0.9, False), (0.9, -0.5, False)],
)
def test_less_doubt_is_enough_where_no_voice_was_listened_for(
    no_speech: float, log_probability: float, verdict: bool
) -> None:
    result = Result(job_id="s/1", no_speech_probability=no_speech, average_log_probability=log_probability)
    assert is_hallucination(result, voiced=False) is verdict
    assert not is_hallucination(result)


def test_words_that_take_no_time_are_cut() -> None:
    said = [Word(" the", 1.0, 1.2), Word(" end.", 1.2, 1.6)]
    made_up = [Word(f" w{i}", 1.6 + 0.02 * i, 1.62 + 0.02 * i) for i in range(5)]
    assert cut_crowd([*said, *made_up]) == said
    assert cut_crowd([*said, *made_up[:2]]) == [*said, *made_up[:2]]
    assert cut_crowd([*made_up[:2], *said, *made_up[:2]]) == [*made_up[:2], *said, *made_up[:2]]


def test_compression_tells_loops_from_speech() -> None:
    speech = "Good morning, and here is the weather for today. It will be cloudy along the coast."
    assert compression_ratio("") == 0.0
    assert compression_ratio(speech) < COMPRESSION_RATIO_LIMIT < compression_ratio("and so on " * 20)


def test_what_is_said_again_in_no_time_was_not_said_again() -> None:
    said = say("Welcome to the Old Town.", 1.0)
    ends_s = said[-1].end_s
    # As tiny.en answered in a stream: four of the five words take no time, one of them in the middle 0.12 s.
    times = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.12), (0.12, 0.12), (0.12, 0.12))
    echo = [
        Word(word.text.lower(), ends_s + start_s, ends_s + end_s)
        for word, (start_s, end_s) in zip(said, times, strict=True)
    ]
    assert cut_echo((*said, *echo)) == list(said)
    assert cut_echo(echo, said) == []
    spoken = [*said, *say("Welcome to the old town.", ends_s)]
    assert cut_echo(spoken) == spoken, "a phrase said twice takes its time twice"
    assert cut_echo(echo[:2], said[:2]) == echo[:2], "two words are an alignment's weakness"


def test_what_begins_where_the_audio_ends_was_not_heard() -> None:
    said = say("Over the river and into")
    end_s = said[-1].end_s
    assert cut_unheard(said, end_s) == list(said)
    assert cut_unheard([*said, Word(" the", end_s + 0.3, end_s + 0.4)], end_s + 0.4) == list(said)
    assert cut_unheard([*said, Word(" the", end_s + 0.2, end_s + 0.4)], end_s + 0.4) != list(said)
    assert cut_unheard([], 1.0) == []


def test_still_less_is_enough_where_text_was_given_beforehand() -> None:
    result = Result(job_id="s/1", no_speech_probability=0.35, average_log_probability=-0.65)
    assert is_hallucination(result, voiced=False, prompted=True)
    assert not is_hallucination(result, voiced=False)
    assert not is_hallucination(result, prompted=True)
