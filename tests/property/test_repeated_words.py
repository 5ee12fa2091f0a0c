"""What was said twice is written twice, what was said once is written once: in every window, however spelled."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.play import Player, Troubles
from tests.support.world import World

from ray_whisper_streaming.core.hallucination import MAX_WORD_REPEATS, cut_repetition
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Job, Result
from ray_whisper_streaming.core.options import StreamOptions, TrimmingOptions
from ray_whisper_streaming.core.transcript import Word, normalise

POLICIES = ("hybrid", "cutoff", "agreement")
TRIMMINGS = (
    TrimmingOptions(),
    TrimmingOptions(at="sentence", trim_after_s=6.0, keep_s=3.0, hard_limit_s=9.0),
    TrimmingOptions(trim_after_s=3.0, keep_s=1.5, hard_limit_s=5.0, bridge_s=0.5),
    TrimmingOptions(trim_after_s=2.0, keep_s=1.0, hard_limit_s=4.0),
)
REPEATED = (
    "no " * 3,
    "no " * MAX_WORD_REPEATS,
    "had had",
    "that that",
    "i said i said",
    "the door " * 3,
    "one step at a time one step at a time",
    "4 4",
    "0 0 7 0 0 7",
    "don't don't",
)
ONCE = "we took it home and he knew why they were late when rain fell on us all so far from there"


def phrases(rng: random.Random, length_s: float) -> tuple[Word, ...]:
    """Phrases with their times; the repetitions stay below what is taken for a loop."""
    texts: list[str] = []
    words: list[Word] = []
    at_s = rng.uniform(0.0, 1.0)
    while True:
        if not texts:
            texts = [*rng.choice(REPEATED).split(), *rng.sample(ONCE.split(), rng.randrange(1, 6))]
        word_s = rng.uniform(0.3, 0.5)
        if at_s + word_s > length_s:
            return tuple(words)
        words.append(Word(f" {texts.pop(0)}", at_s, at_s + word_s))
        at_s += word_s + (rng.uniform(0.05, 0.2) if rng.random() < 0.8 else rng.uniform(0.2, 4.5))


@dataclass(frozen=True)
class Ear:
    """How a recogniser errs. Like the real ones it goes on behind the forced prefix, if it minds it.

    Attributes:
        jitter_s: word times are off by up to this much, differently in every window.
        misheard: probability that a word cut in two by the end of the window is heard as another,
        lost: and that it is not heard at all.
        deaf_to_prefix: probability that an answer does not begin with the forced prefix.
    """

    jitter_s: float = 0.15
    misheard: float = 0.3
    lost: float = 0.3
    deaf_to_prefix: float = 0.2


@dataclass
class Listener(Player):
    """Plays a world to a stream whose recogniser errs as its ear does."""

    ear: Ear = Ear()

    def hear(self, job: Job, **facts: Any) -> Result:
        self.observe()
        noise = random.Random(f"{self.world.seed}/{job.start_sample}/{len(job.audio)}/{job.prefix}")
        start_s = job.start_sample / SAMPLE_RATE
        end_s = start_s + job.audio_s
        said, known = self.world.words, len(self.words)
        new = [word for word in said[known:] if in_window(word, start_s, end_s)]
        if job.prefix and noise.random() >= self.ear.deaf_to_prefix:
            forced = [f" {text}" for text in job.prefix.split()]
            spoken = list(zip(said[known - len(forced) : known], forced, strict=True))
        else:
            before = [word for word in said[:known] if in_window(word, start_s, end_s)]
            spoken = [(word, respelled(word.text, noise)) for word in before]
        spoken += [(word, respelled(word.text, noise)) for word in new]
        if new and new[-1].end_s > end_s:
            word, text = spoken.pop()
            fate = noise.random()
            if fate < self.ear.misheard:
                spoken.append((word, f" {noise.randrange(1000)}x"))
            elif fate < 1 - self.ear.lost:
                spoken.append((word, text))
        words = self._timed(spoken, start_s, end_s, noise)
        return Result(job_id=job.job_id, words=words, language="en", **facts)

    def _timed(
        self, spoken: list[tuple[Word, str]], start_s: float, end_s: float, noise: random.Random
    ) -> tuple[Word, ...]:
        heard: list[Word] = []
        last_s = start_s
        for word, text in spoken:
            shift_s = noise.uniform(-1, 1) * self.ear.jitter_s
            first_s = min(max(word.start_s + shift_s, last_s), end_s)
            last_s = min(max(word.end_s + noise.uniform(-1, 1) * self.ear.jitter_s, first_s), end_s)
            heard.append(Word(text, first_s, last_s, probability=noise.uniform(0.2, 1.0)))
        return tuple(heard)

    def flush(self) -> None:
        """Only where no word is cut in two."""
        at_s = self._sent / SAMPLE_RATE
        if not any(word.start_s - 0.02 < at_s < word.end_s for word in self.world.words):
            super().flush()


def in_window(word: Word, start_s: float, end_s: float) -> bool:
    return start_s <= (word.start_s + word.end_s) / 2 < end_s


def respelled(text: str, noise: random.Random) -> str:
    bare = text.strip() + noise.choice(("", "", "", ",", ".", "?", "!", "-", '"'))
    return " " + noise.choice(("", "", '"')) + noise.choice((bare, bare.title(), bare.upper()))


def keys(words: Sequence[Word]) -> list[str]:
    return [normalise(word.text) for word in words]


def listener(seed: int, policy: Any, voice_activity: bool) -> Listener:
    rng = random.Random(seed)
    length_s = rng.uniform(1.0, 45.0)
    options = StreamOptions(
        language="en",
        policy=policy,
        voice_activity=voice_activity,
        commit_delay_s=rng.choice((0.3, 0.5, 1.0)),
        update_interval_s=rng.choice((0.2, 0.4, 1.0, 3.0)),
        trimming=rng.choice(TRIMMINGS),
        context=rng.random() < 0.5,
    )
    trouble = Troubles(delay=rng.choice((0.0, 0.3)), flush=rng.choice((0.0, 0.05, 0.5)))
    world = World(phrases(rng, length_s), length_s, seed=rng.randrange(2**32))
    return Listener(world, options, rng, trouble, ear=Ear(deaf_to_prefix=rng.choice((0.0, 0.2, 1.0))))


@pytest.mark.parametrize("voice_activity", [True, False])
@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
@example(140)  # here windows cut right behind the last committed word heard its end as a word of its own
@example(389)
def test_every_word_is_written_as_often_as_it_was_said(policy: str, voice_activity: bool, seed: int) -> None:
    player = listener(seed, policy, voice_activity)
    said = player.world.words
    assert cut_repetition(said) == list(said), "nothing that a rule would take for a loop"
    player.play()
    assert keys(player.words) == keys(said)
