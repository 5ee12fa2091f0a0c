"""Options that several commands have."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from ray_whisper_streaming.server.config import ENVIRONMENT_PREFIX

__all__ = [
    "ApiKey",
    "Backend",
    "BackendChoice",
    "Channels",
    "Device",
    "Engine",
    "EngineChoice",
    "Hotwords",
    "Language",
    "MaxUtterance",
    "MinSilence",
    "MinSpeech",
    "Model",
    "PolicyChoice",
    "Prompt",
    "Quiet",
    "Rate",
    "SentenceSilence",
    "Task",
    "TaskChoice",
    "Url",
    "Verbose",
    "VoiceActivity",
    "Workers",
]


class BackendChoice(Enum):
    """Where the workers run."""

    local = "local"
    ray = "ray"
    shared = "shared"


class EngineChoice(Enum):
    """What runs the model."""

    auto = "auto"
    ctranslate2 = "ctranslate2"
    onnxruntime = "onnxruntime"
    torch = "torch"


class TaskChoice(Enum):
    """What Whisper does."""

    transcribe = "transcribe"
    translate = "translate"


class PolicyChoice(Enum):
    """When words are committed."""

    hybrid = "hybrid"
    cutoff = "cutoff"
    agreement = "agreement"


# ---------------------------------------------------------------- the workers

Model = Annotated[
    str, typer.Option(help="Name (tiny.en and base come with the extra 'models'), folder, or hub id.")
]
Backend = Annotated[
    BackendChoice,
    typer.Option(
        help="ray: actors of a Ray cluster (RAY_ADDRESS, or one on this machine); shared: those of 'ray-whisper pool'; "
        "local: threads."
    ),
]
Engine = Annotated[
    EngineChoice,
    typer.Option(
        help="auto: ONNX Runtime on a CPU, CTranslate2 where the worker has a GPU; torch: PyTorch (extra 'torch')."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where the worker has it.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Workers; else one per GPU, or one that uses all cores.", show_default=False),
]

# ---------------------------------------------------------------- what is heard, and how

Language = Annotated[
    str, typer.Option(help="Code such as en, de, zh; or auto: detected from each recording's own audio.")
]
Task = Annotated[TaskChoice, typer.Option(help="translate: into English.")]
Prompt = Annotated[
    str, typer.Option(help="Text in the style wanted, with its names and spelling.", show_default=False)
]
Hotwords = Annotated[str, typer.Option(help="Terms to favour.", show_default=False)]
VoiceActivity = Annotated[
    bool, typer.Option(help="Listen for voice: silence is not decoded, utterances end by themselves.")
]
MinSpeech = Annotated[
    float, typer.Option("--min-speech-s", help="Voice shorter than this, in seconds, begins no utterance.")
]
MinSilence = Annotated[
    float, typer.Option("--min-silence-s", help="Silence that ends an utterance, in seconds.")
]
SentenceSilence = Annotated[
    float | None,
    typer.Option(
        "--sentence-silence-s",
        help="Shorter silence, in seconds, that ends one whose text ends like a finished sentence.",
        show_default=False,
    ),
]
MaxUtterance = Annotated[
    float,
    typer.Option(
        "--max-utterance-s", help="A longer utterance is reported in parts, at sentence ends if it can be."
    ),
]
Rate = Annotated[int, typer.Option(help="Samples per second of raw audio.")]
Channels = Annotated[int, typer.Option(help="Channels of raw audio, interleaved; they are mixed.")]

# ---------------------------------------------------------------- a running server

Url = Annotated[str, typer.Option(help="Of the server.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar=ENVIRONMENT_PREFIX + "API_KEY",
        help="Key or client token, where the server asks for one.",
        show_default=False,
    ),
]

# ---------------------------------------------------------------- what is said

Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, help="Log what happens; -vv in detail.", show_default=False),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors: no progress, no warnings.")
]
