"""Whether probabilities warn of wrong words, and whether word times are right."""

from __future__ import annotations

from ray_whisper_streaming import Committed, Word
from ray_whisper_streaming.bench.scoring import StreamLog
from ray_whisper_streaming.bench.word_quality import JudgedWord, WordQuality, judge_words


def log_of(*words: Word) -> StreamLog:
    log = StreamLog()
    log.record(Committed(words=words, first_index=0), 3.0)
    return log


def test_words_are_judged_in_their_place_and_times_by_the_reference() -> None:
    said = (Word(" The", 0.0, 0.2), Word(" blue", 0.3, 0.6), Word(" boat", 0.7, 1.0))
    heard = log_of(
        Word(" The", 0.1, 0.2, probability=0.9),
        Word(" new", 0.3, 0.6, probability=0.4),
        Word(" boat,", 0.6, 1.3, probability=0.8),
    )
    first, second, third = judge_words("The blue boat", said, heard)
    assert (first.right, second.right, third.right) == (True, False, True)
    assert (first.probability, second.probability) == (0.9, 0.4)
    assert second.time_errors_s is None
    assert third.time_errors_s is not None
    assert [round(error, 6) for error in (*(first.time_errors_s or ()), *third.time_errors_s)] == [
        0.1,
        0,
        0.1,
        0.3,
    ]


def test_without_word_times_only_the_words_are_judged() -> None:
    heard = log_of(Word(" guten", 0.0, 0.2, probability=0.5), Word(" Tag", 0.2, 0.4, probability=0.7))
    judged = judge_words("Guten Tag!", (), heard, "de")
    assert [word.right for word in judged] == [True, True]
    assert [word.time_errors_s for word in judged] == [None, None]


def test_the_least_probable_tenth_is_held_against_all() -> None:
    wrong = [JudgedWord(0.1, right=False), JudgedWord(0.2, right=True), JudgedWord(0.55, right=False)]
    right = [JudgedWord(0.5 + i / 100, right=True, time_errors_s=(0.02 * i, 0.1)) for i in range(17)]
    quality = WordQuality((*right, *wrong))
    assert quality.wrong_share == 0.1
    assert quality.unsure_wrong_share == 0.5
    assert quality.time_error_s == 0.1


def test_what_cannot_be_told_is_none() -> None:
    few = WordQuality((JudgedWord(0.5, right=False),) * 9)
    assert few.wrong_share == 1.0
    assert few.unsure_wrong_share is None
    assert few.time_error_s is None
    assert WordQuality().wrong_share is None
