"""``python -m ray_whisper_streaming`` is the command ``ray-whisper``."""

from ray_whisper_streaming.cli.main import run

if __name__ == "__main__":
    run()
