"""A program for whisper_online: several recordings at once, at the pace they were spoken, through one Ray cluster.

python examples/seed.py [FOLDER] [--model tiny.en] [--lan en] [--seconds 20]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", default=str(resources.files("ray_whisper_streaming") / "samples")
    )
    parser.add_argument("--model", default="tiny.en", help="the original's default is large-v2")
    parser.add_argument("--lan", default="en", help="the original's default is zh")
    parser.add_argument("--streams", type=int, default=3, help="recordings at once")
    parser.add_argument("--seconds", type=float, default=None, help="play so much of each only")
    args = parser.parse_args()
    paths = [path for path in sorted(Path(args.folder).iterdir()) if path.suffix in (".flac", ".wav", ".mp3")]
    paths = paths[: args.streams]
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
            elif output[0] is not None:
                print(f"{path.stem} {output[0]:.1f}-{output[1]:.1f}:{output[2]}", flush=True)
    for path, processor in zip(paths, processors, strict=True):
        start, end, text = processor.finish()
        if start is not None:
            print(f"{path.stem} {start:.1f}-{end:.1f}:{text}", flush=True)
    cluster.close()


if __name__ == "__main__":
    main()
