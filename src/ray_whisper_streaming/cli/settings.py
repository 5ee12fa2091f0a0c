"""The server's options as options of the command line, made from their one schema."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ray_whisper_streaming.server.config import ENVIRONMENT_PREFIX, Setting, load_config, schema

__all__ = ["CONFIG_VARIABLE", "with_settings"]

CONFIG_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar=CONFIG_VARIABLE,
        dir_okay=False,
        help="TOML file with these options; 'ray-whisper config show' prints one. Flags and RAY_WHISPER_* go first.",
        show_default=False,
    ),
]


def with_settings(**others: tuple[Any, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: it takes every option of the server, and is called with the configuration they make.

    The command gets the `ServerConfig`, where its values come from, and ``others`` by name.

    Args:
        others: further options: annotation and default.
    """
    parameters = [_parameter("config", ConfigFile), *map(_of_setting, schema())]
    parameters += [_parameter(name, annotation, default) for name, (annotation, default) in others.items()]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            extra = {name: given.pop(name) for name in others}
            file = given.pop("config")
            flags = {name: _plain(value) for name, value in given.items()}
            command(*load_config(flags, os.environ, file), **extra)

        # Typer looks at both.
        run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _of_setting(setting: Setting) -> inspect.Parameter:
    flag = "--" + setting.name.replace("_", "-")
    default = setting.default
    shown = ", ".join(map(str, default)) if setting.many else "" if default is None else str(default)
    option: Any = typer.Option(
        f"{flag}/--no{flag[1:]}" if setting.kind is bool else flag,
        help=setting.advice,
        show_default=shown or False,
    )
    kind: Any = list[setting.kind] if setting.many else setting.kind
    if setting.choices:
        kind = Enum(setting.name, {choice: choice for choice in setting.choices})
    return _parameter(setting.name, Annotated[kind | None, option])


def _plain(value: Any) -> Any:
    """An option's value as the schema has it; None where it was not given."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        return tuple(cast("list[Any]", value)) or None
    return value


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
