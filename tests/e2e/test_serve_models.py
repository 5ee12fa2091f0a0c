"""One server with both embedded models, as a user starts it, and the clients that use each at the same time."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from tests.helpers.serve_command import SAMPLES, Served, serving, speech, word_errors

from ray_whisper_streaming.client import AsyncClient, Committed
from ray_whisper_streaming.errors import ConfigurationError

pytestmark = [pytest.mark.model, pytest.mark.speech]

TOUR, WEATHER = "city_tour.flac", "weather_report.flac"
WER_LIMIT = 0.15
"""See `test_openai_clients`."""

LIVE_WER_LIMIT = 0.2


def top(url: str) -> str:
    command = [
        sys.executable,
        "-m",
        "ray_whisper_streaming",
        "top",
        "--once",
        "--interval-s",
        "0.5",
        "--url",
        url,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving("--model", "tiny.en", "--model", "base") as served:
        yield served


def test_openai_names_each(server: Served) -> None:
    with OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0) as client:
        assert [each.id for each in client.models.list()] == ["tiny.en", "base"]
        detected: Any = client.audio.transcriptions.create(
            file=SAMPLES / TOUR, model="base", response_format="verbose_json"
        )
        assert detected.language == "english"  # which a model for English alone doesn't detect
        assert word_errors(detected.text, TOUR) < WER_LIMIT
        for model in ("tiny.en", "whisper-1"):
            heard = client.audio.transcriptions.create(file=SAMPLES / TOUR, model=model)
            assert word_errors(heard.text, TOUR) < WER_LIMIT
        with pytest.raises(openai.BadRequestError, match="English alone"):
            client.audio.transcriptions.create(file=SAMPLES / TOUR, model="tiny.en", language="de")
        with pytest.raises(openai.NotFoundError, match=r"it has tiny\.en, base"):
            client.audio.transcriptions.create(file=SAMPLES / TOUR, model="large-v3")


async def test_live_sessions_of_both_at_once(server: Served) -> None:
    async def hear(name: str, model: str | None) -> str:
        async with AsyncClient(server.url) as client, client.stream(model=model, language="en") as stream:
            await stream.push(speech(name))
            await stream.finish()
            events = [event async for event in stream]
        return "".join(event.text for event in events if isinstance(event, Committed))

    asked = [(TOUR, "base"), (WEATHER, "tiny.en"), (TOUR, None)]
    texts = await asyncio.gather(*(hear(name, model) for name, model in asked))
    for text, (name, _) in zip(texts, asked, strict=True):
        assert word_errors(text, name) < LIVE_WER_LIMIT
    async with AsyncClient(server.url) as client:
        with pytest.raises(ConfigurationError, match=r"this server has: tiny\.en, base"):
            async with client.stream(model="large-v3") as stream:
                _ = [event async for event in stream]
    shown = await asyncio.to_thread(top, server.url)
    rows = [line.split() for line in shown.splitlines()]
    assert ["model", "base", "tiny.en"] in rows
    assert ["workers", "ready", "1", "1"] in rows
    jobs = {row[1]: int(row[2]) for row in rows if row[:1] == ["worker-0"]}
    assert set(jobs) == {"base", "tiny.en"}
    assert min(jobs.values()) > 0


async def test_a_realtime_session_changes_its_model(server: Served) -> None:
    samples = speech(TOUR, 24_000)
    pieces = [
        base64.b64encode(samples[at : at + 24_000].tobytes()).decode()
        for at in range(0, len(samples), 24_000)
    ]
    async with (
        AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0) as client,
        client.realtime.connect(extra_query={"intent": "transcription"}) as connection,
    ):
        for model in ("base", "tiny.en"):
            transcription: Any = {"model": model, "language": "en"}
            await connection.session.update(
                session={
                    "type": "transcription",
                    "audio": {"input": {"transcription": transcription, "turn_detection": None}},
                }
            )
            for piece in pieces:
                await connection.input_audio_buffer.append(audio=piece)
            await connection.input_audio_buffer.commit()
            async for event in connection:
                assert event.type != "error", event
                if event.type == "conversation.item.input_audio_transcription.completed":
                    assert word_errors(event.transcript, TOUR) < LIVE_WER_LIMIT
                    break
