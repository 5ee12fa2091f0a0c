from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.world import say

from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.policy import (
    AGREEMENT_SPAN_S,
    PATIENCE_S,
    SURE_PROBABILITY,
    AgreementPolicy,
    CommitPolicy,
    CutoffPolicy,
    HybridPolicy,
    make_policy,
)
from ray_whisper_streaming.core.transcript import Word


def passes(policy: CommitPolicy, *texts: str, end_s: float = 10.0, settled: bool = False) -> list[int]:
    """What the policy commits of each pass; committed words are gone from the next one, as in a stream."""
    counts: list[int] = []
    for text in texts:
        words = say(text, start_s=1.0)[sum(counts) :]
        counts.append(policy.receive(words, audio_end_s=end_s, settled=settled))
    return counts


def test_cutoff_commits_what_ends_well_before_the_end() -> None:
    words = say("one two three", start_s=1.0)  # ends at 1.3, 1.7, 2.1
    policy = CutoffPolicy(0.5)
    assert policy.receive(words, audio_end_s=2.25, settled=False) == 2
    assert policy.receive(words, audio_end_s=1.5, settled=False) == 0
    assert policy.receive(words, audio_end_s=2.25, settled=True) == 3
    assert policy.receive((), audio_end_s=2.25, settled=False) == 0


def test_a_word_behind_an_unfinished_one_is_not_committed() -> None:
    words = (*say("long", 1.0, word_s=1.0), *say("short", 1.1, word_s=0.1))
    assert CutoffPolicy(0.5).receive(words, audio_end_s=2.2, settled=False) == 0


def test_agreement_takes_two_passes_and_commits_each_word_once() -> None:
    assert passes(AgreementPolicy(2), "one two", "one two three", "one two three four") == [0, 2, 1]


def test_three_passes_take_three() -> None:
    assert passes(AgreementPolicy(3), "one two", "one two", "one two three", "one two three") == [0, 0, 2, 0]


def test_agreement_ends_at_the_first_difference() -> None:
    assert passes(AgreementPolicy(2), "one too three", "one two three", "one two three") == [0, 1, 2]


def test_agreement_is_about_letters() -> None:
    assert passes(AgreementPolicy(2), "One, two", "one two.") == [0, 2]


def test_agreement_starts_anew_after_a_reset() -> None:
    policy = AgreementPolicy(2)
    passes(policy, "one two")
    policy.reset()
    assert passes(policy, "one two", "one two") == [0, 2]


def test_hybrid_commits_at_once_what_much_audio_follows() -> None:
    words = say("one two", start_s=1.0)
    assert HybridPolicy(0.5).receive(words, audio_end_s=10.0, settled=False) == 2


def doubted(text: str) -> list[Word]:
    return [replace(word, probability=SURE_PROBABILITY - 0.1) for word in say(text, start_s=1.0)]


def test_hybrid_believes_a_sure_word_sooner_than_a_doubted_one() -> None:
    sure, end_s = say("one two", start_s=1.0), 2.0  # the words end at 1.3 and 1.7
    assert HybridPolicy(0.5).receive(sure, audio_end_s=end_s, settled=False) == 1
    assert HybridPolicy(0.5).receive(doubted("one two"), audio_end_s=end_s, settled=False) == 0
    assert HybridPolicy(0.5).receive(doubted("one two"), audio_end_s=1.7 + PATIENCE_S, settled=False) == 2


def test_a_doubted_word_holds_up_the_sure_ones_behind_it() -> None:
    words = [*doubted("one"), *say("two", start_s=1.4)]
    assert HybridPolicy(0.5).receive(words, audio_end_s=2.5, settled=False) == 0


def test_hybrid_agreement_spans_time_not_passes() -> None:
    policy = HybridPolicy(0.5)
    words = doubted("one two")
    for end_s in (2.0, 2.2, 2.4):
        assert policy.receive(words, audio_end_s=end_s, settled=False) == 0
    assert policy.receive(words, audio_end_s=2.0 + AGREEMENT_SPAN_S, settled=False) == 2


def test_hybrid_agreement_takes_every_pass_of_the_span() -> None:
    policy = HybridPolicy(0.5)
    for end_s, text in ((2.0, "one two"), (2.3, "won two"), (2.6, "one two"), (2.9, "one two")):
        assert policy.receive(doubted(text), audio_end_s=end_s, settled=False) == 0
    # The odd pass at 2.3 s is out of the span now. (And "one" has had its audio.)
    assert policy.receive(doubted("one two"), audio_end_s=3.4, settled=False) == 2


def test_hybrid_never_commits_what_may_be_half_a_word() -> None:
    policy = HybridPolicy(0.5)
    # "two" ends 0.05 s before the end of the audio; "one" was heard by both passes.
    assert policy.receive(doubted("one"), audio_end_s=0.9, settled=False) == 0
    assert policy.receive(doubted("one two"), audio_end_s=1.75, settled=False) == 1


@pytest.mark.parametrize("policy", ["cutoff", "hybrid"])
def test_settled_words_are_committed(policy: str) -> None:
    made = make_policy(StreamOptions(policy=policy))  # type: ignore[arg-type]
    assert passes(made, "one two", end_s=1.8, settled=True) == [2]


def test_the_options_name_the_policy() -> None:
    kinds = {"cutoff": CutoffPolicy, "agreement": AgreementPolicy, "hybrid": HybridPolicy}
    for name, kind in kinds.items():
        assert isinstance(make_policy(StreamOptions(policy=name)), kind)  # type: ignore[arg-type]
