"""LocalAgreement-2 as whisper_streaming has it: on exact text, with times in tuples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["HypothesisBuffer", "TimedWord"]

TimedWord: TypeAlias = tuple[float, float, str]
"""A word as whisper_streaming writes it: start and end in seconds, text."""

OVERLAP_S = 0.1
"""A word that starts so little before the last committed one's end may still be new."""

NEAR_S = 1.0
"""Only a hypothesis that starts this near to the last committed word is searched for words said already."""

MAX_OVERLAP_WORDS = 5


class HypothesisBuffer:
    """Commits the longest common beginning of two passes in a row.

    The attribute names, spelling included, are those of whisper_streaming. Beyond it: a word really said twice is
    not taken for the committed one. If the new hypothesis holds the committed words themselves, in front of the
    words in question, then those are new.
    """

    def __init__(self, logfile: object = None) -> None:
        self.commited_in_buffer: list[TimedWord] = []
        self.buffer: list[TimedWord] = []
        self.new: list[TimedWord] = []
        self.last_commited_time = 0.0
        self.last_commited_word: str | None = None

    def insert(self, new: Iterable[TimedWord], offset: float) -> None:
        """Take the hypothesis of the newest pass.

        Args:
            new: its words, times in seconds from the start of the audio decoded.
            offset: where that audio starts, in seconds; later times are absolute.
        """
        words = [(start + offset, end + offset, text) for start, end, text in new]
        limit_s = self.last_commited_time - OVERLAP_S
        self.new = [word for word in words if word[0] > limit_s]
        if not self.new or abs(self.new[0][0] - self.last_commited_time) >= NEAR_S:
            return
        seen = [word[2] for word in words[: len(words) - len(self.new)]]
        for count in range(1, min(MAX_OVERLAP_WORDS, len(self.commited_in_buffer), len(self.new)) + 1):
            said = [word[2] for word in self.commited_in_buffer[-count:]]
            if [word[2] for word in self.new[:count]] == said:
                if seen[-count:] != said:
                    del self.new[:count]
                return

    def flush(self) -> list[TimedWord]:
        """Commit what the last two passes agree on, from the front; times are the newer pass's."""
        agreed = 0
        while agreed < min(len(self.new), len(self.buffer)) and self.new[agreed][2] == self.buffer[agreed][2]:
            agreed += 1
        committed = self.new[:agreed]
        if committed:
            self.last_commited_time, self.last_commited_word = committed[-1][1], committed[-1][2]
        self.buffer, self.new = self.new[agreed:], []
        self.commited_in_buffer += committed
        return committed

    def pop_commited(self, time: float) -> None:
        """Forget committed words that end at ``time`` seconds or before."""
        while self.commited_in_buffer and self.commited_in_buffer[0][1] <= time:
            self.commited_in_buffer.pop(0)

    def complete(self) -> list[TimedWord]:
        """The words of the newest pass that are not committed."""
        return self.buffer

    def force(self, time: float) -> list[TimedWord]:
        """Commit, unconfirmed, the words that end at ``time`` seconds or before: their audio has to go."""
        count = sum(word[1] <= time for word in self.buffer)
        committed, self.buffer = self.buffer[:count], self.buffer[count:]
        if committed:
            self.last_commited_time, self.last_commited_word = committed[-1][1], committed[-1][2]
        self.commited_in_buffer += committed
        return committed
