"""``ray-whisper listen`` and ``top`` as a user runs them, with a server that has the real model."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tests.helpers.lossy_proxy import lossy
from tests.helpers.serve_command import SAMPLES, Served, speech, word_errors

from ray_whisper_streaming.client import AsyncClient, Closed, Committed, Reconnected

pytestmark = pytest.mark.model

NAME = "city_tour.flac"
COMMAND = [sys.executable, "-m", "ray_whisper_streaming"]
TIMEOUT_S = 120
MOST_WORD_ERRORS = 0.2


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, timeout=TIMEOUT_S, check=False
    )
    said = done.stderr.decode()
    assert "Traceback" not in said
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), said)


async def test_the_words_of_a_recording_are_the_same_over_a_lost_connection(server: Served) -> None:
    async with lossy(server.url) as proxy, AsyncClient(proxy.url) as client:
        proxy.cut_after_up = 300_000
        events = [event async for event in client.transcribe(SAMPLES / NAME, language="en")]
    assert any(isinstance(event, Reconnected) and event.resumed for event in events)
    assert isinstance(events[-1], Closed)
    committed = [event for event in events if isinstance(event, Committed)]
    words = [word for event in committed for word in event.words]
    assert [event.first_index for event in committed][1:] == [
        sum(len(event.words) for event in committed[: number + 1]) for number in range(len(committed) - 1)
    ]
    assert len(words) == events[-1].words
    starts = [word.start_s for word in words]
    assert starts == sorted(starts)
    assert word_errors("".join(word.text for word in words), NAME) < MOST_WORD_ERRORS


@pytest.mark.slow
def test_listen_plays_a_recording_at_its_pace(server: Served) -> None:
    done = run("listen", str(SAMPLES / NAME), "--url", server.websocket_url, "--language", "en")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) >= 2
    assert word_errors(done.stdout, NAME) < MOST_WORD_ERRORS


def test_listen_to_stdin_as_json(server: Served) -> None:
    audio = speech(NAME, 8_000)[: 8 * 8_000].tobytes()
    done = run(
        "listen", "-", "--rate", "8000", "--url", server.websocket_url, "--format", "jsonl", stdin=audio
    )
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"committed", "final"} <= {event["type"] for event in events}
    assert "old town" in " ".join(event["text"] for event in events if event["type"] == "final").lower()


def test_ctrl_c_ends_it_with_the_last_words(server: Served) -> None:
    command = [*COMMAND, "listen", "-", "--url", server.websocket_url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(speech(NAME)[: 8 * 16_000].tobytes())
        process.stdin.flush()
        heard = process.stdout.read(8)  # some words are there, and stdin is open
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert b"Traceback" not in said
    assert b"market hall" in (heard + rest).lower()
    assert (heard + rest).endswith(b"\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["listen", str(SAMPLES / NAME), "--url", "ws://127.0.0.1:9"], 1, "can't be reached"),
        (["listen", "nothing.wav"], 1, "nothing.wav is no file"),
        (["listen", str(SAMPLES / NAME), "--url", "here"], 2, "url is 'here'"),
        (["listen", str(SAMPLES / NAME), "--language", "xx"], 2, "language is 'xx'"),
        (["listen", str(SAMPLES / NAME), "--sentence-silence-s", "0"], 2, "sentence_silence_s is 0"),
        (["listen", str(SAMPLES / NAME), "--max-utterance-s", "0"], 2, "max_utterance_s is 0"),
        (["top", "--once", "--url", "http://127.0.0.1:9"], 1, "can't be reached"),
        (["top", "--once", "--url", "here"], 2, "url is 'here'"),
    ],
)
def test_what_goes_wrong_is_told_in_a_sentence(arguments: list[str], code: int, said: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_top_once(server: Served) -> None:
    async def busy() -> subprocess.CompletedProcess[str]:
        async with AsyncClient(server.url) as client, client.stream(language="en") as stream:
            await stream.push(speech(NAME))
            await stream.flush()
            done = await asyncio.to_thread(run, "top", "--once", "--interval-s", "1", "--url", server.url)
            await stream.finish()
            return done

    done = asyncio.run(busy())
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    assert f"{server.url} serving" in shown
    assert "sessions 1" in shown
    assert "1 native" in shown
    assert "worker-0" in shown


def test_top_says_that_a_key_is_wanted() -> None:
    class Guarded(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has
            pass

    with HTTPServer(("127.0.0.1", 0), Guarded) as guarded:
        threading.Thread(target=guarded.serve_forever, daemon=True).start()
        done = run("top", "--once", "--url", f"http://127.0.0.1:{guarded.server_port}")
        guarded.shutdown()
    assert done.returncode == 1
    assert "wants a key: --api-key" in done.stderr
