"""How many streams are too many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

__all__ = ["find_max"]


async def find_max(holds: Callable[[int], Awaitable[bool]], known: Mapping[int, bool], limit: int) -> int:
    """The largest number of streams that holds, between 0 and ``limit``: doubled until it doesn't, then
    bisected.

    Args:
        holds: measures that many streams.
        known: what was measured before. A number that holds below one that doesn't is believed.
        limit: no more than so many are tried.
    """
    bad = min((count for count, held in known.items() if not held), default=limit + 1)
    good = max((count for count, held in known.items() if held and count < bad), default=0)
    while bad - good > 1:
        trial = (good + bad) // 2 if bad <= limit else min(max(1, 2 * good), limit)
        if await holds(trial):
            good = trial
        else:
            bad = trial
    return good
