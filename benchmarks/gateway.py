"""What sessions cost the gateway: many clients over real sockets, 20 ms of audio per packet, no model.

    python benchmarks/gateway.py --sessions 200 --seconds 20 --json gateway.json

The server runs in a process of its own, on one core if `--core` names one; its workers answer from a script. The
clients run in a second process and speak at the pace of speech. Reported: the delay of the server's event loop (a task
that wants to wake every 5 ms, and how late it is), the CPU time of the server's process per second of audio, the pace
(seconds of audio received per second and session: below 1 the clients could not keep up, and the rest means little),
and how many words the sessions got.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import multiprocessing
import os
import resource
import statistics
import struct
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import websockets
from rich.console import Console
from rich.table import Table

from ray_whisper_streaming import AsyncPool, Word
from ray_whisper_streaming.bench.machine import describe_machine
from ray_whisper_streaming.core.jobs import Int16Samples
from ray_whisper_streaming.engines.scripted import ScriptedEngine
from ray_whisper_streaming.engines.vad import VAD_FRAME_SAMPLES, SileroVad, VadState
from ray_whisper_streaming.media import decode_file
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.serving import Server, calm_collector

PACKET_S = 0.02
TURNS = 10
"""Parts of a packet's time: clients don't all send at once."""
PROBE_S = 0.005
"""How often the event loop is asked to wake a task."""

RATE = 16_000
PACKET_BYTES = round(PACKET_S * RATE) * 2
FRAME_HEAD = b"\x82\xfe" + struct.pack(">HI", 4 + PACKET_BYTES, 0)
"""Of a whole binary WebSocket frame with a packet and its number; the mask is zero."""

TARGET_P99_MS = 50.0
"""What the project wants of 200 sessions on one core."""

RAMP_PER_S = 50
"""Sessions opened per second: a crowd that connects at once is another measurement."""

SAMPLE = Path(__file__).parents[1] / "src" / "ray_whisper_streaming" / "samples" / "support_call.flac"
WORD_S, SPOKEN_S = 0.4, 0.3
VOICED = 0.5
"""Probability of voice from which a word may stand somewhere: streams drop words that stand in silence."""


def load_sample() -> Int16Samples:
    """What every client says, over and over."""
    return np.concatenate(list(decode_file(str(SAMPLE))))


def script(seconds: float) -> tuple[Word, ...]:
    """A word every 0.4 s, wherever there is voice."""
    vad = SileroVad()
    samples = np.resize(load_sample(), round(seconds * RATE / VAD_FRAME_SAMPLES) * VAD_FRAME_SAMPLES)
    (probabilities,) = vad.score([VadState()], [samples])
    frame_s = VAD_FRAME_SAMPLES / RATE
    starts_s = (index * WORD_S for index in range(round(seconds / WORD_S)))
    return tuple(
        Word(f" word{number}", start_s, start_s + SPOKEN_S)
        for number, start_s in enumerate(starts_s)
        if (probabilities[int(start_s / frame_s) : int((start_s + SPOKEN_S) / frame_s) + 1] > VOICED).all()
    )


# ---------------------------------------------------------------- the server's process


async def probe(delays_ms: list[float]) -> None:
    while True:
        wanted = time.monotonic() + PROBE_S
        await asyncio.sleep(PROBE_S)
        delays_ms.append((time.monotonic() - wanted) * 1000)


def received_s(gateway: Gateway) -> float:
    return sum(session.received_s for session in gateway.sessions.values())


async def serve(pipe: Any, sessions: int, seconds: float) -> None:
    engine = partial(ScriptedEngine, {}, script(seconds + 60), latency_s=0.02, max_batch_size=64)
    pool = AsyncPool(backend="local", engine_factory=engine)
    config = ServerConfig(port=0, max_new_streams=10_000, max_queue_wait_s=60, max_lag_s=60)
    gateway = Gateway([pool], config)
    server = Server(gateway)
    ready = asyncio.Event()
    running = asyncio.create_task(server.run(ready.set))
    await asyncio.wait((running, asyncio.ensure_future(ready.wait())), return_when=asyncio.FIRST_COMPLETED)
    calm_collector()
    pipe.send(server.port)
    loop = asyncio.get_running_loop()
    delays_ms: list[float] = []
    await loop.run_in_executor(None, pipe.recv)  # all sessions are there
    probing = asyncio.create_task(probe(delays_ms))
    began = (time.monotonic(), time.process_time(), received_s(gateway))
    await loop.run_in_executor(None, pipe.recv)  # they are about to end
    wall_s, cpu_s = time.monotonic() - began[0], time.process_time() - began[1]
    audio_s = received_s(gateway) - began[2]
    probing.cancel()
    pipe.send(
        {
            "delays_ms": delays_ms,
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "audio_s": audio_s,
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
    await loop.run_in_executor(None, pipe.recv)
    server.stop()
    await running


def run_server(pipe: Any, sessions: int, seconds: float, core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    import uvloop

    uvloop.run(serve(pipe, sessions, seconds))


# ---------------------------------------------------------------- the clients' process


class Client:
    """One session; it counts the words that it gets."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.words = 0
        self._socket = socket
        self._packets = 0

    @classmethod
    async def connect(cls, url: str, voice_activity: bool) -> Client:
        socket = await websockets.connect(url, compression=None, max_queue=None, ping_interval=None)
        await socket.send(json.dumps({"type": "options", "language": "en", "voice_activity": voice_activity}))
        await socket.recv()
        return cls(socket)

    def send(self, audio: bytes) -> None:
        """The next packet, past the library, which would take a core for all of them together."""
        at = self._packets * PACKET_BYTES % (len(audio) - PACKET_BYTES)
        self._socket.transport.write(
            FRAME_HEAD + struct.pack("<I", self._packets) + audio[at : at + PACKET_BYTES]
        )
        self._packets += 1

    async def finish(self) -> int:
        """How many words there were, to the end."""
        await self._socket.send('{"type":"close"}')
        async for message in self._socket:
            self._count(message)
        return self.words

    async def listen(self) -> None:
        while True:
            self._count(await self._socket.recv())

    def _count(self, message: str | bytes) -> None:
        event = json.loads(message)
        if event["type"] == "committed":
            self.words += event["count"]


async def speak(clients: Sequence[Client], audio: bytes) -> None:
    """A packet from each client every 20 ms, one after the other in these 20 ms."""
    began = time.monotonic()
    for turn in itertools.count(1):
        for client in clients[turn % TURNS :: TURNS]:
            client.send(audio)
        await asyncio.sleep(began + turn * PACKET_S / TURNS - time.monotonic())


async def load(port: int, pipe: Any, sessions: int, seconds: float, voice_activity: bool) -> list[int]:
    samples = load_sample()
    audio = (
        samples.tobytes() + samples[: PACKET_BYTES // 2].tobytes()
    )  # it begins anew in the middle of a packet
    url = f"ws://127.0.0.1:{port}/v1/stream"
    clients: list[Client] = []
    speaking = asyncio.create_task(speak(clients, audio))
    listening: list[asyncio.Task[None]] = []
    for _ in range(sessions):
        clients.append(await Client.connect(url, voice_activity))
        listening.append(asyncio.create_task(clients[-1].listen()))
        await asyncio.sleep(1 / RAMP_PER_S)
    pipe.send("opened")
    await asyncio.wait([speaking, *listening], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    pipe.send("ending")
    for task in (speaking, *listening):
        if task.done():
            raise SystemExit(f"{sessions} sessions are too many here: {task.exception()}")
        task.cancel()
    await asyncio.gather(speaking, *listening, return_exceptions=True)
    return await asyncio.gather(*(client.finish() for client in clients))


# ---------------------------------------------------------------- both


def measure(sessions: int, seconds: float, core: int | None, voice_activity: bool) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_server, args=(theirs, sessions, seconds, core))
    process.start()
    try:
        if core is not None:
            os.sched_setaffinity(0, set(psutil.Process().cpu_affinity() or ()) - {core})
        port = ours.recv()
        words = asyncio.run(load(port, ours, sessions, seconds, voice_activity))
        facts = ours.recv()
        ours.send("stop")
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join(30)
        if process.is_alive():
            process.terminate()
    delays_ms = sorted(facts["delays_ms"])
    return {
        "sessions": sessions,
        "voice_activity": voice_activity,
        "loop_delay_p50_ms": statistics.median(delays_ms),
        "loop_delay_p99_ms": delays_ms[int(len(delays_ms) * 0.99)],
        "loop_delay_max_ms": delays_ms[-1],
        "cpu_share": facts["cpu_s"] / facts["wall_s"],
        "cpu_ms_per_audio_s": facts["cpu_s"] * 1000 / facts["audio_s"],
        "pace": facts["audio_s"] / facts["wall_s"] / sessions,
        "rss_mb": facts["rss_mb"],
        "words_min": min(words),
        "words_max": max(words),
    }


def more_than_zero(kind: Callable[[str], float]) -> Callable[[str], float]:
    """For argparse: a number of this kind, more than 0."""

    def read(text: str) -> float:
        number = kind(text)
        if not 0 < number < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
        return number

    read.__name__ = kind.__name__  # argparse names it where the text is no number at all
    return read


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=more_than_zero(int), nargs="+", default=[50, 100, 200])
    parser.add_argument(
        "--seconds", type=more_than_zero(float), default=15.0, help="measured, once all sessions are open"
    )
    parser.add_argument(
        "--core", type=int, default=None, help="pin the server to this core, the clients to others"
    )
    parser.add_argument("--no-voice-activity", dest="voice_activity", action="store_false")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [
        measure(sessions, arguments.seconds, arguments.core, arguments.voice_activity)
        for sessions in arguments.sessions
    ]
    table = Table(
        "sessions",
        "loop delay p50 ms",
        "p99",
        "max",
        "cores",
        "CPU ms per audio s",
        "pace",
        "RSS MB",
        "words",
    )
    for row in rows:
        table.add_row(
            str(row["sessions"]),
            f"{row['loop_delay_p50_ms']:.1f}",
            f"{row['loop_delay_p99_ms']:.1f}",
            f"{row['loop_delay_max_ms']:.1f}",
            f"{row['cpu_share']:.2f}",
            f"{row['cpu_ms_per_audio_s']:.2f}",
            f"{row['pace']:.2f}",
            f"{row['rss_mb']:.0f}",
            f"{row['words_min']}-{row['words_max']}",
        )
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=2) + "\n")
    return 0 if all(row["words_min"] > 0 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
