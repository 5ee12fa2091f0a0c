"""Finding a model's files, with packages and hashes made up for the test."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ray_whisper_streaming.engines import models
from ray_whisper_streaming.errors import ConfigurationError, ModelNotFound

WEIGHTS = b"weights " * 5000
CONFIG = b"{}"


def _file(name: str, content: bytes, *parts: tuple[str, str]) -> models._File:
    return models._File(
        name,
        tuple(models._Part(package, path) for package, path in parts),
        len(content),
        hashlib.sha256(content).hexdigest(),
    )


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model ``joined`` in two packages, one ``whole`` in one of them, and an empty cache folder."""
    root = tmp_path / "packages"
    for package, name, content in [
        ("rws_data_1", "model.bin.part1", WEIGHTS[:777]),
        ("rws_data_2", "model.bin.part2", WEIGHTS[777:]),
        ("rws_data_2", "config.json", CONFIG),
        ("rws_data_3", "model.bin", WEIGHTS),
        ("rws_data_3", "config.json", CONFIG),
    ]:
        (root / package / "data").mkdir(parents=True, exist_ok=True)
        (root / package / "__init__.py").touch()
        (root / package / "data" / name).write_bytes(content)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setenv("RAY_WHISPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        models,
        "EMBEDDED_MODELS",
        {
            "joined": (
                _file(
                    "model.bin",
                    WEIGHTS,
                    ("rws_data_1", "data/model.bin.part1"),
                    ("rws_data_2", "data/model.bin.part2"),
                ),
                _file("config.json", CONFIG, ("rws_data_2", "data/config.json")),
            ),
            "whole": (
                _file("model.bin", WEIGHTS, ("rws_data_3", "data/model.bin")),
                _file("config.json", CONFIG, ("rws_data_3", "data/config.json")),
            ),
            "absent": (_file("model.bin", WEIGHTS, ("rws_data_9", "data/model.bin")),),
        },
    )
    models._check.cache_clear()
    return root


@pytest.mark.parametrize("file", ["model.bin", "model.safetensors", "model.safetensors.index.json"])
def test_a_folder_is_taken_as_it_is(tmp_path: Path, file: str):
    (tmp_path / file).write_bytes(b"x")
    assert models.resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nothing-here"])
def test_a_path_without_a_model_is_not_found(name: str):
    with pytest.raises(ModelNotFound, match=r"model\.bin"):
        models.resolve_model(name)


def test_a_model_that_stands_ready_is_used_where_it_stands(packages: Path, tmp_path: Path):
    assert models.resolve_model("whole") == packages / "rws_data_3" / "data"
    assert not (tmp_path / "cache").exists()


def test_parts_are_joined_once(packages: Path, tmp_path: Path):
    folder = models.resolve_model("joined")
    assert folder.is_relative_to(tmp_path / "cache")
    assert (folder / "model.bin").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == CONFIG
    before = (folder / "model.bin").stat()
    models._check.cache_clear()
    assert models.resolve_model("joined") == folder
    assert (folder / "model.bin").stat().st_ino == before.st_ino
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.bin"]


def test_a_damaged_copy_in_the_cache_is_made_again(packages: Path):
    folder = models.resolve_model("joined")
    (folder / "model.bin").write_bytes(b"!" * len(WEIGHTS))
    models._check.cache_clear()
    assert (models.resolve_model("joined") / "model.bin").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("name", "path"), [("whole", "rws_data_3/data/model.bin"), ("joined", "rws_data_1/data/model.bin.part1")]
)
@pytest.mark.parametrize("content", [b"short", b"!" * len(WEIGHTS)])
def test_a_damaged_package_is_refused_and_leaves_nothing(
    packages: Path, name: str, path: str, content: bytes
):
    (packages / path).write_bytes(content)
    with pytest.raises(ModelNotFound, match="install it again"):
        models.resolve_model(name)
    assert not list((packages.parent / "cache").rglob("*model.bin*"))


def test_processes_may_join_at_once(packages: Path, tmp_path: Path):
    code = (
        (
            "import sys; from ray_whisper_streaming.engines import models as m\n"
            "P, F = m._Part, m._File\n"
            f"m.EMBEDDED_MODELS['joined'] = {tuple(models.EMBEDDED_MODELS['joined'])!r}\n"
            "print((m.resolve_model('joined') / 'model.bin').stat().st_size)"
        )
        .replace("_Part(", "P(")
        .replace("_File(", "F(")
    )
    env = {"PYTHONPATH": ":".join([str(packages), *sys.path]), "RAY_WHISPER_CACHE": str(tmp_path / "cache")}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in running] == [str(len(WEIGHTS))] * 3


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("RAY_WHISPER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.cache_folder() == tmp_path / "ray-whisper-streaming"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.cache_folder().parent == Path.home() / ".cache"


@pytest.mark.parametrize("name", ["nonsense", "large-v3", "absent", "owner/name", "bad id/with spaces"])
def test_what_cannot_be_had_is_told_quickly(
    packages: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    started = time.monotonic()
    with pytest.raises(ModelNotFound) as caught:
        models.resolve_model(name)
    assert time.monotonic() - started < 10
    assert isinstance(caught.value, ConfigurationError)
    assert caught.value.value == name


def test_the_error_says_what_to_install(packages: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match=r"pip install 'ray-whisper-streaming\[models\]'"):
        models.resolve_model("owner/name")
