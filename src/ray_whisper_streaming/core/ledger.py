"""The committed words of a stream: append-only, bounded in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ray_whisper_streaming.core.events import Committed, Final
from ray_whisper_streaming.core.prompting import ContextText
from ray_whisper_streaming.core.transcript import SENTENCE_ENDINGS, Word

__all__ = ["Ledger"]

OVERLONG = 1.5
"""An utterance this many times longer than allowed is split even where no sentence ends."""


class Ledger:
    """Keeps what was committed, as far as it is needed again.

    `window` holds the committed words whose audio is still in the window, `context` the text before them, and
    `utterance` those of the utterance under way, which wait for its `Final`. Words further back are only counted.
    """

    def __init__(self, context: ContextText, max_utterance_s: float) -> None:
        self.window: list[Word] = []
        self.context = context
        self._max_utterance_s = max_utterance_s
        self.utterance: list[Word] = []
        self._utterances = 0
        self._count = 0
        self._last_start_s = 0.0
        self.last_end_s = 0.0

    @property
    def prefix(self) -> str:
        """The committed text inside the window."""
        return "".join(word.text for word in self.window)

    def commit(self, words: Sequence[Word]) -> Committed:
        """Take words for good. Their starts are made to never go back behind an earlier word's."""
        event_index = self._count
        taken: list[Word] = []
        for word in words:
            start_s = max(word.start_s, self._last_start_s)
            taken.append(replace(word, start_s=start_s, end_s=max(word.end_s, start_s)))
            self._last_start_s = start_s
            self.last_end_s = max(self.last_end_s, taken[-1].end_s)
        self._count += len(taken)
        self.window += taken
        self.utterance += taken
        return Committed(words=tuple(taken), first_index=event_index)

    def trim(self, cut_s: float) -> None:
        """The window now starts at ``cut_s``: words before it become context."""
        while self.window and (self.window[0].start_s + self.window[0].end_s) / 2 < cut_s:
            self.context.append(self.window.pop(0).text)

    def clear_window(self) -> None:
        """The audio of all committed words is gone."""
        self.trim(float("inf"))

    def split_overlong(self) -> Final | None:
        """End the utterance under way if it is longer than allowed and this is a good place."""
        if not self.utterance:
            return None
        length_s = self.utterance[-1].end_s - self.utterance[0].start_s
        at_sentence = self.utterance[-1].text.rstrip().endswith(SENTENCE_ENDINGS)
        if length_s < self._max_utterance_s * (1.0 if at_sentence else OVERLONG):
            return None
        return self.finish(end_of_stream=False)

    def finish(self, *, end_of_stream: bool) -> Final:
        """End the utterance under way."""
        final = Final(utterance=self._utterances, words=tuple(self.utterance), end_of_stream=end_of_stream)
        self._utterances += 1
        self.utterance = []
        return final
