"""Steps of the search with ONNX Runtime.

Prompts are padded on the left, and what is padding is masked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.engines.mel import Float32
from ray_whisper_streaming.engines.onnx.sessions import MASKED, WHOLE_SUMS, CrossCache, Decoder, Int64
from ray_whisper_streaming.engines.search import Candidates, Request, TokenRules, candidate_count

__all__ = ["OnnxSteps"]

LEAST_CHANCE = 1e-30
"""Keeps the logarithm finite."""

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


class OnnxSteps:
    """Satisfies `engines.search.Steps`.

    Args:
        decoder: of the model.
        cross: one window per row. Its rows are moved about: it is used up.
        rules: which tokens may be chosen.
    """

    def __init__(self, decoder: Decoder, cross: CrossCache, rules: TokenRules) -> None:
        self._decoder = decoder
        self._cross = cross
        self._rules = rules
        self._beam_size = 1
        self._width = 0
        self._lengths = self._positions = np.empty(0, np.int64)
        self._seen = np.empty((0, 0), np.bool_)
        self._cache: list[Float32] = []
        # The rows not done, and the attention of each pass of every row.
        self._live: list[int] = []
        self._attention: list[list[Float32]] = []

    def begin(self, requests: Sequence[Request], beam_size: int) -> tuple[Candidates, Float64]:
        """See `Steps.begin`."""
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
        starts = padding + np.array([request.start for request in requests])
        output = self._decoder.run(
            tokens,
            np.maximum(columns - padding[:, None], 0),
            np.where(allowed, np.float32(0), MASKED)[:, None],
            np.concatenate((firsts + starts, firsts + width - 1)),
            self._decoder.empty_cache(len(texts)),
            self._cross,
        )
        self._beam_size, self._width, self._positions, self._seen = beam_size, width, lengths, seen
        self._cache = output.cache
        self._live = list(range(len(texts)))
        self._attention = [[output.attention[row, :, start:]] for row, start in enumerate(starts)]
        no_speech = output.chances[: len(texts), self._rules.no_speech].astype(np.float64)
        return self._best(output.chances[len(texts) :], first=True), no_speech

    def advance(
        self, staying: Sequence[int], parents: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> Candidates:
        """See `Steps.advance`."""
        before = len(self._live)
        beams = len(self._cache[0]) // before
        sources = np.array(
            [place * beams + parent for place, row in zip(staying, parents, strict=True) for parent in row]
        )
        # Beams of a row share all that was there before the first new token.
        same = len(staying) == before and beams == self._beam_size
        self._cache = _followed(self._cache, sources, self._width if same else None)
        if len(staying) < before:
            places = list(staying)
            self._cross = self._cross.close_up(places)
            self._live = [self._live[place] for place in places]
            self._positions, self._seen = self._positions[places], self._seen[places]
        self._seen = np.pad(self._seen, ((0, 0), (0, 1)), constant_values=True)
        output = self._decoder.run(
            np.array(tokens).reshape(-1, 1),
            np.repeat(self._positions, self._beam_size)[:, None],
            np.repeat(np.where(self._seen, np.float32(0), MASKED), self._beam_size, axis=0)[:, None, None],
            np.arange(len(sources)),
            self._cache,
            self._cross,
        )
        self._positions, self._cache = self._positions + 1, output.cache
        for row, attention in zip(self._live, output.attention, strict=True):
            self._attention[row].append(attention)
        return self._best(output.chances, first=False)

    def attention(self, paths: Sequence[Sequence[int]]) -> list[Float32]:
        """See `Steps.attention`."""
        return [
            np.concatenate(
                [begun, *(step[:, beam : beam + 1] for step, beam in zip(steps, path, strict=False))], axis=1
            )
            for (begun, *steps), path in zip(self._attention, paths, strict=True)
        ]

    def _best(self, chances: Float32, *, first: bool) -> Candidates:
        """What may follow each beam, the likeliest. ``chances``, shape (rows * beams, vocabulary), is used up."""
        rules = self._rules
        words = chances[:, : rules.end_of_text].sum(axis=1)
        chances[:, rules.suppressed] = 0
        if first:
            chances[:, rules.blanks] = 0
        # Not left out by a slice, of which every search for the greatest would make a copy.
        chances[:, rules.end_of_text + 1 :] = 0
        free = chances.sum(axis=1)
        # One by one, because partitioning a whole vocabulary takes five times as long.
        count = candidate_count(self._beam_size)
        tokens = np.empty((len(chances), count), np.int64)
        found = np.empty((len(chances), count))
        every = np.arange(len(chances))
        for choice in range(count):
            tokens[:, choice] = best = chances.argmax(axis=1)
            found[:, choice] = chances[every, best]
            chances[every, best] = 0
        shape = (len(self._live), -1, count)
        logarithms = np.log(np.maximum(found, LEAST_CHANCE) / np.maximum(free, LEAST_CHANCE)[:, None])
        return Candidates(
            tokens.reshape(shape), (found / words[:, None]).reshape(shape), logarithms.reshape(shape)
        )


def _followed(cache: list[Float32], sources: Int64, first: int | None) -> list[Float32]:
    """The cache of the beams that others go on from. In place, where it differs from token ``first`` on alone."""
    if np.array_equal(sources, np.arange(len(cache[0]))):
        return cache
    if first is None:
        return [part[sources] for part in cache]
    for part in cache:
        part[:, :, first:] = part[sources, :, first:]
    return cache
