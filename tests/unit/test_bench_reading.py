"""How a stream reads: events and logs small enough to work out by hand."""

from __future__ import annotations

import pytest

from ray_whisper_streaming.bench.reading import PartialWords, count_partial_words, measure_turns
from ray_whisper_streaming.bench.scoring import Shown, StreamLog, Utterance
from ray_whisper_streaming.core.events import Committed, Event, Final, Partial, SpeechEnded, StreamFailed
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import PoolError


def say(text: str, start_s: float = 0.0) -> tuple[Word, ...]:
    """One word a second, each ending half a second after its start."""
    return tuple(Word(f" {word}", start_s + i, start_s + i + 0.5) for i, word in enumerate(text.split()))


def shown(*updates: tuple[str, str]) -> StreamLog:
    """Each update: what was committed in it, and the partial behind that."""
    log = StreamLog()
    for at_s, (committed, partial) in enumerate(updates, 1):
        if committed:
            log.shown.append(Shown(at_s, True, say(committed)))
        log.shown.append(Shown(at_s, False, say(partial)))
    return log


class TestPartialWords:
    def test_words_that_are_committed_as_they_stood_did_not_change(self):
        log = shown(("", "one"), ("", "one two"), ("one", "two"), ("two", ""))
        assert count_partial_words(log) == PartialWords(shown=2, changed=0)

    def test_a_word_that_becomes_another_changed(self):
        # "want" becomes "one", which stays; "to" becomes "two" in the moment it is committed.
        log = shown(("", "want"), ("", "one to"), ("one two", "three"), ("three", ""))
        counted = count_partial_words(log)
        assert counted == PartialWords(shown=4, changed=2)
        assert counted.changed_share == 0.5

    def test_a_word_that_goes_away_changed(self):
        assert count_partial_words(shown(("", "one um"), ("", "one"), ("one", ""))) == PartialWords(2, 1)

    def test_a_word_still_shown_at_the_end_was_never_committed(self):
        assert count_partial_words(shown(("", "one"), ("one", "you"))) == PartialWords(2, 1)

    def test_a_word_that_comes_between_changes_no_other(self):
        log = shown(("", "one three"), ("", "one two three"), ("one two three", ""))
        assert count_partial_words(log) == PartialWords(3, 0)

    def test_case_and_punctuation_are_no_change(self):
        assert count_partial_words(shown(("", "one"), ("One,", ""))) == PartialWords(1, 0)

    def test_what_is_committed_at_once_was_never_partial(self):
        counted = count_partial_words(shown(("one two", "")))
        assert counted == PartialWords(0, 0)
        assert counted.changed_share is None

    def test_letters_count_where_there_are_no_spaces(self):
        # Cut into words otherwise, but only one letter is another.
        log = StreamLog(shown=[Shown(1.0, False, (Word("今天", 0, 1), Word("气", 1, 2)))])
        log.shown.append(Shown(2.0, True, (Word("今", 0, 1), Word("天汽", 1, 2))))
        assert count_partial_words(log, "zh") == PartialWords(3, 1)


class TestLog:
    def record(self, *events: tuple[float, Event]) -> StreamLog:
        log = StreamLog()
        for at_s, event in events:
            log.record(event, at_s)
        return log

    def test_an_utterance_knows_its_first_text_its_silence_and_its_end(self):
        words, more = say("one two"), say("three", 4.0)
        log = self.record(
            (1.0, Partial(words=())),
            (1.5, Partial(words=words[:1])),
            (2.5, Committed(words=words, first_index=0)),
            (2.6, SpeechEnded(at_s=1.7)),
            (2.8, Final(utterance=0, words=words)),
            (5.0, Committed(words=more, first_index=2)),
            (5.0, Final(utterance=1, words=more, end_of_stream=True)),
        )
        assert log.utterances == [
            Utterance(words=words, shown_at_s=1.5, final_at_s=2.8, silent_at_s=2.6),
            Utterance(words=more, shown_at_s=5.0, final_at_s=5.0),
        ]
        assert log.text == "one two three"

    def test_what_was_not_understood_is_no_utterance_and_takes_its_silence_with_it(self):
        log = self.record(
            (0.5, Partial(words=say("uh"))),
            (1.0, SpeechEnded(at_s=0.2)),
            (1.2, Final(utterance=0, words=())),
            (3.0, Committed(words=say("one", 2.0), first_index=0)),
            (3.5, Final(utterance=1, words=say("one", 2.0), end_of_stream=True)),
        )
        assert log.utterances == [Utterance(words=say("one", 2.0), shown_at_s=3.0, final_at_s=3.5)]

    def test_a_failure_is_kept_by_its_kind(self):
        assert self.record((1.0, StreamFailed(error=PoolError("gone")))).failure == "PoolError"


class TestTurns:
    FIRST, SECOND = say("one two", 1.0), say("three four", 6.0)
    """They end at 2.5 and 7.5 s."""

    def utterance(self, words, shown_at_s: float, final_at_s: float, silent_at_s: float | None) -> Utterance:
        return Utterance(words=words, shown_at_s=shown_at_s, final_at_s=final_at_s, silent_at_s=silent_at_s)

    def test_delays_count_from_the_first_and_the_last_word_that_was_said(self):
        # The system's own times are wrong by 0.3 s.
        late = [tuple(word.shifted(0.3) for word in words) for words in (self.FIRST, self.SECOND)]
        log = StreamLog(
            utterances=[self.utterance(late[0], 1.9, 3.5, 3.4), self.utterance(late[1], 6.7, 8.4, 8.3)]
        )
        turns = measure_turns(self.FIRST + self.SECOND, log, 20.0)
        assert turns.first_partial_delays_s == pytest.approx((0.9, 0.7))
        assert turns.endpoint_delays_s == pytest.approx((1.0, 0.9))

    def test_without_a_reference_the_systems_own_times_count(self):
        log = StreamLog(utterances=[self.utterance(self.FIRST, 1.9, 3.5, 3.4)])
        turns = measure_turns((), log, 20.0)
        assert turns.first_partial_delays_s == pytest.approx((0.9,))
        assert turns.endpoint_delays_s == pytest.approx((1.0,))

    @pytest.mark.parametrize("silent_at_s", [None, 8.0])
    def test_the_end_of_the_audio_is_no_silence(self, silent_at_s: float | None):
        log = StreamLog(utterances=[self.utterance(self.FIRST, 1.9, 8.0, silent_at_s)])
        assert measure_turns(self.FIRST, log, 8.0).endpoint_delays_s == ()

    def test_a_part_of_a_long_utterance_has_no_beginning(self):
        log = StreamLog(
            utterances=[
                self.utterance(self.FIRST, 1.9, 3.0, None),
                self.utterance(self.SECOND, 6.7, 8.4, 8.3),
            ]
        )
        turns = measure_turns(self.FIRST + self.SECOND, log, 20.0)
        assert turns.first_partial_delays_s == pytest.approx((0.9,))
        assert turns.endpoint_delays_s == pytest.approx((0.9,))
