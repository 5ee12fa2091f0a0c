"""One server with two models: each session gets the one it names, and none suffers for the other."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import pytest
import websockets
from tests.helpers.serve_command import SAMPLES, speech
from tests.helpers.serving import (
    PCM,
    PLAIN,
    Served,
    connected,
    eventually,
    fetch,
    served,
    session,
    text_of,
)

from ray_whisper_streaming.api import AsyncPool
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.base import Engine
from ray_whisper_streaming.engines.ctranslate2 import CTranslate2Engine
from ray_whisper_streaming.engines.onnx.engine import OnnxEngine
from ray_whisper_streaming.engines.scripted import ScriptedEngine
from ray_whisper_streaming.errors import ConfigurationError, ModelNotFound, PoolError
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.gateway import Gateway
from ray_whisper_streaming.server.models import make_pools
from ray_whisper_streaming.server.serving import Server

TOUR = (SAMPLES / "city_tour.flac").read_bytes()
SPEECH = speech("city_tour.flac")[: 8 * 16_000].tobytes()
"""What is said does not matter, only that somebody speaks: the other makers' protocols listen for voice."""


def words(said: str) -> list[Word]:
    """Two a second, so that one tells from a text which engine heard it."""
    return [Word(f" {said}{number}", number * 0.5, number * 0.5 + 0.4, 0.9) for number in range(200)]


ENGLISH, GERMAN = words("the"), words("der")


def said_in(text: str) -> set[str]:
    return {word.rstrip("0123456789") for word in text.split()}


def pool(model: str, words: Sequence[Word], **engine: Any) -> AsyncPool:
    return AsyncPool(
        model, backend="local", engine_factory=partial(ScriptedEngine, {}, words, latency_s=0.0, **engine)
    )


def two_pools() -> list[AsyncPool]:
    return [pool("tiny.en", ENGLISH), pool("base", GERMAN)]


@pytest.fixture
async def here() -> AsyncIterator[Served]:
    async with served(pools=two_pools()) as server:
        yield server


async def heard(here: Served, **options: Any) -> tuple[str, str]:
    """Of a session: the model that it was told, and what all of its words are."""
    async with connected(here.ws) as client:
        await client.say("options", **PLAIN, **options)
        ready = await client.hear()
        assert ready["type"] == "ready", ready
        await client.send(PCM)
        await client.say("close")
        (word,) = said_in(text_of(await client.hear_all()))
        return ready["model"], word


# ---------------------------------------------------------------- each protocol


async def test_a_session_gets_the_model_it_names_or_the_first(here: Served) -> None:
    told = await asyncio.gather(heard(here, model="base"), heard(here), heard(here, model="tiny.en"))
    assert told == [("base", "der"), ("tiny.en", "the"), ("tiny.en", "the")]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "large-v3"}, "model is 'large-v3'; it must be one that this server has: tiny.en, base"),
        ({"model": "tiny.en", "language": "de"}, "tiny.en knows English alone"),
        ({"language": "de"}, "tiny.en knows English alone"),
        ({"task": "translate"}, "tiny.en knows English alone"),
    ],
)
async def test_what_no_model_or_not_this_one_can_do(here: Served, options: dict[str, Any], told: str) -> None:
    async with connected(here.ws) as client:
        await client.say("options", **options)
        (error,) = await client.hear_all()
        assert error["code"] == "bad_option"
        assert told in error["message"]
        assert client.closing == (1008, "bad_option")
    async with session(here.ws, model="base", language="de", task="translate"):
        pass


async def test_they_are_listed(here: Served) -> None:
    listed = (await fetch(here.http + "/v1/models")).json()
    assert [each["id"] for each in listed["data"]] == ["tiny.en", "base"]
    assert (await fetch(here.http + "/v1/models/base")).json()["id"] == "base"
    assert (await fetch(here.http + "/v1/models/large-v3")).status == 404


async def transcribe(here: Served, **fields: str) -> Any:
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in fields.items()
    ]
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n'
    body = b"".join(parts) + head + TOUR + b"\r\n--x--\r\n"
    answer = await fetch(
        here.http + "/v1/audio/transcriptions", body, Content_Type="multipart/form-data; boundary=x"
    )
    return answer.json()


async def test_openai_http(here: Served) -> None:
    german, default = await asyncio.gather(
        transcribe(here, model="base"), transcribe(here, model="whisper-1", language="en")
    )
    assert said_in(german["text"]) == {"der"}
    assert said_in(default["text"]) == {"the"}
    unknown = (await transcribe(here, model="large-v3"))["error"]
    assert (unknown["code"], unknown["param"]) == ("model_not_found", "model")
    assert "it has tiny.en, base" in unknown["message"]


async def test_openai_realtime(here: Served) -> None:
    def update(**transcription: str) -> str:
        audio = {"input": {"transcription": transcription, "turn_detection": None}}
        return json.dumps({"type": "session.update", "session": {"type": "transcription", "audio": audio}})

    async def until(kind: str) -> dict[str, Any]:
        while True:
            event = json.loads(await asyncio.wait_for(connection.recv(), 20))
            if event["type"] == kind:
                return event

    url = here.ws + "/v1/realtime?intent=transcription"
    async with websockets.connect(url) as connection:
        texts: list[set[str]] = []
        for model in ("base", "gpt-4o-transcribe"):  # the second is ours by default
            await connection.send(update(model=model, language="en"))
            await until("session.updated")
            audio = base64.b64encode(SPEECH).decode()
            await connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            await connection.send('{"type": "input_audio_buffer.commit"}')
            done = await until("conversation.item.input_audio_transcription.completed")
            texts.append(said_in(done["transcript"]))
        assert texts == [{"der"}, {"the"}]
        await connection.send(update(model="large-v3"))
        error = (await until("error"))["error"]
        assert error["code"] == "model_not_found"
        assert "it has tiny.en, base" in error["message"]
        await connection.send(update(model="tiny.en", language="de"))
        assert "English alone" in (await until("error"))["error"]["message"]


async def test_deepgram(here: Served) -> None:
    url = here.ws + "/v1/listen?encoding=linear16&sample_rate=16000&model="
    for model, name, word in (("base", "base", "der"), ("nova-3", "tiny.en", "the")):
        async with websockets.connect(url + model) as connection:
            await connection.send(SPEECH)
            await connection.send('{"type": "CloseStream"}')
            results = [json.loads(message) async for message in connection]
        told = " ".join(each["channel"]["alternatives"][0]["transcript"] for each in results[:-1])
        assert said_in(told) == {word}
        assert results[0]["metadata"]["model_info"]["name"] == name
        assert results[-1]["models"] == [name]
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with websockets.connect(url + "large-v3"):
            pass
    assert "it has tiny.en, base" in json.loads(caught.value.response.body)["err_msg"]


# ---------------------------------------------------------------- apart


async def test_a_model_that_is_too_busy_refuses_alone() -> None:
    pools = [pool("tiny.en", ENGLISH), pool("base", GERMAN, latency_per_job_s=0.5, max_batch_size=1)]
    async with served(pools=pools, max_queue_wait_s=0.5) as here:
        small, large = here.gateway.models

        async def keep_busy() -> None:
            async with session(here.ws, model="base") as client:
                await client.send(PCM)
                await asyncio.sleep(60)

        crowd = [asyncio.create_task(keep_busy()) for _ in range(6)]
        await eventually(lambda: large.room.load.queue_wait_s > 0.5)
        async with connected(here.ws) as client:
            await client.say("options", model="base")
            (error,) = await client.hear_all()
            assert error["code"] == "overloaded"
        assert await heard(here) == ("tiny.en", "the")
        assert small.room.load.queue_wait_s < 0.5
        # The door of a protocol that reads its options later is open too.
        assert said_in((await transcribe(here, model="whisper-1"))["text"]) == {"the"}
        assert (await transcribe(here, model="base"))["error"]["code"] == "overloaded"
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


async def test_a_pool_that_does_not_answer_is_not_ready_alone(
    here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> Any:
        raise PoolError("its dispatcher has gone")

    async def hanging() -> Any:
        await asyncio.sleep(60)

    small, large = here.gateway.models
    monkeypatch.setattr(large.pool, "stats", broken)
    await eventually(lambda: not large.room.load.ready)
    answer = await fetch(here.http + "/readyz")
    assert answer.status == 200
    assert answer.json()["models"] == {"tiny.en": True, "base": False}
    async with connected(here.ws) as client:
        await client.say("options", model="base")
        (error,) = await client.hear_all()
        assert (error["code"], client.closing) == ("not_ready", (1013, "not_ready"))
    assert await heard(here) == ("tiny.en", "the")
    # Nor does one that never answers keep the gateway from looking at the other.
    monkeypatch.setattr(large.pool, "stats", hanging)
    seen = here.gateway.status.after(-1)[-1].n
    await eventually(
        lambda: [point.model for point in here.gateway.status.after(seen)[1:]] == ["tiny.en", "tiny.en"]
    )
    assert small.room.load.ready


async def test_a_pool_that_falls_silent_is_not_ready_until_it_answers(
    here: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = True

    async def sometimes() -> Any:
        if silent:
            await asyncio.sleep(60)
        return await answers()

    _, large = here.gateway.models
    answers = large.pool.stats
    monkeypatch.setattr("ray_whisper_streaming.server.models.ANSWER_S", 0.2)
    monkeypatch.setattr(large.pool, "stats", sometimes)
    assert large.room.load.ready
    await eventually(lambda: not large.room.load.ready)
    async with connected(here.ws) as client:
        await client.say("options", model="base")
        (error,) = await client.hear_all()
        assert error["code"] == "not_ready"
    silent = False
    await eventually(lambda: large.room.load.ready)
    assert (await heard(here, model="base"))[0] == "base"


async def test_figures_are_told_apart(here: Served) -> None:
    async with session(here.ws, model="base") as client, session(here.ws):
        await client.send(PCM[:80_000])  # no faster than live audio may come
        await client.say("flush", id="a")
        await client.hear_until("flushed")
        done = [each.pool.stats for each in here.gateway.models]
        assert (await done[0]()).jobs_done == 0
        jobs = (await done[1]()).jobs_done
        seen = here.gateway.status.after(-1)[-1].n
        await eventually(lambda: len(here.gateway.status.after(seen)) >= 4)
        told = (await fetch(here.http + "/status.json")).json()
        assert told["models"] == ["tiny.en", "base"]
        last = {point["model"]: point for point in told["points"]}
        assert [last[name]["sessions"] for name in told["models"]] == [1, 1]
        assert last["tiny.en"]["batch_size"] is None
        assert last["base"]["batch_size"] >= 1
        text = (await fetch(here.http + "/metrics")).body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['ray_whisper_pool_jobs_done_total{model="tiny.en"}'] == "0.0"
    assert float(values['ray_whisper_pool_jobs_done_total{model="base"}']) >= jobs
    assert values['ray_whisper_sessions{model="base",protocol="native"}'] == "1.0"
    assert float(values['ray_whisper_words_committed_total{model="base",protocol="native"}']) == 5
    assert 'ray_whisper_words_committed_total{model="tiny.en",protocol="native"}' not in values
    assert float(values['ray_whisper_worker_jobs_done_total{model="base",worker="worker-0"}']) >= jobs
    assert values['ray_whisper_commit_latency_seconds_count{model="base"}'] == "5.0"


# ---------------------------------------------------------------- on demand


async def test_a_model_is_loaded_when_a_session_names_it_and_unloaded_when_none_did_for_long() -> None:
    async with served(pools=two_pools(), unload_after_s=1.0) as here:
        small, large = here.gateway.models
        assert (small.is_loaded, large.is_loaded) == (True, False)
        assert (await fetch(here.http + "/readyz")).json()["models"] == {"tiny.en": True, "base": True}
        for _ in range(2):  # once more after it was unloaded
            async with session(here.ws, model="base") as client:
                await asyncio.sleep(2.5)  # longer than it may be idle: it is not
                await client.send(PCM)
                await client.say("close")
                assert said_in(text_of(await client.hear_all())) == {"der"}
                assert large.is_loaded
            await eventually(lambda: not large.is_loaded)
            assert small.is_loaded
        await asyncio.sleep(1.1)
        text = (await fetch(here.http + "/metrics")).body.decode()
        assert 'ray_whisper_pool_workers{model="base"} 0.0' in text
        assert 'ray_whisper_pool_workers{model="tiny.en"} 1.0' in text
        assert await heard(here) == ("tiny.en", "the")


async def test_a_server_is_not_ready_before_its_first_model_is() -> None:
    may_load = threading.Event()

    def slowly() -> ScriptedEngine:
        assert may_load.wait(20)
        return ScriptedEngine({}, ENGLISH, latency_s=0.0)

    pools = [AsyncPool("tiny.en", backend="local", engine_factory=slowly), pool("base", GERMAN)]
    gateway = Gateway(pools, ServerConfig(port=0, unload_after_s=60.0))
    await gateway.start()
    try:
        await asyncio.sleep(0.1)
        assert gateway.state == "starting"
        may_load.set()
        await gateway.wait_ready()
        assert gateway.state == "ready"
    finally:
        await gateway.aclose()


async def test_who_names_a_model_that_loads_slowly_is_told_when_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_load = threading.Event()

    def slowly() -> ScriptedEngine:
        assert may_load.wait(20)
        return ScriptedEngine({}, GERMAN, latency_s=0.0)

    monkeypatch.setattr("ray_whisper_streaming.server.models.LOADING_S", 0.3)
    pools = [pool("tiny.en", ENGLISH), AsyncPool("base", backend="local", engine_factory=slowly)]
    async with served(pools=pools, unload_after_s=60.0) as here:
        for _ in range(2):
            answer = await transcribe(here, model="base")
            assert answer["error"]["code"] == "not_ready"
        assert await heard(here) == ("tiny.en", "the")
        may_load.set()
        await eventually(lambda: list(here.gateway.models)[1].is_loaded)
        assert await heard(here, model="base") == ("base", "der")


async def test_a_model_that_can_t_be_loaded_is_refused_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    there = False

    def maybe() -> ScriptedEngine:
        if not there:
            raise ModelNotFound("model", "base", "a model that is here")
        return ScriptedEngine({}, GERMAN, latency_s=0.0)

    pools = [pool("tiny.en", ENGLISH), AsyncPool("base", backend="local", engine_factory=maybe)]
    async with served(pools=pools, unload_after_s=60.0) as here:
        async with connected(here.ws) as client:
            await client.say("options", **PLAIN, model="base")
            (error,) = await client.hear_all()
            assert (error["code"], client.closing) == ("not_ready", (1013, "not_ready"))
        assert "the model base can't be loaded" in caplog.text
        assert list(here.gateway.models)[1].pool is not pools[1]  # that one may be half started
        assert await heard(here) == ("tiny.en", "the")
        there = True
        assert await heard(here, model="base") == ("base", "der")


# ---------------------------------------------------------------- starting


def test_workers_are_said_for_all_or_for_each() -> None:
    def counts(**config: Any) -> list[tuple[str, Any]]:
        pools = make_pools(ServerConfig(model=("tiny.en", "base"), **config))
        return [(each.model, each.recognizer._count) for each in pools]  # type: ignore[attr-defined]

    assert counts() == [("tiny.en", 1), ("base", 1)]
    assert counts(workers=(2,)) == [("tiny.en", 2), ("base", 2)]
    assert counts(workers=(1, 3)) == [("tiny.en", 1), ("base", 3)]


def test_workers_run_the_engine_that_is_asked_for() -> None:
    def made(**config: str) -> Engine:
        [each] = make_pools(ServerConfig(device="cpu", **config))  # type: ignore[arg-type]
        return each.recognizer._engine_factory()  # type: ignore[attr-defined]

    assert isinstance(made(), OnnxEngine)
    assert isinstance(made(engine="ctranslate2"), CTranslate2Engine)


async def test_a_model_that_is_not_there_stops_the_start_of_all() -> None:
    def missing() -> ScriptedEngine:
        raise ModelNotFound("model", "nonsense", "a model that is here")

    pools = [pool("tiny.en", ENGLISH), AsyncPool("nonsense", backend="local", engine_factory=missing)]
    with pytest.raises(ModelNotFound):
        await asyncio.wait_for(Server(Gateway(pools, ServerConfig(port=0))).run(), 20)
    for each in pools:
        with pytest.raises(Exception, match="closed"):
            await each.start()


def test_the_same_model_twice_is_no_choice() -> None:
    with pytest.raises(ConfigurationError, match="none of them twice"):
        ServerConfig(model=("base", "base"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
async def test_over_ray_each_model_has_actors_of_its_own() -> None:
    pools = [
        AsyncPool(model, backend="ray", workers=1, engine_factory=partial(ScriptedEngine, {}, words(word)))
        for model, word in (("tiny.en", "the"), ("base", "der"))
    ]
    async with served(pools=pools) as here:
        assert await asyncio.gather(heard(here, model="base"), heard(here)) == [
            ("base", "der"),
            ("tiny.en", "the"),
        ]
        assert [(await each.pool.stats()).workers for each in here.gateway.models] == [1, 1]
