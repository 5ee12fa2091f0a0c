"""The first program: one recording through one stream, words as they are sure.

python examples/first_program.py [RECORDING]
"""

import sys
from importlib import resources

from ray_whisper_streaming import Committed, Pool
from ray_whisper_streaming.media import decode_file

SAMPLE = str(resources.files("ray_whisper_streaming") / "samples" / "city_tour.flac")


def main(recording: str) -> None:
    with Pool("tiny.en") as pool, pool.stream(language="en") as stream:
        for samples in decode_file(recording):
            stream.push(samples)
        stream.finish()
        for event in stream:
            if isinstance(event, Committed):
                print(event.text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else SAMPLE)
