"""Beam search over rows that have nothing in common but the model: each its own context, prefix, language and length.

Prompts are padded on the left, and what is padding is masked. So the whole prompt, forced prefix included, goes through
the decoder in one pass, once per row; only new tokens are stepped, once per beam. A row that is done leaves the batch.
One beam is greedy decoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.engines.loops import is_looping
from ray_whisper_streaming.engines.mel import Float32
from ray_whisper_streaming.engines.onnx.sessions import MASKED, WHOLE_SUMS, CrossCache, Decoder, Int64

__all__ = ["Request", "Transcript", "decode_with_beams"]

LEAST_CHANCE = 1e-30
"""Keeps the logarithm finite."""

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_Candidate: TypeAlias = tuple[int, int, float, float]
"""The beam it would follow, the token, its probability among all words, and the score of both together."""


@dataclass(frozen=True, slots=True)
class Request:
    """One row to decode.

    Attributes:
        prompt: tokens before the answer.
        start: where among them the start of transcript stands.
        prefix: what the answer must begin with.
        max_tokens: of the answer, prefix included.
    """

    prompt: Sequence[int] = field(repr=False)
    start: int
    prefix: Sequence[int] = field(repr=False)
    max_tokens: int


@dataclass(slots=True)
class Transcript:
    """What was decoded of a row.

    Attributes:
        tokens: of the answer, prefix included, without the end of text.
        probabilities: of each; 1.0 for those of the prefix.
        start_chances: of each token to follow the start of transcript, shape (vocabulary,).
        attention: of the alignment heads from the start of transcript on, one piece after the other, each of shape
            (alignment heads, tokens, positions).
        finished: whether the model ended it.
    """

    tokens: list[int]
    probabilities: list[float]
    start_chances: Float32
    attention: list[Float32]
    finished: bool = False


def decode_with_beams(
    decoder: Decoder,
    cross: CrossCache,
    requests: Sequence[Request],
    *,
    beam_size: int,
    end_of_text: int,
    suppressed: Indices,
    blanks: Indices,
    length_penalty: float = 1.0,
    patience: float = 1.0,
) -> list[Transcript]:
    """Decode each row to its end: until enough of its beams ended, or none can become better than the best that did.

    Args:
        decoder: of the model.
        cross: one window per request. Its rows are moved about: it is used up.
        requests: what is asked.
        beam_size: beams of each row.
        end_of_text: its token; all special tokens are greater and never chosen.
        suppressed: tokens never chosen.
        blanks: tokens that may not stand first behind a prefix.
        length_penalty: answers are compared by the sum of their new tokens' logarithms over their number to this
            power: 0 favours short ones, 1 compares means.
        patience: so many times the beams must end.
    """
    rules = _Rules(end_of_text, beam_size, length_penalty, max(1, round(beam_size * patience)))
    texts = [[*request.prompt, *request.prefix] for request in requests]
    lengths = np.array([len(text) for text in texts])
    width = -(-int(lengths.max()) // WHOLE_SUMS) * WHOLE_SUMS
    tokens = np.zeros((len(texts), width), np.int64)
    for row, text in enumerate(texts):
        tokens[row, width - len(text) :] = text
    columns = np.arange(width)
    padding = width - lengths
    seen = columns >= padding[:, None]
    allowed = seen[:, None, :] & (columns[:, None] >= columns)
    firsts = np.arange(len(texts)) * width
    starts = firsts + padding + [request.start for request in requests]
    output = decoder.run(
        tokens,
        np.maximum(columns - padding[:, None], 0),
        np.where(allowed, np.float32(0), MASKED)[:, None],
        np.concatenate((starts, firsts + width - 1)),
        decoder.empty_cache(len(texts)),
        cross,
    )
    rows = [
        _Row(
            request,
            Transcript(
                tokens=list(request.prefix[: request.max_tokens]),
                probabilities=[1.0] * min(len(request.prefix), request.max_tokens),
                start_chances=output.chances[row],
                attention=[output.attention[row, :, padding[row] + request.start :]],
            ),
            rules,
        )
        for row, request in enumerate(requests)
    ]
    live, positions, cache = rows, lengths, output.cache
    best = _best(output.chances[len(rows) :], len(live), rules, np.concatenate((suppressed, blanks)))
    while True:
        # One entry per live row: where its new beams come from.
        followed = [row.grow(ranked) for row, ranked in zip(live, _ranked(live, *best), strict=True)]
        staying = [place for place, parents in enumerate(followed) if parents]
        if not staying:
            return [row.answer for row in rows]
        beams = len(cache[0]) // len(live)
        sources = np.array([place * beams + parent for place in staying for parent in followed[place]])
        # Beams of a row share all that was there before the first new token.
        same = len(staying) == len(live) and beams == beam_size
        cache = _followed(cache, sources, width if same else None)
        if len(staying) < len(live):
            cross = cross.close_up(staying)
            live, positions, seen = [live[place] for place in staying], positions[staying], seen[staying]
        seen = np.pad(seen, ((0, 0), (0, 1)), constant_values=True)
        output = decoder.run(
            np.array([[beam.transcript.tokens[-1]] for row in live for beam in row.beams]),
            np.repeat(positions, beam_size)[:, None],
            np.repeat(np.where(seen, np.float32(0), MASKED), beam_size, axis=0)[:, None, None],
            np.arange(len(sources)),
            cache,
            cross,
        )
        positions, cache = positions + 1, output.cache
        best = _best(output.chances, len(live), rules, suppressed)
        for row, attention in zip(live, output.attention, strict=True):
            for place, beam in enumerate(row.beams):
                beam.transcript.attention.append(attention[:, place : place + 1])


@dataclass(frozen=True, slots=True)
class _Rules:
    """What is equal for all rows of a search; see `decode_with_beams`. ``enough``: answers that end it."""

    end_of_text: int
    beam_size: int
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
        """With further tokens. It shares the attention of what was before."""
        one = self.transcript
        return _Beam(
            Transcript(
                [*one.tokens, *tokens],
                [*one.probabilities, *probabilities],
                one.start_chances,
                list(one.attention),
            ),
            score,
        )


class _Row:
    """The beams of one row."""

    def __init__(self, request: Request, transcript: Transcript, rules: _Rules) -> None:
        self._cap = request.max_tokens
        self._forced = len(request.prefix)
        self._rules = rules
        self.beams = [_Beam(transcript)]
        # The score by its length, and what it is.
        self._ended: list[tuple[float, Transcript]] = []

    @property
    def answer(self) -> Transcript:
        """The best that ended."""
        return max(self._ended, key=lambda ended: ended[0])[1]

    def grow(self, candidates: Iterable[_Candidate]) -> list[int]:
        """Go on with the best of all candidates, which come best first.

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
        if len(self._ended) >= rules.enough or not grown or not self._hopeful(grown[0]):
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


def _ranked(
    rows: Sequence[_Row], tokens: Int64, probabilities: Float64, logarithms: Float64
) -> Iterator[Iterator[_Candidate]]:
    """The candidates of each row, best first, given what `_best` gave."""
    before = np.array([[beam.score for beam in row.beams] for row in rows])
    scores = (before[:, :, None] + logarithms).reshape(len(rows), -1)
    count = tokens.shape[2]
    order = np.argsort(-scores, axis=1, kind="stable")
    # Python's own numbers, all at once: one by one out of arrays they are slow.
    parts = (part.reshape(scores.shape) for part in (tokens, probabilities, scores))
    columns = (np.take_along_axis(part, order, axis=1).tolist() for part in parts)
    return (zip(*row, strict=True) for row in zip((order // count).tolist(), *columns, strict=True))


def _best(chances: Float32, rows: int, rules: _Rules, forbidden: Indices) -> tuple[Int64, Float64, Float64]:
    """The likeliest tokens behind each beam, their probabilities among all words, and the logarithms of those among
    what may be chosen. Each of shape (rows, beams, candidates). ``chances`` is used up.
    """
    # Among all words, those never chosen too: how sure the model was of what it heard.
    words = chances[:, : rules.end_of_text].sum(axis=1)
    chances[:, forbidden] = 0
    # Not left out by a slice, of which every search for the greatest would make a copy.
    chances[:, rules.end_of_text + 1 :] = 0
    free = chances.sum(axis=1)
    # One more than beams: the end of text may be among them, and another must take its place. One by one, because
    # partitioning a whole vocabulary takes five times as long.
    count = rules.beam_size + 1 if rules.beam_size > 1 else 1
    tokens = np.empty((len(chances), count), np.int64)
    found = np.empty((len(chances), count))
    every = np.arange(len(chances))
    for choice in range(count):
        tokens[:, choice] = best = chances.argmax(axis=1)
        found[:, choice] = chances[every, best]
        chances[every, best] = 0
    shape = (rows, -1, count)
    logarithms = np.log(np.maximum(found, LEAST_CHANCE) / np.maximum(free, LEAST_CHANCE)[:, None])
    return tokens.reshape(shape), (found / words[:, None]).reshape(shape), logarithms.reshape(shape)


def _followed(cache: list[Float32], sources: Int64, first: int | None) -> list[Float32]:
    """The cache of the beams that others go on from. In place, where it differs from token ``first`` on alone."""
    if np.array_equal(sources, np.arange(len(cache[0]))):
        return cache
    if first is None:
        return [part[sources] for part in cache]
    for part in cache:
        part[:, :, first:] = part[sources, :, first:]
    return cache
