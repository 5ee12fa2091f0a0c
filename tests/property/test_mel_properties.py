"""The cached spectrogram is that of faster-whisper, however the windows of a stream move."""

from __future__ import annotations

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_whisper_streaming.engines.mel import HOP, MelCache, pad_frames

_TIME = np.arange(16_000 * 6)
_NOISE = np.random.default_rng(7).standard_normal(len(_TIME))
# Loud and silent stretches, so that the clamp to the window's maximum matters.
AUDIO = (_NOISE * 6000 * np.maximum(0, np.sin(_TIME / 7000)) ** 3).astype(np.int16)
REFERENCE = {bands: FeatureExtractor(feature_size=bands) for bands in (80, 128)}

moves = st.lists(
    st.tuples(st.integers(0, 200), st.integers(1, 40_000), st.integers(0, HOP - 1)), min_size=1, max_size=6
)


def expected(audio: np.ndarray, bands: int = 80) -> np.ndarray:
    return REFERENCE[bands](audio.astype(np.float32) / 32768)[:, :-1]


@settings(max_examples=60)
@given(moves=moves, aligned=st.booleans(), bands=st.sampled_from([80, 128]))
def test_any_walk_of_windows_equals_the_extractor(
    moves: list[tuple[int, int, int]], aligned: bool, bands: int
):
    cache = MelCache(bands)
    start, end = 0, 0
    for trimmed_hops, grown, off_grid in moves:
        end = min(max(end, start) + grown, len(AUDIO))
        start = min(start + trimmed_hops * HOP + (0 if aligned else off_grid), end)
        window = AUDIO[start:end]
        mel = cache.log_mel("stream", start, window)
        assert mel.shape == (bands, len(window) // HOP)
        assert mel.dtype == np.float32
        if len(window) >= HOP:
            np.testing.assert_allclose(mel, expected(window, bands), atol=1e-4)


def test_cached_and_fresh_are_equal_to_the_bit():
    cache = MelCache(80)
    for end in range(16_000, 64_000, 8_000):
        cache.log_mel("stream", 0, AUDIO[:end])
    grown = cache.log_mel("stream", 0, AUDIO[:64_000])
    trimmed = cache.log_mel("stream", 16_000, AUDIO[16_000:72_000])
    assert np.array_equal(grown, MelCache(80).log_mel("other", 0, AUDIO[:64_000]))
    assert np.array_equal(trimmed, MelCache(80).log_mel("other", 7, AUDIO[16_000:72_000]))


def test_frames_seen_before_are_not_computed_again(monkeypatch: pytest.MonkeyPatch):
    from ray_whisper_streaming.engines import mel

    counted: list[int] = []
    compute = mel._log_frames

    def counting(samples: np.ndarray, count: int, bands: int) -> np.ndarray:
        counted.append(count)
        return compute(samples, count, bands)

    monkeypatch.setattr(mel, "_log_frames", counting)
    cache = MelCache(80)
    cache.log_mel("stream", 0, AUDIO[:64_000])
    counted.clear()
    cache.log_mel("stream", 0, AUDIO[:80_000])
    # A second is 100 frames; two at the start and two that reached beyond the former end are done again.
    assert sum(counted) <= 105


@settings(max_examples=30)
@given(changed=st.integers(0, 47_999))
def test_an_id_used_again_for_other_audio_gets_its_own_frames(changed: int):
    other = AUDIO[:48_000].copy()
    other[changed] += 9000
    cache = MelCache(80)
    cache.log_mel("stream", 0, AUDIO[:48_000])
    assert np.array_equal(cache.log_mel("stream", 0, other), MelCache(80).log_mel("x", 0, other))


def test_the_cache_is_bounded():
    cache = MelCache(80, max_frames=250, max_streams=3)
    for number in range(10):
        cache.log_mel(f"stream {number}", 0, AUDIO[:16_000])
        assert cache.held_frames <= 250
        assert cache.held_streams <= 3
    assert cache.held_streams == 2
    cache.log_mel("long", 0, AUDIO[:64_000])
    assert cache.held_frames == 0
    small = MelCache(80, max_streams=1)
    small.log_mel("a", 0, AUDIO[:16_000])
    small.log_mel("b", 0, AUDIO[:16_000])
    assert small.held_streams == 1


def test_no_audio_has_no_frames():
    assert MelCache(80).log_mel("stream", 0, AUDIO[:0]).shape == (80, 0)


def test_padding_adds_zeros_behind():
    padded = pad_frames(np.ones((80, 3), np.float32), 5)
    assert padded.shape == (80, 5)
    assert not padded[:, 3:].any()
    assert padded[:, :3].all()
