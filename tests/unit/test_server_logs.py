"""What a line of the server's log holds."""

from __future__ import annotations

import json
import logging

from ray_whisper_streaming.server.logs import JsonFormatter, TextFormatter


def record() -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": "session opened", "levelname": "INFO", "session": "s1"})
    # As Ray's own filter does to every record of a process that Ray was started in.
    made._ray_timestamp_ns = 1  # type: ignore[attr-defined]
    return made


def test_a_line_of_text_ends_with_what_the_program_said_of_the_event() -> None:
    assert TextFormatter().format(record()).endswith("INFO session opened session=s1")


def test_a_line_of_json_has_it_as_fields() -> None:
    line = json.loads(JsonFormatter().format(record()))
    assert line["session"] == "s1"
    assert not any(name.startswith("_") for name in line)
