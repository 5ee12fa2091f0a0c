"""Decodes a batch of windows of different streams: encode once, generate, cut loops, align on the same
encoder output.

Everything that may differ between streams differs per window: language, task, context, forced prefix. What
the model runtime needs equal inside one call is sorted out here, by sub-groups. The runtime itself stands
behind `Backend`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.core.hallucination import COMPRESSION_RATIO_LIMIT, compression_ratio
from ray_whisper_streaming.core.jobs import Task
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.backend import Backend, Encoded, Source
from ray_whisper_streaming.engines.loops import cut_loops
from ray_whisper_streaming.engines.mel import FRAMES_PER_S
from ray_whisper_streaming.engines.tokens import (
    TextTokenizer,
    context_tokens,
    prefix_tokens,
    token_cap,
    whole_characters,
)
from ray_whisper_streaming.engines.words import Alignment, words_of

__all__ = ["MAX_WINDOW_S", "Decoded", "Window", "WindowDecoder"]

MAX_WINDOW_S = 30
"""The longest window, and the one Whisper was trained on: what went wrong in a shorter one is decoded once
more in it."""

MAX_FRAMES = MAX_WINDOW_S * FRAMES_PER_S

RETRY_SHARE = 4
"""At most one window in so many of a batch is decoded again (but always one), so that a retry can't double
the latency."""

DEFAULT_LANGUAGE = "en"
"""Where detection has nothing to go by: no language allowed is one the model knows."""

_LEAST_PROBABILITY = 1e-10
"""Keeps the logarithm finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One window to decode.

    Attributes:
        source: its audio.
        padded_frames: how long it is padded: an even number of mel frames.
        language: code, or None: detect it.
        allowed_languages: what detection may answer; empty means any.
        task: transcribe, or translate into English.
        context: text before the window.
        hotwords: terms to favour.
        prefix: text the answer must begin with.
    """

    source: Source
    padded_frames: int
    language: str | None
    allowed_languages: tuple[str, ...] = ()
    task: Task = "transcribe"
    context: str = field(default="", repr=False)
    hotwords: str = field(default="", repr=False)
    prefix: str = field(default="", repr=False)

    @property
    def frames(self) -> int:
        """Mel frames of audio."""
        return self.source.frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What was made of one window; the fields are those of `core.jobs.Result`. Times from the window's
    start.
    """

    words: tuple[Word, ...]
    language: str
    language_probability: float
    no_speech_probability: float
    average_log_probability: float
    compression_ratio: float
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hypothesis(Generic[Encoded]):
    """Tokens of one window that are not aligned yet, and where its encoder output stands."""

    window: Window
    encoded: Encoded
    row: int
    tokenizer: TextTokenizer
    language_probability: float
    tokens: list[int]
    forced: int
    no_speech_probability: float
    ratio: float
    truncated: bool

    @property
    def odd(self) -> bool:
        """Whether it looks like a failure of the short window rather than like speech.

        A loop that was cut cleanly does not count. In a trial (540 windows of read speech, tiny.en and base) 12 looped;
        a second try mended the 4 that still compressed too well (107 errors became 2), and cost the whole batch
        as much again for about one error less in each of the others.
        """
        return self.truncated or self.ratio > COMPRESSION_RATIO_LIMIT


class WindowDecoder(Generic[Encoded]):
    """Decodes batches of windows with a backend. Used by one thread at a time."""

    def __init__(self, backend: Backend[Encoded], languages: frozenset[str]) -> None:
        """`languages`: codes the model knows."""
        self._backend = backend
        self._languages = languages

    def decode(
        self,
        windows: Sequence[Window],
        *,
        beam_size: int = 1,
        suppress_blank: bool = True,
        temperature: float = 0.0,
    ) -> list[Decoded]:
        """Decode windows; padded to one length, if the backend is not ragged.

        A window whose text compresses too well or hits the token cap, after loops are cut, is decoded once more, padded
        to 30 s; at most every fourth window of the batch. But for that limit, words and times are what they would be
        alone. (With CTranslate2 in int8 on a CPU, encoder output and tokens are equal to the bit. It pads texts of a
        batch to the longest to align them, so that probabilities may differ by rounding, 0.0003 at most in a trial.
        With a temperature it draws all rows' tokens with one random generator: then words depend on the batch, too.)
        """
        found = self._generate(windows, beam_size, suppress_blank, temperature)
        odd = [
            index
            for index, hypothesis in enumerate(found)
            if hypothesis.odd and windows[index].padded_frames < MAX_FRAMES
        ][: max(1, len(windows) // RETRY_SHARE)]
        again = [
            replace(
                windows[index],
                language=found[index].tokenizer.language_code,
                padded_frames=MAX_FRAMES,
            )
            for index in odd
        ]
        if again:
            second = self._generate(again, beam_size, suppress_blank, temperature, anew=True)
            for index, hypothesis in zip(odd, second, strict=True):
                if not hypothesis.odd or hypothesis.ratio < found[index].ratio:
                    found[index] = replace(hypothesis, language_probability=found[index].language_probability)
        return self._align(found)

    def _generate(
        self,
        windows: Sequence[Window],
        beam_size: int,
        suppress_blank: bool,
        temperature: float,
        *,
        anew: bool = False,
    ) -> list[_Hypothesis[Encoded]]:
        encoded = self._backend.encode(
            [window.source for window in windows],
            [window.padded_frames for window in windows],
            anew=anew,
        )
        languages = self._languages_of(windows, encoded)
        tokenizers = [
            self._backend.tokenizer(language, window.task)
            for window, (language, _) in zip(windows, languages, strict=True)
        ]
        contexts = [
            context_tokens(tokenizer, window.hotwords, window.context)
            for tokenizer, window in zip(tokenizers, windows, strict=True)
        ]
        # Most runtimes need the start of transcript at the same position in every prompt of a call.
        ragged = self._backend.ragged
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for row, context in enumerate(contexts):
            by_length[0 if ragged else len(context)].append(row)
        found: dict[int, _Hypothesis[Encoded]] = {}
        for rows in by_length.values():
            prefixes = [prefix_tokens(tokenizers[row], windows[row].prefix) for row in rows]
            caps = [token_cap(languages[row][0], windows[row].frames / FRAMES_PER_S) for row in rows]
            generated = self._backend.generate(
                self._backend.take(encoded, rows),
                [
                    [*contexts[row], *tokenizers[row].sot_sequence, tokenizers[row].no_timestamps]
                    for row in rows
                ],
                prefixes,
                max_tokens=caps,
                beam_size=beam_size,
                suppress_blank=suppress_blank,
                temperature=temperature,
                # A second try draws anew. (Without a temperature nobody asks: the audio need not be read.)
                seeds=[windows[row].source.seed + anew if temperature else 0 for row in rows],
            )
            for row, prefix, cap, answer in zip(rows, prefixes, caps, generated, strict=True):
                tokenizer = tokenizers[row]
                whole = whole_characters(tokenizer, answer.tokens[:cap])
                tokens = cut_loops(whole)
                found[row] = _Hypothesis(
                    window=windows[row],
                    encoded=encoded,
                    row=row,
                    tokenizer=tokenizer,
                    language_probability=languages[row][1],
                    tokens=tokens,
                    forced=len(prefix),
                    no_speech_probability=answer.no_speech_probability,
                    ratio=compression_ratio(tokenizer.decode(tokens)),
                    # A loop runs until the cap; once it is cut, nothing is missing.
                    truncated=len(answer.tokens) >= cap and len(tokens) == len(whole),
                )
        return [found[row] for row in range(len(windows))]

    def _languages_of(self, windows: Sequence[Window], encoded: Encoded) -> list[tuple[str, float]]:
        """Language and its probability for each window."""
        if not self._backend.multilingual:
            return [(DEFAULT_LANGUAGE, 1.0)] * len(windows)
        languages = [(window.language or DEFAULT_LANGUAGE, 1.0) for window in windows]
        unknown = [row for row, window in enumerate(windows) if window.language is None]
        if unknown:
            detected = self._backend.detect_languages(self._backend.take(encoded, unknown))
            for row, probabilities in zip(unknown, detected, strict=True):
                allowed = (set(windows[row].allowed_languages) or self._languages) & probabilities.keys()
                # The probability is Whisper's, over all languages: a low one says that none of those allowed
                # fits.
                best = max(sorted(allowed), key=probabilities.__getitem__, default=DEFAULT_LANGUAGE)
                languages[row] = (best, probabilities.get(best, 0.0))
        return languages

    def _align(self, found: Sequence[_Hypothesis[Encoded]]) -> list[Decoded]:
        # One call takes one encoder output, and most runtimes one language and task.
        ragged = self._backend.ragged
        groups: defaultdict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)
        for index, hypothesis in enumerate(found):
            if hypothesis.tokens:
                start = () if ragged else tuple(hypothesis.tokenizer.sot_sequence)
                groups[id(hypothesis.encoded), start].append(index)
        alignments: dict[int, Alignment] = {}
        for indices in groups.values():
            start = found[indices[0]].tokenizer.sot_sequence
            members = [found[index] for index in indices]
            aligned = self._backend.align(
                self._backend.take(members[0].encoded, [member.row for member in members]),
                start,
                [member.tokens for member in members],
                [member.window.frames for member in members],
            )
            alignments.update(zip(indices, aligned, strict=True))
        return [_decoded(hypothesis, alignments.get(index)) for index, hypothesis in enumerate(found)]


def _decoded(hypothesis: _Hypothesis[Encoded], alignment: Alignment | None) -> Decoded:
    words: list[Word] = []
    free = np.empty(0)
    if alignment is not None:
        words = words_of(hypothesis.tokenizer, hypothesis.tokens, alignment)
        # The alignment's own pass gives each token's probability; those of forced tokens say nothing about
        # the decoder.
        free = alignment.probabilities[hypothesis.forced :]
    return Decoded(
        words=tuple(words),
        language=hypothesis.tokenizer.language_code,
        language_probability=hypothesis.language_probability,
        no_speech_probability=hypothesis.no_speech_probability,
        average_log_probability=_mean_log(free),
        compression_ratio=hypothesis.ratio,
        truncated=hypothesis.truncated,
    )


def _mean_log(probabilities: npt.NDArray[np.float64]) -> float:
    if not len(probabilities):
        return 0.0
    return float(np.log(np.maximum(probabilities, _LEAST_PROBABILITY)).mean())
