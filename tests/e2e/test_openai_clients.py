"""OpenAI's own Python package against the real server with the real model."""

from __future__ import annotations

import asyncio
import base64
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import av
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from tests.helpers.serve_command import SAMPLES, Served, sample_texts, serving, speech, word_errors

pytestmark = [
    pytest.mark.model,
    pytest.mark.speech,
    # OpenAI announces the end of its own Whisper; ours goes on.
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),
]

TOUR, WEATHER = "city_tour.flac", "weather_report.flac"
PCM_RATE = 24_000
PIECE_S = 0.1
WER_LIMIT = 0.15
"""tiny.en makes up to 7 % errors in these recordings; a lost utterance makes more than 20."""

DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"


@pytest.fixture
def client(server: Served) -> Iterator[OpenAI]:
    with OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(server: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0) as made:
        yield made


def session(**audio_input: Any) -> Any:
    return {"type": "transcription", "audio": {"input": audio_input}}


async def send(connection: Any, raw: bytes, bytes_per_s: int, *, pace: bool = False) -> None:
    size = round(bytes_per_s * PIECE_S)
    for start in range(0, len(raw), size):
        piece = base64.b64encode(raw[start : start + size]).decode()
        await connection.input_audio_buffer.append(audio=piece)
        if pace:
            await asyncio.sleep(PIECE_S)


async def read_until(connection: Any, *kinds: str, seconds: float = 60.0) -> list[Any]:
    """Events until one of these kinds comes."""
    events: list[Any] = []
    while not events or events[-1].type not in kinds:
        events.append(await asyncio.wait_for(connection.recv(), seconds))
        assert events[-1].type != "error" or "error" in kinds, events[-1]
    return events


async def read_until_quiet(connection: Any, seconds: float) -> list[Any]:
    """Events until none came for so long."""
    events: list[Any] = []
    while True:
        try:
            events.append(await asyncio.wait_for(connection.recv(), seconds))
        except asyncio.TimeoutError:
            return events


# ---------------------------------------------------------------- Realtime


async def test_realtime_with_server_vad(async_client: AsyncOpenAI) -> None:
    async with async_client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        (created,) = await read_until(connection, "session.created")
        assert created.session.type == "transcription"
        await connection.session.update(
            session=session(
                format={"type": "audio/pcm", "rate": PCM_RATE},
                transcription={"model": "gpt-4o-transcribe", "language": "en"},
                turn_detection={"type": "server_vad", "silence_duration_ms": 600},
            )
        )
        (updated,) = await read_until(connection, "session.updated")
        assert updated.session.audio.input.turn_detection.silence_duration_ms == 600
        raw = speech(TOUR, PCM_RATE).tobytes() + bytes(2 * PCM_RATE * 2)
        await send(connection, raw, PCM_RATE * 2)
        events = await read_until_quiet(connection, 5.0)
    kinds = [event.type for event in events]
    assert kinds.count("input_audio_buffer.speech_started") == kinds.count(COMPLETED) >= 2
    transcripts = {event.item_id: event.transcript for event in events if event.type == COMPLETED}
    assert word_errors(" ".join(transcripts.values()), TOUR) < WER_LIMIT
    for item_id, transcript in transcripts.items():
        mine = [event for event in events if getattr(event, "item_id", None) == item_id]
        assert "".join(event.delta for event in mine if event.type == DELTA) == transcript
        assert [event.type for event in mine if event.type != DELTA] == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            COMPLETED,
        ]


@pytest.mark.slow
async def test_realtime_with_semantic_vad(async_client: AsyncOpenAI) -> None:
    async with async_client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        await connection.session.update(
            session=session(turn_detection={"type": "semantic_vad", "eagerness": "low"})
        )
        events = await read_until(connection, "session.updated")
        assert events[-1].session.audio.input.turn_detection.eagerness == "low"
        # At its pace: of audio that comes faster nobody waits to see whether a pause ends something. Silence alone
        # would end the turn after 8 s; a whole sentence in front of it does so after one.
        beginning = speech(TOUR, PCM_RATE)[: 9 * PCM_RATE].tobytes() + bytes(PCM_RATE * 2 * 6)
        await send(connection, beginning, PCM_RATE * 2, pace=True)
        # The pause behind the first sentence is about a second, too: whether a pass falls into it goes by chance.
        transcripts = [(await read_until(connection, COMPLETED))[-1].transcript]
        while not transcripts[-1].endswith("300 years ago."):
            transcripts.append((await read_until(connection, COMPLETED))[-1].transcript)
    assert transcripts[0].startswith("Welcome")
    assert len(transcripts) <= 2


@pytest.mark.parametrize(("kind", "law"), [("audio/pcmu", "pcm_mulaw"), ("audio/pcma", "pcm_alaw")])
async def test_realtime_telephone_with_commits_of_the_client(
    async_client: AsyncOpenAI, kind: str, law: str
) -> None:
    raw = companded(law, speech(WEATHER, 8_000))
    async with async_client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session=session(format={"type": kind}, turn_detection=None))
        await read_until(connection, "session.updated")
        transcripts: list[str] = []
        for half in (raw[: len(raw) // 2], raw[len(raw) // 2 :]):
            await send(connection, half, 8_000)
            await connection.input_audio_buffer.commit()
            events = await read_until(connection, COMPLETED)
            assert not any("speech" in event.type for event in events)
            transcripts.append(events[-1].transcript)
        assert word_errors(" ".join(transcripts), WEATHER) < 0.25  # a word may be cut in two


async def test_realtime_errors_harm_neither_the_session_nor_others(async_client: AsyncOpenAI) -> None:
    async with (
        async_client.realtime.connect() as bad,
        async_client.realtime.connect() as good,
    ):
        await send(good, speech(TOUR, PCM_RATE).tobytes()[: PCM_RATE * 2 * 3], PCM_RATE * 2)
        await read_until(bad, "session.created")
        for message in (b"\x00\x01", "{", '{"type": "response.create"}', '{"type": "nonsense"}'):
            await bad.send_raw(message)
            (error,) = await read_until(bad, "error")
            assert error.error.type == "invalid_request_error"
        await bad.session.update(session=session(transcription={"language": "de"}))
        (error,) = await read_until(bad, "error")
        assert error.error.param == "session.audio.input.transcription.language"
        await bad.input_audio_buffer.append(audio="%%%")
        await read_until(bad, "error")
        for connection in (good, bad):
            if connection is bad:
                await send(bad, speech(TOUR, PCM_RATE).tobytes()[: PCM_RATE * 2 * 3], PCM_RATE * 2)
            await connection.input_audio_buffer.commit()
            events = await read_until(connection, COMPLETED)
            assert "Welcome" in "".join(event.transcript for event in events if event.type == COMPLETED)


async def test_realtime_sessions_at_once(async_client: AsyncOpenAI) -> None:
    async def one(name: str) -> float:
        async with async_client.realtime.connect() as connection:
            await connection.session.update(session=session(turn_detection=None))
            await send(connection, speech(name, PCM_RATE).tobytes(), PCM_RATE * 2)
            await connection.input_audio_buffer.commit()
            return word_errors((await read_until(connection, COMPLETED))[-1].transcript, name)

    assert max(await asyncio.gather(*map(one, sample_texts()))) < WER_LIMIT


async def test_realtime_options_changed_on_the_way(async_client: AsyncOpenAI) -> None:
    raw = speech(WEATHER, PCM_RATE).tobytes()
    middle = len(raw) // 4 * 2
    async with async_client.realtime.connect() as connection:
        await connection.session.update(session=session(turn_detection=None))
        await send(connection, raw[:middle], PCM_RATE * 2)
        await connection.session.update(session=session(transcription={"prompt": "A weather report."}))
        await send(connection, raw[middle:], PCM_RATE * 2)
        await connection.input_audio_buffer.commit()
        events = await read_until(connection, COMPLETED)
    assert word_errors(events[-1].transcript, WEATHER) < 0.25


def test_client_secrets(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    made = subprocess.run(
        [sys.executable, "-m", "ray_whisper_streaming", "keys", "create", "tests", "--keys-file", str(keys)],
        capture_output=True,
        text=True,
        check=True,
    )
    key = re.search(r"rws_\w+-?[\w-]*", made.stdout)
    assert key is not None
    with serving("--keys-file", str(keys)) as server:
        base = f"{server.url}/v1"
        owner = OpenAI(api_key=key[0], base_url=base, max_retries=0)
        wanted = session(transcription={"language": "en"}, turn_detection=None)
        secret = owner.realtime.client_secrets.create(session=wanted, expires_after={"seconds": 60})
        assert secret.value.startswith("ek_")
        assert secret.session.type == "transcription"
        with OpenAI(api_key=secret.value, base_url=base).realtime.connect() as connection:
            created = connection.recv()
            assert created.type == "session.created"
            held: Any = created.session
            assert held.audio.input.turn_detection is None
            assert held.audio.input.transcription.language == "en"
        for stranger in ("rws_0000000000_x", "ek_forged", secret.value[:-60] + "x" * 60):
            browser = OpenAI(api_key=stranger, base_url=base, max_retries=0)
            with pytest.raises(openai.AuthenticationError):
                browser.models.list()
        with pytest.raises(openai.AuthenticationError):
            OpenAI(api_key=secret.value, base_url=base, max_retries=0).realtime.client_secrets.create()
        with pytest.raises(openai.BadRequestError, match="seconds"):
            owner.realtime.client_secrets.create(expires_after={"seconds": 5})


# ---------------------------------------------------------------- HTTP


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id == "tiny.en"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/other")


@pytest.mark.parametrize("kind", ["json", "text", "srt", "vtt"])
def test_formats(client: OpenAI, kind: Any) -> None:
    heard = client.audio.transcriptions.create(file=SAMPLES / TOUR, model="whisper-1", response_format=kind)
    text = heard if isinstance(heard, str) else heard.text
    if kind in ("srt", "vtt"):
        assert re.search(r"^00:00:00[,.]\d{3} --> 00:00:0\d[,.]\d{3}$", text, re.MULTILINE)
        text = re.sub(r"WEBVTT|^\d+$|^.*-->.*$", "", text, flags=re.MULTILINE)
    assert word_errors(" ".join(text.split()), TOUR) < WER_LIMIT


def test_verbose(client: OpenAI) -> None:
    heard = client.audio.transcriptions.create(
        file=SAMPLES / TOUR,
        model="tiny.en",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert heard.words
    assert heard.segments
    assert heard.language == "english"
    assert heard.duration == pytest.approx(18.45, abs=0.1)
    assert [word.start for word in heard.words] == sorted(word.start for word in heard.words)
    assert len(heard.segments) >= 4
    assert all(0 <= segment.start <= segment.end <= heard.duration + 0.5 for segment in heard.segments)
    assert "".join(segment.text for segment in heard.segments).strip() == heard.text


def test_streamed(client: OpenAI) -> None:
    events = list(
        client.audio.transcriptions.create(
            file=SAMPLES / TOUR, model="gpt-4o-transcribe", stream=True, include=["logprobs"]
        )
    )
    assert events[-1].type == "transcript.text.done"
    deltas = [event for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) >= 2
    assert "".join(event.delta for event in deltas) == events[-1].text
    assert all(event.logprobs for event in deltas)
    assert word_errors(events[-1].text, TOUR) < WER_LIMIT


@pytest.mark.parametrize(
    ("container", "codec"), [("webm", "libopus"), ("mp3", "libmp3lame"), ("mp4", "aac"), ("wav", "pcm_s16le")]
)
def test_any_codec(client: OpenAI, tmp_path: Path, container: str, codec: str) -> None:
    file = tmp_path / f"speech.{container}"
    recode(SAMPLES / WEATHER, file, codec)
    assert (
        word_errors(client.audio.transcriptions.create(file=file, model="tiny.en").text, WEATHER) < WER_LIMIT
    )


@pytest.mark.parametrize(
    ("given", "kind", "param"),
    [
        ({"file": ("a.wav", b"garbage" * 1000)}, openai.BadRequestError, "file"),
        ({"file": ("a.wav", b"")}, openai.BadRequestError, "file"),
        ({"file": ("a.txt", b"ffconcat version 1.0\nfile LICENSE\n")}, openai.BadRequestError, "file"),
        ({"model": "parakeet"}, openai.NotFoundError, "model"),
        ({"language": "de"}, openai.BadRequestError, "language"),
        ({"language": "tlh"}, openai.BadRequestError, "language"),
        ({"response_format": "diarized_json"}, openai.BadRequestError, "response_format"),
        ({"temperature": 7}, openai.BadRequestError, "temperature"),
        ({"timestamp_granularities": ["word"]}, openai.BadRequestError, "timestamp_granularities"),
        ({"stream": True, "response_format": "srt"}, openai.BadRequestError, "response_format"),
        ({"chunking_strategy": {"type": "semantic"}}, openai.BadRequestError, "chunking_strategy[type]"),
    ],
)
def test_bad_requests(client: OpenAI, given: dict[str, Any], kind: Any, param: str) -> None:
    arguments: Any = {"file": SAMPLES / TOUR, "model": "tiny.en", **given}
    with pytest.raises(kind) as caught:
        client.audio.transcriptions.create(**arguments)
    assert caught.value.param == param


def test_garbage_in_a_streamed_answer(client: OpenAI) -> None:
    with pytest.raises(openai.APIError, match="can't be read as audio"):
        list(client.audio.transcriptions.create(file=("a.wav", b"x" * 5000), model="tiny.en", stream=True))


def test_translation_needs_a_multilingual_model(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="English alone") as caught:
        client.audio.translations.create(  # pyright: ignore[reportDeprecated]
            file=SAMPLES / TOUR, model="whisper-1"
        )
    assert (caught.value.code, caught.value.param) == ("invalid_value", "task")


@pytest.mark.slow
def test_translation() -> None:
    """English in, English out: that the task arrives is what can be told without other speech."""
    with serving("--model", "base") as server, OpenAI(api_key="x", base_url=f"{server.url}/v1") as client:
        heard = client.audio.translations.create(  # pyright: ignore[reportDeprecated]
            file=SAMPLES / TOUR, model="whisper-1", response_format="verbose_json"
        )
        assert word_errors(heard.text, TOUR) < 0.3
        assert heard.language == "english"
        detected: Any = client.audio.transcriptions.create(
            file=SAMPLES / TOUR, model="base", response_format="verbose_json"
        )
        assert detected.language == "english"


def companded(law: str, samples: Any) -> bytes:
    """G.711 by FFmpeg's encoders."""
    encoder: Any = av.CodecContext.create(law, "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8_000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
    frame.sample_rate = 8_000
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def recode(source: Path, target: Path, codec: str) -> None:
    read: Any
    written: Any
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream(codec, rate=48_000, layout="mono")
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=48_000)
        for frame in [*read.decode(audio=0), None]:
            for part in resampler.resample(frame):
                written.mux(stream.encode(part))
        written.mux(stream.encode(None))
