"""Files that commands write: looked at before any work is done for them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile

from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["check_output"]


def check_output(option: str, path: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Raise `ConfigurationError` where ``path`` can't be written, or is one of the ``inputs``; write nothing."""
    try:
        if path.exists():
            if any(_same(path, each) for each in inputs):
                raise ConfigurationError(option, str(path), "another file than what is read")
            # Not pipes and devices: to open one may wait, or tell its reader that all has been written.
            if path.is_file() or path.is_dir():
                path.open("ab").close()
        else:
            # What the rights say is not enough: a folder may be on a file system that takes nothing.
            with TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise ConfigurationError(
            option, str(path), f"a file that can be written ({error.strerror})"
        ) from None


def _same(path: Path, other: str | Path) -> bool:
    """Whether both are one file, by whatever names and links."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # the other is not there: told by whoever reads it
        return False
