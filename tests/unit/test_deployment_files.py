"""The container and service files name what there is: paths, commands, flags, variables. (They are not built here.)"""

from __future__ import annotations

import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from ray_whisper_streaming.cli.main import app
from ray_whisper_streaming.engines.models import CACHE_VARIABLE
from ray_whisper_streaming.server.app import routes
from ray_whisper_streaming.server.config import ServerConfig, schema
from ray_whisper_streaming.server.serving import is_loopback

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "ray-whisper"
OTHER_VARIABLES = {CACHE_VARIABLE}


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def arguments_of(instruction: str) -> list[str]:
    return [arguments for name, arguments in dockerfile() if name == instruction]


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def unit() -> dict[str, list[str]]:
    """All settings of the unit, those that are commented out included: users will uncomment them."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "deploy" / "ray-whisper.service").read_text().splitlines():
        if match := re.match(r"#?([A-Z]\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def commands() -> list[list[str]]:
    """Every command line of ours that stands in the files."""
    (default,) = arguments_of("CMD")
    found = [json.loads(default)]
    found += [service["command"] for service in compose()["services"].values()]
    program, *arguments = shlex.split(unit()["ExecStart"][0])
    assert Path(program).name == PROGRAM
    found.append(arguments)
    for line in (ROOT / "compose.yaml").read_text().splitlines():
        if match := re.match(r"# docker compose run --rm server (.*?)(?:  |$)", line):
            found.append(shlex.split(match[1]))
    return found


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_commands_parse(arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    context = command.make_context(PROGRAM, list(arguments))
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[attr-defined]
        assert command is not None
        context = command.make_context(name, rest, parent=context)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert "*" in lines
    copied = [shlex.split(arguments) for arguments in arguments_of("COPY")]
    sources = [source for each in copied if not each[0].startswith("--from") for source in each[:-1]]
    assert len(sources) >= 5
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in let_in), source
    # What the build reads beside the sources.
    project = (ROOT / "pyproject.toml").read_text()
    for named in re.findall(r'readme = "(.+)"|license-files = \["(.+)"\]', project):
        assert "".join(named) in sources


def test_the_container_runs_pinned_packages_as_somebody_without_rights() -> None:
    install = next(each for each in arguments_of("RUN") if "run.txt" in each)
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install
    assert (ROOT / "requirements" / "run.txt").read_text().count("--hash=") > 100
    assert arguments_of("USER") == ["ray-whisper"]
    assert compose()["services"]["server-cuda"]["build"]["args"].keys() == {
        each.split("=")[0] for each in arguments_of("ARG")
    }


def test_ports_and_paths_agree() -> None:
    (check,) = arguments_of("HEALTHCHECK")
    paths = {getattr(route, "path", None) for route in routes()}
    assert "/readyz" in paths
    assert f"http://127.0.0.1:{ServerConfig().port}/readyz" in check
    assert arguments_of("EXPOSE") == [str(ServerConfig().port)]
    for service in compose()["services"].values():
        (published,) = service["ports"]
        address, _, inside = published.split(":")
        assert is_loopback(address)
        assert inside == str(ServerConfig().port)


def test_supervisors_wait_longer_than_the_server_drains() -> None:
    for service in compose()["services"].values():
        assert float(service["stop_grace_period"].removesuffix("s")) > ServerConfig().drain_s
    assert float(unit()["TimeoutStopSec"][0]) > ServerConfig().drain_s


def test_variables_are_known() -> None:
    known = {setting.variable for setting in schema()} | OTHER_VARIABLES
    files = [ROOT / "Dockerfile", ROOT / "compose.yaml", ROOT / "deploy" / "ray-whisper.service"]
    named = {name for file in files for name in re.findall(r"RAY_WHISPER_\w+", file.read_text())}
    assert named
    assert named <= known
