"""Greedy decoding of rows that have nothing in common but the model: each its own context, prefix, language and length.

Prompts are padded on the left, and what is padding is masked. So the whole prompt, forced prefix included, goes through
the decoder in one pass, and only tokens that are new are stepped. A row that is done leaves the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.engines.loops import is_looping
from ray_whisper_streaming.engines.mel import Float32
from ray_whisper_streaming.engines.onnx.sessions import CrossCache, Decoder

__all__ = ["Request", "Transcript", "decode_greedily"]

MASKED = np.float32(-1e9)
"""Added to the score of what must not be attended to. (Infinity would give padding that sees nothing no numbers.)"""


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


def decode_greedily(
    decoder: Decoder,
    cross: CrossCache,
    requests: Sequence[Request],
    *,
    end_of_text: int,
    suppressed: npt.NDArray[np.intp],
    blanks: npt.NDArray[np.intp],
) -> list[Transcript]:
    """Decode each row to its end.

    Args:
        decoder: of the model.
        cross: one window per request. Its rows are moved about: it is used up.
        requests: what is asked.
        end_of_text: its token; all special tokens are greater and never chosen.
        suppressed: tokens never chosen.
        blanks: tokens that may not stand first behind a prefix.
    """
    texts = [[*request.prompt, *request.prefix] for request in requests]
    lengths = np.array([len(text) for text in texts])
    width = int(lengths.max())
    tokens = np.zeros((len(texts), width), np.int64)
    for row, text in enumerate(texts):
        tokens[row, width - len(text) :] = text
    columns = np.arange(width)
    padding = width - lengths
    seen = columns >= padding[:, None]
    allowed = seen[:, None, :] & (columns[:, None] >= columns)
    firsts = np.arange(len(texts)) * width
    starts = firsts + padding + [request.start for request in requests]
    wanted = np.concatenate((starts, firsts + width - 1))
    output = decoder.run(
        tokens,
        np.maximum(columns - padding[:, None], 0),
        np.where(allowed, np.float32(0), MASKED)[:, None],
        wanted,
        decoder.empty_cache(len(texts)),
        cross,
    )
    found = [
        Transcript(
            tokens=list(request.prefix[: request.max_tokens]),
            probabilities=[1.0] * min(len(request.prefix), request.max_tokens),
            start_chances=output.chances[row],
            attention=[output.attention[row, :, padding[row] + request.start :]],
        )
        for row, request in enumerate(requests)
    ]
    chances = output.chances[len(texts) :]
    first = blanks
    live = np.arange(len(texts))
    positions = lengths
    while True:
        # Among all words, those never chosen too: how sure the model was of what it heard.
        words = chances[:, :end_of_text].sum(axis=1)
        chances[:, suppressed] = 0
        chances[:, first] = 0
        first = blanks[:0]
        chances[:, end_of_text + 1 :] = 0
        chosen = chances.argmax(axis=1)
        staying: list[int] = []
        for place, row in enumerate(map(int, live)):
            one, request = found[row], requests[row]
            if len(one.tokens) >= request.max_tokens:
                continue
            if chosen[place] == end_of_text:
                one.finished = True
                continue
            one.tokens.append(int(chosen[place]))
            one.probabilities.append(float(chances[place, chosen[place]] / words[place]))
            if len(one.tokens) < request.max_tokens and not is_looping(one.tokens):
                staying.append(place)
        if not staying:
            return found
        cache = output.cache
        if len(staying) < len(live):
            cache = [part[staying] for part in cache]
            cross = _closed_up(cross, staying)
            live, positions, seen, chosen = live[staying], positions[staying], seen[staying], chosen[staying]
        seen = np.pad(seen, ((0, 0), (0, 1)), constant_values=True)
        output = decoder.run(
            chosen[:, None],
            positions[:, None],
            np.where(seen, np.float32(0), MASKED)[:, None, None],
            np.arange(len(live)),
            cache,
            cross,
        )
        positions = positions + 1
        chances = output.chances
        for place, row in enumerate(live):
            found[row].attention.append(output.attention[place])


def _closed_up(cross: CrossCache, staying: Sequence[int]) -> CrossCache:
    """The rows that stay, in their order at the front. In place: a copy of all of them would cost several steps."""
    for part in (*cross.keys, *cross.values):
        for place, old in enumerate(staying):
            if place != old:
                part[place] = part[old]
    return cross.take(range(len(staying)))
