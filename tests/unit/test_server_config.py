"""The server's options: where values come from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_whisper_streaming.errors import ConfigurationError
from ray_whisper_streaming.server.config import ServerConfig, load_config, schema, to_toml


def test_flag_environment_file_default_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 1\nmodel = "base"\nmax_lag_s = 3\nallowed_origins = ["https://a"]\n')
    environ = {"RAY_WHISPER_PORT": "2", "RAY_WHISPER_MODEL": "small", "RAY_WHISPER_CACHE": "elsewhere"}
    config, sources = load_config({"port": 3, "model": None}, environ, file)
    assert (config.port, config.model, config.max_lag_s, config.host) == (3, ("small",), 3, "127.0.0.1")
    assert config.allowed_origins == ("https://a",)
    assert sources == {
        "port": "flag",
        "model": "RAY_WHISPER_MODEL",
        "max_lag_s": str(file),
        "allowed_origins": str(file),
    }


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    config = ServerConfig(
        model=('a "quoted" \\name', "base"),
        workers=(2, 1),
        tcp_port=43007,
        allowed_origins=("https://a", "https://b"),
        allow_anonymous=True,
    )
    file = tmp_path / "server.toml"
    file.write_text(to_toml(config, {"tcp_port": "flag"}))
    assert load_config({}, {}, file)[0] == config


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("ALLOW_ANONYMOUS", "yes", True),
        ("ALLOW_ANONYMOUS", "OFF", False),
        ("ALLOWED_ORIGINS", "https://a, https://b,", ("https://a", "https://b")),
        ("MODEL", "tiny.en, base", ("tiny.en", "base")),
        ("WORKERS", "2", (2,)),
        ("TCP_PORT", "43007", 43007),
        ("TCP_PORT", "", None),
        ("DRAIN_S", "2.5", 2.5),
    ],
)
def test_texts_of_the_environment(name: str, text: str, value: object) -> None:
    config, _ = load_config({}, {f"RAY_WHISPER_{name}": text})
    assert getattr(config, name.lower()) == value


@pytest.mark.parametrize(
    ("flags", "environ", "named"),
    [
        ({"port": 70_000}, {}, "port"),
        ({"backend": "cloud"}, {}, "backend"),
        ({"max_lag_s": float("nan")}, {}, "max_lag_s"),
        ({"tls_cert": "cert.pem"}, {}, "tls_cert"),
        ({}, {"RAY_WHISPER_PORT": "http"}, "RAY_WHISPER_PORT"),
        ({}, {"RAY_WHISPER_ALLOW_ANONYMOUS": "perhaps"}, "RAY_WHISPER_ALLOW_ANONYMOUS"),
        ({"port": True}, {}, "port"),
        ({"model": (3,)}, {}, "model"),
        ({"model": "base"}, {}, "model"),
        ({"model": ("base", "base")}, {}, "model"),
        ({}, {"RAY_WHISPER_MODEL": ","}, "model"),
        ({"workers": (1, 2)}, {}, "workers"),
        ({"workers": (0,)}, {}, "workers"),
        ({}, {"RAY_WHISPER_WORKERS": "1,many"}, "RAY_WHISPER_WORKERS"),
    ],
)
def test_wrong_values_are_named(flags: dict[str, Any], environ: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_config(flags, environ)
    assert caught.value.field == named


@pytest.mark.parametrize(
    ("content", "models", "workers"),
    [
        ('model = "base"\nworkers = 2', ("base",), (2,)),
        ('model = ["base", "small"]\nworkers = [1, 2]', ("base", "small"), (1, 2)),
    ],
)
def test_a_list_of_one_needs_no_brackets(
    tmp_path: Path, content: str, models: tuple[str, ...], workers: tuple[int, ...]
) -> None:
    file = tmp_path / "server.toml"
    file.write_text(content)
    config, _ = load_config({}, {}, file)
    assert (config.model, config.workers) == (models, workers)


@pytest.mark.parametrize("content", ["port = ", "prot = 1", "port = '1'", "\xff", "allowed_origins = [1]"])
def test_wrong_files_are_told(tmp_path: Path, content: str) -> None:
    file = tmp_path / "server.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigurationError):
        load_config({}, {}, file)
    with pytest.raises(ConfigurationError):
        load_config({}, {}, tmp_path / "absent.toml")


def test_every_option_says_how_to_choose_it() -> None:
    for setting in schema():
        assert len(setting.advice) > 30, setting.name
        assert setting.advice.endswith("."), setting.name
