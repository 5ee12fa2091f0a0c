"""API keys, kept in a file: hashed, so that the file alone lets nobody in.

A key is ``rws_<id>_<secret>``. The secret has 256 random bits, so one round of SHA-256 is enough: there is nothing to
guess that slow hashing would protect. The file also holds the secret that client tokens are signed with.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.server.refusal import Refusal
from ray_whisper_streaming.server.tokens import Claims, make_token, read_token

__all__ = ["KEY_PREFIX", "Key", "KeyFile", "KeyLimits", "Keyring"]

KEY_PREFIX = "rws_"
ID_BYTES, SECRET_BYTES = 5, 32
RELOAD_S = 1.0
"""How long a revoked key may live on: the file is looked at again after so many seconds."""


class KeyLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one key may use; None takes the server's limit."""

    streams: int | None = None
    sessions_per_minute: int | None = None
    audio_minutes_per_hour: float | None = None


class Key(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key as the file has it; times are seconds since 1970.

    Attributes:
        key_id: its public part.
        name: what it is for, in the words of whoever made it.
        digest: SHA-256 of the secret part, in hexadecimal.
        created_at: when it was made.
        expires_at: when it ends by itself.
        revoked_at: when it was revoked; it stays in the file so that its id is never used again.
        limits: its own.
    """

    key_id: str
    name: str
    digest: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    limits: KeyLimits = KeyLimits()

    def is_valid(self, now: float) -> bool:
        """Whether it may be used."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class KeyFile(msgspec.Struct):
    """The whole file.

    Attributes:
        token_secret: what client tokens are signed with, in hexadecimal.
        keys: all that were ever made, oldest first.
    """

    token_secret: str
    keys: list[Key] = []

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """The file; a new one with a fresh secret where there is none.

        Raises:
            ConfigurationError: it can't be read, or is no file of keys.
        """
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls(token_secret=secrets.token_hex(SECRET_BYTES))
        except (OSError, msgspec.MsgspecError):
            raise ConfigurationError(
                "keys_file", str(path), "a readable file made by 'ray-whisper keys'"
            ) from None

    def write(self, path: Path) -> None:
        """Replace the file as a whole; only its owner may read it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with mode 600
        try:
            with os.fdopen(handle, "wb") as output:
                output.write(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise

    def create(
        self, name: str, now: float, *, expires_at: float | None = None, limits: KeyLimits | None = None
    ) -> str:
        """Make a key and return it: the only time it can be seen. `write` comes next."""
        key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        self.keys.append(
            Key(
                key_id=key_id,
                name=name,
                digest=_digest(secret),
                created_at=now,
                expires_at=expires_at,
                limits=limits or KeyLimits(),
            )
        )
        return f"{KEY_PREFIX}{key_id}_{secret}"

    def revoke(self, key_id: str, now: float) -> Key:
        """End a key and all tokens made with it. `write` comes next.

        Raises:
            ConfigurationError: no key has this id.
        """
        for index, key in enumerate(self.keys):
            if key.key_id == key_id:
                self.keys[index] = msgspec.structs.replace(key, revoked_at=key.revoked_at or now)
                return self.keys[index]
        raise ConfigurationError("key", key_id, "an id that 'ray-whisper keys list' prints")


class Keyring:
    """The keys of a running server; follows changes of the file.

    Args:
        path: of the file.
        clock: seconds since 1970.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._read_at = -RELOAD_S
        self._stamp: tuple[int, int] | None = None
        self._secret = b""
        self._keys: dict[str, Key] = {}

    def load(self) -> None:
        """Read the file now.

        Raises:
            ConfigurationError: it is not there, can't be read, or is no file of keys.
        """
        try:
            found = self._path.stat()
        except OSError:
            raise ConfigurationError(
                "keys_file", str(self._path), "a file made by 'ray-whisper keys create'"
            ) from None
        content = KeyFile.read(self._path)
        self._stamp = (found.st_mtime_ns, found.st_ino)
        self._read_at = self._clock()
        self._secret = bytes.fromhex(content.token_secret)
        self._keys = {key.key_id: key for key in content.keys}

    def check(self, text: str) -> Key:
        """The key whose full text this is. Raises `Refusal`: ``unauthorized``."""
        self._follow()
        key_id, _, secret = text.removeprefix(KEY_PREFIX).partition("_")
        key = self._keys.get(key_id)
        digest = "" if key is None else key.digest
        # Compared even without a key: the answer takes as long.
        genuine = hmac.compare_digest(_digest(secret), digest)
        if key is None or not genuine or not text.startswith(KEY_PREFIX) or not key.is_valid(self._clock()):
            raise Refusal("unauthorized", "the API key is unknown, expired or revoked")
        return key

    def holds(self, key_id: str) -> bool:
        """Whether a key that was good once still is."""
        self._follow()
        key = self._keys.get(key_id)
        return key is not None and key.is_valid(self._clock())

    def make_token(self, key_id: str, life_s: float, session_id: str | None = None) -> tuple[str, float]:
        """A client token in the name of a key, and when it expires (seconds since 1970)."""
        expires_at = self._clock() + life_s
        return make_token(Claims(key_id, expires_at, session_id), self._secret), expires_at

    def check_token(self, token: str) -> tuple[Key, str | None]:
        """The key behind a token, and the session it is for. Raises `Refusal`: ``unauthorized``."""
        self._follow()
        now = self._clock()
        claims = read_token(token, self._secret, now)
        key = self._keys.get(claims.key_id)
        if key is None or not key.is_valid(now):
            raise Refusal("unauthorized", "the key of this client token is no longer valid")
        return key, claims.session_id

    def _follow(self) -> None:
        now = self._clock()
        if abs(now - self._read_at) < RELOAD_S:
            return
        self._read_at = now
        # A file that is being replaced or was damaged since: the keys that are known go on.
        with contextlib.suppress(OSError, ConfigurationError):
            found = self._path.stat()
            if (found.st_mtime_ns, found.st_ino) != self._stamp:
                self.load()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
