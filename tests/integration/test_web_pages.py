"""The web pages as files: what is served, with what headers, and what is not; and the figures behind ``/status``."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import AsyncIterator
from importlib import resources
from urllib.parse import urlsplit

import anyio.to_thread
import pytest
from tests.helpers.serving import PCM, Served, eventually, fetch, served, session

from ray_whisper_streaming.server.keys import KeyFile
from ray_whisper_streaming.server.pages import ASSETS, PAGES

FOLDER = resources.files("ray_whisper_streaming") / "server" / "page"


@pytest.fixture
async def here() -> AsyncIterator[Served]:
    async with served() as server:
        yield server


async def asked_raw(here: Served, path: str) -> tuple[int, bytes]:
    """The answer to a path sent as it is, which well-bred clients would tidy up."""

    def ask() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(here.http).netloc, timeout=20)
        connection.putrequest("GET", path, skip_host=False)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()

    return await anyio.to_thread.run_sync(ask)


# ---------------------------------------------------------------- files


def test_every_file_of_the_folder_is_served_and_every_name_is_a_file() -> None:
    files = {file.name for file in FOLDER.iterdir()}
    assert files == {*ASSETS, *PAGES.values()}


@pytest.mark.parametrize("path", PAGES)
async def test_pages_load_nothing_from_elsewhere(here: Served, path: str) -> None:
    answer = await fetch(here.http + path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "://" not in policy
    text = answer.body.decode()
    linked = re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert "/page/style.css" in linked
    assert [link for link in linked if (await fetch(here.http + link)).status != 200] == []
    assert " style=" not in text  # the policy would not let it
    assert not re.search(r"<script(?! type=\"module\" src=)", text)


@pytest.mark.parametrize("name", ASSETS)
async def test_assets(here: Served, name: str) -> None:
    answer = await fetch(f"{here.http}/page/{name}")
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert answer.status == 200
    assert answer.body == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"].partition(";")[0] == kinds[name.rpartition(".")[2]]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    for imported in re.findall(r'from "\./(.+?)"', answer.body.decode()):
        assert imported in ASSETS


async def test_a_copy_that_still_holds_is_not_sent_again(here: Served) -> None:
    url = here.http + "/page/style.css"
    tag = (await fetch(url)).headers["etag"]
    again = await fetch(url, if_none_match=tag)
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert (await fetch(url, if_none_match=f'"x", W/{tag}')).status == 304
    assert (await fetch(url, if_none_match='"of another version"')).status == 200


async def test_samples(here: Served) -> None:
    choices = (await fetch(here.http + "/page/choices.json")).json()
    assert len(choices["samples"]) == 4
    assert {"code": "de", "name": "German"} in choices["languages"]
    for sample in choices["samples"]:
        answer = await fetch(f"{here.http}/samples/{sample['file']}")
        assert answer.body.startswith(b"fLaC")
        assert answer.headers["content-type"] == "audio/flac"
        assert "max-age" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/..",
        "/page/../..",
        "/page/../pages.py",
        "/page/..%2fpages.py",
        "/page/%2e%2e/pages.py",
        "/page/%2e%2e%2fpages.py",
        "/page/%252e%252e%252fpages.py",
        "/page/..%5cpages.py",
        "/page/style.css%00.js",
        "/page/./style.css%2f..",
        "/page//etc/passwd",
        "/page/%2fetc%2fpasswd",
        "/page/captions.html",
        "/page/__init__.py",
        "/samples/samples.json",
        "/samples/..%2f__init__.py",
        "/samples/../__init__.py",
        "/samples/%2e%2e%2f%2e%2e%2fpyproject.toml",
        "//etc/passwd",
        "/../../etc/passwd",
    ],
)
async def test_nothing_else_can_be_had(here: Served, path: str) -> None:
    status, body = await asked_raw(here, path)
    assert status == 404
    assert body.strip().lower() == b"not found"


async def test_the_pages_need_no_key_and_no_worker(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    KeyFile.read(path).write(path)
    async with served(keys_file=str(path)) as here:
        assert (await fetch(here.http + "/")).status == 200
        assert (await fetch(here.http + "/status.json")).status == (
            await fetch(here.http + "/metrics")
        ).status
        assert (
            await fetch(here.http + "/v1/models")
        ).status == 401  # by which the page knows to ask for a key


# ---------------------------------------------------------------- status


async def test_status_tells_of_streams_and_batches(here: Served) -> None:
    async with session(here.ws) as client:
        await client.send(PCM)
        await client.say("flush", id="a")
        await client.hear_until("flushed")
        await eventually(lambda: here.gateway.status.after(-1)[-1].batch_size is not None)
        answer = await fetch(here.http + "/status.json")
        await client.say("close")
        await client.hear_all()
    assert answer.headers["cache-control"] == "no-store"
    told = answer.json()
    assert (told["state"], told["models"]) == ("ready", ["tiny.en"])
    last = told["points"][-1]
    assert (last["workers"], last["sessions"], last["streams"]) == (1, 1, 1)
    assert last["batch_size"] >= 1
    assert 0 <= last["age_s"] < 5
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("after", ["", "x", "-1", "9" * 30, "1e3"])
async def test_status_after_what_is_no_number_tells_all(here: Served, after: str) -> None:
    points = (await fetch(f"{here.http}/status.json?after={after}")).json()["points"]
    assert points[0]["n"] == 0


async def test_status_after_a_point_tells_what_came_behind_it(here: Served) -> None:
    await eventually(lambda: len(here.gateway.status.after(-1)) >= 2)
    points = (await fetch(here.http + "/status.json?after=0")).json()["points"]
    assert points[0]["n"] == 1
