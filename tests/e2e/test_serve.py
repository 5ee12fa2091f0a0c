"""``ray-whisper serve`` as its users run it: a process, a real model, clients that nobody here wrote."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import websockets

from ray_whisper_streaming.media import decode_file
from ray_whisper_streaming.wire.native import encode_audio

SAMPLE = str(resources.files("ray_whisper_streaming") / "samples" / "city_tour.flac")
COMMAND = [sys.executable, "-m", "ray_whisper_streaming"]
TIMEOUT_S = 120


@contextmanager
def serving(*arguments: str, **environ: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """The process and what it said when it was ready."""
    command = [*COMMAND, "serve", "--port", "0", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}
    ) as process:
        assert process.stdout is not None
        try:
            said = ""
            while "/v1/stream" not in said or ("--tcp-port" in arguments and "nc " not in said):
                line = process.stdout.readline()
                assert line, process.stderr and process.stderr.read()
                said += line
            yield process, said
        finally:
            process.kill()


def pcm() -> bytes:
    return b"".join(piece.tobytes() for piece in decode_file(SAMPLE))


async def caption(url: str, audio: bytes, **settings: Any) -> list[dict[str, Any]]:
    """What a client of the package `websockets` hears; audio four times as fast as it was spoken."""
    events: list[dict[str, Any]] = []
    async with websockets.connect(url, **settings) as socket:
        await socket.send(json.dumps({"type": "options", "language": "en"}))

        async def send() -> None:
            for number, start in enumerate(range(0, len(audio), 6_400)):
                await socket.send(encode_audio(number, audio[start : start + 6_400]))
                await asyncio.sleep(0.05)
            await socket.send('{"type":"close"}')

        sending = asyncio.create_task(send())
        events.extend([json.loads(message) async for message in socket])
        await sending
    return events


@pytest.mark.slow
@pytest.mark.model
def test_one_command_serves_websocket_and_tcp_and_ends_in_good_order() -> None:
    # What the machine does besides must not close the door.
    with serving("--tcp-port", "0", "--max-queue-wait-s", "60", "--max-lag-s", "60") as (process, said):
        url = re.search(r"ws://\S+", said)
        port = re.search(r"nc 127\.0\.0\.1 (\d+)", said)
        assert url
        assert port
        assert re.search(r"http://127\.0\.0\.1:\d+/ in a browser", said)

        async def both() -> list[list[dict[str, Any]]]:
            return await asyncio.gather(*(caption(url[0], pcm()) for _ in range(2)))

        for events in asyncio.run(both()):
            assert "stone bridge" in " ".join(event["text"] for event in events if event["type"] == "final")
            words = [word for event in events if event["type"] == "committed" for word in event["words"]]
            assert [word["id"] for word in words] == list(range(len(words)))
            starts = [word["start"] for word in words]
            assert starts == sorted(starts)
            assert {"ready", "speech_started", "partial", "acknowledged", "closed"} <= {
                event["type"] for event in events
            }
        if shutil.which("nc"):
            heard = subprocess.run(
                ["nc", "-N", "127.0.0.1", port[1]], input=pcm(), capture_output=True, timeout=60, check=True
            ).stdout.decode()
        else:
            heard = asyncio.run(netcat(int(port[1]), pcm()))
        lines = [line.split(" ", 2) for line in heard.splitlines()]
        text = "".join(line[2] for line in lines)
        assert "stone bridge" in text
        assert "slippery" in text  # the last words
        process.send_signal(signal.SIGTERM)
        out, log = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "Traceback" not in log
        assert "session opened" in log
        assert "bridge" not in log + out


async def netcat(port: int, data: bytes) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer.decode()


@pytest.mark.slow
@pytest.mark.model
def test_keys_made_on_the_command_line_open_the_server(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.json")

    def keys(*arguments: str) -> str:
        command = [*COMMAND, "keys", *arguments, "--keys-file", file]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout

    key = keys("create", "test", "--streams", "2").strip()
    key_id = key.split("_")[1]
    assert key not in keys("list")
    assert key_id in keys("list")
    with serving(RAY_WHISPER_KEYS_FILE=file, RAY_WHISPER_LOG_FORMAT="json") as (process, said):
        url = re.search(r"ws://\S+", said)
        assert url
        with pytest.raises(websockets.InvalidStatus):
            asyncio.run(caption(url[0], b""))
        headers = {"Authorization": f"Bearer {key}"}
        events = asyncio.run(caption(url[0], pcm()[:64_000], additional_headers=headers))
        assert events[-1]["type"] == "closed"
        assert "revoked" in keys("revoke", key_id)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        records = [json.loads(line) for line in log.splitlines()]
        opened = next(record for record in records if record["message"] == "session opened")
        assert opened.items() >= {"key": "test", "protocol": "native", "level": "info"}.items()
        assert key.split("_", 2)[2] not in log


@pytest.mark.model
def test_ctrl_c_ends_it() -> None:
    with serving() as (process, said):
        address = re.search(r"http://\S+", said)
        assert address
        with urllib.request.urlopen(address[0] + "/readyz", timeout=10) as answer:
            assert json.load(answer)["state"] == "ready"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        (["--host", "0.0.0.0"], {}, "host is '0.0.0.0'"),
        (["--max-lag-s", "0"], {}, "max_lag_s is 0"),
        ([], {"RAY_WHISPER_PORT": "x"}, "RAY_WHISPER_PORT is 'x'"),
        (["--config", "/nowhere.toml"], {}, "config file"),
        (["--keys-file", "/nowhere.json"], {}, "'ray-whisper keys create NAME' makes one"),
    ],
)
def test_wrong_usage_is_told_before_a_model_is_loaded(
    arguments: list[str], environ: dict[str, str], said: str
) -> None:
    done = subprocess.run(
        [*COMMAND, "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, **environ},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_config_show_says_where_each_value_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("port = 9000\n")
    shown = subprocess.run(
        [*COMMAND, "config", "show", "--config", str(file), "--drain-s", "5"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
        env={**os.environ, "RAY_WHISPER_MODEL": "base"},
    ).stdout
    assert f"# ({file})\nport = 9000" in shown
    assert "# (flag)\ndrain_s = 5.0" in shown
    assert '# (RAY_WHISPER_MODEL)\nmodel = ["base"]' in shown
