"""What streams say: every sample and every word time must still fit each other after cutting and joining."""

from __future__ import annotations

import json
from itertools import islice, pairwise

import numpy as np
import pytest

from ray_whisper_streaming.bench.material import Clip, find_material, load_clips, make_material
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import ConfigurationError

WORD_S = 0.4


def make_clip(number: int, words: int = 40, phrase: int = 5) -> Clip:
    """A word every half second, a pause of half a second behind every fifth; the audio counts in ms."""
    starts = [0.3 + 0.5 * (i + i // phrase) for i in range(words)]
    spoken = tuple(
        Word(f" w{number}x{i}", start, start + (WORD_S if (i + 1) % phrase == 0 else 0.5))
        for i, start in enumerate(starts)
    )
    length = round((spoken[-1].end_s + 0.3) * SAMPLE_RATE)
    audio = (np.arange(length) * 1000 // SAMPLE_RATE).astype(np.int16)
    text = "".join(word.text for word in spoken).strip()
    return Clip(name=f"clip{number}", audio=audio, text=text, words=spoken)


CLIPS = [make_clip(0), make_clip(1), make_clip(2)]
ORIGINAL_START_S = {word.text: word.start_s for clip in CLIPS for word in clip.words}


@pytest.fixture(autouse=True)
def _no_other_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RWS_SPEECH_DIR", raising=False)


@pytest.mark.parametrize("index", range(7))
@pytest.mark.parametrize("seconds", [5.0, 12.0, 30.0, 100.0])
def test_words_and_audio_stay_together(index: int, seconds: float):
    material = make_material(CLIPS, index, seconds)
    assert 0 < material.seconds <= seconds
    assert material.text == "".join(word.text for word in material.words).strip()
    assert all(a.end_s <= b.start_s + 1e-6 for a, b in pairwise(material.words))
    assert material.words[-1].end_s <= material.seconds
    for word in material.words:
        heard_ms = material.audio[round(word.start_s * SAMPLE_RATE)]
        assert abs(heard_ms / 1000 - ORIGINAL_START_S[word.text]) < 0.002


def test_streams_begin_with_other_clips_at_other_places():
    first_words = [make_material(CLIPS, index, 20.0).words[0].text.strip() for index in range(6)]
    assert first_words[0] == "w0x0"
    assert [word[:2] for word in first_words] == ["w0", "w1", "w2"] * 2
    assert len(set(first_words)) == 6


def test_streams_begin_and_end_at_pauses():
    for index in range(6):
        numbers = [int(word.text.split("x")[1]) for word in make_material(CLIPS, index, 9.0).words]
        assert numbers[0] % 5 == 0
        assert numbers[-1] % 5 == 4


def test_long_streams_take_up_to_a_phrase_less_than_asked_for():
    assert make_material(CLIPS, 1, 200.0).seconds > 200.0 - 4.0


def test_without_word_times_only_whole_clips_are_played():
    clips = [Clip(name=clip.name, audio=clip.audio, text=clip.text) for clip in CLIPS]
    two_and_a_half = 2.5 * clips[0].seconds
    assert make_material(clips, 1, two_and_a_half).text == f"{clips[1].text} {clips[2].text}"
    assert make_material(clips, 1, 1.0).text == clips[1].text


def test_the_packaged_samples_are_there():
    clips = load_clips(find_material())
    assert len(clips) >= 4
    for clip in islice(clips, 4):
        assert clip.audio.dtype == np.int16
        assert clip.audio.ndim == 1
        assert 10 < clip.seconds < 60
        assert np.abs(clip.audio).max() > 1000


def test_recorded_speech_is_preferred_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "longform").mkdir()
    (tmp_path / "manifest.jsonl").write_text("")
    assert find_material(None, tmp_path) == tmp_path / "longform"
    monkeypatch.setenv("RWS_SPEECH_DIR", str(tmp_path))
    assert find_material() == tmp_path / "longform"


def test_a_manifest_is_read_for_a_language_and_a_folder(tmp_path):
    source = find_material() / json.loads((find_material() / "samples.json").read_text())[0]["file"]
    (tmp_path / "in").mkdir()
    entries = []
    for path, language in (("in/a.flac", "en"), ("in/b.flac", "de"), ("c.flac", "en")):
        (tmp_path / path).write_bytes(source.read_bytes())
        words = [{"word": "good", "start": 0.1, "end": 0.4}]
        entries.append({"path": path, "language": language, "text": "good morning", "words": words})
    (tmp_path / "manifest.jsonl").write_text("\n".join(json.dumps(entry) for entry in entries))
    (clip,) = load_clips(tmp_path / "in")
    assert clip.name == "a"
    assert clip.words == (Word(" good", 0.1, 0.4),)
    assert {clip.name for clip in load_clips(tmp_path)} == {"a", "c"}


def test_a_folder_without_clips_is_refused(tmp_path):
    with pytest.raises(ConfigurationError):
        find_material(tmp_path)
    with pytest.raises(ConfigurationError):
        load_clips(tmp_path)
