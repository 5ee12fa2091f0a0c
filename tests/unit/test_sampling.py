"""Decoding at a temperature, over a decoder that answers from a script."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, pairwise

import numpy as np
import pytest

from ray_whisper_streaming.engines.search import (
    Candidates,
    Request,
    Transcript,
    candidate_count,
    decode_with_beams,
)

END = 99
"""The end of text."""

SAMPLES = 5

Text = tuple[int, ...]
Script = Callable[[Text], dict[int, float]]
"""What may follow a text, and how probable each token is."""


class ScriptedSteps:
    """Satisfies `Steps`: each row has a text of its own, and the script says what may follow.

    Attributes:
        fed: for each row, the texts of its beams at each step.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._live: list[int] = []
        self._texts: list[list[Text]] = []
        self.fed: list[list[list[Text]]] = []

    def begin(self, requests: Sequence[Request], beam_size: int) -> tuple[Candidates, np.ndarray]:
        self._beam_size = beam_size
        self._live = list(range(len(requests)))
        self._texts = [[tuple(request.prefix)] for request in requests]
        self.fed = [[] for _ in requests]
        return self._offered(), np.zeros(len(requests))

    def advance(
        self, staying: Sequence[int], parents: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> Candidates:
        assert {len(row) for row in chain(parents, tokens)} == {self._beam_size}
        self._live = [self._live[place] for place in staying]
        self._texts = [
            [(*self._texts[place][parent], token) for parent, token in zip(*grown, strict=True)]
            for place, *grown in zip(staying, parents, tokens, strict=True)
        ]
        for row, texts in zip(self._live, self._texts, strict=True):
            self.fed[row].append(texts)
        return self._offered()

    def attention(self, paths: Sequence[Sequence[int]]) -> list[None]:
        self.paths = paths
        return [None for _ in paths]

    def _offered(self) -> Candidates:
        count = candidate_count(self._beam_size)
        found = [[self._best(text, count) for text in texts] for texts in self._texts]
        tokens, probabilities = np.moveaxis(np.array(found), 3, 0)
        with np.errstate(divide="ignore"):
            return Candidates(tokens.astype(np.int64), probabilities, np.log(probabilities))

    def _best(self, text: Text, count: int) -> list[tuple[int, float]]:
        likeliest = sorted(self._script(text).items(), key=lambda one: -one[1])
        return [*likeliest, *((8, 0.0) for _ in range(count))][:count]


def decode(
    script: Script, seeds: Sequence[int], temperature: float, *, beam_size: int = SAMPLES, cap: int = 50
) -> tuple[list[Transcript], ScriptedSteps]:
    steps = ScriptedSteps(script)
    asked = [Request([1], 0, [], cap, seed) for seed in seeds]
    found = decode_with_beams(steps, asked, beam_size=beam_size, end_of_text=END, temperature=temperature)
    return found, steps


FIRST = {10: 0.4, 11: 0.2, 12: 0.15, 13: 0.1, 14: 0.07, 15: 0.05, 16: 0.03}


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0])
def test_tokens_are_drawn_from_the_likeliest_by_their_sharpened_probabilities(temperature: float) -> None:
    # One token, of which only six are offered; then a second, which differs by the first; then the end.
    def script(text: Text) -> dict[int, float]:
        return [FIRST, {text[-1] + 10: 0.7, 50: 0.3} if text else {}, {END: 1.0}][len(text)]

    _, steps = decode(script, range(600), temperature)
    drawn = 600 * SAMPLES
    offered = np.array([FIRST[token] for token in range(10, 16)]) ** (1 / temperature)
    second = 0.7 ** (1 / temperature) / (0.7 ** (1 / temperature) + 0.3 ** (1 / temperature))
    texts = list(chain.from_iterable(row[1] for row in steps.fed))
    firsts = Counter(text[0] for text in texts)
    assert sum(firsts.values()) == drawn
    assert firsts.keys() <= set(range(10, 16))
    seconds = Counter(text[1] == text[0] + 10 for text in texts)
    assert seconds[True] + sum(text[1] == 50 for text in texts) == drawn, "each goes on from its own text"
    # Five standard deviations. (The seeds are given: it does not fail now and then.)
    for share, count in [
        *((share, firsts[token]) for token, share in enumerate(offered / offered.sum(), 10)),
        (second, seconds[True]),
    ]:
        assert abs(count - share * drawn) <= 5 * np.sqrt(drawn * share * (1 - share)) + 1


LAST = 15


def branching(text: Text) -> dict[int, float]:
    """Texts end behind `LAST`, and nowhere else; they don't loop. Every text has other chances."""
    if text and text[-1] == LAST:
        return {END: 1.0}
    tokens = [token for token in range(10, LAST + 1) if token not in text[-1:]]
    shares = np.random.default_rng(list(text)).dirichlet(np.full(len(tokens), 5.0))
    return dict(zip(tokens, map(float, shares), strict=True))


def score(text: Text) -> float:
    """The mean of the tokens' logarithms."""
    return float(np.mean([np.log(branching(text[:place])[token]) for place, token in enumerate(text)]))


def test_the_best_of_the_samples_is_the_answer_and_those_that_ended_take_no_further_part() -> None:
    found, steps = decode(branching, range(200), 1.0)
    lengths = set()
    for answer, fed in zip(found, steps.fed, strict=True):
        ended = {text for texts in fed for text in texts if text[-1] == LAST}
        assert answer.finished
        assert tuple(answer.tokens) in ended
        assert score(tuple(answer.tokens)) == pytest.approx(max(map(score, ended)))
        assert answer.probabilities == pytest.approx(
            [branching(tuple(answer.tokens[:place]))[token] for place, token in enumerate(answer.tokens)]
        )
        for before, texts in pairwise(fed):
            left = sum(text[-1] == LAST for text in before)
            alive = {text[:-1] for text in texts}
            assert alive <= {text for text in before if text[-1] != LAST}
            assert len(set(texts)) <= SAMPLES - left
        lengths.add(len(answer.tokens))
    assert len(lengths) >= 3
    for answer, path, fed in zip(found, steps.paths, steps.fed, strict=True):
        for place, (beam, texts) in enumerate(zip(path, fed, strict=False)):
            assert texts[beam] == tuple(answer.tokens[: place + 1])


def test_a_row_draws_the_same_alone_and_in_any_batch_and_another_seed_something_else() -> None:
    seeds = list(range(40))
    alone = {seed: decode(branching, [seed], 0.8)[0][0].tokens for seed in seeds}
    random.Random(7).shuffle(seeds)
    for batch in (seeds, seeds[:9], [3, 4, 3]):
        together, _ = decode(branching, batch, 0.8)
        assert [one.tokens for one in together] == [alone[seed] for seed in batch]
    assert len({tuple(tokens) for tokens in alone.values()}) > 5


@pytest.mark.parametrize("beam_size", [1, 4, 5])
def test_without_a_temperature_nothing_is_drawn(beam_size: int) -> None:
    [searched], steps = decode(branching, [0], 0.0, beam_size=beam_size)
    found, others = decode(branching, [1, 2, 3], 0.0, beam_size=beam_size)
    assert all(one.tokens == searched.tokens for one in found)
    assert others.fed == steps.fed * 3
    assert len(set(steps.fed[0][0])) == beam_size, "beams, which differ from each other"


@pytest.mark.parametrize(("temperature", "beam_size"), [(1e-300, SAMPLES), (1.0, 1)])
def test_next_to_no_temperature_or_one_beam_is_greedy(temperature: float, beam_size: int) -> None:
    [greedy], _ = decode(branching, [0], 0.0, beam_size=1)
    found, _ = decode(branching, range(20), temperature, beam_size=beam_size)
    assert all(one.tokens == greedy.tokens for one in found)


def test_a_row_goes_on_for_as_long_as_any_sample_can_become_the_best() -> None:
    # By the mean of their logarithms: the first ends at once with -0.5; of four tokens, the most that there may be, the
    # second has -0.4 and the third -0.6.
    firsts = {10: 0.6, 11: 0.2, 12: 0.1, 13: 0.1}

    def script(text: Text) -> dict[int, float]:
        return firsts if not text else {END: 1.0} if text == (10,) else {text[-1] + 10: 1.0}

    found, steps = decode(script, range(200), 1.0, cap=4)
    seen = set()
    for answer, fed in zip(found, steps.fed, strict=True):
        drawn = {text[0] for text in fed[0]}
        if 11 in drawn:
            assert answer.tokens == [11, 21, 31, 41]
        elif 10 in drawn:
            assert answer.tokens == [10]
            assert len(fed) == 1
        seen.add((11 in drawn, fed[0][0][0]))
    assert {(True, 12), (True, 13), (False, 10), (False, 12)} <= seen


def test_samples_end_at_the_most_tokens_there_may_be_and_at_loops() -> None:
    found, steps = decode(lambda text: {10: 0.3, 12: 0.3, 14: 0.2, 16: 0.2}, range(20), 1.0, cap=6)
    assert {len(one.tokens) for one in found} == {6}
    assert not any(one.finished for one in found)
    assert max(map(len, steps.fed)) == 5
    [looped], _ = decode(lambda text: {10: 1.0}, [0], 1.0)
    assert set(looped.tokens) == {10}
    assert len(looped.tokens) < 50
