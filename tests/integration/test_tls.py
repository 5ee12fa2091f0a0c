"""The server with a certificate of its own: https, wss, the client with an authority of its own, and wrong files."""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.certificates import Certificates, make_certificates
from tests.helpers.lossy_proxy import lossy
from tests.helpers.serving import PCM, PLAIN, TEXT, eventually, served, session, text_of

from ray_whisper_streaming import ConfigurationError, Unreachable
from ray_whisper_streaming.client import AsyncClient, Committed, Reconnected
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.serving import check_exposure


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def files(made: Certificates) -> dict[str, Any]:
    return {"tls_cert": made.chain, "tls_key": made.key}


async def test_https_and_wss(made: Certificates) -> None:
    async with served(**files(made)) as here:
        assert here.http.startswith("https://127.0.0.1:")

        def status(context: ssl.SSLContext | None) -> int:
            with urllib.request.urlopen(here.http + "/healthz", timeout=20, context=context) as answer:
                return answer.status

        assert await asyncio.to_thread(status, made.trusting) == 200
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await asyncio.to_thread(status, None)
        async with session(here.ws, {"ssl": made.trusting}) as client:
            await client.send(PCM)
            await client.say("close")
            assert text_of(await client.hear_all()) == TEXT
        assert client.closing == (1000, "client")


async def test_the_client_with_an_authority_of_its_own(made: Certificates) -> None:
    async with (
        served(resume_s=20.0, **files(made)) as here,
        lossy(here.http) as proxy,
        AsyncClient(f"https://127.0.0.1:{proxy.port}", tls=made.trusting) as client,
        client.stream(**PLAIN) as stream,
    ):
        await stream.push(PCM[: len(PCM) // 2])
        await eventually(lambda: stream.next_event_nowait() is not None)
        proxy.cut()
        await stream.push(PCM[len(PCM) // 2 :])
        await stream.finish()
        events = [event async for event in stream]
    assert any(isinstance(event, Reconnected) and event.resumed for event in events)
    words = [word.text for event in events if isinstance(event, Committed) for word in event.words]
    assert TEXT.endswith("".join(words).strip())
    assert len(words) > 6


async def test_who_does_not_know_the_authority_or_meets_another_name_does_not_talk(
    made: Certificates,
) -> None:
    async with served(**files(made)) as here:
        for url, tls in (
            (here.ws, None),
            (here.ws.replace("127.0.0.1", "localhost"), made.trusting),
            (here.ws.replace("wss://", "ws://"), None),
        ):
            async with AsyncClient(url, tls=tls) as client:
                with pytest.raises(Unreachable):
                    await client.stream(**PLAIN).start()
        async with session(here.ws, {"ssl": made.trusting}) as client:  # which harms nobody
            await client.say("close")
            assert (await client.hear_all())[-1]["type"] == "closed"


def test_wrong_files_are_told_before_anything_is_started(made: Certificates, tmp_path: Path) -> None:
    text = tmp_path / "text.pem"
    text.write_text("no PEM\n")
    absent = str(tmp_path / "absent.pem")
    for cert, key, field in (
        (absent, made.key, "tls_cert"),
        (made.chain, absent, "tls_key"),
        (str(text), made.key, "tls_cert"),
        (made.key, made.key, "tls_cert"),
        (made.chain, str(text), "tls_key"),
        (made.chain, made.other_key, "tls_key"),
        (made.chain, made.locked_key, "tls_key"),
    ):
        with pytest.raises(ConfigurationError) as told:
            check_exposure(ServerConfig(tls_cert=cert, tls_key=key))
        assert told.value.field == field, (cert, key)
    check_exposure(ServerConfig(tls_cert=made.chain, tls_key=made.key))
