from __future__ import annotations

import pytest
from tests.support.world import say

from ray_whisper_streaming.core.ledger import OVERLONG, Ledger
from ray_whisper_streaming.core.prompting import CONTEXT_CHARACTERS, ContextText
from ray_whisper_streaming.core.transcript import Word, join_text


def make(max_utterance_s: float = 10.0) -> Ledger:
    return Ledger(ContextText(carry=True), max_utterance_s)


def test_ids_go_on_over_utterances() -> None:
    ledger = make()
    assert ledger.commit(say("one two")).first_index == 0
    assert ledger.commit(say("three", 2.0)).first_index == 2
    ledger.finish(end_of_stream=False)
    ledger.clear_window()
    assert ledger.commit(say("four", 3.0)).first_index == 3


def test_starts_never_go_back_and_ends_never_lie_before_starts() -> None:
    ledger = make()
    ledger.commit([Word(" one", 1.0, 1.5)])
    event = ledger.commit([Word(" two", 0.8, 0.9), Word(" three", 1.2, 1.4)])
    assert [(word.start_s, word.end_s) for word in event.words] == [(1.0, 1.0), (1.2, 1.4)]
    assert ledger.last_end_s == 1.5


def test_a_final_holds_the_words_of_its_utterance() -> None:
    ledger = make()
    ledger.commit(say("one two"))
    first = ledger.finish(end_of_stream=False)
    ledger.commit(say("three", 3.0))
    second = ledger.finish(end_of_stream=True)
    assert (first.utterance, first.text, first.end_of_stream) == (0, "one two", False)
    assert (second.utterance, second.text, second.end_of_stream) == (1, "three", True)
    assert ledger.finish(end_of_stream=False).words == ()


def test_trimmed_words_become_context() -> None:
    ledger = make()
    ledger.commit(say("one two three"))  # middles at 0.65, 1.05, 1.45
    ledger.trim(1.05)
    assert join_text(ledger.window) == "two three"
    assert str(ledger.context) == "one"
    ledger.clear_window()
    assert not ledger.window
    assert str(ledger.context) == "one two three"


def test_context_is_short_and_begins_with_a_whole_word() -> None:
    context = ContextText(carry=True)
    for number in range(200):
        context.append(f" {number * 7919:07}")
    text = str(context)
    assert len(text) <= CONTEXT_CHARACTERS
    assert len(text.split()[0]) == 7
    assert text.endswith(f" {199 * 7919:07}")


def test_context_without_spaces_is_short_too() -> None:
    context = ContextText(carry=True)
    for number in range(300):
        context.append(chr(ord("一") + number))
    assert len(str(context)) == CONTEXT_CHARACTERS


@pytest.mark.parametrize("phrase", [" Thank you.", " no", "谢谢观看。"])
def test_a_loop_is_no_context_but_what_follows_is_again(phrase: str) -> None:
    context = ContextText(carry=True)
    for _ in range(3):
        context.append(phrase)
    assert str(context), "people do say things three times"
    for _ in range(30):
        context.append(phrase)
    assert str(context) == ""
    for number in range(100):
        context.append(f" {number * 7919}")
    assert str(context).endswith(f" {99 * 7919}")


def test_context_can_be_left_out_and_forgotten() -> None:
    silent = ContextText(carry=False)
    silent.append(" one")
    assert str(silent) == ""
    context = ContextText(carry=True)
    context.append(" one")
    context.reset()
    assert str(context) == ""


def test_an_overlong_utterance_is_split_where_a_sentence_ends() -> None:
    ledger = make(max_utterance_s=10.0)
    ledger.commit([Word(" one.", 0.0, 1.0), Word(" two", 9.0, 11.0)])
    assert ledger.split_overlong() is None, "no sentence ends here"
    ledger.commit([Word(" three.", 11.0, 12.0)])
    split = ledger.split_overlong()
    assert split is not None
    assert split.text == "one. two three."
    assert not split.end_of_stream
    assert ledger.split_overlong() is None


def test_or_anywhere_if_none_ends_for_long() -> None:
    ledger = make(max_utterance_s=10.0)
    ledger.commit([Word(" one", 0.0, 1.0), Word(" two", 1.0, 10.0 * OVERLONG - 0.1)])
    assert ledger.split_overlong() is None
    ledger.commit([Word(" three", 10.0 * OVERLONG - 0.1, 10.0 * OVERLONG)])
    assert ledger.split_overlong() is not None
