"""``ray-whisper keys``: who may use a server."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ray_whisper_streaming.cli.console import StdoutConsole
from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.server.config import ENVIRONMENT_PREFIX
from ray_whisper_streaming.server.keys import Key, KeyFile, KeyLimits

__all__ = ["app"]

app = typer.Typer(help="API keys of a server: made, listed and revoked in a file.", no_args_is_help=True)

DAY_S = 86_400

KeysFile = Annotated[
    Path,
    typer.Option(
        "--keys-file",
        envvar=ENVIRONMENT_PREFIX + "KEYS_FILE",
        help="The file that 'ray-whisper serve --keys-file' is given. A running server follows it within a second.",
    ),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for; shown in lists and logs.")],
    keys_file: KeysFile,
    days: Annotated[
        float | None,
        typer.Option(min=0.001, help="It ends by itself after so many days.", show_default=False),
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(min=1, help="Streams at once; else the server's limit for keys.", show_default=False),
    ] = None,
    sessions_per_minute: Annotated[
        int | None, typer.Option(min=1, help="New sessions per minute; else likewise.", show_default=False)
    ] = None,
    audio_minutes_per_hour: Annotated[
        float | None,
        typer.Option(min=0.1, help="Minutes of audio per hour; else likewise.", show_default=False),
    ] = None,
) -> None:
    """Make a key and print it. It can't be shown again: the file has only its hash."""
    content = KeyFile.read(keys_file)
    now = time.time()
    key = content.create(
        name,
        now,
        expires_at=None if days is None else now + days * DAY_S,
        limits=KeyLimits(streams, sessions_per_minute, audio_minutes_per_hour),
    )
    _write(content, keys_file)
    print(key)


@app.command("list")
def show(keys_file: KeysFile) -> None:
    """List the keys: ids, names and limits, never the keys themselves."""
    table = Table("id", "name", "made", "state", "streams", "sessions/min", "audio min/h", box=None)
    now = time.time()
    for key in _read(keys_file).keys:
        limits = key.limits
        figures = (limits.streams, limits.sessions_per_minute, limits.audio_minutes_per_hour)
        table.add_row(
            key.key_id,
            key.name,
            _day(key.created_at),
            _state(key, now),
            *("" if figure is None else f"{figure:g}" for figure in figures),
        )
    StdoutConsole().print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id that 'list' shows: the middle of the key.")],
    keys_file: KeysFile,
) -> None:
    """End a key, and every client token made with it. Running sessions go on."""
    content = _read(keys_file)
    key = content.revoke(key_id, time.time())
    _write(content, keys_file)
    print(f"revoked {key.key_id} ({key.name})")


def _read(path: Path) -> KeyFile:
    """A file that must be there: only `create` makes one."""
    if not path.exists():
        raise ConfigurationError("keys_file", str(path), "a file made by 'ray-whisper keys create'")
    return KeyFile.read(path)


def _state(key: Key, now: float) -> str:
    if key.revoked_at is not None:
        return f"revoked {_day(key.revoked_at)}"
    if key.expires_at is None:
        return "valid"
    return f"{'valid until' if now < key.expires_at else 'expired'} {_day(key.expires_at)}"


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d")


def _write(content: KeyFile, path: Path) -> None:
    try:
        content.write(path)
    except OSError as error:
        allowed = f"a file that can be written ({error.strerror})"
        raise ConfigurationError("keys_file", str(path), allowed) from None
