"""API keys and client tokens: who gets in, and who doesn't."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection
from typer.testing import CliRunner

from ray_whisper_streaming.cli.main import app
from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.server.access import Access, Credential, Principal, find_credential
from ray_whisper_streaming.server.keys import KeyFile, KeyLimits, Keyring
from ray_whisper_streaming.server.refusal import Refusal
from ray_whisper_streaming.server.tokens import Claims, make_token, read_token

NOW = 1_800_000_000.0
SECRET = b"s" * 32


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("arguments", [["list"], ["revoke", "0123456789"]])
def test_only_create_makes_a_file_of_keys(tmp_path: Path, arguments: list[str]) -> None:
    missing = tmp_path / "nope.json"
    done = CliRunner().invoke(app, ["keys", *arguments, "--keys-file", str(missing)])
    assert done.exit_code == 2
    assert "'ray-whisper keys create'" in done.output
    assert not missing.exists()


def ring_of(path: Path, clock: Clock) -> Keyring:
    keyring = Keyring(path, clock)
    keyring.load()
    return keyring


def write(path: Path, *names: str, **settings: Any) -> list[str]:
    content = KeyFile.read(path)
    keys = [content.create(name, NOW, **settings) for name in names]
    content.write(path)
    return keys


def connection(
    headers: dict[str, str] | None = None, query: str = "", subprotocols: tuple[str, ...] = ()
) -> Any:
    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {
        "type": "websocket",
        "headers": raw,
        "query_string": query.encode(),
        "subprotocols": subprotocols,
    }
    return HTTPConnection(scope)


def refused(call: Any) -> str:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value.code


# ---------------------------------------------------------------- the file


def test_the_file_holds_no_key_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    (key,) = write(path, "browser")
    secret = key.rsplit("_", 1)[1]
    assert secret not in path.read_text()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]


def test_a_key_is_known_by_its_whole_text(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys.json"
    first, second = write(path, "one", "two", limits=KeyLimits(streams=3))
    keyring = ring_of(path, clock)
    assert (keyring.check(first).name, keyring.check(second).limits.streams) == ("one", 3)
    mixed = first.rsplit("_", 1)[0] + "_" + second.rsplit("_", 1)[1]
    for wrong in ("", "rws_", first[:-1], first + "x", first.removeprefix("rws_"), mixed, "rws_é_\ud800"):
        assert refused(lambda wrong=wrong: keyring.check(wrong)) == "unauthorized"


def test_keys_end_by_time_and_by_revocation_while_the_server_runs(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys.json"
    (short,) = write(path, "short", expires_at=NOW + 10)
    (long,) = write(path, "long")
    keyring = ring_of(path, clock)
    keyring.check(short)
    clock.now += 10
    assert refused(lambda: keyring.check(short)) == "unauthorized"
    content = KeyFile.read(path)
    content.revoke(long.split("_")[1], clock.now)
    content.write(path)
    clock.now += 1
    assert refused(lambda: keyring.check(long)) == "unauthorized"


def test_a_file_that_breaks_or_vanishes_leaves_the_known_keys(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys.json"
    (key,) = write(path, "one")
    keyring = ring_of(path, clock)
    for damage in (lambda: path.write_text("{"), path.unlink):
        damage()
        clock.now += 5
        assert keyring.check(key).name == "one"


def test_a_file_that_is_no_key_file_is_told(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(ConfigurationError):
        Keyring(tmp_path / "absent.json", clock).load()
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"keys": 3}')
    with pytest.raises(ConfigurationError):
        Keyring(wrong, clock).load()
    with pytest.raises(ConfigurationError):
        KeyFile(token_secret="").revoke("nobody", NOW)


# ---------------------------------------------------------------- tokens


def test_tokens_last_as_long_as_they_say_and_no_longer_than_their_key(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys.json"
    (key,) = write(path, "one")
    keyring = ring_of(path, clock)
    key_id = keyring.check(key).key_id
    token, expires_at = keyring.make_token(key_id, 60.0, "session")
    assert expires_at == NOW + 60
    assert keyring.check_token(token) == (keyring.check(key), "session")
    clock.now += 60
    assert refused(lambda: keyring.check_token(token)) == "unauthorized"
    token, _ = keyring.make_token(key_id, 60.0)
    content = KeyFile.read(path)
    content.revoke(key_id, clock.now)
    content.write(path)
    clock.now += 2
    assert refused(lambda: keyring.check_token(token)) == "unauthorized"


def test_tokens_of_another_server_or_of_nobody_are_refused() -> None:
    token = make_token(Claims("k", NOW + 60), SECRET)
    assert read_token(token, SECRET, NOW) == Claims("k", NOW + 60)
    assert refused(lambda: read_token(token, b"other" * 8, NOW)) == "unauthorized"
    payload = json.dumps({"key_id": "k", "expires_at": NOW + 1e9}).encode()
    forged = "rwt_" + base64.urlsafe_b64encode(payload).rstrip(b"=").decode() + "." + token.rsplit(".", 1)[1]
    assert refused(lambda: read_token(forged, SECRET, NOW)) == "unauthorized"


@given(st.integers(0, 200), st.characters())
def test_no_changed_token_is_taken(place: int, character: str) -> None:
    token = make_token(Claims("k", NOW + 60, "session"), SECRET)
    place %= len(token)
    changed = token[:place] + character + token[place + 1 :]
    if changed != token and changed.removeprefix("rwt_") != token.removeprefix("rwt_"):
        assert refused(lambda: read_token(changed, SECRET, NOW)) == "unauthorized"


@given(st.text())
def test_any_text_is_a_token_or_refused(text: str) -> None:
    assert refused(lambda: read_token("rwt_" + text, SECRET, NOW)) == "unauthorized"


# ---------------------------------------------------------------- credentials


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (connection(), None),
        (connection({"Authorization": "Bearer abc"}), Credential("abc")),
        (connection({"Authorization": "Token abc"}), Credential("abc")),
        (connection({"Authorization": "Basic abc"}), None),
        (connection({"Authorization": "Bearer"}), None),
        (connection(subprotocols=("token", "abc")), Credential("abc")),
        (connection(subprotocols=("ray-whisper", "bearer", "abc")), Credential("abc")),
        (connection(subprotocols=("token",)), None),
        (connection(subprotocols=("realtime", "openai-insecure-api-key.abc")), Credential("abc")),
        (connection(query="token=abc&x=1"), Credential("abc", in_query=True)),
    ],
)
def test_where_credentials_stand(where: Any, found: Credential | None) -> None:
    assert find_credential(where) == found


def test_without_keys_everyone_may_come() -> None:
    access = Access(None)
    assert access.authenticate(connection()) == Principal()
    assert access.authenticate(connection({"Authorization": "Bearer whatever"})) == Principal()


def test_with_keys_only_those_who_have_one(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys.json"
    (key,) = write(path, "one", limits=KeyLimits(streams=2))
    keyring = ring_of(path, clock)
    access = Access(keyring)
    principal = access.authenticate(connection({"Authorization": f"Bearer {key}"}))
    assert principal == Principal(name="one", tenant=key.split("_")[1], limits=KeyLimits(streams=2))
    assert refused(lambda: access.authenticate(connection())) == "unauthorized"
    token, _ = keyring.make_token(principal.tenant, 60.0)
    assert access.authenticate(connection(query=f"token={token}")) == principal
    # Addresses are written into logs on the way: a key doesn't belong there.
    assert refused(lambda: access.authenticate(connection(query=f"token={key}"))) == "unauthorized"
    open_too = Access(keyring, allow_anonymous=True)
    assert open_too.authenticate(connection()) == Principal()
    assert refused(lambda: open_too.identify(Credential("wrong"))) == "unauthorized"


@pytest.mark.parametrize(
    ("origin", "allowed", "ok"),
    [
        (None, (), True),
        ("http://here:8000", (), True),
        ("http://evil.example", (), False),
        ("null", (), False),
        ("https://app.example", ("https://app.example/",), True),
        ("http://app.example", ("https://app.example",), False),
        ("http://anything", ("*",), True),
    ],
)
def test_pages_of_other_sites_may_not_use_it(origin: str | None, allowed: tuple[str, ...], ok: bool) -> None:
    access = Access(None, allowed_origins=allowed)
    headers = {"Host": "here:8000"} | ({} if origin is None else {"Origin": origin})
    if ok:
        access.authenticate(connection(headers))
    else:
        assert refused(lambda: access.authenticate(connection(headers))) == "forbidden"
