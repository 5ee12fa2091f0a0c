"""Recordings as the field has them: over the telephone, in noise, overdriven, faint, with others speaking.

Each condition is a pure function of samples: the same recordings give the same audio, on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import soxr

from ray_whisper_streaming.bench.material import Clip, join_clips, split_at_pauses
from ray_whisper_streaming.bench.voice import Span, overlap_s
from ray_whisper_streaming.core.audio import INT16_SCALE, as_float32, as_int16
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.media import AudioConverter

__all__ = [
    "CLEAN",
    "Condition",
    "add_noise",
    "amplify",
    "over_telephone",
    "parse_condition",
    "pink_noise",
    "white_noise",
    "without_pauses",
]

Float32: TypeAlias = npt.NDArray[np.float32]
Noise: TypeAlias = Callable[[int], Float32]
Change: TypeAlias = Callable[[Sequence[Clip], Sequence[Clip]], list[Clip]]

TELEPHONE_RATE = 8000
"""Samples per second of a telephone line (ITU-T G.711)."""

SEED = 0
"""Of made noise: it is the same in every run."""

PINK_FROM_HZ = 20.0
"""Pink noise is flat below: there is nothing to hear, and its power would have no end."""

VOICE_EDGE_S = 0.1
"""Kept at both sides of a stretch of voice: the soft consonants that voice activity misses."""

MONOLOGUE_S = 30.0
"""Recordings shorter than this, without their pauses, are played with the next ones: longer than any window."""

TURN_S = 6.0
"""A turn of a conversation ends at the first pause after this."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What is done to recordings before they are played.

    Attributes:
        name: as it is written on a command line.
        change: recordings of one language, and recordings without speech -> what is played.
        of_channel: it is of the way the sound takes, and done to recordings without speech as well.
        needs_background: it takes recordings without speech.
    """

    name: str
    change: Change
    of_channel: bool = False
    needs_background: bool = False

    def speech(self, clips: Sequence[Clip], background: Sequence[Clip] = ()) -> list[Clip]:
        """The recordings of one language under this condition; there may be fewer, and longer ones."""
        return self.change(clips, background)

    def silence(self, clips: Sequence[Clip]) -> list[Clip]:
        """Recordings without speech under this condition; none where it would add speech or noise to them."""
        return self.change(clips, ()) if self.of_channel else []


CLEAN = Condition("clean", lambda clips, _: list(clips), of_channel=True)
"""As they are."""


def parse_condition(text: str) -> Condition:
    """A condition from its name and, for some, decibels: ``phone``, ``pink=10``.

    Raises:
        ConfigurationError: there is none of that name, or its number is missing or out of range.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals and name in _PLAIN:
        return replace(_PLAIN[name], name=text)
    if equals and name in _MEASURED:
        condition, (low, high) = _MEASURED[name]
        try:
            decibels = float(value)
        except ValueError:
            raise ConfigurationError("condition", text, f"{name}=DECIBELS, a number") from None
        if not low <= decibels <= high:
            raise ConfigurationError("condition", text, f"{name}= from {low:g} to {high:g} dB")
        return replace(condition(decibels), name=text)
    known = ", ".join([*_PLAIN, *(f"{each}=DECIBELS" for each in _MEASURED)])
    raise ConfigurationError("condition", text, f"one of {known}")


# ---------------------------------------------------------------- samples


def over_telephone(audio: Int16Samples) -> Int16Samples:
    """Through a telephone line: 8 kHz, 8 bits by the mu-law (ITU-T G.711), and back; as many samples as before."""
    narrow = as_int16(soxr.resample(as_float32(audio), SAMPLE_RATE, TELEPHONE_RATE))
    levels = AudioConverter(SAMPLE_RATE, encoding="mulaw").convert(bytes(range(256))).astype(np.int32)
    order = np.argsort(levels, kind="stable")
    # Each sample becomes the code whose level is nearest.
    borders = (levels[order][1:] + levels[order][:-1]) / 2
    codes = order[np.searchsorted(borders, narrow)].astype(np.uint8)
    converter = AudioConverter(TELEPHONE_RATE, encoding="mulaw")
    heard = np.concatenate([converter.convert(codes.tobytes()), converter.flush()])[: len(audio)]
    return np.pad(heard, (0, len(audio) - len(heard)))


def amplify(audio: Int16Samples, decibels: float) -> Int16Samples:
    """Louder, or fainter where negative; what is over full scale is clipped."""
    return as_int16(as_float32(audio) * np.float32(10 ** (decibels / 20)))


def overdrive(audio: Int16Samples, decibels: float) -> Int16Samples:
    """Amplified until the peak is so many decibels over full scale, and clipped there."""
    peak = int(np.abs(audio.astype(np.int32)).max(initial=1))
    return amplify(audio, decibels + 20 * np.log10(INT16_SCALE / peak))


def add_noise(audio: Int16Samples, voice: Sequence[Span], noise: Float32, snr_db: float) -> Int16Samples:
    """With noise whose power lies ``snr_db`` below that of the voice (pauses don't count). Equal audio where there is
    no voice or no noise.

    Args:
        audio: the recording.
        voice: where it holds voice.
        noise: of any power; repeated or cut to its length.
        snr_db: signal-to-noise ratio, decibels.
    """
    signal = as_float32(audio)
    voiced = [signal[round(a * SAMPLE_RATE) : round(b * SAMPLE_RATE)] for a, b in voice]
    noise = np.resize(noise, len(signal)) if len(noise) else np.zeros_like(signal)
    noise_power = float(np.mean(noise.astype(np.float64) ** 2)) if len(noise) else 0.0
    if not voiced or not noise_power:
        return audio
    power = float(np.mean(np.concatenate(voiced).astype(np.float64) ** 2))
    gain = np.sqrt(power / noise_power / 10 ** (snr_db / 10))
    return as_int16(signal + noise * np.float32(gain))


def white_noise(samples: int) -> Float32:
    """Normal noise with equal power at all frequencies, of standard deviation 1."""
    return np.random.default_rng(SEED).standard_normal(samples, np.float32)


def pink_noise(samples: int) -> Float32:
    """Noise whose power falls by 3 dB an octave (1/f), much like rooms and crowds."""
    if not samples:
        return np.zeros(0, np.float32)
    spectrum = np.fft.rfft(white_noise(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    spectrum /= np.sqrt(np.maximum(frequencies, PINK_FROM_HZ))
    return np.fft.irfft(spectrum, samples).astype(np.float32)


def without_pauses(clip: Clip) -> Clip:
    """The recording with nothing but its voice, and `VOICE_EDGE_S` around it; word times move along."""
    kept: list[Span] = []
    voice = clip.with_voice().voice or ()
    for start_s, end_s in voice:
        start_s, end_s = max(0.0, start_s - VOICE_EDGE_S), min(clip.seconds, end_s + VOICE_EDGE_S)
        if kept and start_s <= kept[-1][1]:
            kept[-1] = (kept[-1][0], end_s)
        else:
            kept.append((start_s, end_s))
    pieces = [clip.audio[round(a * SAMPLE_RATE) : round(b * SAMPLE_RATE)] for a, b in kept]
    words = tuple(
        replace(word, start_s=overlap_s(kept, 0.0, word.start_s), end_s=overlap_s(kept, 0.0, word.end_s))
        for word in clip.words
    )
    moved = tuple((overlap_s(kept, 0.0, start_s), overlap_s(kept, 0.0, end_s)) for start_s, end_s in voice)
    return replace(clip, audio=np.concatenate([clip.audio[:0], *pieces]), words=words, voice=moved)


# ---------------------------------------------------------------- recordings


def _each(change: Callable[[Int16Samples], Int16Samples]) -> Change:
    def change_all(clips: Sequence[Clip], _: Sequence[Clip]) -> list[Clip]:
        return [replace(clip, audio=change(clip.audio)) for clip in clips]

    return change_all


def _with_noise(clip: Clip, noise: Float32, snr_db: float) -> Clip:
    clip = clip.with_voice()
    return replace(clip, audio=add_noise(clip.audio, clip.voice or (), noise, snr_db))


def _made_noise(make: Noise) -> Callable[[float], Condition]:
    def condition(snr_db: float) -> Condition:
        def change(clips: Sequence[Clip], _: Sequence[Clip]) -> list[Clip]:
            return [_with_noise(clip, make(len(clip.audio)), snr_db) for clip in clips]

        return Condition("", change)

    return condition


def _background(snr_db: float) -> Condition:
    """Each recording with another of those without speech behind it."""

    def change(clips: Sequence[Clip], background: Sequence[Clip]) -> list[Clip]:
        noises = [as_float32(background[i % len(background)].audio) for i in range(len(clips))]
        return [_with_noise(clip, noise, snr_db) for clip, noise in zip(clips, noises, strict=True)]

    return Condition("", change, needs_background=True)


def _overlap(snr_db: float) -> Condition:
    """Somebody else speaks at the same time, fainter: the next recording. What they say is not to be written."""

    def change(clips: Sequence[Clip], _: Sequence[Clip]) -> list[Clip]:
        others = [*clips[1:], *clips[:1]]
        return [
            _with_noise(clip, as_float32(other.audio), snr_db)
            for clip, other in zip(clips, others, strict=True)
        ]

    return Condition("", change)


def _turns(decibels: float) -> Condition:
    """Two recordings in turn, the second fainter; all of both is to be written."""

    def change(clips: Sequence[Clip], _: Sequence[Clip]) -> list[Clip]:
        played: list[Clip] = []
        for first in range(0, len(clips), 2):
            near = clips[first].with_voice()
            far = [
                replace(each, audio=amplify(each.audio, -decibels)) for each in clips[first + 1 : first + 2]
            ]
            sides = [split_at_pauses(side, TURN_S) for side in (near, *far)]
            rounds = max(map(len, sides))
            turns = [side[i] for i in range(rounds) for side in sides if i < len(side)]
            name = " and ".join(side.name for side in (near, *far))
            played.append(join_clips(name, turns))
        return played

    return Condition("", change)


def _monologue(clips: Sequence[Clip], _: Sequence[Clip]) -> list[Clip]:
    played: list[Clip] = []
    parts: list[Clip] = []
    for clip in map(without_pauses, clips):
        parts.append(clip)
        if sum(part.seconds for part in parts) >= MONOLOGUE_S:
            played.append(join_clips(" and ".join(part.name for part in parts), parts))
            parts = []
    if parts:
        played.append(join_clips(" and ".join(part.name for part in parts), parts))
    return played


_PLAIN: Mapping[str, Condition] = {
    "clean": CLEAN,
    "phone": Condition("phone", _each(over_telephone), of_channel=True),
    "monologue": Condition("monologue", _monologue),
}

_MEASURED: Mapping[str, tuple[Callable[[float], Condition], tuple[float, float]]] = {
    "white": (_made_noise(white_noise), (-20.0, 60.0)),
    "pink": (_made_noise(pink_noise), (-20.0, 60.0)),
    "background": (_background, (-20.0, 60.0)),
    "clipped": (lambda db: Condition("", _each(lambda a: overdrive(a, db)), of_channel=True), (0.0, 60.0)),
    "quiet": (lambda db: Condition("", _each(lambda a: amplify(a, -db)), of_channel=True), (0.0, 80.0)),
    "overlap": (_overlap, (-20.0, 60.0)),
    "turns": (_turns, (0.0, 60.0)),
}
