"""A processor that listens for voice: silence is not decoded, and utterances end by themselves."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.compat.processor import NOTHING, OnlineASRProcessor, Output
from ray_whisper_streaming.core.audio import AudioBuffer, as_int16
from ray_whisper_streaming.core.endpointing import VOICE_FRAME, Boundary, Endpointer
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.core.options import EndpointingOptions
from ray_whisper_streaming.engines.vad import SileroVad, VadState

__all__ = ["VACOnlineASRProcessor"]

ENDPOINTING = EndpointingOptions(min_silence_s=0.5)
"""whisper_streaming ends an utterance after half a second of silence."""


@dataclass(slots=True)
class _Utterance:
    start: int
    end: int | None = None


class VACOnlineASRProcessor:
    """`OnlineASRProcessor` behind voice activity.

    Every utterance, however short, is decoded to its end; one that starts close behind another is its own.

    Args:
        online_chunk_size: seconds of new audio before a pass.
        args, kwargs: for the `OnlineASRProcessor` inside, `online`.
    """

    SAMPLING_RATE = SAMPLE_RATE

    def __init__(self, online_chunk_size: float, *args: Any, **kwargs: Any) -> None:
        self.online_chunk_size = online_chunk_size
        self.online = OnlineASRProcessor(*args, **{**kwargs, "decode_tail": True})
        self._vad = SileroVad()
        self.init()

    def init(self) -> None:
        """Start afresh."""
        self.online.init()
        self._endpointer = Endpointer(ENDPOINTING)
        self._state = VadState()
        self._buffer = AudioBuffer()
        self._utterances: deque[_Utterance] = deque()
        self._given: int | None = None  # samples of the first utterance given to `online`, if it was begun
        self._decoded = 0
        self._outputs: list[Output] = []  # not returned yet: outlive a pass that fails after them

    def insert_audio_chunk(self, audio: npt.ArrayLike) -> None:
        """Take the next samples; see `OnlineASRProcessor.insert_audio_chunk`."""
        self._buffer.append(as_int16(audio))
        frames = (self._buffer.end_sample - self._endpointer.position) // VOICE_FRAME
        self._listen(frames * VOICE_FRAME, 0)

    def process_iter(self) -> Output:
        """Ended utterances to their end, and a pass over the one under way if it is time for one.

        Raises:
            TranscriptionError: a pass failed; nothing is lost, call again.
        """
        outputs = self._outputs
        while self._utterances:
            utterance = self._utterances[0]
            self._feed(utterance)
            if utterance.end is not None:
                outputs.append(self.online.finish())
                self._utterances.popleft()
                self._given = None
                continue
            assert self._given is not None
            if self._given - self._decoded >= self.online_chunk_size * SAMPLE_RATE:
                outputs.append(self.online.process_iter())
                self._decoded = self._given
            break
        if not self._utterances:
            self._buffer.trim(self._endpointer.silent_until)
        self._outputs = []
        return self._joined(outputs)

    def finish(self) -> Output:
        """Everything that is left, at the end of the stream. Called again, nothing."""
        left = self._buffer.end_sample - self._endpointer.position
        self._listen(left, -left % VOICE_FRAME)
        self._apply(self._endpointer.cut(self._buffer.end_sample))
        return self.process_iter()

    def _listen(self, samples: int, missing: int) -> None:
        start = self._endpointer.position
        if samples > 0:
            heard = np.pad(self._buffer.read(start, start + samples), (0, missing))
            (probabilities,) = self._vad.score([self._state], [heard])
            self._apply(self._endpointer.receive(float(p) for p in probabilities))

    def _apply(self, boundaries: list[Boundary]) -> None:
        for boundary in boundaries:
            if boundary.starts:
                self._utterances.append(_Utterance(boundary.sample))
            else:
                self._utterances[-1].end = min(boundary.sample, self._buffer.end_sample)

    def _feed(self, utterance: _Utterance) -> None:
        """Give the inner processor the utterance's audio as far as it is known."""
        if self._given is None:
            self.online.init(offset=utterance.start / SAMPLE_RATE)
            self._given = self._decoded = utterance.start
        end = utterance.end if utterance.end is not None else self._buffer.end_sample
        if end > self._given:
            self.online.insert_audio_chunk(self._buffer.read(self._given, end))
            self._given = end
            # If this utterance turns out to have ended, the next may begin right behind its last voice.
            self._buffer.trim(min(end, self._endpointer.voiced_until))

    def _joined(self, outputs: list[Output]) -> Output:
        found = [output for output in outputs if output[0] is not None]
        if not found:
            return NOTHING
        return found[0][0], found[-1][1], self.online.asr.sep.join(output[2] for output in found)
