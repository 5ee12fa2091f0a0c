"""How a stream is to be transcribed: every knob with its unit, its range and how to choose it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from ray_whisper_streaming.core.jobs import DecodeOptions, Task
from ray_whisper_streaming.core.languages import check_language
from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["AUTO", "EndpointingOptions", "StreamOptions", "TrimmingOptions"]

AUTO = "auto"
"""The language option that means: detect it from the stream's own audio."""

ENGLISH_ONLY = ".en"
"""How the names of Whisper's models for English alone end."""

MAX_WINDOW_AUDIO_S = 28.0
"""Audio in one window at most, seconds: Whisper takes 30, and a window cut flush loops."""

MAX_HARD_LIMIT_S = MAX_WINDOW_AUDIO_S - 1.0
"""A window must be able to grow beyond its hard limit: it is trimmed after the pass that finds it longer."""


def check_range(field_name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise `ConfigurationError` unless ``low <= value <= high`` (NaN fails too)."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ConfigurationError(field_name, value, allowed)


def check_choice(field_name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigurationError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ConfigurationError(field_name, value, "one of " + ", ".join(choices))


def check_text(field_name: str, value: object) -> None:
    """Raise `ConfigurationError` unless ``value`` is a text: anything has one, such as "None"."""
    if not isinstance(value, str):
        raise ConfigurationError(field_name, value, "a text")


def check_model_knows(model: str, language: str, task: str = "transcribe") -> None:
    """Raise `ConfigurationError` for what a model for English alone can't do."""
    if model.endswith(ENGLISH_ONLY):
        alone = f"as {model} knows English alone; or name a multilingual model: --model base"
        if language not in (AUTO, "en"):
            raise ConfigurationError("language", language, f"en or auto, {alone}")
        if task == "translate":
            raise ConfigurationError("task", task, f"transcribe, {alone}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointingOptions:
    """When speech counts as begun and ended.

    Attributes:
        threshold: voice probability at which a silent stream starts to speak (0.5 is Silero's own default).
            Raise it in noise.
        release: voice probability below which a speaking stream falls silent; lower than ``threshold``, so that
            one weak syllable doesn't end a word.
        min_speech_s: voice shorter than this does not start an utterance: clicks.
        min_silence_s: silence that ends an utterance. Shorter: faster finals, sentences cut in two.
        sentence_silence_s: silence that ends an utterance whose text so far ends like a finished sentence; None:
            the text does not matter. It has an effect where it is shorter than ``min_silence_s``, which may then
            be longer.
        start_padding_s: audio kept before the first voiced frame: soft consonants.
        end_padding_s: audio kept behind the last voiced frame.
    """

    threshold: float = 0.5
    release: float = 0.35
    min_speech_s: float = 0.06
    min_silence_s: float = 0.8
    sentence_silence_s: float | None = None
    start_padding_s: float = 0.3
    end_padding_s: float = 0.2

    def __post_init__(self) -> None:
        check_range("threshold", self.threshold, 0.01, 1.0)
        check_range("release", self.release, 0.0, self.threshold)
        check_range("min_speech_s", self.min_speech_s, 0.0, 10.0)
        check_range("min_silence_s", self.min_silence_s, 0.05, 60.0)
        if self.sentence_silence_s is not None:
            check_range("sentence_silence_s", self.sentence_silence_s, 0.05, 60.0)
        check_range("start_padding_s", self.start_padding_s, 0.0, 5.0)
        check_range("end_padding_s", self.end_padding_s, 0.0, self.min_silence_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmingOptions:
    """How much decoded audio is decoded again: the price of a window is its length.

    Attributes:
        at: where a cut is preferred: behind a committed ``"word"``, ``"segment"`` or ``"sentence"``. Where none
            is to be had in time, the next finer one is taken.
        trim_after_s: a window longer than this is trimmed once something is committed.
        keep_s: audio kept behind a cut, so that Whisper hears what led up to the next words.
        hard_limit_s: a window this long is trimmed even if nothing could be committed.
        bridge_s: a pause up to this long stays in the window, so that Whisper knows the voice and the subject when
            the next utterance begins; after a longer one the window starts afresh.
        busy_after_s: passes further apart than this say that the pool is busy, as jobs that wait do (see
            `StreamOptions.busy`). Then windows are kept shorter:
        busy_trim_after_s: the limit then.
        busy_keep_s: the audio kept then.
    """

    at: Literal["word", "segment", "sentence"] = "word"
    trim_after_s: float = 22.0
    keep_s: float = 13.0
    hard_limit_s: float = 24.0
    bridge_s: float = 3.0
    busy_after_s: float = 0.6
    busy_trim_after_s: float = 15.0
    busy_keep_s: float = 8.0

    def __post_init__(self) -> None:
        check_choice("at", self.at, ("word", "segment", "sentence"))
        check_range("keep_s", self.keep_s, 0.0, 25.0)
        check_range("trim_after_s", self.trim_after_s, self.keep_s + 0.5, MAX_HARD_LIMIT_S)
        check_range("hard_limit_s", self.hard_limit_s, self.trim_after_s, MAX_HARD_LIMIT_S)
        check_range("bridge_s", self.bridge_s, 0.0, 10.0)
        check_range("busy_after_s", self.busy_after_s, 0.1)
        check_range("busy_keep_s", self.busy_keep_s, 0.0, 25.0)
        check_range("busy_trim_after_s", self.busy_trim_after_s, self.busy_keep_s + 0.5, MAX_HARD_LIMIT_S)

    def when_busy(self) -> TrimmingOptions:
        """The options that hold while the pool is busy."""
        keep_s = min(self.keep_s, self.busy_keep_s)
        return replace(self, trim_after_s=min(self.trim_after_s, self.busy_trim_after_s), keep_s=keep_s)


BUSY_SHARE = 1.4
"""Of the interval that was asked for: passes further apart are so because jobs wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """What one stream wants. Checked when made; every stream of a pool may have its own.

    Attributes:
        model: the model's name; None takes the pool's.
        language: Whisper's code, or ``"auto"``: detected from the stream's own audio and kept once certain.
        allowed_languages: what ``"auto"`` may answer; empty means any.
        task: ``"transcribe"``, or ``"translate"`` into English.
        prompt: text in the style wanted, with its names and spelling; Whisper sees it before every window.
        hotwords: terms to favour through the whole stream.
        context: give Whisper the committed text that was trimmed away, unless it repeats itself. Helps long
            sentences, may carry a mistake onwards.
        policy: ``"hybrid"`` commits what two passes in a row heard, or one with enough audio behind it;
            ``"cutoff"`` commits after one pass what ends ``commit_delay_s`` before the end of the audio;
            ``"agreement"`` commits what ``agreement_passes`` passes in a row agree on (slower, for noisy audio).
        commit_delay_s: see ``policy``. Smaller: earlier text, more half-heard words.
        agreement_passes: see ``policy``; 2 is LocalAgreement-2 of whisper_streaming.
        update_interval_s: new audio, in seconds, between two passes; up to 1.2 s while the pool is busy. Smaller:
            words are shown sooner, and more of them are wrong (at 0.4 s up to one in a hundred more).
        voice_activity: listen for voice: silence sends no jobs, and utterances end by themselves.
        endpointing: when speech begins and ends (used with ``voice_activity``).
        trimming: how the window is kept short.
        beam_size: 1 is greedy; None is the engine's choice: 8 where beams are cheap (ONNX Runtime on a CPU) and 4
            while the pool is busy, else 1.
        temperature: 0 searches for the likeliest text. Above, up to 1, it is drawn at random, the higher the freer, and
            the best of ``beam_size`` samples (at least 5) is the answer.
        max_utterance_s: a longer utterance is reported in parts, at sentence ends where possible.
        max_buffer_s: audio waiting for the pool, in seconds; beyond it, pushing waits or is refused.
        tenant: on whose account the stream runs; the pool is fair between tenants.
    """

    model: str | None = None
    language: str = AUTO
    allowed_languages: tuple[str, ...] = ()
    task: Task = "transcribe"
    prompt: str = ""
    hotwords: str = ""
    context: bool = False
    policy: Literal["hybrid", "cutoff", "agreement"] = "hybrid"
    commit_delay_s: float = 0.5
    agreement_passes: int = 2
    update_interval_s: float = 0.8
    voice_activity: bool = True
    endpointing: EndpointingOptions = field(default_factory=EndpointingOptions)
    trimming: TrimmingOptions = field(default_factory=TrimmingOptions)
    beam_size: int | None = None
    temperature: float = 0.0
    max_utterance_s: float = 60.0
    max_buffer_s: float = 120.0
    tenant: str = ""

    def __post_init__(self) -> None:
        if self.language != AUTO:
            check_language("language", self.language)
        for code in self.allowed_languages:
            check_language("allowed_languages", code)
        check_choice("task", self.task, ("transcribe", "translate"))
        check_text("prompt", self.prompt)
        check_text("hotwords", self.hotwords)
        check_choice("policy", self.policy, ("hybrid", "cutoff", "agreement"))
        check_range("commit_delay_s", self.commit_delay_s, 0.0, 10.0)
        check_range("agreement_passes", self.agreement_passes, 2, 10)
        check_range("update_interval_s", self.update_interval_s, 0.1, 20.0)
        if self.beam_size is not None:
            check_range("beam_size", self.beam_size, 1, 20)
        check_range("temperature", self.temperature, 0.0, 1.0)
        check_range("max_utterance_s", self.max_utterance_s, 1.0)
        # Less could be full before the next pass is due, and nothing would ever make room.
        check_range("max_buffer_s", self.max_buffer_s, 2 * MAX_WINDOW_AUDIO_S)

    @property
    def decode_options(self) -> DecodeOptions:
        """What must be equal for this stream's jobs to share a batch with others."""
        return DecodeOptions(beam_size=self.beam_size, temperature=self.temperature)

    def busy(self, step_s: float) -> bool:
        """Whether the pool is busy, to go by how far apart it lets passes be.

        Args:
            step_s: seconds of audio between the pass before and this one.
        """
        return step_s > max(self.trimming.busy_after_s, BUSY_SHARE * self.update_interval_s)
