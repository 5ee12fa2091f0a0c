"""What conditions do to samples, checked by physics: power, spectrum, length; and that nothing depends on chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_whisper_streaming.bench.conditions import (
    add_noise,
    amplify,
    over_telephone,
    overdrive,
    parse_condition,
    pink_noise,
    white_noise,
    without_pauses,
)
from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.core.transcript import Word, join_text
from ray_whisper_streaming.errors import ConfigurationError

NAMES = [
    "phone",
    "monologue",
    "white=10",
    "pink=10",
    "background=10",
    "clipped=20",
    "quiet=40",
    "overlap=10",
    "turns=6",
]


def tone(hertz: float, seconds: float = 1.0, peak: int = 10_000) -> Int16Samples:
    at_s = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.rint(peak * np.sin(2 * np.pi * hertz * at_s)).astype(np.int16)


def power(audio: np.ndarray) -> float:
    return float(np.mean(audio.astype(np.float64) ** 2))


def clip(name: str, seconds: float = 10.0, hertz: float = 440.0) -> Clip:
    """A word each second, each half a second long."""
    words = tuple(Word(f" {name}{i}", i + 0.25, i + 0.75) for i in range(int(seconds)))
    audio = tone(hertz, seconds)
    return Clip(name=name, audio=audio, text=join_text(words), words=words, voice=((0.0, seconds),))


class TestSamples:
    def test_a_telephone_carries_a_voice_and_no_more(self):
        low, high = tone(1000), tone(5000)
        assert power(over_telephone(high)) < power(high) / 1000
        heard = over_telephone(low)
        assert len(heard) == len(low)
        # G.711 has a signal-to-noise ratio of about 38 dB at usual levels.
        inner = slice(1000, -1000)
        noise = heard[inner].astype(np.int32) - low[inner]
        assert 30 < 10 * np.log10(power(low) / power(noise)) < 45

    @given(st.lists(st.integers(-32768, 32767), max_size=700))
    @settings(max_examples=50)
    def test_a_telephone_takes_any_samples(self, values: list[int]):
        audio = np.array(values, np.int16)
        assert len(over_telephone(audio)) == len(audio)

    def test_gain_is_in_decibels_and_clips(self):
        audio = tone(440, peak=1000)
        assert power(amplify(audio, -20)) == pytest.approx(power(audio) / 100, rel=0.01)
        assert power(amplify(audio, 6)) == pytest.approx(power(audio) * 10**0.6, rel=0.01)
        loud = overdrive(audio, 20)
        assert (loud.min(), loud.max()) == (-32768, 32767)
        # A sine 20 dB over full scale is beyond it for all but 2/pi asin(0.1) of the time.
        assert np.mean(np.abs(loud.astype(np.int32)) >= 32767) == pytest.approx(0.936, abs=0.01)
        assert np.abs(overdrive(audio, 0).astype(np.int32)).max() >= 32766

    @pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.0])
    def test_noise_lies_so_far_below_the_voice(self, snr_db: float):
        audio = np.concatenate([tone(440, peak=3000), np.zeros(SAMPLE_RATE, np.int16)])
        heard = add_noise(audio, [(0.0, 1.0)], white_noise(len(audio)), snr_db)
        # Of the voice alone: the silent second behind it does not count.
        noise = heard.astype(np.float64) - audio
        assert 10 * np.log10(power(tone(440, peak=3000)) / power(noise)) == pytest.approx(snr_db, abs=0.1)
        assert power(heard[SAMPLE_RATE:]) == pytest.approx(power(noise), rel=0.05)

    def test_a_short_noise_is_repeated(self):
        heard = add_noise(tone(440), [(0.0, 1.0)], white_noise(1000), 0.0).astype(np.int32) - tone(440)
        assert np.array_equal(heard[:1000], heard[1000:2000])
        assert power(heard) > 0

    def test_where_nobody_speaks_there_is_no_level_to_go_by(self):
        audio = tone(440)
        assert np.array_equal(add_noise(audio, [], white_noise(100), 0.0), audio)
        assert np.array_equal(add_noise(audio, [(0.0, 1.0)], np.zeros(0, np.float32), 0.0), audio)

    def test_pink_noise_has_equal_power_in_every_octave(self):
        spectrum = np.abs(np.fft.rfft(pink_noise(1 << 18))) ** 2
        white = np.abs(np.fft.rfft(white_noise(1 << 18))) ** 2
        hertz = np.fft.rfftfreq(1 << 18, 1 / SAMPLE_RATE)
        octaves = [(hertz >= low) & (hertz < 2 * low) for low in (100, 200, 400, 800, 1600, 3200)]
        pink_db = [10 * np.log10(spectrum[octave].sum()) for octave in octaves]
        white_db = [10 * np.log10(white[octave].sum()) for octave in octaves]
        assert max(pink_db) - min(pink_db) < 1
        assert white_db[-1] - white_db[0] == pytest.approx(15, abs=1)

    def test_pauses_go_and_word_times_move_along(self):
        spoken = replace(clip("a"), voice=((1.0, 2.0), (2.15, 3.0), (6.0, 8.0)))
        heard = without_pauses(spoken)
        # 0.9 to 3.1 and 5.9 to 8.1; the pause of 0.15 s is all edge.
        assert heard.seconds == pytest.approx(2.2 + 2.2)
        assert heard.text == clip("a").text
        starts = {word.text.strip(): word.start_s for word in heard.words}
        assert starts["a1"] == pytest.approx(1.25 - 0.9)
        assert starts["a6"] == pytest.approx(2.2 + 6.25 - 5.9)
        assert heard.voice == pytest.approx(np.array([(0.1, 1.1), (1.25, 2.1), (2.3, 4.3)]))
        assert starts["a4"] == pytest.approx(2.2)  # in what was cut out: there is no better place


class TestConditions:
    @pytest.mark.parametrize("name", NAMES)
    def test_equal_recordings_give_equal_audio_and_are_left_as_they_are(self, name: str):
        clips = [clip("a"), clip("b", hertz=300), clip("c", hertz=200)]
        noise = [Clip(name="n", audio=tone(100), text="")]
        first, second = (parse_condition(name).speech(clips, noise) for _ in range(2))
        assert [each.name for each in first] == [each.name for each in second]
        for a, b in zip(first, second, strict=True):
            assert np.array_equal(a.audio, b.audio)
            assert a.audio.dtype == np.int16
            assert (a.text, a.words) == (b.text, b.words)
        assert np.array_equal(clips[0].audio, clip("a").audio)
        said = " ".join(each.text for each in first)
        assert sorted(said.split()) == sorted(" ".join(each.text for each in clips).split())
        assert any(not np.array_equal(a.audio, b.audio) for a, b in zip(first, clips, strict=False))

    def test_two_speakers_take_turns_with_their_words_in_time(self):
        near, far = clip("a", 14.0, 1000), clip("b", 8.0, 3000)
        (heard,) = parse_condition("turns=6").speech([near, far], ())
        order = [word.text.strip() for word in heard.words]
        assert order[:8] == ["a0", "a1", "a2", "a3", "a4", "a5", "b0", "b1"]
        assert order[-2:] == ["a12", "a13"]
        assert heard.seconds == pytest.approx(22.0)
        assert sum(end_s - start_s for start_s, end_s in heard.voice or ()) == pytest.approx(22.0)
        for word in heard.words:
            part = heard.audio[round(word.start_s * SAMPLE_RATE) : round(word.end_s * SAMPLE_RATE)]
            strongest = np.argmax(np.abs(np.fft.rfft(part))) * SAMPLE_RATE / len(part)
            assert strongest == pytest.approx(1000 if "a" in word.text else 3000, abs=20)
        turns_db = 10 * np.log10(power(near.audio) / power(heard.audio[round(6.2 * SAMPLE_RATE) :][:16000]))
        assert turns_db == pytest.approx(6.0, abs=0.2)

    def test_recordings_without_word_times_take_turns_as_a_whole(self):
        plain = [Clip(name=name, audio=tone(440), text=name) for name in ("a", "b", "c")]
        assert [each.text for each in parse_condition("turns=6").speech(plain, ())] == ["a b", "c"]

    def test_a_monologue_is_longer_than_any_window(self):
        heard = parse_condition("monologue").speech([clip(f"{n}-") for n in range(7)], ())
        assert [each.seconds for each in heard] == pytest.approx([30.0, 30.0, 10.0])
        assert heard[0].words[15].start_s == pytest.approx(15.25)

    def test_voice_stays_where_it_was_however_hard_it_is_to_hear(self):
        spoken = replace(clip("a"), voice=((1.0, 2.0), (6.0, 8.0)))
        for name in set(NAMES) - {"monologue", "turns=6"}:
            (heard,) = parse_condition(name).speech([spoken], [Clip(name="n", audio=tone(100), text="")])
            assert heard.voice == spoken.voice

    def test_what_is_done_where_nobody_speaks(self):
        noise = [Clip(name="n", audio=tone(100), text="")]
        played = {name: parse_condition(name).silence(noise) for name in ["clean", *NAMES]}
        assert {name for name, clips in played.items() if clips} == {
            "clean",
            "phone",
            "clipped=20",
            "quiet=40",
        }
        assert power(played["quiet=40"][0].audio) < power(noise[0].audio) / 5000

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("rain", "condition is 'rain'; it must be one of clean, phone"),
            ("phone=3", "condition is 'phone=3'"),
            ("pink", "condition is 'pink'"),
            ("pink=loud", "pink=DECIBELS, a number"),
            ("quiet=-1", "quiet= from 0 to 80 dB"),
            ("white=nan", "white= from -20 to 60 dB"),
        ],
    )
    def test_what_is_wrong_is_told(self, text: str, said: str):
        with pytest.raises(ConfigurationError, match=said):
            parse_condition(text)
