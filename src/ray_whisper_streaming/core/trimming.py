"""Where a window may be cut at its front."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from ray_whisper_streaming.core.options import TrimmingOptions
from ray_whisper_streaming.core.transcript import SENTENCE_ENDINGS, Word, segment_words

__all__ = ["choose_cut_s"]


def choose_cut_s(
    committed: Sequence[Word], start_s: float, decoded_s: float, options: TrimmingOptions
) -> float | None:
    """Where to cut the window, in seconds of the stream; None: leave it as it is.

    Never behind a word that is not committed. The cut keeps ``options.keep_s`` of audio, or a little more; at the
    hard limit it is made even where nothing was committed (then all of it was decoded, and held no words).

    Args:
        committed: committed words inside the window, in order.
        start_s: where the window starts.
        decoded_s: the end of the audio decoded so far.
        options: how long windows may get.
    """
    if decoded_s - start_s <= options.trim_after_s:
        return None
    latest_s = decoded_s - options.keep_s
    earliest_s = max(start_s, decoded_s - options.hard_limit_s)  # a cut before it would not be enough
    for cuts in (_cuts(committed, options.at), _cuts(committed, "word")):
        allowed = [cut for cut in cuts if earliest_s < cut <= latest_s]
        if allowed:
            return max(allowed)
        if decoded_s - start_s <= options.hard_limit_s / 2:
            return None  # a finer cut can wait: the next words may bring the border that is preferred
    if decoded_s - start_s <= options.hard_limit_s:
        return None
    return min(decoded_s, max(latest_s, committed[-1].end_s)) if committed else latest_s


def _cuts(committed: Sequence[Word], at: str) -> list[float]:
    """Where committed words, segments or sentences end, as places to cut: the middle of the gap behind each.

    Never behind the last word: its end is known to 0.1 or 0.2 s only, and the rest of it would be heard as a new word,
    with no committed one left in the window to tell that it isn't.
    """
    last = range(len(committed) - 1)
    if at == "sentence":
        last = [i for i in last if committed[i].text.rstrip().endswith(SENTENCE_ENDINGS)]
    elif at == "segment":
        lengths = [len(segment.words) for segment in segment_words(committed)]
        last = [end - 1 for end in accumulate(lengths[:-1])]  # the last segment may go on
    return [(committed[i].end_s + committed[i + 1].start_s) / 2 for i in last]
