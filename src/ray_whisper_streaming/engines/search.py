"""Beam search over rows that have nothing in common but the model: each its own context, prefix, language and length.

A runtime computes (`Steps`); what is kept of it is decided here. The whole prompt, forced prefix included, goes through
the decoder in one pass, once per row; only new tokens are stepped, once per beam. A row that is done leaves the batch.
One beam is greedy decoding. With a temperature beams are samples, each of which goes its own way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.engines.loops import is_looping

__all__ = [
    "Candidates",
    "Request",
    "Steps",
    "TokenRules",
    "Transcript",
    "candidate_count",
    "decode_with_beams",
]

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_Candidate: TypeAlias = tuple[int, int, float, float]
"""The beam it would follow, the token, its probability among all words, and the score of both together."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Which tokens may be chosen.

    Attributes:
        end_of_text: its token; all special tokens are greater and never chosen.
        no_speech: the token whose probability at the start of transcript says that nobody speaks.
        suppressed: tokens never chosen.
        blanks: tokens that may not stand first behind a prefix.
    """

    end_of_text: int
    no_speech: int
    suppressed: Indices
    blanks: Indices


@dataclass(frozen=True, slots=True)
class Request:
    """One row to decode.

    Attributes:
        prompt: tokens before the answer.
        start: where among them the start of transcript stands.
        prefix: what the answer must begin with.
        max_tokens: of the answer, prefix included.
        seed: of what is drawn for it, from 0 on.
    """

    prompt: Sequence[int] = field(repr=False)
    start: int
    prefix: Sequence[int] = field(repr=False)
    max_tokens: int
    seed: int = 0

    @classmethod
    def of_batch(
        cls,
        start_of_transcript: int,
        prompts: Sequence[Sequence[int]],
        prefixes: Sequence[Sequence[int]],
        max_tokens: Sequence[int],
        seeds: Sequence[int],
    ) -> list[Request]:
        """One a row, whose prompt holds the token ``start_of_transcript``."""
        return [
            cls(prompt, list(prompt).index(start_of_transcript), prefix, cap, seed)
            for prompt, prefix, cap, seed in zip(prompts, prefixes, max_tokens, seeds, strict=True)
        ]


@dataclass(slots=True)
class Transcript:
    """What was decoded of a row.

    Attributes:
        tokens: of the answer, prefix included, without the end of text.
        probabilities: of each among all words; 1.0 for those of the prefix.
        no_speech_probability: of the no-speech token at the start of transcript.
        path: which of the row's beams it was at each step.
        finished: whether the model ended it.
        attention: of the alignment heads from the start of transcript on, shape (alignment heads, tokens, positions);
            an array of the runtime's.
    """

    tokens: list[int]
    probabilities: list[float]
    no_speech_probability: float
    path: list[int] = field(default_factory=list[int])
    finished: bool = False
    attention: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The likeliest tokens behind each beam, best first; shape (rows, beams, candidates) each.

    Attributes:
        tokens: that may be chosen, `candidate_count` of them.
        probabilities: of each among all words, those never chosen too: how sure the model was of what it heard.
        logarithms: of the probability of each among the tokens that may be chosen.
    """

    tokens: Int64
    probabilities: Float64
    logarithms: Float64


class Steps(Protocol):
    """A decoder at work on some rows."""

    def begin(self, requests: Sequence[Request], beam_size: int) -> tuple[Candidates, Float64]:
        """Read each row's prompt and prefix.

        Returns:
            what may follow, for one beam each; and each row's no-speech probability, shape (rows,).
        """
        ...

    def advance(
        self, staying: Sequence[int], parents: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> Candidates:
        """Go on by a token per beam.

        Args:
            staying: places, among the rows of the call before, of those not done.
            parents: which of its row's former beams each beam goes on from, for each row that stays.
            tokens: that each beam goes on by.
        """
        ...

    def attention(self, paths: Sequence[Sequence[int]]) -> Sequence[Any]:
        """`Transcript.attention` of each row that was begun with, given the path of one of its beams."""
        ...


def candidate_count(beam_size: int) -> int:
    """How many tokens a beam must offer: one more than beams, because the end of text may be among them and another
    must take its place.
    """
    return beam_size + 1 if beam_size > 1 else 1


def decode_with_beams(
    steps: Steps,
    requests: Sequence[Request],
    *,
    beam_size: int,
    end_of_text: int,
    temperature: float = 0.0,
    length_penalty: float = 1.0,
    patience: float = 1.0,
) -> list[Transcript]:
    """Decode each row to its end: until enough of its beams ended, or none can become better than the best that did.

    With a temperature above 0 each beam is a sample: it draws every token from those it was offered, with chances
    proportional to their probabilities to the power of 1 / temperature. These are the `candidate_count` likeliest, not
    the whole vocabulary ("top-k sampling"): one beam is offered one token, so that there is nothing to draw. The best
    sample is the answer, as the best beam is (OpenAI's ``best_of``). What is drawn depends on the row's seed alone.

    Args:
        steps: what computes.
        requests: what is asked.
        beam_size: beams of each row.
        end_of_text: its token.
        temperature: 0 searches for the best; the higher, the more is left to chance.
        length_penalty: answers are compared by the sum of their new tokens' logarithms over their number to this
            power: 0 favours short ones, 1 compares means.
        patience: so many times the beams must end.
    """
    rules = _Rules(end_of_text, beam_size, temperature, length_penalty, max(1, round(beam_size * patience)))
    offered = _drawn if temperature > 0 else _ranked
    candidates, no_speech = steps.begin(requests, beam_size)
    rows = [
        _Row(
            request,
            Transcript(
                tokens=list(request.prefix[: request.max_tokens]),
                probabilities=[1.0] * min(len(request.prefix), request.max_tokens),
                no_speech_probability=probability,
            ),
            rules,
        )
        for request, probability in zip(requests, no_speech.tolist(), strict=True)
    ]
    live = rows
    while True:
        # One entry per live row: where its new beams come from.
        followed = [
            row.grow(ranked) for row, ranked in zip(live, offered(live, candidates, rules), strict=True)
        ]
        staying = [place for place, parents in enumerate(followed) if parents]
        if not staying:
            break
        live = [live[place] for place in staying]
        candidates = steps.advance(
            staying,
            [followed[place] for place in staying],
            [[beam.transcript.tokens[-1] for beam in row.beams] for row in live],
        )
        for row in live:
            for place, beam in enumerate(row.beams):
                beam.transcript.path.append(place)
    answers = [row.answer for row in rows]
    for answer, attention in zip(answers, steps.attention([one.path for one in answers]), strict=True):
        answer.attention = attention
    return answers


@dataclass(frozen=True, slots=True)
class _Rules:
    """What is equal for all rows of a search; see `decode_with_beams`. ``enough``: answers that end it."""

    end_of_text: int
    beam_size: int
    temperature: float
    length_penalty: float
    enough: int


@dataclass(slots=True)
class _Beam:
    """One way to go on.

    Attributes:
        transcript: so far.
        score: sum of the logarithms of its new tokens' probabilities.
    """

    transcript: Transcript
    score: float = 0.0

    def longer(self, tokens: Sequence[int], probabilities: Sequence[float], score: float) -> _Beam:
        """With further tokens."""
        one = self.transcript
        return _Beam(
            Transcript(
                [*one.tokens, *tokens],
                [*one.probabilities, *probabilities],
                one.no_speech_probability,
                list(one.path),
            ),
            score,
        )


class _Row:
    """The beams of one row."""

    def __init__(self, request: Request, transcript: Transcript, rules: _Rules) -> None:
        self._cap = request.max_tokens
        self._forced = len(request.prefix)
        self._seed = request.seed
        self._rules = rules
        self.beams = [_Beam(transcript)]
        # The score by its length, and what it is.
        self._ended: list[tuple[float, Transcript]] = []

    @property
    def answer(self) -> Transcript:
        """The best that ended."""
        return max(self._ended, key=lambda ended: ended[0])[1]

    @cached_property
    def dice(self) -> np.random.Generator:
        """Its own, so that what others draw doesn't matter."""
        return np.random.default_rng(self._seed)

    def grow(self, candidates: Iterable[_Candidate]) -> list[int]:
        """Go on with the best of all candidates, which come best first, or with what each sample drew.

        Returns:
            the beam that each new one came from; none where the row is done.
        """
        rules, cap = self._rules, self._cap
        if len(self.beams[0].transcript.tokens) >= cap:
            self._end(self.beams[0])
            return []
        grown: list[_Beam] = []
        parents: list[int] = []
        for rank, (parent, token, probability, score) in enumerate(candidates):
            beam = self.beams[parent]
            if token == rules.end_of_text:
                # It counts among the best alone: many unlikely ends must not end the search.
                if rank < rules.beam_size:
                    self._end(beam.longer((), (), score), finished=True)
                continue
            beam = beam.longer((token,), (probability,), score)
            # A loop is as good as any: cut, it mostly says what was said. (Put last in a trial, it lost to the
            # same loop, ended before it could be told to be one.)
            if len(beam.transcript.tokens) >= cap or is_looping(beam.transcript.tokens):
                self._end(beam)
                if len(self._ended) >= rules.enough:
                    break
            else:
                grown.append(beam)
                parents.append(parent)
                if len(grown) == rules.beam_size:
                    break
        if len(self._ended) >= rules.enough or not any(map(self._hopeful, grown)):
            return []
        # All rows have the same number of beams: the last is repeated, without a chance, where too little may follow.
        while len(grown) < rules.beam_size:
            grown.append(grown[-1].longer((), (), -np.inf))
            parents.append(parents[-1])
        self.beams = grown
        return parents

    def _end(self, beam: _Beam, *, finished: bool = False) -> None:
        beam.transcript.finished = finished
        # The end of text has a probability but no length, as in the reference decoder and in CTranslate2.
        new = len(beam.transcript.tokens) - self._forced
        self._ended.append((self._by_length(beam.score, new), beam.transcript))

    def _hopeful(self, beam: _Beam) -> bool:
        """Whether a beam would be the best if all that may follow it were certain."""
        most = self._by_length(beam.score, self._cap - self._forced)
        return all(score < most for score, _ in self._ended)

    def _by_length(self, score: float, tokens: int) -> float:
        return score / max(1, tokens) ** self._rules.length_penalty


def _ranked(rows: Sequence[_Row], candidates: Candidates, _: _Rules) -> Iterator[Iterator[_Candidate]]:
    """The candidates of each row, best first."""
    before = np.array([[beam.score for beam in row.beams] for row in rows])
    scores = (before[:, :, None] + candidates.logarithms).reshape(len(rows), -1)
    count = candidates.tokens.shape[2]
    order = np.argsort(-scores, axis=1, kind="stable")
    # Python's own numbers, all at once: one by one out of arrays they are slow.
    parts = (part.reshape(scores.shape) for part in (candidates.tokens, candidates.probabilities, scores))
    columns = (np.take_along_axis(part, order, axis=1).tolist() for part in parts)
    return (zip(*row, strict=True) for row in zip((order // count).tolist(), *columns, strict=True))


def _drawn(rows: Sequence[_Row], candidates: Candidates, rules: _Rules) -> Iterator[Iterator[_Candidate]]:
    """What each sample of each row drew; at first all draw from what the only beam was offered."""
    _, beams, count = candidates.tokens.shape
    # Which of some logarithms is the greatest, a number of the standard Gumbel distribution added to each, is a draw by
    # what they are the logarithms of. Those of powers are divided by the temperature; the numbers may be multiplied.
    noise = np.stack([row.dice.gumbel(size=(rules.beam_size, count)) for row in rows])
    choices = (candidates.logarithms + rules.temperature * noise).argmax(axis=2)[:, :, None]
    parents = [0] * rules.beam_size if beams == 1 else range(beams)
    columns = (
        np.take_along_axis(np.broadcast_to(part, noise.shape), choices, axis=2)[:, :, 0].tolist()
        for part in (candidates.tokens, candidates.probabilities, candidates.logarithms)
    )
    for row, *drawn in zip(rows, *columns, strict=True):
        yield (
            (parent, token, probability, row.beams[parent].score + logarithm)
            for parent, token, probability, logarithm in zip(parents, *drawn, strict=True)
            if row.beams[parent].score > -np.inf  # else it stands where a sample has left
        )
