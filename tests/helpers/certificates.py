"""Certificates made for a test, by the program openssl."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
PASSWORD = "-passout pass:secret"


@dataclass(frozen=True)
class Certificates:
    """An authority, and a server of its at 127.0.0.1."""

    folder: Path

    @property
    def authority(self) -> str:
        return str(self.folder / "ca.pem")

    @property
    def chain(self) -> str:
        return str(self.folder / "server.pem")

    @property
    def key(self) -> str:
        return str(self.folder / "server.key")

    @property
    def other_key(self) -> str:
        """Of the authority, and so not of the server's certificate."""
        return str(self.folder / "ca.key")

    @property
    def locked_key(self) -> str:
        """The server's, encrypted."""
        return str(self.folder / "locked.key")

    @property
    def trusting(self) -> ssl.SSLContext:
        """For clients that know the authority."""
        return ssl.create_default_context(cafile=self.authority)


def make_certificates(folder: Path) -> Certificates:
    """Skips the test where there is no openssl."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl on PATH to make certificates with")

    def openssl(*arguments: str) -> None:
        subprocess.run([program, *arguments], cwd=folder, check=True, capture_output=True)

    openssl(
        "req", "-x509", *CURVE, "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
        "-subj", "/CN=Authority of a test",
    )  # fmt: skip
    openssl(
        "req",
        *CURVE,
        "-nodes",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
        "-subj",
        "/CN=Server of a test",
    )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-extfile", "names", "-out", "server.pem",
    )  # fmt: skip
    openssl("ec", "-in", "server.key", "-aes256", *PASSWORD.split(), "-out", "locked.key")
    return Certificates(folder)
