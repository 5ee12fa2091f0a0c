"""The API of whisper_streaming and of its Ray fork, served by Ray Whisper Streaming. Re-exports only.

``python -m whisper_online FILE`` streams a recording with the original's options and output lines.
"""

from ray_whisper_streaming.compat.asr import FasterWhisperASR
from ray_whisper_streaming.compat.cluster import FasterWhisperWorkerCluster, RayFasterWhisperASR
from ray_whisper_streaming.compat.factory import add_shared_args, asr_factory
from ray_whisper_streaming.compat.hypothesis import HypothesisBuffer
from ray_whisper_streaming.compat.processor import (
    OnlineASRProcessor,
    aprocess_iter_many,
    process_iter_many,
)
from ray_whisper_streaming.compat.simulate import load_audio, load_audio_chunk, main
from ray_whisper_streaming.compat.tokenizer import create_tokenizer
from ray_whisper_streaming.compat.vac import VACOnlineASRProcessor

__all__ = [
    "FasterWhisperASR",
    "FasterWhisperWorkerCluster",
    "HypothesisBuffer",
    "OnlineASRProcessor",
    "RayFasterWhisperASR",
    "VACOnlineASRProcessor",
    "add_shared_args",
    "aprocess_iter_many",
    "asr_factory",
    "create_tokenizer",
    "load_audio",
    "load_audio_chunk",
    "main",
    "process_iter_many",
]

if __name__ == "__main__":
    raise SystemExit(main())
