"""What `ray-whisper listen` writes."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from ray_whisper_streaming.cli.live_output import JsonEvents, TerminalCaptions, TextLines, notice
from ray_whisper_streaming.client import (
    ClientEvent,
    Closed,
    Committed,
    Ending,
    Final,
    Partial,
    Reconnected,
    Slowed,
    Word,
)

HELLO = (Word(" Hello", 0.5, 0.9, 0.8), Word(" there.", 1.0, 1.25))
MORE = (Word(" More", 2.0, 2.5),)
EVENTS: list[ClientEvent] = [
    Partial(words=HELLO[:1]),
    Committed(words=HELLO, first_index=0),
    Final(utterance=0, words=HELLO),
    Partial(words=MORE),
    Committed(words=MORE, first_index=2),
]


def test_text_is_a_line_per_utterance(capsys: pytest.CaptureFixture[str]) -> None:
    with TextLines() as output:
        for event in EVENTS:
            output.write(event)
    assert capsys.readouterr().out == "Hello there.\nMore\n"


def test_json_is_an_object_per_event(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonEvents() as output:
        for event in [*EVENTS, Closed(reason="client", audio_s=3.0, words=3)]:
            output.write(event)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines] == ["partial", "committed", "final", "partial", "committed"]
    assert [line["text"] for line in lines[1::3]] == [" Hello there.", " More"]
    assert lines[1]["words"][0] == {"word": "Hello", "start": 0.5, "end": 0.9, "probability": 0.8}
    assert lines[2].items() >= {"text": "Hello there.", "start": 0.5, "end": 1.25}.items()


def test_a_terminal_shows_what_is_sure_solid_and_the_rest_dim() -> None:
    console = Console(file=io.StringIO(), width=60, force_terminal=True, color_system="standard")
    captions = TerminalCaptions(console)
    captions.write(Committed(words=HELLO, first_index=0))
    captions.write(Partial(words=MORE))
    with console.capture() as capture:
        console.print(captions)
    assert "\x1b[1mHello there.\x1b[0m" in capture.get()
    assert "\x1b[2;3mMore\x1b[0m" in capture.get()
    with console.capture() as capture:
        captions.write(Final(utterance=0, words=HELLO))
        console.print(captions)
    assert "Hello there." in capture.get()
    assert "More" not in capture.get()


def test_scripts_without_spaces_stay_without(capsys: pytest.CaptureFixture[str]) -> None:
    said, more = (Word("おはよう", 0.5, 0.9),), (Word("ございます", 1.0, 1.5),)
    console = Console(file=io.StringIO(), width=60)
    captions = TerminalCaptions(console)
    captions.write(Committed(words=said, first_index=0))
    captions.write(Partial(words=more))
    with console.capture() as capture:
        console.print(captions)
    assert "おはようございます" in capture.get()


def test_what_is_followed_without_its_words_is_written_too(capsys: pytest.CaptureFixture[str]) -> None:
    with TextLines() as output:
        for text in (" Good", " morning"):
            output.write(Committed(words=(), first_index=0, written=text))
    assert capsys.readouterr().out == "Good morning\n"


def test_notices() -> None:
    assert "nothing is missing" in (notice(Reconnected(after_s=1.0, resumed=True)) or "")
    assert "3.0 s" in (notice(Reconnected(after_s=1.0, resumed=False, from_s=3.0)) or "")
    assert "5.0 s behind" in (notice(Slowed(reason="overload", lag_s=5.0)) or "")
    assert "too long" in (notice(Ending(reason="idle", message="too long")) or "")
    assert notice(EVENTS[0]) is None
