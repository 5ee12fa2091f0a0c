"""Silero VAD with a state per stream, against faster-whisper's own way of running it."""

from __future__ import annotations

import copy
from importlib import resources
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from faster_whisper.vad import get_vad_model

from ray_whisper_streaming.engines import vad as vad_module
from ray_whisper_streaming.engines.onnx.graph import Graph
from ray_whisper_streaming.engines.onnx.voice import voice_network
from ray_whisper_streaming.engines.vad import (
    FRAMES_PER_CALL,
    MAX_GAIN_DB,
    VAD_FRAME_SAMPLES,
    SileroVad,
    VadState,
)
from ray_whisper_streaming.errors import AudioError, ModelNotFound

FRAME = VAD_FRAME_SAMPLES


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A second of silence, a sample recording, a second of silence; int16, whole frames."""
    file = resources.files("ray_whisper_streaming") / "samples" / "support_call.flac"
    with resources.as_file(file) as path, av.open(str(path)) as container:
        said = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    padded = np.pad(said, 16_000)
    return padded[: len(padded) // FRAME * FRAME]


@pytest.fixture(scope="module")
def vad() -> SileroVad:
    made = SileroVad()
    made.load()
    return made


def test_a_fresh_stream_scores_as_faster_whisper_does(vad: SileroVad, speech: np.ndarray):
    # One that was loud before: faint frames are amplified otherwise.
    [probabilities] = vad.score([VadState(loudest_db=0.0)], [speech])
    reference = get_vad_model()(speech.astype(np.float32) / 32768).ravel()
    np.testing.assert_allclose(probabilities, reference, atol=1e-4)
    assert probabilities.shape == (len(speech) // FRAME,)
    assert probabilities[:25].max() < 0.1 < 0.9 < np.median(probabilities[60:-60])


@pytest.mark.parametrize("decibels", [-40.0, -55.0])
def test_a_faint_voice_is_found_as_a_loud_one_is(vad: SileroVad, speech: np.ndarray, decibels: float):
    faint = np.rint(speech * 10 ** (decibels / 20)).astype(np.int16)
    [loud_scores] = vad.score([VadState()], [speech])
    [faint_scores] = vad.score([VadState()], [faint])
    assert np.mean((loud_scores > 0.5) == (faint_scores > 0.5)) > 0.9
    # It stays out of the pauses, which are rounding and no more.
    assert faint_scores[:25].max() < 0.2
    [unaided] = vad.score([VadState(loudest_db=1000.0)], [faint])
    assert decibels > -50 or np.mean(unaided > 0.5) < 0.5 * np.mean(loud_scores > 0.5)


def test_a_bang_is_forgotten(vad: SileroVad, speech: np.ndarray):
    faint = np.rint(speech * 10 ** (-55 / 20)).astype(np.int16)
    bang = np.zeros(900 * FRAME, np.int16)  # and 29 s of silence
    bang[:FRAME:2] = 30_000
    state = VadState()
    vad.score([state], [bang])
    [behind] = vad.score([state], [faint])
    [alone] = vad.score([VadState()], [faint])
    assert np.mean((behind > 0.5) == (alone > 0.5)) > 0.9


def test_there_is_a_most_it_amplifies_by(vad: SileroVad, speech: np.ndarray):
    faint = (speech / 32768 * 10 ** (-100 / 20)).astype(np.float32)
    [amplified] = vad.score([VadState()], [faint])
    louder = faint * np.float32(10 ** (MAX_GAIN_DB / 20))
    [as_it_is] = vad.score([VadState(loudest_db=1000.0)], [louder])
    np.testing.assert_allclose(amplified, as_it_is, atol=1e-5)


@pytest.mark.parametrize("decibels", [-90.0, -80.0, -70.0, -60.0, -50.0])
def test_faint_noise_is_no_voice(vad: SileroVad, decibels: float):
    noise = np.random.default_rng(0).standard_normal(300 * FRAME) * 10 ** (decibels / 20)
    [scores] = vad.score([VadState()], [np.rint(noise * 32768).astype(np.int16)])
    assert scores.max() < 0.5


@pytest.mark.parametrize("share", [1.0, 0.001])
@pytest.mark.parametrize("frames", [1, 3, 31])
def test_how_audio_is_cut_changes_nothing(vad: SileroVad, speech: np.ndarray, frames: int, share: float):
    speech = (speech[: 200 * FRAME] * share).astype(np.int16)
    [whole] = vad.score([VadState()], [speech])
    state = VadState()
    cuts = range(0, len(speech), frames * FRAME)
    pieces = [vad.score([state], [speech[cut : cut + frames * FRAME]])[0] for cut in cuts]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)


def test_streams_in_one_call_do_not_touch_each_other(vad: SileroVad, speech: np.ndarray):
    chunks = [speech[index * 40 * FRAME :][: count * FRAME] for index, count in enumerate([31, 0, 5, 60, 1])]
    together = [VadState() for _ in chunks]
    alone = copy.deepcopy(together)
    for _ in range(2):
        scored = vad.score(together, chunks)
        for index, (state, chunk) in enumerate(zip(alone, chunks, strict=True)):
            np.testing.assert_allclose(vad.score([state], [chunk])[0], scored[index], atol=1e-5)
            assert len(scored[index]) == len(chunk) // FRAME


def test_more_streams_than_one_call_takes(vad: SileroVad, speech: np.ndarray):
    lengths = [(index % 5) * FRAME for index in range(3 * FRAMES_PER_CALL)]
    chunks = [speech[index * 160 :][:length] for index, length in enumerate(lengths)]
    scores = vad.score([VadState() for _ in chunks], chunks)
    assert [len(each) * FRAME for each in scores] == lengths
    for index in range(0, len(chunks), 97):
        np.testing.assert_allclose(vad.score([VadState()], [chunks[index]])[0], scores[index], atol=1e-5)


def test_another_network_is_told(tmp_path: Path):
    other = Graph(quantise=False)
    other.output(other.constant([1.0]), "one")
    (tmp_path / "other.onnx").write_bytes(other.serialised("other"))
    with pytest.raises(ModelNotFound, match="version 6"):
        voice_network(tmp_path / "other.onnx")


def test_int16_and_float_are_the_same_audio(vad: SileroVad, speech: np.ndarray):
    cut = speech[: 60 * FRAME]
    as_int, as_float = vad.score([VadState(), VadState()], [cut, (cut / 32768).astype(np.float32)])
    np.testing.assert_allclose(as_int, as_float, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros(FRAME - 1, np.int16), np.zeros((2, FRAME), np.int16), np.zeros(FRAME, np.float64)],
    ids=["not whole frames", "two channels", "doubles"],
)
def test_wrong_audio_is_refused_and_moves_no_state(vad: SileroVad, speech: np.ndarray, wrong: Any):
    states = [VadState(), VadState()]
    chunks: list[Any] = [speech[:FRAME], wrong]
    with pytest.raises(AudioError):
        vad.score(states, chunks)
    assert not states[0].hidden.any()
    assert not states[0].context.any()


def test_all_pools_of_a_process_share_one_network(monkeypatch: pytest.MonkeyPatch, speech: np.ndarray):
    import onnxruntime

    loaded: list[Any] = []

    def load(*given: Any, **options: Any) -> Any:
        loaded.append(real(*given, **options))
        return loaded[-1]

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", load)
    vad_module._network.cache_clear()
    for each in (SileroVad(), SileroVad()):
        each.score([VadState()], [speech[: 4 * FRAME]])
    assert len(loaded) == 1
