"""Where a window may be cut at its front."""

from __future__ import annotations

from collections.abc import Sequence

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
    """Ends of the committed words, segments or sentences, as places to cut: the middle of the gap behind each."""
    if at == "word":
        last = range(len(committed))
    elif at == "sentence":
        last = [i for i, word in enumerate(committed) if word.text.rstrip().endswith(SENTENCE_ENDINGS)]
    else:
        ends: list[int] = []
        for segment in segment_words(committed):
            ends.append((ends[-1] if ends else -1) + len(segment.words))
        last = ends[:-1]  # the last segment may go on
    return [_behind(committed, index) for index in last]


def _behind(words: Sequence[Word], index: int) -> float:
    end_s = words[index].end_s
    return (end_s + max(end_s, words[index + 1].start_s)) / 2 if index + 1 < len(words) else end_s
