"""The raw TCP protocol of whisper_streaming's server: 16-bit samples in, a line per commit out.

The client sends little-endian 16-bit mono samples at 16 kHz, without any header, and closes its side when it is done.
A line is ``start end text``: milliseconds, whole numbers. Lines never overlap.
"""

from __future__ import annotations

from ray_whisper_streaming.core.events import Committed

__all__ = ["LineWriter"]


class LineWriter:
    """Makes the lines of one stream."""

    def __init__(self) -> None:
        self._end_ms = 0.0
        self._last = b""

    def line(self, event: Committed) -> bytes:
        """The line of some committed words; empty where it would repeat the one before."""
        start_ms = max(event.words[0].start_s * 1000, self._end_ms)
        end_ms = max(event.words[-1].end_s * 1000, start_ms)
        self._end_ms = end_ms
        # A line break inside a word would be taken for the end of the line.
        text = " ".join(event.spaced_text.splitlines())
        line = f"{start_ms:1.0f} {end_ms:1.0f} {text}\n".encode()
        if line == self._last:
            return b""
        self._last = line
        return line
