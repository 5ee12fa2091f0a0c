from __future__ import annotations

import pytest

from ray_whisper_streaming.core.languages import LANGUAGES, LanguageTracker, check_language
from ray_whisper_streaming.errors import ConfigurationError


def test_whisper_knows_a_hundred_languages() -> None:
    assert len(LANGUAGES) == 100
    assert {"en", "de", "zh", "yue", "haw"} <= LANGUAGES


@pytest.mark.parametrize("language", ["", "EN", "english", "xx", "auto"])
def test_other_codes_are_refused(language: str) -> None:
    with pytest.raises(ConfigurationError, match="language"):
        check_language("language", language)


def test_a_language_given_is_settled_and_stays() -> None:
    tracker = LanguageTracker("de")
    assert tracker.settled
    assert tracker.probability == 1.0
    assert not tracker.receive("en", 1.0, 30.0)
    assert tracker.language == "de"


def test_one_sure_detection_from_enough_audio_settles() -> None:
    tracker = LanguageTracker(None)
    assert not tracker.receive("de", 0.99, 1.0)
    assert not tracker.settled
    assert tracker.receive("en", 0.85, 2.5)
    assert (tracker.language, tracker.probability) == ("en", 0.85)
    assert not tracker.receive("fr", 0.99, 9.0), "once and for all"
    assert tracker.language == "en"


def test_certainty_settles_at_once() -> None:
    assert LanguageTracker(None).receive("en", 1.0, 0.5)


def test_after_six_seconds_the_likeliest_is_taken() -> None:
    tracker = LanguageTracker(None)
    assert not tracker.receive("nl", 0.6, 3.0)
    assert not tracker.receive("de", 0.5, 4.0)
    assert tracker.receive("de", 0.4, 6.0)
    assert tracker.language == "de"
    # Each counts by the length of its audio.
    assert tracker.probability == pytest.approx((0.5 * 4 + 0.4 * 6) / (0.6 * 3 + 0.5 * 4 + 0.4 * 6))


def test_a_single_odd_window_settles_nothing() -> None:
    tracker = LanguageTracker(None)
    assert not tracker.receive("es", 0.65, 1.0)
    assert not tracker.receive("es", 0.6, 1.5)
    assert not tracker.receive("es", 0.6, 2.0)
    assert not tracker.receive("ca", 0.9, 2.5)
    assert not tracker.receive("es", 0.5, 3.0)
    assert tracker.receive("es", 0.85, 4.0)
    assert tracker.language == "es"


def test_short_utterances_add_up() -> None:
    tracker = LanguageTracker(None)
    for _ in range(4):
        assert not tracker.receive("de", 0.5, 0.8)
        assert not tracker.receive("de", 0.5, 1.4)
    assert tracker.receive("de", 0.5, 0.8)
    assert tracker.language == "de"


def test_a_language_that_no_probability_speaks_for_is_taken_where_no_other_is_allowed() -> None:
    tracker = LanguageTracker(None)
    assert tracker.receive("uz", 0.0, 6.0)
    assert (tracker.language, tracker.probability) == ("uz", 0.0)
