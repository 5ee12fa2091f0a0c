"""A program for whisper_online: several recordings at once, at the pace they were spoken, through one Ray cluster.

python examples/seed.py [FOLDER] [--model tiny.en] [--lan en] [--seconds 20]

All recordings of the folder at once; by default those that come with the package. Prints "name: text" as they come.
"""

import argparse
import time
from importlib import resources
from pathlib import Path

from whisper_online import (
    FasterWhisperWorkerCluster,
    OnlineASRProcessor,
    RayFasterWhisperASR,
    load_audio,
    process_iter_many,
)

STEP_S = 0.25
RATE = OnlineASRProcessor.SAMPLING_RATE


def show(path: Path, text: str) -> None:
    if text:
        print(f"{path.stem}: {text.strip()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", default=str(resources.files("ray_whisper_streaming") / "samples")
    )
    parser.add_argument("--model", default="tiny.en", help="the original's default is large-v2")
    parser.add_argument("--lan", default="en", help="the original's default is zh")
    parser.add_argument("--seconds", type=float, default=None, help="play so much of each only")
    args = parser.parse_args()
    paths = [path for path in sorted(Path(args.folder).glob("*")) if path.suffix in (".flac", ".wav", ".mp3")]
    if not paths:
        parser.error(f"no recordings (.flac, .wav, .mp3) in {args.folder}")
    streams = [load_audio(str(path)) for path in paths]
    if args.seconds is not None:
        streams = [audio[: int(args.seconds * RATE)] for audio in streams]

    cluster = FasterWhisperWorkerCluster(lan=args.lan, model_size_or_path=args.model)
    cluster.run()
    queue = cluster.get_global_asr_queue()
    processors = [OnlineASRProcessor(RayFasterWhisperASR(global_asr_queue=queue)) for _ in streams]

    began = time.monotonic()
    sent = 0
    while sent < max(map(len, streams)):
        # What was spoken since the last pass, at least a quarter of a second of it.
        time.sleep(max(0.0, began + (sent / RATE) + STEP_S - time.monotonic()))
        now = int((time.monotonic() - began) * RATE)
        live = [
            (path, each)
            for path, each, audio in zip(paths, processors, streams, strict=True)
            if sent < len(audio)
        ]
        for processor, audio in zip(processors, streams, strict=True):
            processor.insert_audio_chunk(audio[sent:now])
        sent = now
        # One after the other works too (`processor.process_iter()`); all at once share batches.
        for (path, _), output in zip(live, process_iter_many([each for _, each in live]), strict=True):
            if isinstance(output, BaseException):
                print(f"{path.stem}: {output}; tried again", flush=True)
            else:
                show(path, output[2])
    for path, processor in zip(paths, processors, strict=True):
        _start, _end, text = processor.finish()
        show(path, text)
    cluster.close()


if __name__ == "__main__":
    main()
