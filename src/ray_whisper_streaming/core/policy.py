"""When a word may be committed: the policies behind one interface."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.transcript import Word, normalise

__all__ = ["AgreementPolicy", "CommitPolicy", "CutoffPolicy", "HybridPolicy", "make_policy"]

HALF_WORD_S = 0.3
"""A word that ends this near to the end of the audio may be half a word, even if two passes heard it."""

PATIENCE_S = 3.0
"""How much audio a word that only one pass heard must have seen pass by: audio behind it, plus what was new in that
pass. So a quick succession of passes doesn't give a single odd one more chances to be believed. (Measured: at passes
0.5 s apart, a cut-off of 0.8 s alone made 3 to 5 points more errors than at passes 1 s apart. Passes 1.2 s apart, 16
streams of a minute, with 3, 3.5 and 4 s: 12.7, 12.5, 11.9 % word errors, commit p95 2.35, 2.52, 2.63 s. Live, two
streams, with 3 and 4 s: 7.6 and 7.0 %, p95 1.68 and 2.03 s; eight: 12.8 and 13.0 %, 2.91 and 3.20 s.)"""

SURE_PROBABILITY = 0.8
"""A word that Whisper gives at least this probability needs no patience, only ``commit_delay_s``. (Measured at passes
1.2 s apart: commit p95 1.9 instead of 2.1 s, 15.0 instead of 15.9 % word errors, which is the same within noise.)"""

AGREEMENT_SPAN_S = 0.75
"""What is agreed on must have been heard since a pass that ended this much earlier. Two passes 0.5 s apart hear nearly
the same audio: they agree on the same mistake. (Measured at passes 0.5 s apart: 15.4 instead of 16.5 % word errors.)"""


class CommitPolicy(Protocol):
    """Decides how many leading words of each new hypothesis are committed."""

    def receive(self, words: Sequence[Word], *, audio_end_s: float, settled: bool) -> int:
        """Take the uncommitted words of the newest pass; return how many of them to commit, from the front.

        Args:
            words: what the pass heard behind the committed words, in order.
            audio_end_s: the end of the audio it heard, seconds of the stream.
            settled: enough silence follows the words: none of them can be half a word.
        """
        ...

    def reset(self) -> None:
        """Everything was committed (an utterance ended): forget earlier passes."""
        ...


class CutoffPolicy:
    """Commit what ends well before the end of the audio, after one pass.

    The attention cut-off of AlignAtt (Papi et al., 2023; Whisper in Simul-Whisper, 2024), applied after the pass
    to the word times: a word whose audio is followed by ``delay_s`` of more audio was heard whole.
    """

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def receive(self, words: Sequence[Word], *, audio_end_s: float, settled: bool) -> int:
        """See `CommitPolicy`."""
        return len(words) if settled else _count_before(words, audio_end_s - self._delay_s)

    def reset(self) -> None:
        """Nothing is kept between passes."""


class AgreementPolicy:
    """LocalAgreement-n (Liu et al., 2020; whisper_streaming): commit what the last n passes agree on.

    Words are compared by their letters and digits, so that a comma that comes and goes blocks nothing; the newest
    form is committed.
    """

    def __init__(self, passes: int) -> None:
        self._passes = passes
        self._earlier: list[list[str]] = []

    def receive(self, words: Sequence[Word], *, audio_end_s: float, settled: bool) -> int:
        """See `CommitPolicy`."""
        keys = [normalise(word.text) for word in words]
        agreed = 0
        if len(self._earlier) == self._passes - 1:
            agreed = min((_common_prefix(keys, earlier) for earlier in self._earlier), default=0)
        self._earlier = [*self._earlier, keys][-(self._passes - 1) :]
        self._earlier = [earlier[agreed:] for earlier in self._earlier]
        return agreed

    def reset(self) -> None:
        """See `CommitPolicy`."""
        self._earlier = []


class HybridPolicy:
    """Commit a word as soon as all passes of a while heard it, or one pass with enough audio behind it.

    Where passes come quickly (an idle pool) further passes are the cheaper evidence; where they are far apart (a
    busy pool) the audio behind the word is: with passes far apart this is the cut-off policy.
    """

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._earlier: deque[tuple[float, list[str]]] = deque()

    def receive(self, words: Sequence[Word], *, audio_end_s: float, settled: bool) -> int:
        """See `CommitPolicy`."""
        keys = [normalise(word.text) for word in words]
        while len(self._earlier) > 1 and self._earlier[1][0] <= audio_end_s - AGREEMENT_SPAN_S:
            self._earlier.popleft()
        if settled:
            count = len(words)
        else:
            agreed = 0
            if self._earlier and self._earlier[0][0] <= audio_end_s - AGREEMENT_SPAN_S:
                agreed = min(_common_prefix(keys, earlier) for _, earlier in self._earlier)
            whole = _count_before(words, audio_end_s - HALF_WORD_S)
            step_s = audio_end_s - self._earlier[-1][0] if self._earlier else 0.0
            patience_s = max(self._delay_s, PATIENCE_S - step_s)
            alone = _count_sure(words, audio_end_s, self._delay_s, patience_s)
            count = max(alone, min(agreed, whole))
        self._earlier.append((audio_end_s, keys))
        self._earlier = deque((end_s, earlier[count:]) for end_s, earlier in self._earlier)
        return count

    def reset(self) -> None:
        """See `CommitPolicy`."""
        self._earlier.clear()


def make_policy(options: StreamOptions) -> CommitPolicy:
    """The policy that the options name."""
    if options.policy == "agreement":
        return AgreementPolicy(options.agreement_passes)
    if options.policy == "cutoff":
        return CutoffPolicy(options.commit_delay_s)
    return HybridPolicy(options.commit_delay_s)


def _count_sure(words: Sequence[Word], audio_end_s: float, sure_s: float, patience_s: float) -> int:
    """How many leading words have enough audio behind them: ``sure_s``, or ``patience_s`` if Whisper doubts."""
    for count, word in enumerate(words):
        needed_s = sure_s if word.probability >= SURE_PROBABILITY else patience_s
        if word.end_s > audio_end_s - needed_s:
            return count
    return len(words)


def _count_before(words: Sequence[Word], limit_s: float) -> int:
    """How many leading words end at ``limit_s`` or before."""
    return next((i for i, word in enumerate(words) if word.end_s > limit_s), len(words))


def _common_prefix(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
