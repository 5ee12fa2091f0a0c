"""OpenAI's Realtime protocol over real streams, in any order of what a client sends and what the streams get done."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.world import World, say, voice_of

from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Job
from ray_whisper_streaming.core.stream import Stream
from ray_whisper_streaming.errors import PoolError
from ray_whisper_streaming.wire.actions import Action, FeedAudio, FlushStream, OpenStream
from ray_whisper_streaming.wire.openai_realtime import RealtimeProtocol
from ray_whisper_streaming.wire.openai_session import SessionConfig

RATE = 24_000
HELD_BACK = 136
"""Samples (8.5 ms) that a resampler keeps until more audio comes."""

TEXT = (
    "zero one two | three | four five six seven | eight nine ten | eleven twelve thirteen fourteen | fifteen"
)
WORLD = World(say(TEXT, word_s=0.5), 40.0)
AUDIO = WORLD.audio()
DELTA, COMPLETED, FAILED = (
    f"conversation.item.input_audio_transcription.{kind}" for kind in ("delta", "completed", "failed")
)
DETECTIONS: dict[str, Any] = {
    "manual": None,
    "server_vad": {"type": "server_vad"},
    "shorter": {"type": "server_vad", "silence_duration_ms": 300},
    "semantic_vad": {"type": "semantic_vad"},
}

Step: TypeAlias = tuple[str, Any]


class Session:
    """Client, shell and workers: streams follow one another, each opened when the one before is over."""

    def __init__(self) -> None:
        self.protocol = RealtimeProtocol("s", SessionConfig.default(("tiny.en",)))
        self.said: list[dict[str, Any]] = []
        self.appended = 0
        self.cleared_s = 0.0
        self._stream: Stream | None = None
        self._waiting: deque[Action] = deque()
        self._offset = self._fed = self._heard = 0
        self._job: Job | None = None
        self._now = 0.0

    def play(self, steps: Sequence[Step]) -> None:
        for kind, what in steps:
            if kind == "append":
                self.append(what)
            elif kind == "paced":
                for _ in range(round(what / 0.02)):
                    self.append(0.02)
                    self.turn()
            elif kind == "turns":
                for _ in range(what):
                    self.turn()
            elif kind == "detect":
                self.update(DETECTIONS[what])
            elif what == "fail":
                if self._stream is not None:
                    self._stream.fail(PoolError("no"))
            else:
                self.send(f"input_audio_buffer.{what}")
                if what == "clear":
                    self.cleared_s = self.appended / RATE
        self.append(3.0)
        self.send("input_audio_buffer.commit")
        self.update(None)
        self.update({"type": "server_vad", "silence_duration_ms": 777})
        for _ in range(1000):
            self.turn()

    def send(self, kind: str, **fields: Any) -> None:
        self.protocol.receive_message(json.dumps({"type": kind, **fields}))
        self._waiting += self.protocol.actions()
        self._act()

    def update(self, turn_detection: Any) -> None:
        audio = {"input": {"turn_detection": turn_detection}}
        self.send("session.update", session={"type": "transcription", "audio": audio})

    def append(self, length_s: float) -> None:
        samples = round(length_s * RATE)
        self.appended += samples
        self.send("input_audio_buffer.append", audio=base64.b64encode(bytes(2 * samples)).decode())

    def turn(self) -> None:
        """What the workers and the socket get done in a moment."""
        self._now += 0.1
        stream = self._stream
        if stream is not None:
            if (samples := stream.voice_input()) is not None:
                stream.receive_voice(voice_of(samples))
            if self._job is not None:
                heard = WORLD.result(_moved(self._job, self._offset))
                words = tuple(_shifted(word, -self._offset / SAMPLE_RATE) for word in heard.words)
                stream.receive_result(replace(heard, words=words))
            self._job = stream.next_job(self._now)
            for event in stream.events():
                self.protocol.receive_event(event)
            if stream.over:
                self._stream = self._job = None
        self._act()
        self.said += map(json.loads, self.protocol.messages())

    def _act(self) -> None:
        while self._waiting:
            action = self._waiting[0]
            if isinstance(action, OpenStream):
                if self._stream is not None:
                    return
                self._stream = Stream("s", action.options)
                self._offset = self._heard = self._fed * SAMPLE_RATE // RATE
            elif isinstance(action, FeedAudio):
                self._fed += len(action.data) // 2
                self._push(self._fed * SAMPLE_RATE // RATE - HELD_BACK)
            elif self._stream is not None and not self._stream.over:
                if isinstance(action, FlushStream):
                    self._stream.request_flush(action.flush_id)
                else:
                    self._push(self._fed * SAMPLE_RATE // RATE)
                    self._stream.receive_eof()
            self._waiting.popleft()

    def _push(self, until: int) -> None:
        if self._stream is None or self._stream.over or until <= self._heard:
            return
        samples = AUDIO[self._heard : until]
        silence = np.zeros(until - self._heard - len(samples), np.int16)
        self._stream.receive_audio(np.concatenate((samples, silence)))
        self._heard = until

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.said if message["type"] == kind]

    def check(self) -> None:
        """Each committed item ends once, behind its commit, and its deltas are its transcript."""
        commits = self.of("input_audio_buffer.committed")
        ids = [message["item_id"] for message in commits]
        ends = [*self.of(COMPLETED), *self.of(FAILED)]
        assert sorted(message["item_id"] for message in ends) == sorted(set(ids)) == sorted(ids)
        assert [message["previous_item_id"] for message in commits] == [None, *ids][: len(ids)]
        assert all(self.said.index(end) > self.said.index(commits[ids.index(end["item_id"])]) for end in ends)
        for done in self.of(COMPLETED):
            deltas = [each["delta"] for each in self.of(DELTA) if each["item_id"] == done["item_id"]]
            assert "".join(deltas) == done["transcript"]
            behind = self.said[self.said.index(done) :]
            assert not [
                each for each in behind if each["type"] == DELTA and each["item_id"] == done["item_id"]
            ]


def _moved(job: Job, samples: int) -> Job:
    return replace(job, start_sample=job.start_sample + samples)


def _shifted(word: Any, by_s: float) -> Any:
    return replace(word, start_s=word.start_s + by_s, end_s=word.end_s + by_s)


LENGTHS = st.sampled_from([0.1, 0.3, 1.0, 2.0, 3.0])
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("append"), LENGTHS),
    st.tuples(st.just("paced"), LENGTHS),
    st.tuples(st.just("turns"), st.integers(1, 8)),
    st.tuples(st.just("say"), st.sampled_from(["commit", "commit", "clear"])),
    st.tuples(st.just("detect"), st.sampled_from(sorted(DETECTIONS))),
)


@pytest.mark.parametrize(
    "steps",
    [
        [("paced", 1.0), ("say", "clear"), ("paced", 8.0)],
        [("append", 6.0), ("detect", "manual"), ("append", 1.0), ("say", "commit")],
        [("paced", 1.0), ("say", "clear"), ("paced", 1.0), ("say", "commit"), ("paced", 2.0)],
    ],
)
def test_clears_amid_speech_and_updates_before_it_was_heard(steps: list[Step]) -> None:
    check_words(steps)


@given(st.lists(STEPS, max_size=25))
@settings(max_examples=300)
def test_every_commit_is_completed_and_every_word_told_once(steps: list[Step]) -> None:
    check_words(steps)


def check_words(steps: list[Step]) -> None:
    session = Session()
    session.play(steps)
    session.check()
    assert not session.of(FAILED)
    told = " ".join(done["transcript"] for done in session.of(COMPLETED)).split()
    assert len(told) == len(set(told))
    # A word is where its middle is. What a clear takes depends on what had been committed by then.
    owed = {
        word.text.strip()
        for word in WORLD.words
        if session.cleared_s <= (word.start_s + word.end_s) / 2 < session.appended / RATE
    }
    assert owed <= set(told)


@given(st.lists(STEPS | st.just(("say", "fail")), max_size=25))
@settings(max_examples=200)
def test_every_commit_is_completed_or_failed(steps: list[Step]) -> None:
    session = Session()
    session.play(steps)
    session.check()
