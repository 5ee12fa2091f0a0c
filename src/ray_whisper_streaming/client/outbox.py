"""What a client has to send, and what it must be able to send again. Pure: no socket, no clock.

Audio is counted in bytes from the start of the stream, across all its sessions. What the server has acknowledged is
forgotten; everything else is kept, because a new connection may want it once more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from ray_whisper_streaming.errors import InvalidState
from ray_whisper_streaming.wire.native import HEADER_BYTES, encode, encode_audio
from ray_whisper_streaming.wire.native_messages import Close, Flush

__all__ = ["Outbox"]

MAX_PIECE_BYTES = 32 * 1024
"""Audio of one message: a second of 16 kHz. What a lost connection makes us send again comes in whole messages."""


@dataclass(slots=True)
class _Audio:
    start: int
    data: bytes
    sequence: int = -1

    @property
    def end(self) -> int:
        return self.start + len(self.data)


@dataclass(frozen=True, slots=True)
class _Flush:
    flush_id: str


_Item: TypeAlias = _Audio | _Flush


class Outbox:
    """The messages of one stream, in order.

    Args:
        frame_bytes: of a sample of all channels: where audio may be cut for a new session.

    Attributes:
        end: bytes of audio given so far.
        released: bytes acknowledged: never wanted again.
        origin: byte at which the session that runs now began.
        closing: no more will be given.
    """

    def __init__(self, frame_bytes: int) -> None:
        self.end = 0
        self.released = 0
        self.origin = 0
        self.closing = False
        self._frame = frame_bytes
        self._piece = MAX_PIECE_BYTES
        self._sent: deque[_Item] = deque()
        self._waiting: deque[_Item] = deque()
        self._unanswered: set[str] = set()
        self._next_sequence = 0
        self._close_sent = False

    @property
    def unacknowledged(self) -> int:
        """Bytes of audio that are kept."""
        return self.end - self.released

    @property
    def idle(self) -> bool:
        """Whether there is nothing to send now."""
        return not self._waiting and (not self.closing or self._close_sent)

    @property
    def longest_piece(self) -> int:
        """Bytes that are still sent as one message."""
        return self._piece

    def limit_messages(self, message_bytes: int) -> None:
        """The server takes messages of so many bytes."""
        self._piece = max(1, min(MAX_PIECE_BYTES, message_bytes - HEADER_BYTES))

    def push(self, data: bytes) -> None:
        """Add audio, cut anywhere. Raises `InvalidState` after `close`."""
        self._check_open()
        for start in range(0, len(data), self._piece):
            piece = data[start : start + self._piece]
            self._waiting.append(_Audio(self.end, piece))
            self.end += len(piece)

    def flush(self, flush_id: str) -> None:
        """Ask for a flush behind the audio so far. Raises `InvalidState` after `close`."""
        self._check_open()
        self._unanswered.add(flush_id)
        self._waiting.append(_Flush(flush_id))

    def close(self) -> None:
        """Say behind all else that there is no more. Safe to call twice."""
        self.closing = True

    def take(self) -> str | bytes | None:
        """The next message, text as str; None: nothing to send now."""
        while self._waiting:
            item = self._waiting.popleft()
            if isinstance(item, _Flush):
                if item.flush_id not in self._unanswered:
                    continue  # the answer to the first time came before the second time
                self._sent.append(item)
                return encode(Flush(id=item.flush_id)).decode()
            self._sent.append(item)
            item.sequence = self._next_sequence
            self._next_sequence += 1
            return encode_audio(item.sequence, item.data)
        if self.closing and not self._close_sent:
            self._close_sent = True
            return encode(Close()).decode()
        return None

    def acknowledge(self, sample: int) -> None:
        """The session that runs has done with its audio before this sample, of each channel."""
        self.released = max(self.released, min(self.origin + sample * self._frame, self.end))
        while self._sent and self._is_done_with(self._sent[0]):
            self._sent.popleft()

    def acknowledge_messages(self, next_audio: int) -> None:
        """The session that runs has done with its audio messages before this number."""
        while self._sent:
            item = self._sent[0]
            if isinstance(item, _Audio):
                if item.sequence >= next_audio:
                    return
                self.released = item.end
            elif not self._is_done_with(item):
                return
            self._sent.popleft()

    def answered(self, flush_id: str) -> bool:
        """A flush is answered. False: it was before."""
        known = flush_id in self._unanswered
        self._unanswered.discard(flush_id)
        return known

    def resume(self, next_audio: int, *, closing: bool = False) -> None:
        """The session goes on in a new connection.

        Args:
            next_audio: number of the audio message that the server expects next.
            closing: the server had heard everything.
        """
        if closing:
            return
        wanted = [item for item in self._sent if self._is_wanted(item, next_audio)]
        self._sent = deque(item for item in self._sent if not self._is_wanted(item, next_audio))
        self._waiting.extendleft(reversed(wanted))
        self._next_sequence = next_audio
        self._close_sent = False

    def restart(self, at: int | None = None) -> int:
        """A new session takes over, because the old one is gone.

        Args:
            at: byte from which on the old session heard nothing; None: from what is not acknowledged.

        Returns:
            the byte at which the new session begins.
        """
        start = self.released if at is None else min(max(at, self.released), self.end)
        start -= start % self._frame
        everything = [*self._sent, *self._waiting]
        self._sent.clear()
        self._waiting.clear()
        for item in everything:
            if isinstance(item, _Flush):
                if item.flush_id in self._unanswered:
                    self._waiting.append(item)
            elif item.end > start:
                begin = max(start, item.start)
                self._waiting.append(_Audio(begin, item.data[begin - item.start :]))
        self.origin = self.released = start
        self._next_sequence = 0
        self._close_sent = False
        return start

    def _is_done_with(self, item: _Item) -> bool:
        if isinstance(item, _Flush):
            return item.flush_id not in self._unanswered
        # A frame that is cut across two messages is kept whole.
        return item.end <= self.released - self.released % self._frame

    def _is_wanted(self, item: _Item, next_audio: int) -> bool:
        if isinstance(item, _Flush):
            return item.flush_id in self._unanswered
        return item.sequence >= next_audio

    def _check_open(self) -> None:
        if self.closing:
            raise InvalidState("the stream takes no more audio")
