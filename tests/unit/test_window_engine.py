"""Groups, retries and contained failures of the window engines, over a backend as strict as the runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from ray_whisper_streaming.core.jobs import (
    WINDOW_BUCKETS_S,
    DecodeOptions,
    Failure,
    Job,
    Outcome,
    Result,
)
from ray_whisper_streaming.engines.backend import Generated, Source
from ray_whisper_streaming.engines.base import Engine
from ray_whisper_streaming.engines.window_engine import LoadedModel, WindowEngine
from ray_whisper_streaming.engines.words import Alignment
from ray_whisper_streaming.errors import DeviceLost, EngineError, ModelNotFound, NotReady, PoolError
from ray_whisper_streaming.pool.decoding import load_engine

LANGUAGES = frozenset({"en", "de", "ja"})
LOUD = 20_000
EOT = 0x110000


class LetterTokenizer:
    """One token per letter; the ids of languages and tasks are their names' hashes."""

    eot = EOT
    sot_prev = EOT + 1
    no_timestamps = EOT + 2
    non_speech_tokens = ()

    def __init__(self, language: str, task: str) -> None:
        self.language_code = language
        self.sot_sequence = [
            EOT + 3,
            EOT + 10 + sorted(LANGUAGES).index(language),
            EOT + 20 + (task == "translate"),
        ]

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(token) for token in tokens)

    def split_to_word_tokens(self, tokens: list[int]) -> tuple[list[str], list[list[int]]]:
        words = [" " + word for word in self.decode(tokens).split()]
        return words, [self.encode(word) for word in words]


@dataclass
class StrictBackend:
    """Writes down its calls and raises where CTranslate2 would.

    An encoder output is one value per row: the sum of its samples, which stands for the audio, and its length.
    What is said depends on the row alone.
    """

    ragged: bool = False
    multilingual: bool = True
    say: Callable[[float, int], str] = lambda value, frames: f" row {value:.0f}"
    poison: Callable[[float], bool] = lambda value: False
    encoded: list[tuple[int, ...]] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)
    sources: list[list[int | None]] = field(default_factory=list)
    generated: list[int] = field(default_factory=list)
    beams: list[tuple[int, int]] = field(default_factory=list)
    drawn: list[tuple[float, list[int]]] = field(default_factory=list)
    aligned: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    def encode(
        self, sources: Sequence[Source], padded_frames: Sequence[int], *, anew: bool = False
    ) -> list[tuple[float, int]]:
        assert all(source.audio.dtype == np.int16 for source in sources)
        assert len(sources) == len(padded_frames)
        if self.ragged:
            self.lengths.append(list(padded_frames))
        else:
            [length] = set(padded_frames)
            self.encoded.append((len(sources), length))
        self.sources.append([None if anew else source.start_sample for source in sources])
        return [
            (float(source.audio.sum()), frames) for source, frames in zip(sources, padded_frames, strict=True)
        ]

    def take(self, encoded: list[tuple[float, int]], rows: Sequence[int]) -> list[tuple[float, int]]:
        return [encoded[row] for row in rows]

    def detect_languages(self, encoded: list[tuple[float, int]]) -> list[dict[str, float]]:
        return [{"de": 0.6, "en": 0.3, "ja": 0.1} for _ in encoded]

    def generate(
        self, encoded, prompts, prefixes, *, max_tokens, beam_size, suppress_blank, temperature, seeds
    ):
        if not self.ragged and len({prompt.index(EOT + 3) for prompt in prompts}) > 1:
            raise ValueError("prompts differ in the position of the start of transcript")
        assert len(encoded) == len(prompts) == len(prefixes) == len(seeds)
        if any(self.poison(value) for value, _ in encoded):
            raise RuntimeError("out of memory")
        self.generated.append(len(prompts))
        self.beams.append((beam_size, len(prompts)))
        self.drawn.append((temperature, list(seeds)))
        answers = []
        for (value, frames), prefix in zip(encoded, prefixes, strict=True):
            said = [*prefix, *(ord(char) for char in self.say(value, frames))]
            answers.append(Generated(said[: max(max_tokens)], 0.25))
        return answers

    def align(self, encoded, start_sequence, texts, frames):
        assert len(encoded) == len(texts) == len(frames)
        assert all(texts)
        self.aligned.append((tuple(start_sequence), len(texts)))
        return [
            Alignment(np.linspace(0, count / 100, len(text) + 1), np.full(len(text), 0.5))
            for text, count in zip(texts, frames, strict=True)
        ]

    def tokenizer(self, language: str, task: str) -> LetterTokenizer:
        return LetterTokenizer(language, task)


class StrictEngine(WindowEngine):
    def __init__(self, backend: StrictBackend, max_batch_size: int = 16) -> None:
        ticks = iter(range(1000))
        super().__init__("strict", "a model", clock=lambda: next(ticks) * 0.5)
        self._backend = backend
        self._max_batch_size = max_batch_size
        self.device_lost = False

    def _device_lost(self) -> bool:
        return self.device_lost

    def _load(self) -> LoadedModel:
        return LoadedModel(
            backend=self._backend,
            device="cpu",
            languages=LANGUAGES,
            max_batch_size=self._max_batch_size,
            beam_size=8,
            hurried_beam_size=4,
        )


def make(backend: StrictBackend, **options: int) -> StrictEngine:
    engine = StrictEngine(backend, **options)
    engine.warm_up()
    for calls in (
        backend.encoded,
        backend.lengths,
        backend.sources,
        backend.generated,
        backend.beams,
        backend.drawn,
        backend.aligned,
    ):
        calls.clear()
    return engine


def job(name: str, seconds: float = 3.0, **options: object) -> Job:
    audio = np.random.default_rng(sum(map(ord, name))).integers(-LOUD, LOUD, round(seconds * 16_000))
    return Job(job_id=name, stream_id=name, audio=audio.astype(np.int16), **{"language": "en", **options})  # type: ignore[arg-type]


def text(outcome: Outcome) -> str:
    assert isinstance(outcome, Result)
    return "".join(word.text for word in outcome.words)


def test_it_is_an_engine_and_must_be_warm():
    engine = StrictEngine(StrictBackend())
    with pytest.raises(NotReady):
        engine.transcribe([])
    with pytest.raises(NotReady):
        _ = engine.capabilities
    engine.warm_up()
    assert isinstance(engine, Engine)
    engine.close()
    engine.close()
    with pytest.raises(NotReady):
        engine.transcribe([])


def test_streams_share_one_encode_one_generate_and_one_align():
    backend = StrictBackend()
    outcomes = make(backend).transcribe([job("a"), job("b", 5.0), job("c", 5.5)])
    assert backend.encoded == [(3, 100 * WINDOW_BUCKETS_S[0])]
    assert backend.generated == [3]
    assert [count for _, count in backend.aligned] == [3]
    assert len({text(outcome) for outcome in outcomes}) == 3
    assert [outcome.job_id for outcome in outcomes] == ["a", "b", "c"]


def test_a_hurried_job_gets_fewer_beams_unless_it_says_how_many():
    backend = StrictBackend()
    make(backend).transcribe(
        [
            job("a"),
            job("b", hurried=True),
            job("c"),
            job("d", options=DecodeOptions(beam_size=5), hurried=True),
            job("e", options=DecodeOptions(beam_size=4)),
        ]
    )
    assert backend.beams == [(8, 2), (4, 2), (5, 1)]


def test_a_job_with_a_temperature_gets_five_samples_at_least():
    backend = StrictBackend()
    warm = {beam_size: DecodeOptions(temperature=0.4, beam_size=beam_size) for beam_size in (None, 1, 5, 6)}
    make(backend).transcribe(
        [
            job("a", options=warm[None]),
            job("b", options=warm[None], hurried=True),
            job("c", options=warm[1]),
            job("d", options=warm[5]),
            job("e", options=warm[6]),
            job("f", options=DecodeOptions(beam_size=5)),
        ]
    )
    assert backend.beams == [(8, 1), (5, 3), (6, 1), (5, 1)]
    assert [temperature for temperature, _ in backend.drawn] == [0.4, 0.4, 0.4, 0.0]


def test_what_is_drawn_for_a_job_depends_on_its_audio_and_place_alone():
    backend = StrictBackend(ragged=True)
    engine = make(backend)
    warm = DecodeOptions(temperature=0.4)
    jobs = [
        job("a", options=warm),
        job("b", options=warm),
        job("a", options=warm, language="de", context="some"),
        job("a", options=warm, start_sample=16_000),
    ]
    engine.transcribe(jobs)
    engine.transcribe(jobs[:1])
    engine.transcribe([job("a")])
    [(_, [first, other, same, later]), (_, [alone]), cold] = backend.drawn
    assert first == same == alone
    assert len({first, other, later}) == 3
    assert cold == (0.0, [0])


def test_a_second_try_keeps_the_temperature_and_draws_anew():
    backend = StrictBackend(say=lambda value, frames: " ok" if frames == 3000 else ENDLESS)
    make(backend).transcribe([job("a", options=DecodeOptions(temperature=0.4))])
    [(before, [first]), (after, [second])] = backend.drawn
    assert before == after == 0.4
    assert first != second


def test_what_differs_between_streams_is_sorted_into_groups_and_changes_no_result():
    jobs = [
        job("a"),
        job("b", language="de", context="x" * 40),
        job("c", language=None, prefix="so far"),
        job("d", task="translate", language="ja", hotwords="Kubernetes"),
        job("e", 9.5),
        job("f", options=DecodeOptions(beam_size=5)),
        job("g", context="y" * 100),
    ]
    backend = StrictBackend()
    together = make(backend).transcribe(jobs)
    alone = [make(StrictBackend()).transcribe([one])[0] for one in jobs]
    assert [text(outcome) for outcome in together] == [text(outcome) for outcome in alone]
    assert [outcome.words for outcome in together] == [outcome.words for outcome in alone]  # type: ignore[union-attr]
    assert [outcome.language for outcome in together] == ["en", "de", "de", "ja", "en", "en", "en"]  # type: ignore[union-attr]
    # Longer, a wider beam, a language to detect; and the others.
    assert sorted(shape[0] for shape in backend.encoded) == [1, 1, 1, 4]
    # No context, 32 tokens, 64 tokens; and the three groups of one.
    assert sorted(backend.generated) == [1, 1, 1, 1, 1, 2]


def test_times_stand_on_the_streams_time_line():
    moved, still = make(StrictBackend()).transcribe([job("a", start_sample=160_000), job("a")])
    assert isinstance(moved, Result)
    assert isinstance(still, Result)
    assert [word.start_s for word in moved.words] == [word.start_s + 10 for word in still.words]


def test_the_language_is_detected_among_those_allowed():
    outcomes = make(StrictBackend()).transcribe(
        [
            job("a", language=None),
            job("b", language=None, allowed_languages=("ja", "en")),
            job("c", language=None, allowed_languages=("xx",)),
            job("d"),
        ]
    )
    detected = [(outcome.language, outcome.language_probability) for outcome in outcomes]  # type: ignore[union-attr]
    assert detected == [("de", 0.6), ("en", 0.3), ("en", 0.3), ("en", 1.0)]


@pytest.mark.parametrize(
    "bad",
    [
        {"audio": np.zeros(16_000, np.float32)},
        {"audio": np.zeros((2, 16_000), np.int16)},
        {"audio": [0] * 16_000},
        {"audio": np.zeros(16_000 * 31, np.int16)},
        {"language": "xx"},
        {"task": "sing"},
        {"options": DecodeOptions(window_s=31)},
        {"options": DecodeOptions(beam_size=0)},
        {"options": DecodeOptions(temperature=1.5)},
        {"options": DecodeOptions(temperature=float("nan"))},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_a_job_that_asks_for_the_impossible_fails_alone_and_for_good(bad: dict[str, object]):
    wrong = Job(**{"job_id": "bad", "stream_id": "bad", "audio": np.zeros(16_000, np.int16), **bad})  # type: ignore[arg-type]
    fine, failed = make(StrictBackend()).transcribe([job("a"), wrong])
    assert text(fine)
    assert isinstance(failed, Failure)
    assert isinstance(failed.error, EngineError)
    assert failed.error.retryable is False
    assert failed.error.job_id == "bad"


def test_an_english_model_takes_english_transcription_only():
    engine = make(StrictBackend(multilingual=False))
    detected, german, translated = engine.transcribe(
        [job("a", language=None), job("b", language="de"), job("c", task="translate")]
    )
    assert isinstance(detected, Result)
    assert detected.language == "en"
    assert isinstance(german, Failure)
    assert isinstance(translated, Failure)


def test_when_the_runtime_fails_only_the_job_it_fails_on_is_lost():
    jobs = [job("a"), job("b"), job("c")]
    clean = make(StrictBackend()).transcribe(jobs)
    poisoned = text(clean[1])
    backend = StrictBackend(poison=lambda value: f" row {value:.0f}".split() == poisoned.split())
    first, second, third = make(backend).transcribe(jobs)
    assert (text(first), text(third)) == (text(clean[0]), text(clean[2]))
    assert isinstance(second, Failure)
    assert isinstance(second.error, EngineError)
    assert second.error.retryable is True
    assert "out of memory" in str(second.error)


def test_a_batch_that_fails_is_decoded_in_halves():
    backend = StrictBackend()
    engine = make(backend, max_batch_size=8)
    jobs = [job(name) for name in "abcdefgh"]
    poisoned = text(engine.transcribe(jobs)[2])
    backend.poison = lambda value: f" row {value:.0f}".split() == poisoned.split()
    backend.encoded.clear()
    outcomes = engine.transcribe(jobs)
    assert [isinstance(outcome, Failure) for outcome in outcomes].index(True) == 2
    assert [shape[0] for shape in backend.encoded] == [8, 4, 2, 2, 1, 1, 4]


def test_a_lost_device_fails_no_job_but_ends_the_engine():
    backend = StrictBackend()
    engine = make(backend, max_batch_size=8)
    engine.device_lost = True
    assert all(isinstance(outcome, Result) for outcome in engine.transcribe([job("a")]))  # nobody asked
    backend.poison = lambda value: True
    backend.encoded.clear()
    with pytest.raises(DeviceLost, match="restarted: RuntimeError: out of memory") as caught:
        engine.transcribe([job(name) for name in "abcd"])
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert [shape[0] for shape in backend.encoded] == [4]
    with pytest.raises(NotReady):
        engine.transcribe([job("a")])


def test_a_device_lost_while_warming_up_is_told_and_loading_may_be_tried_again():
    backend = StrictBackend(poison=lambda value: True)
    engine = StrictEngine(backend)
    engine.device_lost = True
    for _ in range(2):
        with pytest.raises(DeviceLost):
            engine.warm_up()


def test_an_engine_that_can_not_decode_is_not_warm():
    backend = StrictBackend(poison=lambda value: True)
    engine = StrictEngine(backend)
    for _ in range(2):
        with pytest.raises(EngineError, match="out of memory"):
            engine.warm_up()
        with pytest.raises(NotReady):
            engine.transcribe([job("a")])
    with pytest.raises(PoolError, match="out of memory"):
        load_engine(lambda: StrictEngine(backend))
    backend.poison = lambda value: False
    engine.warm_up()
    assert text(engine.transcribe([job("a")])[0])


def test_on_a_gpu_memory_may_be_short_for_long_windows_alone(caplog):
    class OnGpu(StrictEngine):
        def _load(self) -> LoadedModel:
            return replace(super()._load(), device="cuda")

    def say(value: float, frames: int) -> str:
        if frames == 100 * WINDOW_BUCKETS_S[-1]:
            raise RuntimeError("out of memory")
        return " fine"

    engine = OnGpu(StrictBackend(say=say))
    engine.warm_up()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert text(engine.transcribe([job("a")])[0]) == " fine"


@pytest.mark.parametrize("lost", [False, True])
def test_an_error_of_the_load_is_told_as_it_is_unless_the_device_was_lost(lost: bool):
    class Unloadable(StrictEngine):
        def _load(self) -> LoadedModel:
            raise ModelNotFound("model", "nonsense", "a model that is here")

    engine = Unloadable(StrictBackend())
    engine.device_lost = lost
    with pytest.raises(DeviceLost if lost else ModelNotFound):
        engine.warm_up()


# Never the same letter twice: only the cap ends it.
ENDLESS = " " + "".join(chr(0x4E00 + index) for index in range(500))


def test_a_loop_is_cut():
    backend = StrictBackend(say=lambda value, frames: " one two" + " over" * 9)
    [cut] = make(backend).transcribe([job("a")])
    assert text(cut) == " one two over"
    assert isinstance(cut, Result)
    assert not cut.truncated
    assert backend.encoded == [(1, 100 * WINDOW_BUCKETS_S[0])]


def test_a_window_that_fails_is_decoded_once_more_in_a_long_one():
    backend = StrictBackend(say=lambda value, frames: " fine" if frames == 3000 else ENDLESS)
    [mended] = make(backend).transcribe([job("a")])
    assert text(mended) == " fine"
    assert backend.encoded == [(1, 100 * WINDOW_BUCKETS_S[0]), (1, 3000)]


def test_text_that_compresses_too_well_is_decoded_once_more():
    # Too irregular to be a loop: every round is longer than the one before.
    rounds = "".join(" " + "the same again and " * count + chr(0x4E00 + count) for count in range(2, 6))
    backend = StrictBackend(say=lambda value, frames: " fine" if frames == 3000 else rounds)
    [mended] = make(backend).transcribe([job("a", 9.0, options=DecodeOptions(window_s=20))])
    assert text(mended) == " fine"


def test_second_tries_are_bounded():
    backend = StrictBackend(say=lambda value, frames: ENDLESS)
    outcomes = make(backend).transcribe([job(str(number)) for number in range(8)])
    assert backend.encoded == [(8, 100 * WINDOW_BUCKETS_S[0]), (2, 3000)]
    assert all(outcome.truncated for outcome in outcomes)  # type: ignore[union-attr]


def test_the_cap_of_a_short_window_holds_beside_a_long_one():
    # 8 tokens and 8 a second.
    endless = StrictBackend(say=lambda value, frames: ENDLESS)
    short, long = make(endless).transcribe([job("a", 1.0), job("b", 8.0)])
    assert isinstance(short, Result)
    assert isinstance(long, Result)
    assert (len(text(short)), len(text(long))) == (16, 72)
    assert short.truncated
    assert long.truncated


def test_silence_and_nothing_have_no_words():
    backend = StrictBackend(say=lambda value, frames: "")
    empty, silent = make(backend).transcribe([job("a", 0.0), job("b")])
    assert text(empty) == text(silent) == ""
    assert backend.aligned == []
    assert isinstance(silent, Result)
    assert silent.no_speech_probability == 0.25
    assert silent.average_log_probability == 0.0


def test_numbers_of_a_result():
    one, two = make(StrictBackend()).transcribe([job("a", prefix="so"), job("b")])
    for outcome in (one, two):
        assert isinstance(outcome, Result)
        assert outcome.average_log_probability == pytest.approx(np.log(0.5))
        assert (outcome.timings.inference_s, outcome.timings.batch_size) == (0.5, 2)
        assert (outcome.engine, outcome.model) == ("strict", "a model")
        assert outcome.compression_ratio > 0
    assert text(one).startswith(" so row")


def test_more_jobs_than_a_batch_takes_are_decoded_in_pieces():
    backend = StrictBackend()
    outcomes = make(backend, max_batch_size=2).transcribe([job(str(number)) for number in range(5)])
    assert [shape[0] for shape in backend.encoded] == [2, 2, 1]
    assert [outcome.job_id for outcome in outcomes] == ["0", "1", "2", "3", "4"]


def test_audio_longer_than_the_window_asked_for_gets_a_longer_one():
    backend = StrictBackend()
    make(backend).transcribe([job("a", 14.3, options=DecodeOptions(window_s=10))])
    assert backend.encoded == [(1, 1500)]


def test_audio_from_shared_memory_may_be_read_only():
    asked = job("a")
    asked.audio.flags.writeable = False
    assert text(make(StrictBackend()).transcribe([asked])[0])


def test_where_windows_may_differ_each_is_as_long_as_it_needs_to_be():
    backend = StrictBackend(ragged=True)
    asked = DecodeOptions(window_s=20)
    jobs = [job("a", 7.0), job("b", 12.503), job("c", 0.5), job("d", 29.0), job("e", 6.0, options=asked)]
    outcomes = make(backend).transcribe(jobs)
    # A margin behind the audio, an even number of frames, no fewer than five seconds and no more than thirty.
    assert backend.lengths == [[800, 1352, 500, 3000], [2000]]
    assert all(isinstance(outcome, Result) for outcome in outcomes)


@pytest.mark.parametrize("ragged", [True, False])
def test_a_language_is_detected_in_a_window_of_all_that_whisper_takes(ragged: bool):
    backend = StrictBackend(ragged=ragged)
    engine = make(backend)
    backend.lengths.clear()
    backend.encoded.clear()
    unknown = job("a", language=None)
    assert unknown.window_s == 30  # what schedulers count with
    engine.transcribe([unknown])
    assert (backend.lengths, backend.encoded) == (([[3000]], []) if ragged else ([], [(1, 3000)]))
    engine.transcribe([job("b", language=None, options=DecodeOptions(window_s=8))])
    assert (backend.lengths + backend.encoded)[1:] == ([[800]] if ragged else [(1, 800)])


def test_a_model_that_knows_english_alone_detects_nothing():
    backend = StrictBackend(multilingual=False)
    engine = make(backend)
    backend.encoded.clear()
    engine.transcribe([job("a", language=None)])
    assert backend.encoded == [(1, 800)]


def test_a_backend_learns_where_its_windows_come_from_but_not_at_a_second_try():
    backend = StrictBackend(ragged=True, say=lambda value, frames: " ok" if frames == 3000 else ENDLESS)
    make(backend).transcribe([job("a", 7.0, start_sample=320)])
    assert backend.lengths == [[800], [3000]]
    assert backend.sources == [[320], [None]]
