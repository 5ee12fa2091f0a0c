"""Several recordings at once through one pool, with asyncio.

python examples/async_streams.py [RECORDING ...]
"""

import asyncio
import sys
from importlib import resources
from pathlib import Path

from ray_whisper_streaming import AsyncPool, Final
from ray_whisper_streaming.media import decode_file

SAMPLES = sorted(Path(str(resources.files("ray_whisper_streaming") / "samples")).glob("*.flac"))


async def caption(pool: AsyncPool, recording: Path) -> None:
    async with pool.stream(stream_id=recording.stem, language="en") as stream:

        async def send() -> None:
            for samples in decode_file(recording):
                await stream.push(samples)
            await stream.finish()

        sending = asyncio.create_task(send())
        async for event in stream:
            if isinstance(event, Final) and event.words:
                print(f"{recording.stem}: {event.text}", flush=True)
        await sending


async def main(recordings: list[Path]) -> None:
    async with AsyncPool("tiny.en") as pool:
        await asyncio.gather(*(caption(pool, recording) for recording in recordings))


if __name__ == "__main__":
    asyncio.run(main([Path(name) for name in sys.argv[1:]] or SAMPLES))
