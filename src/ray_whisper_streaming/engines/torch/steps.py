"""Steps of the search with PyTorch: the best tokens are found on the device; nothing else leaves it while decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.engines.search import Candidates, Request, TokenRules, candidate_count
from ray_whisper_streaming.engines.torch.cache import Cache
from ray_whisper_streaming.engines.torch.decoder import Decoder
from ray_whisper_streaming.engines.torch.graphs import StepRunner
from ray_whisper_streaming.engines.torch.runtime import Tensor, on_cpu, to_device, torch

__all__ = ["Asked", "Chooser", "Stepper", "TorchSteps"]

Float64 = npt.NDArray[np.float64]


class Chooser:
    """Finds the likeliest tokens.

    Args:
        rules: which may be chosen.
        vocabulary: how many tokens there are.
        device: where scores are.
    """

    def __init__(self, rules: TokenRules, vocabulary: int, device: Tensor) -> None:
        self._words = rules.end_of_text
        self._no_speech = rules.no_speech
        forbidden = np.zeros(vocabulary, np.bool_)
        forbidden[rules.suppressed] = True
        forbidden[rules.end_of_text + 1 :] = True
        with_blanks = forbidden.copy()
        with_blanks[rules.blanks] = True
        self._forbidden, self._with_blanks = (
            torch.from_numpy(mask).to(device) for mask in (forbidden, with_blanks)
        )

    def best(self, scores: Tensor, count: int, *, blanks: bool = True) -> Tensor:
        """The likeliest ``count`` tokens behind each row of scores, shape (rows, vocabulary).

        Args:
            scores: of any floating-point type; what comes of them is computed in float32.
            count: how many.
            blanks: whether they may be among them.

        Returns:
            tokens, their probabilities among all words, and the logarithms of those among what may be chosen; shape
            (3, rows, count), float32, which holds a token's number exactly: one array is one copy to the CPU.
        """
        forbidden = self.forbidden(blanks=blanks)
        if count == 1 and scores.device.type == "cuda":
            from ray_whisper_streaming.engines.torch.kernels import choose

            return choose(scores, forbidden, self._words)
        scores = scores.float()
        words = scores[:, : self._words].logsumexp(dim=1, keepdim=True)
        free = scores.masked_fill(forbidden, float("-inf"))
        found, tokens = free.topk(count, dim=1)
        return torch.stack(
            (tokens.float(), (found - words).exp(), found - free.logsumexp(dim=1, keepdim=True))
        )

    def forbidden(self, *, blanks: bool) -> Tensor:
        """True where a token may not be chosen, shape (vocabulary,)."""
        return self._forbidden if blanks else self._with_blanks

    def no_speech(self, scores: Tensor) -> Tensor:
        """Probability of the no-speech token, shape (rows,)."""
        scores = scores.float()
        return (scores[:, self._no_speech] - scores.logsumexp(dim=1)).exp()


class Stepper:
    """Takes steps of any shape over one cache.

    Args:
        decoder: of the model.
        cache: for the batch.
        chooser: of tokens.
        runner: of what is computed.
    """

    def __init__(self, decoder: Decoder, cache: Cache, chooser: Chooser, runner: StepRunner) -> None:
        self.decoder, self.cache, self.chooser = decoder, cache, chooser
        self._runner = runner

    def step(self, *, windows: int, beams: int) -> tuple[Tensor, Tensor]:
        """See `Decoder.step`: for each row, `Chooser.best` and what the alignment heads asked for. Good until the next
        step.
        """

        def compute() -> tuple[Tensor, ...]:
            hidden, queries = self.decoder.step(self.cache, windows=windows, beams=beams)
            return self.chooser.best(self.decoder.scores(hidden), candidate_count(beams)), queries

        best, queries = self._runner.run((windows, beams), compute)
        return best, queries

    def warm_up(self, beams: int) -> int:
        """Take a step of each shape there is for so many beams, so that a later one is recorded already.

        Returns:
            how many shapes there are.
        """
        sizes = {batch_size(count, self.cache.slots) for count in range(1, self.cache.slots + 1)}
        for windows in sorted(sizes):
            self.step(windows=windows, beams=beams)
        return len(sizes)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the alignment heads asked for at each token of a text, from the start of transcript on.

    Attributes:
        queries: of all texts of a batch, shape (rows, tokens, alignment heads, size).
        row: which of them it is.
        tokens: how many there are of it.
    """

    queries: Tensor = field(repr=False)
    row: int
    tokens: int


class TorchSteps:
    """Satisfies `engines.search.Steps`. A cache serves one of these at a time.

    Rows that are done stay in their slots and are computed in vain, until a smaller batch holds all others: those that
    stand behind it are then moved.

    Args:
        stepper: over the cache.
        outputs: what the encoder made of each window, shape (positions, width).
        suppress_blank: whether an answer may not begin with a blank.
    """

    def __init__(self, stepper: Stepper, outputs: Sequence[Tensor], *, suppress_blank: bool) -> None:
        self._stepper = stepper
        self._decoder, self._cache, self._chooser = stepper.decoder, stepper.cache, stepper.chooser
        self._outputs = outputs
        self._suppress_blank = suppress_blank
        self._window_lengths = [len(output) for output in outputs]
        self._beams = 1
        # The rows not done, the slot of each, and how many tokens its text has.
        self._live: list[int] = []
        self._slots: list[int] = []
        self._text_lengths: list[int] = []
        # Of the texts begun with: what was asked at each token, and where each starts.
        self._begun: Tensor = None
        self._starts: list[int] = []
        self._lengths: list[int] = []
        # Of each step: the slot of each row that took part.
        self._history: list[dict[int, int]] = []

    def begin(self, requests: Sequence[Request], beam_size: int) -> tuple[Candidates, Float64]:
        """See `Steps.begin`."""
        self._beams = beam_size
        self._live, self._slots = list(range(len(requests))), list(range(len(requests)))
        texts = [[*request.prompt, *request.prefix] for request in requests]
        self._text_lengths = [len(text) for text in texts]
        tokens = np.zeros((len(texts), max(self._text_lengths)), np.int64)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = text
        device, cache = self._cache.device, self._cache
        self._decoder.load(cache, self._outputs)
        hidden, self._begun = self._decoder.read(
            cache,
            to_device(tokens, device),
            positions=max(self._window_lengths),
            beams=beam_size,
        )
        self._starts = [request.start for request in requests]
        self._lengths = self._text_lengths
        every = torch.arange(len(texts), device=device)
        starts, ends = to_device(np.array([self._starts, self._lengths]) - [[0], [1]], device)
        no_speech = self._chooser.no_speech(self._decoder.scores(hidden[every, starts]))
        best = self._chooser.best(
            self._decoder.scores(hidden[every, ends]),
            candidate_count(beam_size),
            blanks=not self._suppress_blank,
        )
        return _candidates(best, len(texts)), on_cpu(no_speech).astype(np.float64)

    def advance(
        self, staying: Sequence[int], parents: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> Candidates:
        """See `Steps.advance`."""
        cache, beams, step = self._cache, self._beams, len(self._history)
        self._live, self._slots, self._text_lengths = (
            [of_all[place] for place in staying] for of_all in (self._live, self._slots, self._text_lengths)
        )
        self._follow(parents)
        windows = self._close_up()
        fed = np.zeros((2, windows, beams), np.int64)
        fed[0, self._slots] = tokens
        fed[1, self._slots] = np.array(self._text_lengths)[:, None]
        cache.tokens[: windows * beams], cache.places[: windows * beams] = to_device(
            fed.reshape(2, -1), cache.device
        )
        self._text_lengths = [length + 1 for length in self._text_lengths]
        best, queries = self._stepper.step(windows=windows, beams=beams)
        cache.queries[step, : windows * beams] = queries
        self._history.append(dict(zip(self._live, self._slots, strict=True)))
        found = _candidates(best, windows)
        return Candidates(
            found.tokens[self._slots], found.probabilities[self._slots], found.logarithms[self._slots]
        )

    def attention(self, paths: Sequence[Sequence[int]]) -> list[Asked]:
        """See `Steps.attention`: what it is made of, as a copy on the device."""
        cache, width = self._cache, self._begun.shape[1]
        asked = torch.cat((self._begun.flatten(0, 1), cache.queries[: len(self._history)].flatten(0, 1)))
        # Where each token's queries stand there: those of the text begun with, then one of each step.
        places = [
            [
                *range(row * width + start, row * width + length),
                *(
                    len(paths) * width + (step * cache.rows + slots[row] * self._beams + beam)
                    for step, (slots, beam) in enumerate(zip(self._history, path, strict=False))
                ),
            ]
            for row, (start, length, path) in enumerate(zip(self._starts, self._lengths, paths, strict=True))
        ]
        taken = np.zeros((len(places), max(map(len, places))), np.int64)
        for row, found in zip(taken, places, strict=True):
            row[: len(found)] = found
        queries = asked[to_device(taken, cache.device)]
        return [Asked(queries, row, len(found)) for row, found in enumerate(places)]

    def _follow(self, parents: Sequence[Sequence[int]]) -> None:
        """Have each beam go on from its parent's text."""
        sources: list[int] = []
        targets: list[int] = []
        for slot, row in zip(self._slots, parents, strict=True):
            for beam, parent in enumerate(row):
                if beam != parent:
                    sources.append(slot * self._beams + parent)
                    targets.append(slot * self._beams + beam)
        self._cache.follow(sources, targets, max(self._text_lengths))

    def _close_up(self) -> int:
        """Move the last slots to free ones in front, if a smaller batch then holds all rows.

        Returns:
            the slots of that batch.
        """
        windows = batch_size(len(self._slots), self._cache.slots)
        behind = [slot for slot in self._slots if slot >= windows]
        free = sorted({*range(windows)} - {*self._slots})[: len(behind)]
        self._cache.move(behind, free, beams=self._beams, tokens=max(self._text_lengths))
        moved = dict(zip(behind, free, strict=True))
        self._slots = [moved.get(slot, slot) for slot in self._slots]
        return windows


def batch_size(rows: int, slots: int) -> int:
    """How many slots are computed for so many rows: a power of two, or all there are."""
    return min(1 << (rows - 1).bit_length(), slots)


def _candidates(best: Tensor, rows: int) -> Candidates:
    tokens, probabilities, logarithms = on_cpu(best).astype(np.float64).reshape(3, rows, -1, best.shape[-1])
    return Candidates(tokens.astype(np.int64), probabilities, logarithms)
