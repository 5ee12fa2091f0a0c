"""Whisper's typical failure: it says the same thing over and over. Found and cut in the tokens, before
alignment.

Cutting first matters: an alignment is monotone over all tokens, so a looping tail pushes the real words to
earlier times.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["cut_loops", "is_looping"]

MAX_LOOP_TOKENS = 32
"""Longest repeated piece looked for: a long sentence."""

SHORT_LOOP_TOKENS = 3
"""Pieces up to this long are a word with its punctuation ("no,"): people do repeat these."""

SHORT_REPEATS = 4
"""Copies in a row of a short piece that are still taken for speech ("no, no, no, no")."""

LONG_REPEATS = 2
"""The same for longer pieces: three equal sentences of four words or more in one window are a loop. (A limit
of two for pieces of three tokens cut real speech in a trial.)"""

KEPT_COPIES = 1
"""Copies kept of what was found to be a loop: it was probably said once."""

SHORT_PATIENCE = 2
"""Copies of a short piece more than allowed until a decoder need not go on: rare real repeats have ended by then."""

LONG_PATIENCE = 1
"""The same for longer pieces, of which one copy more is a loop for certain."""


def cut_loops(tokens: Sequence[int]) -> list[int]:
    """The tokens with every loop cut down to its first copy.

    A loop is the same piece of 1 to `MAX_LOOP_TOKENS` tokens more than `SHORT_REPEATS` (or `LONG_REPEATS`)
    times in a row. An incomplete copy behind the last one goes with it. What follows a loop stays. Equal
    input is returned where there is none.
    """
    kept: list[int] = []
    position = 0
    while position < len(tokens):
        length, copies = _loop_at(tokens, position)
        if not length:
            kept.append(tokens[position])
            position += 1
            continue
        piece = tokens[position : position + length]
        kept.extend([*piece] * KEPT_COPIES)
        position += length * copies
        while position < len(tokens) and tokens[position] == tokens[position - length]:
            position += 1
    return kept


def _loop_at(tokens: Sequence[int], start: int) -> tuple[int, int]:
    """Length of the shortest piece that loops from ``start`` on and how many whole copies there are, or
    zeros.
    """
    longest = min(MAX_LOOP_TOKENS, (len(tokens) - start) // (LONG_REPEATS + 1))
    for length in range(1, longest + 1):
        if tokens[start + length] != tokens[start]:
            continue
        allowed = SHORT_REPEATS if length <= SHORT_LOOP_TOKENS else LONG_REPEATS
        end = start + length
        while end < len(tokens) and tokens[end] == tokens[end - length]:
            end += 1
        copies = (end - start) // length
        if copies > allowed:
            return length, copies
    return 0, 0


def is_looping(tokens: Sequence[int]) -> bool:
    """Whether the tokens end in a loop so long that nothing else is to be expected. Made to be asked at every token."""
    for length in range(1, min(MAX_LOOP_TOKENS, len(tokens) // 2) + 1):
        if tokens[-1] != tokens[-1 - length]:
            continue
        short = length <= SHORT_LOOP_TOKENS
        span = length * (SHORT_REPEATS + SHORT_PATIENCE if short else LONG_REPEATS + LONG_PATIENCE)
        if len(tokens) >= span and all(
            tokens[-1 - back] == tokens[-1 - back - length] for back in range(span - length)
        ):
            return True
    return False
