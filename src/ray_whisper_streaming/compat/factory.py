"""The command-line arguments of whisper_streaming, and the processors they ask for."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TextIO

from ray_whisper_streaming.compat.asr import FasterWhisperASR
from ray_whisper_streaming.compat.processor import OnlineASRProcessor
from ray_whisper_streaming.compat.tokenizer import create_tokenizer
from ray_whisper_streaming.compat.vac import VACOnlineASRProcessor
from ray_whisper_streaming.core.languages import check_language
from ray_whisper_streaming.core.options import AUTO, check_model_knows
from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["add_shared_args", "asr_factory", "check_args"]

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
BACKENDS = ("faster-whisper", "whisper_timestamped", "mlx-whisper", "openai-api")


def add_shared_args(parser: argparse.ArgumentParser) -> None:
    """Add the options that whisper_streaming's programs share."""
    add = parser.add_argument
    add(
        "--min-chunk-size",
        type=seconds,
        default=1.0,
        help="seconds of new audio before a pass (default: 1.0)",
    )
    add("--model", default="large-v2", help="name, path or hub id (default: large-v2)")
    add("--model_cache_dir", default=None, help="accepted; the hub's own settings say where models are kept")
    add("--model_dir", default=None, help="folder of a model; goes before --model")
    add("--lan", "--language", default=AUTO, help="language code such as en, de, zh; or auto (default)")
    add("--task", default="transcribe", choices=["transcribe", "translate"], help="translate: into English")
    add("--backend", default="faster-whisper", choices=BACKENDS, help="only faster-whisper is served here")
    add("--vac", action="store_true", help="listen for voice: silence is not decoded")
    add(
        "--vac-chunk-size",
        type=seconds,
        default=0.04,
        help="seconds of audio a step of --vac (default: 0.04)",
    )
    add("--vad", action="store_true", help="accepted: silence is told from speech without it")
    add(
        "--buffer_trimming",
        default="segment",
        choices=["sentence", "segment"],
        help="where to cut the buffer",
    )
    add("--buffer_trimming_sec", type=float, default=15, help="cut a buffer longer than this (default: 15)")
    add("-l", "--log-level", dest="log_level", type=str.upper, choices=LOG_LEVELS, default="WARNING")
    add(
        "--beam-size",
        type=beams,
        default=None,
        help="1 is greedy, the original used 5 (default: the engine decides)",
    )


def seconds(text: str) -> float:
    """An argument that must be more than 0: a step of none would never come to an end."""
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"is {text}; it must be a number of seconds above 0")
    return number


def beams(text: str) -> int:
    """An argument that must be 1 or more."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"is {text}; it must be 1 or more")
    return number


def check_args(args: argparse.Namespace) -> None:
    """Raise `ConfigurationError` for arguments that can't be served, before anything is loaded."""
    if args.backend != "faster-whisper":
        raise ConfigurationError("backend", args.backend, "faster-whisper, the one served here")
    if args.lan != AUTO:
        check_language("lan", args.lan)
    check_model_knows(args.model_dir or args.model, args.lan, args.task)
    if args.buffer_trimming == "sentence" and args.lan == AUTO and args.task != "translate":
        raise ConfigurationError("lan", args.lan, "a language when sentences are to be split")


def asr_factory(
    args: argparse.Namespace, logfile: TextIO | None = sys.stderr
) -> tuple[FasterWhisperASR, OnlineASRProcessor | VACOnlineASRProcessor]:
    """The recogniser, loaded, and the processor that the arguments ask for.

    Raises:
        ConfigurationError: a value that can't be served.
        ModelNotFound: the model is not on this machine.
    """
    check_args(args)
    asr = FasterWhisperASR(args.lan, args.model, args.model_cache_dir, args.model_dir, logfile)
    asr.beam_size = getattr(args, "beam_size", None)
    if args.task == "translate":
        asr.set_translate_task()
    asr.load()
    tokenizer = None
    if args.buffer_trimming == "sentence":
        tokenizer = create_tokenizer("en" if args.task == "translate" else args.lan)
    trimming = (args.buffer_trimming, args.buffer_trimming_sec)
    if args.vac:
        return asr, VACOnlineASRProcessor(args.min_chunk_size, asr, tokenizer, trimming, logfile)
    return asr, OnlineASRProcessor(asr, tokenizer, trimming, logfile)
