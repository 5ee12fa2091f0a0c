"""What a reader of one stream saw, and how late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ray_whisper_streaming import Committed, Event, Final, JobFailed, Partial, StreamFailed, Word

__all__ = ["Caption", "Figures"]

SAME_UPDATE_S = 0.02
"""Events closer together are one update to a reader: a pass commits words and shows the rest at once."""


@dataclass(slots=True)
class Caption:
    """One stream, as its events tell it.

    Attributes:
        name: for the reader.
        started_at: monotonic second at which its audio began to be played.
        speed: seconds of audio played per second.
        reference: what is said in it, if known.
        audio_s: seconds of audio given to the pool.
        whole: all of it was given.
    """

    name: str
    started_at: float = 0.0
    speed: float = 1.0
    reference: str = field(default="", repr=False)
    audio_s: float = 0.0
    whole: bool = False
    committed: str = field(default="", repr=False)
    partial: str = field(default="", repr=False)
    words: int = 0
    shown: int = 0
    updates: int = 0
    commit_latencies_s: list[float] = field(default_factory=list[float])
    shown_latencies_s: list[float] = field(default_factory=list[float])
    failed_jobs: int = 0
    error: str = ""
    done: bool = False
    _updated_at: float = field(default=float("-inf"), repr=False)

    def receive(self, event: Event, now: float) -> None:
        """Take an event at the monotonic second ``now``. The ends of words are the recogniser's own."""
        if isinstance(event, Committed):
            self._count_update(now)
            self.partial = ""
            self.committed += event.spaced_text
            self.commit_latencies_s += [self._latency_s(word, now) for word in event.words]
            self._show(event.words, now)
            self.words += len(event.words)
        elif isinstance(event, Partial):
            self._count_update(now)
            self.partial = event.spaced_text
            self._show(event.words, now)
        elif isinstance(event, JobFailed):
            self.failed_jobs += 1
        elif isinstance(event, StreamFailed):
            self.error = str(event.error)
        elif isinstance(event, Final):
            self.partial = ""
            self.done = event.end_of_stream

    def _show(self, words: Sequence[Word], now: float) -> None:
        """Note when each word was first there, in whatever spelling; ``words`` stand behind the committed ones."""
        unseen = words[max(0, self.shown - self.words) :]
        # (The end of the newest word may be guessed behind the end of the audio; nothing is shown before it is said.)
        self.shown_latencies_s += [max(0.0, self._latency_s(word, now)) for word in unseen]
        self.shown += len(unseen)

    def _count_update(self, now: float) -> None:
        self.updates += now - self._updated_at > SAME_UPDATE_S
        self._updated_at = now

    def _latency_s(self, word: Word, now: float) -> float:
        return now - self.started_at - word.end_s / self.speed


@dataclass(frozen=True, slots=True)
class Figures:
    """The sums of some captions."""

    captions: Sequence[Caption]

    @property
    def audio_s(self) -> float:
        """Seconds of audio given."""
        return sum(caption.audio_s for caption in self.captions)

    @property
    def words(self) -> int:
        """Words committed."""
        return sum(caption.words for caption in self.captions)

    @property
    def updates_per_s(self) -> float:
        """Changes of what a reader sees, per second of audio and stream."""
        return sum(caption.updates for caption in self.captions) / self.audio_s if self.audio_s else 0.0

    @property
    def failed(self) -> int:
        """Streams that ended by an error."""
        return sum(bool(caption.error) for caption in self.captions)

    @property
    def failed_jobs(self) -> int:
        """Passes that failed and were tried again."""
        return sum(caption.failed_jobs for caption in self.captions)

    def commit_latency_s(self, percentile: float) -> float | None:
        """From the end of a word until it was committed."""
        return _percentile(
            [each for caption in self.captions for each in caption.commit_latencies_s], percentile
        )

    def first_shown_latency_s(self, percentile: float) -> float | None:
        """From the end of a word until it was first shown, committed or not."""
        return _percentile(
            [each for caption in self.captions for each in caption.shown_latencies_s], percentile
        )

    def word_error_rate(self) -> float | None:
        """Of the captions that have all been said and whose text is known; None if there are none, or no scorer."""
        scored = [
            caption for caption in self.captions if caption.reference and caption.whole and caption.done
        ]
        if not scored:
            return None
        try:
            from ray_whisper_streaming.bench.text_errors import word_error_rate

            return word_error_rate([each.reference for each in scored], [each.committed for each in scored])
        except ImportError:  # the extra `bench` is not installed
            return None


def _percentile(values: Sequence[float], percentile: float) -> float | None:
    return float(np.percentile(np.asarray(values), percentile)) if values else None
