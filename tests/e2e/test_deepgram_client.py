"""Deepgram's own Python package against the real server with the real model."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import pytest
from deepgram import DeepgramClient
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment
from tests.helpers.serve_command import Served, speech, word_errors
from websockets.exceptions import ConnectionClosed, InvalidStatus

pytestmark = [pytest.mark.model, pytest.mark.speech]

TOUR, WEATHER = "city_tour.flac", "weather_report.flac"
WER_LIMIT = 0.15
END_S = 60.0


@dataclass
class Heard:
    """What came back on one connection."""

    messages: list[Any] = field(default_factory=list)
    errors: list[Any] = field(default_factory=list)

    def results(self, channel: int = 0, *, final: bool = True) -> list[Any]:
        return [
            message
            for message in self.messages
            if message.type == "Results" and message.is_final == final and message.channel_index[0] == channel
        ]

    def text(self, channel: int = 0) -> str:
        return " ".join(each.channel.alternatives[0].transcript for each in self.results(channel))

    def of(self, kind: str) -> list[Any]:
        return [message for message in self.messages if message.type == kind]


def listen(server: Served, pieces: list[bytes | str], pace_s: float = 0.0, **query: Any) -> Heard:
    """Send pieces (or the name of a command, or silence to wait for) and hear all that comes back, to the close."""
    environment = DeepgramClientEnvironment(
        base=server.url, production=server.websocket_url, agent=server.websocket_url, agent_rest=server.url
    )
    client = DeepgramClient(api_key="none", environment=environment)
    heard, closed = Heard(), threading.Event()
    with client.listen.v1.connect(model="nova-3", **query) as connection:
        connection.on(EventType.MESSAGE, heard.messages.append)
        connection.on(EventType.ERROR, heard.errors.append)
        connection.on(EventType.CLOSE, lambda _: closed.set())
        threading.Thread(target=connection.start_listening, daemon=True).start()
        # The server may close before all was sent.
        with contextlib.suppress(ConnectionClosed):
            for piece in pieces:
                if isinstance(piece, bytes):
                    connection.send_media(piece)
                else:
                    getattr(connection, f"send_{piece}")()
                time.sleep(pace_s)
        assert closed.wait(END_S), "the server did not close the connection"
    return heard


def cut(raw: bytes, size: int) -> list[bytes | str]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def pcm(name: str, rate: int = 16_000) -> bytes:
    return speech(name, rate).tobytes()


def test_linear16(server: Served) -> None:
    heard = listen(
        server,
        [*cut(pcm(TOUR, 44_100), 8_820), "close_stream"],
        encoding="linear16",
        sample_rate=44_100,
        punctuate="true",
        interim_results="true",
        vad_events="true",
        endpointing=500,
    )
    assert not heard.errors
    assert word_errors(heard.text(), TOUR) < WER_LIMIT
    assert heard.of("SpeechStarted")
    (metadata,) = heard.of("Metadata")
    assert metadata.duration == pytest.approx(18.45, abs=0.1)
    assert heard.messages[-1] is metadata
    assert any(each.speech_final for each in heard.results())
    words = [word for each in heard.results() for word in each.channel.alternatives[0].words]
    assert [word.start for word in words] == sorted(word.start for word in words)
    assert words[0].word == "welcome"
    assert words[0].punctuated_word == "Welcome"


def test_live_telephone_with_utterance_ends_and_finalize(server: Served) -> None:
    samples = np.concatenate([speech(TOUR, 8_000)[: 8_000 * 6], np.zeros(8_000 * 2, np.int16)])
    raw = companded(samples)
    pieces = [
        *cut(raw, 800),
        "keep_alive",
        *cut(companded(speech(TOUR, 8_000)[: 8_000 * 2]), 800),
        "finalize",
    ]
    heard = listen(
        server,
        [*pieces, *["keep_alive"] * 20, "close_stream"],
        pace_s=0.1,
        encoding="mulaw",
        sample_rate=8_000,
        interim_results="true",
        utterance_end_ms=1000,
    )
    assert heard.results(final=False)
    assert heard.of("UtteranceEnd")
    told = [each for each in heard.results() if each.from_finalize]
    assert len(told) == 1
    behind = heard.messages[heard.messages.index(told[0]) + 1 :]
    assert [message.type for message in behind] == ["Metadata"]  # everything was told by then
    assert heard.text().count("welcome to the old town") == 2
    assert not any(character in heard.text() for character in ".,?")


def test_channels_kept_apart(server: Served) -> None:
    left, right = speech(TOUR), speech(WEATHER)
    length = max(len(left), len(right))
    both = np.stack([np.pad(each, (0, length - len(each))) for each in (left, right)], axis=1)
    heard = listen(
        server,
        [*cut(both.tobytes(), 32_001), "close_stream"],
        encoding="linear16",
        sample_rate=16_000,
        channels=2,
        multichannel="true",
    )
    assert word_errors(heard.text(0), TOUR) < WER_LIMIT
    assert word_errors(heard.text(1), WEATHER) < WER_LIMIT
    assert {tuple(each.channel_index) for each in heard.of("Results")} == {(0, 2), (1, 2)}


@pytest.mark.parametrize(
    ("container", "codec"), [("webm", "libopus"), ("ogg", "libopus"), ("mp3", "libmp3lame")]
)
def test_what_browsers_record(server: Served, container: str, codec: str) -> None:
    heard = listen(server, [*cut(recorded(WEATHER, container, codec), 4_000), "close_stream"])
    assert not heard.errors
    assert word_errors(heard.text(), WEATHER) < WER_LIMIT


def test_opus_packets(server: Served) -> None:
    heard = listen(server, [*opus_packets(WEATHER), "close_stream"], encoding="opus", sample_rate=48_000)
    assert word_errors(heard.text(), WEATHER) < WER_LIMIT


def test_garbage_ends_its_own_connection_alone(server: Served) -> None:
    good: list[Heard] = []
    pieces = [*cut(pcm(WEATHER), 3_200), "close_stream"]
    beside = threading.Thread(
        target=lambda: good.append(listen(server, pieces, 0.02, encoding="linear16", sample_rate=16_000))
    )
    beside.start()
    garbage = np.random.default_rng(5).bytes(60_000)
    for heard in (
        listen(server, cut(garbage, 2_000)),
        listen(server, cut(garbage, 2_000), encoding="opus"),
    ):
        (error,) = heard.of("Error")
        assert error.variant == "DataError"
        assert not heard.of("Results")
    playlist = b"ffconcat version 1.0\nfile LICENSE\n"
    assert listen(server, [playlist, "close_stream"]).of("Error")
    beside.join(END_S)
    assert word_errors(good[0].text(), WEATHER) < WER_LIMIT


def test_nothing_said_and_nothing_sent(server: Served) -> None:
    heard = listen(server, ["keep_alive", "close_stream"])
    assert [message.type for message in heard.messages] == ["Metadata"]
    heard = listen(
        server, [bytes(64_000), "finalize", "close_stream"], encoding="linear16", sample_rate=16_000
    )
    assert heard.text().strip() == ""


@pytest.mark.parametrize(
    "query",
    [
        {"encoding": "speex"},
        {"encoding": "linear16"},
        {"language": "de"},
        {"diarize": "true"},
        {"channels": 99},
    ],
)
def test_bad_queries_are_refused_at_the_door(server: Served, query: dict[str, Any]) -> None:
    with pytest.raises(InvalidStatus) as caught:
        listen(server, [], **query)
    response = caught.value.response
    assert response.status_code == 400
    assert b"INVALID_QUERY_PARAMETER" in (response.body or b"")
    assert response.headers["dg-request-id"]


def companded(samples: np.ndarray) -> bytes:
    encoder: Any = av.CodecContext.create("pcm_mulaw", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8_000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
    frame.sample_rate = 8_000
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def frames(name: str, form: Any, size: int | None = None) -> Iterator[Any]:
    frame = av.AudioFrame.from_ndarray(speech(name)[None, :], format="s16", layout="mono")
    frame.sample_rate = 16_000
    resampler = av.AudioResampler(format=form, layout="mono", rate=48_000, frame_size=size)
    yield from resampler.resample(frame)
    yield from resampler.resample(None)


def recorded(name: str, container: str, codec: str) -> bytes:
    """As MediaRecorder writes it: as it goes, never looking back."""
    file = io.BytesIO()
    options = {"live": "1", "cluster_time_limit": "250"} if container == "webm" else {}
    output: Any
    with av.open(file, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=48_000, layout="mono")
        for frame in frames(name, stream.format):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def opus_packets(name: str) -> list[bytes | str]:
    context: Any = av.CodecContext.create("libopus", "w")
    context.sample_rate, context.layout, context.format = 48_000, "mono", "flt"
    packets = [packet for frame in frames(name, "flt", 960) for packet in context.encode(frame)]
    return [bytes(packet) for packet in [*packets, *context.encode(None)]]
