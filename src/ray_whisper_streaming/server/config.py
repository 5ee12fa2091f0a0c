"""The server's options: one schema for flags, environment and file, each with a sentence on how to choose it.

A value is looked for in this order: flag, environment variable ``RAY_WHISPER_<NAME>``, TOML file, default. The command
line reads the environment and the file's name; here they are arguments.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_type_hints

from ray_whisper_streaming.core.options import check_choice, check_range
from ray_whisper_streaming.engines.factory import EngineName
from ray_whisper_streaming.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["ENVIRONMENT_PREFIX", "ServerConfig", "Setting", "load_config", "schema", "to_toml"]

ENVIRONMENT_PREFIX = "RAY_WHISPER_"
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

T = TypeVar("T")


def option(
    default: T, advice: str, *, low: float = -math.inf, high: float = math.inf, choices: tuple[str, ...] = ()
) -> T:
    """A field of the schema: its default, how to choose it, and what is allowed."""
    facts = {"advice": advice, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Every option of the server. Checked when made; `schema` lists them with their advice.

    Raises:
        ConfigurationError: names the option, its value and what is allowed.
    """

    host: str = option(
        "127.0.0.1",
        "Address to listen on. Loopback is for programs of this machine; 0.0.0.0 for others, which needs keys.",
    )
    port: int = option(
        8000, "Port of HTTP and WebSocket; 0 takes a free one and prints it.", low=0, high=65535
    )
    tcp_port: int | None = option(
        None,
        "Port of the raw TCP protocol (43007 is whisper_streaming's). It has no keys: only where all who reach it "
        "are trusted.",
        low=0,
        high=65535,
    )
    tls_cert: str | None = option(
        None, "PEM file of the certificate chain, where no proxy in front does TLS."
    )
    tls_key: str | None = option(None, "PEM file of the certificate's private key.")
    keys_file: str | None = option(
        None,
        "File of API keys, made by 'ray-whisper keys create'; replicas share it. Without it everyone who reaches "
        "the server may use it.",
    )
    allow_anonymous: bool = option(
        False,
        "Serve clients without a key, also beyond loopback. Only behind a proxy that checks who comes.",
    )
    allowed_origins: tuple[str, ...] = option(
        (),
        "Origins of web pages that may use the server, such as https://app.example.org, besides its own; * is any.",
    )

    model: tuple[str, ...] = option(
        ("tiny.en",),
        "Models to serve, each by its name, folder or hub id (see 'ray-whisper models'); sessions that name none get "
        "the first. Each has workers of its own, so think of memory.",
    )
    backend: str = option(
        "local",
        "local: workers are threads of this process, right for one machine; ray: actors of a Ray cluster, one per "
        "GPU; shared: those that 'ray-whisper pool' keeps in the cluster, for several servers.",
        choices=("local", "ray", "shared"),
    )
    engine: str = option(
        "auto",
        "auto: ONNX Runtime on a CPU, CTranslate2 where the worker has a GPU; torch: PyTorch, of the extra 'torch'.",
        choices=get_args(EngineName),
    )
    device: str = option(
        "auto", "cpu, cuda, or auto: cuda where the worker has it.", choices=("auto", "cpu", "cuda")
    )
    compute_type: str = option(
        "auto", "Numbers computed with; auto is int8 on a CPU and float16 on a GPU, and rarely wrong."
    )
    workers: tuple[int, ...] = option(
        (),
        "Workers of each model: a number for all, or one for each in their order. Without it one per GPU, the GPUs "
        "being divided among the models, or one that uses all cores, which is best for a CPU.",
        low=1,
    )

    unload_after_s: float | None = option(
        None,
        "Models but the first are loaded when a session names them, and unloaded after so long without one: more of "
        "them than there is memory for, but somebody waits. Without it all are loaded at the start and stay.",
        low=1.0,
    )

    max_queue_wait_s: float = option(
        2.0,
        "New sessions are refused while jobs wait longer than this for a worker. Lower keeps captions quicker, and "
        "fewer sessions in.",
        low=0.01,
    )
    max_lag_s: float = option(
        5.0,
        "New sessions are refused while one in ten live sessions lags further behind its speaker than this.",
        low=0.1,
    )
    max_new_streams: int = option(
        32,
        "Streams let in within the two seconds before their load can be measured. Raise it for large pools.",
        low=1,
    )
    max_streams: int | None = option(
        None, "Streams at once, whatever the load; a bound for memory (some 5 MB each at worst).", low=1
    )
    max_streams_per_key: int | None = option(
        None, "Streams at once of one key that has no limit of its own.", low=1
    )
    max_sessions_per_minute: int | None = option(
        None,
        "New sessions per minute of one key that has no limit of its own; stops clients in a loop.",
        low=1,
    )
    max_audio_minutes_per_hour: float | None = option(
        None, "Minutes of audio per hour of one key that has no limit of its own.", low=0.1
    )

    max_message_bytes: int = option(
        1 << 20, "Largest WebSocket message; 1 MiB is half a minute of 16-bit audio.", low=1024
    )
    max_header_bytes: int = option(
        16_384, "Largest HTTP request head; raise it where a proxy adds long cookies.", low=1024
    )
    max_upload_bytes: int = option(
        512 << 20,
        "Largest uploaded recording; uploads go to a temporary file, so think of its disk.",
        low=1024,
    )
    idle_s: float = option(
        60.0,
        "A session that sends nothing for so long is ended; clients that pause send keep-alives.",
        low=1.0,
    )
    session_s: float = option(
        4 * 3600.0, "Longest session; frees what clients that never close would hold.", low=1.0
    )
    send_timeout_s: float = option(
        20.0, "A client that doesn't read for so long, its socket full, is cut off.", low=0.5
    )
    resume_s: float = option(
        30.0, "How long a session waits for a client whose connection was lost; 0: not at all.", low=0.0
    )
    drain_s: float = option(
        30.0,
        "On SIGTERM running sessions may go on for so long; keep it below what the supervisor allows before it "
        "kills.",
        low=0.0,
    )
    token_s: float = option(
        600.0, "Longest life of a client token, made by a server of yours for a browser.", low=1.0
    )
    log_format: str = option(
        "text",
        "text for people, json for log collectors: one object per line, with session ids, without transcripts.",
        choices=("text", "json"),
    )

    def __post_init__(self) -> None:
        for setting in schema():
            setting.check(getattr(self, setting.name))
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigurationError("tls_cert", self.tls_cert, "given together with tls_key")
        if not self.model or len(set(self.model)) < len(self.model):
            raise ConfigurationError("model", self.model, "at least one, and none of them twice")
        if len(self.workers) not in (0, 1, len(self.model)):
            raise ConfigurationError("workers", self.workers, "one number, or as many as there are models")


@dataclass(frozen=True, slots=True)
class Setting:
    """One option of the schema.

    Attributes:
        name: of the field of `ServerConfig`; with dashes, of the flag.
        kind: of its value.
        optional: whether it may be None.
        many: whether it is a tuple of ``kind``.
        default: where nothing says otherwise.
        advice: how to choose it.
        low, high, choices: what is allowed.
    """

    name: str
    kind: type
    optional: bool
    many: bool
    default: Any
    advice: str
    low: float
    high: float
    choices: tuple[str, ...]

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    def check(self, value: Any) -> None:
        """Raise `ConfigurationError` unless ``value`` is allowed."""
        if value is None and self.optional:
            return
        parts = cast("tuple[Any, ...]", value if self.many else (value,))
        if isinstance(value, tuple) != self.many or not all(map(self._is_kind, parts)):
            kind = self.kind.__name__
            raise ConfigurationError(self.name, value, f"a list of {kind}" if self.many else kind)
        for each in parts:
            if self.kind in (int, float):
                check_range(self.name, each, self.low, self.high)
            if self.choices:
                check_choice(self.name, each, self.choices)

    def parse(self, text: str) -> Any:
        """The value that a text of the environment stands for."""
        if self.many:
            return tuple(self._parse_one(part.strip()) for part in text.split(",") if part.strip())
        return None if self.optional and not text else self._parse_one(text)

    def _parse_one(self, text: str) -> Any:
        if self.kind is bool:
            if text.lower() in TRUE or text.lower() in FALSE:
                return text.lower() in TRUE
            raise ConfigurationError(self.variable, text, "true or false")
        try:
            return self.kind(text)
        except ValueError:
            raise ConfigurationError(self.variable, text, self.kind.__name__) from None

    def _is_kind(self, value: Any) -> bool:
        if self.kind is float:
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        return isinstance(value, self.kind) and (self.kind is bool or not isinstance(value, bool))


def schema() -> Iterator[Setting]:
    """All options, in the order they are documented in."""
    hints = get_type_hints(ServerConfig)
    for each in fields(ServerConfig):
        hint = hints[each.name]
        optional = isinstance(hint, UnionType)
        kind = next(arg for arg in get_args(hint) if arg is not type(None)) if optional else hint
        many = getattr(kind, "__origin__", None) is tuple
        facts = each.metadata
        yield Setting(
            each.name,
            get_args(kind)[0] if many else kind,
            optional,
            many,
            each.default,
            facts["advice"],
            facts["low"],
            facts["high"],
            facts["choices"],
        )


def load_config(
    flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None
) -> tuple[ServerConfig, dict[str, str]]:
    """The configuration, and where each value that is no default comes from.

    Args:
        flags: values by name; None means not given.
        environ: of the process; variables of others are not looked at.
        file: TOML, the names of the schema as its keys.

    Raises:
        ConfigurationError: a value that is not allowed, an unknown name in the file, a file that can't be read.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    from_file = {} if file is None else _read(file)
    for setting in schema():
        if flags.get(setting.name) is not None:
            values[setting.name], sources[setting.name] = flags[setting.name], "flag"
        elif setting.variable in environ:
            values[setting.name] = setting.parse(environ[setting.variable])
            sources[setting.name] = setting.variable
        elif setting.name in from_file:
            value = from_file[setting.name]
            if isinstance(value, list):
                value = tuple(cast("list[Any]", value))
            elif setting.many:
                value = (value,)  # a list of one needs no brackets
            values[setting.name] = value
            sources[setting.name] = str(file)
    return ServerConfig(**values), sources


def to_toml(config: ServerConfig, sources: Mapping[str, str]) -> str:
    """The configuration as a file that `load_config` reads, each option below its advice."""
    lines: list[str] = []
    for setting in schema():
        value = getattr(config, setting.name)
        origin = sources.get(setting.name, "default")
        lines += [f"# {setting.advice}", f"# ({origin})"]
        lines.append(f"# {setting.name} =" if value is None else f"{setting.name} = {_toml_value(value)}")
        lines.append("")
    return "\n".join(lines)


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            content = tomllib.load(opened)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError("config file", str(file), f"a readable TOML file ({error})") from None
    known = {setting.name for setting in schema()}
    for name in content:
        if name not in known:
            raise ConfigurationError("config file", name, "made of the options that 'config show' prints")
    return content


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(part) for part in cast("tuple[Any, ...]", value)) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)
