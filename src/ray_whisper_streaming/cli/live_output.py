"""Events of a live stream, written as they come: on a terminal, as lines of text, or as JSON."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from ray_whisper_streaming import Committed, Event, Final, Partial
from ray_whisper_streaming.cli.json_forms import event_fields, json_line
from ray_whisper_streaming.cli.screen import caption_text
from ray_whisper_streaming.client import ClientEvent, Ending, Reconnected, Slowed

__all__ = ["JsonEvents", "Output", "TerminalCaptions", "TextLines", "notice"]

REFRESHES_PER_S = 8
MAX_LINES = 6
"""Lines of the utterance that is spoken: a longer one shows its end."""


class Output(Protocol):
    """Writes events; a context manager."""

    def __enter__(self) -> Output: ...

    def __exit__(self, *exc: object) -> None: ...

    def write(self, event: Event | ClientEvent) -> None:
        """Write what there is to write of an event."""
        ...


class TextLines:
    """Committed words as they come, a line per utterance."""

    def __init__(self) -> None:
        self._in_line = False

    def __enter__(self) -> TextLines:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end_line()

    def write(self, event: Event | ClientEvent) -> None:
        """See `Output.write`."""
        if isinstance(event, Committed):
            # The space before a line's first word would be the line's.
            text = event.spaced_text
            print(text if self._in_line else text.lstrip(), end="", flush=True)
            self._in_line = True
        elif isinstance(event, Final):
            self._end_line()

    def _end_line(self) -> None:
        if self._in_line:
            print(flush=True)
            self._in_line = False


class JsonEvents:
    """An object per event, with ``type`` and times in seconds."""

    def __enter__(self) -> JsonEvents:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def write(self, event: Event | ClientEvent) -> None:
        """See `Output.write`."""
        fields = event_fields(event)
        if fields is None and (told := notice(event)) is not None:
            fields = {"type": "notice", "message": told}
        if fields is not None:
            print(json_line(fields), flush=True)


class TerminalCaptions:
    """Utterances above, and below them the one that is spoken: solid what is committed, dim what may change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._committed = ""
        self._partial = ""
        self._live = Live(self, console=console, refresh_per_second=REFRESHES_PER_S, transient=True)

    def __enter__(self) -> TerminalCaptions:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()
        self._finish_utterance(self._committed)

    def write(self, event: Event | ClientEvent) -> None:
        """See `Output.write`."""
        if isinstance(event, Committed):
            self._committed += event.spaced_text
            self._partial = ""
        elif isinstance(event, Partial):
            self._partial = event.spaced_text
        elif isinstance(event, Final):
            self._finish_utterance(event.text)

    def _finish_utterance(self, text: str) -> None:
        if text.strip():
            self._console.print(caption_text(text.strip(), ""))
        self._committed = self._partial = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = caption_text(self._committed.lstrip(), self._partial)
        yield Text("\n").join(list(text.wrap(console, options.max_width))[-MAX_LINES:])


def notice(event: Event | ClientEvent) -> str | None:
    """What somebody who looks at the text should know besides; None: nothing."""
    match event:
        case Reconnected(resumed=True):
            return f"connection lost for {event.after_s:.1f} s, and back; nothing is missing"
        case Reconnected():
            return (
                f"connection lost for {event.after_s:.1f} s; a new session goes on from {event.from_s:.1f} s"
            )
        case Slowed(reason="recovered"):
            return "the server has caught up"
        case Slowed():
            return f"the server is {event.lag_s:.1f} s behind ({event.reason})"
        case Ending():
            return f"the server ends the session: {event.message}"
        case _:
            return None
