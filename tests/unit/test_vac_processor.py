"""The processor behind voice activity: real Silero, recorded voice, a recogniser that answers where sound is."""

from __future__ import annotations

from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_whisper_streaming.compat.hypothesis import TimedWord
from ray_whisper_streaming.compat.vac import VACOnlineASRProcessor
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.errors import EngineError
from ray_whisper_streaming.media import load_audio

SAMPLES = Path(str(resources.files("ray_whisper_streaming") / "samples"))
NOTHING = (None, None, "")
GAP = round(0.2 * SAMPLE_RATE)
LOUD = 0.02


class SoundASR:
    """Hears a word wherever the audio isn't silent. Its text is its length, so that a growing one is another."""

    sep = ""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.heard: list[int] = []

    def transcribe(self, audio: Any, init_prompt: str = "") -> list[TimedWord]:
        if self.error is not None:
            raise self.error
        self.heard.append(len(audio))
        return [(a / SAMPLE_RATE, b / SAMPLE_RATE, f" {b - a}") for a, b in sounds(audio)]

    def ts_words(self, words: list[TimedWord]) -> list[TimedWord]:
        return words

    def segments_end_ts(self, words: list[TimedWord]) -> list[float]:
        return [word[1] for word in words]


def sounds(audio: np.ndarray) -> list[tuple[int, int]]:
    """Where samples are loud; gaps of less than 0.2 s don't count."""
    loud = np.flatnonzero(np.abs(audio) > LOUD)
    if not len(loud):
        return []
    borders = np.flatnonzero(np.diff(loud) > GAP)
    starts = [loud[0], *loud[borders + 1]]
    ends = [*loud[borders], loud[-1]]
    return [(int(a), int(b) + 1) for a, b in zip(starts, ends, strict=True)]


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def voice(seconds: float, start_s: float = 0.5, name: str = "soup_recipe") -> np.ndarray:
    """A piece of a recording, from where its first word is loud."""
    audio = load_audio(SAMPLES / f"{name}.flac")
    start = int(np.flatnonzero(np.abs(audio[round(start_s * SAMPLE_RATE) :]) > 0.1)[0])
    start += round(start_s * SAMPLE_RATE)
    return audio[start : start + round(seconds * SAMPLE_RATE)]


def play(
    online: VACOnlineASRProcessor, *parts: np.ndarray, step_s: float = 0.1
) -> list[tuple[float, float, str]]:
    audio = np.concatenate(parts)
    step = round(step_s * SAMPLE_RATE)
    outputs = []
    for start in range(0, len(audio), step):
        online.insert_audio_chunk(audio[start : start + step])
        outputs.append(online.process_iter())
    outputs.append(online.finish())
    return [output for output in outputs if output[0] is not None]


@pytest.mark.parametrize("step_s", [0.04, 0.25, 3.0])
@pytest.mark.parametrize("seconds", [0.2, 0.3, 0.5])
@pytest.mark.parametrize("name", ["soup_recipe", "support_call", "weather_report", "city_tour"])
def test_a_short_utterance_is_decoded(name: str, seconds: float, step_s: float) -> None:
    audio = np.concatenate([silence(1.5), voice(seconds, name=name), silence(1.5)])
    # The inner processor's step is longer than the utterance: only its end brings the pass.
    outputs = play(VACOnlineASRProcessor(5.0, SoundASR()), audio, step_s=step_s)
    expected = sounds(audio)
    assert outputs[0][0] == pytest.approx(expected[0][0] / SAMPLE_RATE, abs=0.01)
    assert outputs[-1][1] == pytest.approx(expected[-1][1] / SAMPLE_RATE, abs=0.01)


def test_silence_is_not_decoded_and_not_kept() -> None:
    asr = SoundASR()
    online = VACOnlineASRProcessor(1.0, asr)
    assert play(online, silence(60.0), step_s=0.5) == []
    assert asr.heard == []
    assert len(online._buffer) < SAMPLE_RATE


@pytest.mark.parametrize("tail_s", [0.0, 0.1, 0.4, 2.0])
def test_the_tail_of_an_utterance_is_decoded(tail_s: float) -> None:
    speech = voice(3.0)
    outputs = play(VACOnlineASRProcessor(1.0, SoundASR()), silence(1.0), speech, silence(tail_s))
    # The last loud sample of the speech ends the last word, whether the stream ends there or is silent first.
    assert outputs[-1][1] == pytest.approx(1.0 + sounds(speech)[-1][1] / SAMPLE_RATE, abs=0.01)


@pytest.mark.parametrize("step_s", [0.04, 0.3, 10.0])
def test_an_utterance_close_behind_another_is_its_own(step_s: float) -> None:
    # Half a second of silence ends an utterance, so that the next may begin just as it does.
    parts = [silence(1.0), voice(1.0), silence(0.6), voice(1.0), silence(0.6), voice(1.0), silence(1.0)]
    audio = np.concatenate(parts)
    asr = SoundASR()
    outputs = play(VACOnlineASRProcessor(20.0, asr), audio, step_s=step_s)
    expected = sounds(audio)
    assert "".join(output[2] for output in outputs).split() == [str(b - a) for a, b in expected]
    assert outputs[0][0] == pytest.approx(expected[0][0] / SAMPLE_RATE, abs=0.01)
    assert outputs[-1][1] == pytest.approx(expected[-1][1] / SAMPLE_RATE, abs=0.01)
    assert all(a[1] <= b[0] for a, b in pairwise(outputs))
    assert len(asr.heard) == 3


def test_a_long_utterance_is_decoded_while_it_goes_on() -> None:
    online = VACOnlineASRProcessor(1.0, SoundASR())
    audio = np.concatenate([silence(0.5), voice(6.0)])
    outputs = []
    for start in range(0, len(audio), 1600):
        online.insert_audio_chunk(audio[start : start + 1600])
        outputs.append(online.process_iter())
    assert any(output[0] is not None for output in outputs)


def test_a_failed_pass_loses_neither_its_words_nor_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    audio = np.concatenate([silence(1.0), voice(1.0), silence(1.0), voice(1.0), silence(1.0)])
    expected = play(VACOnlineASRProcessor(20.0, SoundASR()), audio, step_s=10.0)
    asr = SoundASR()
    online = VACOnlineASRProcessor(20.0, asr)
    online.insert_audio_chunk(audio)
    calls = []
    hear = asr.transcribe

    def second_fails(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise EngineError("no", job_id="x")
        return hear(*args, **kwargs)

    monkeypatch.setattr(asr, "transcribe", second_fails)
    with pytest.raises(EngineError):
        online.process_iter()
    outputs = [online.process_iter(), online.finish()]
    assert [output for output in outputs if output[0] is not None] == expected


def test_finish_is_said_once_and_a_failed_one_may_be_repeated() -> None:
    asr = SoundASR()
    online = VACOnlineASRProcessor(20.0, asr)
    online.insert_audio_chunk(np.concatenate([silence(0.5), voice(1.0)]))
    asr.error = EngineError("no", job_id="x")
    with pytest.raises(EngineError):
        online.finish()
    asr.error = None
    assert online.finish()[0] == pytest.approx(0.5, abs=0.01)
    assert online.finish() == NOTHING


def test_init_forgets_the_stream() -> None:
    online = VACOnlineASRProcessor(1.0, SoundASR())
    first = play(online, silence(1.0), voice(1.0), silence(1.0))
    online.init()
    assert play(online, silence(1.0), voice(1.0), silence(1.0)) == first
