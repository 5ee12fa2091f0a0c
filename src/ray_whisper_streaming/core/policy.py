"""When a word may be committed: the two policies behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.transcript import Word, normalise

__all__ = ["AgreementPolicy", "CommitPolicy", "CutoffPolicy", "make_policy"]


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
        if settled:
            return len(words)
        limit_s = audio_end_s - self._delay_s
        return next((i for i, word in enumerate(words) if word.end_s > limit_s), len(words))

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


def make_policy(options: StreamOptions) -> CommitPolicy:
    """The policy that the options name."""
    if options.policy == "agreement":
        return AgreementPolicy(options.agreement_passes)
    return CutoffPolicy(options.commit_delay_s)


def _common_prefix(first: Sequence[str], second: Sequence[str]) -> int:
    return next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
