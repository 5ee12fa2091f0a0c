"""However often the connection is lost and the session with it, the server hears everything once, in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_whisper_streaming.client.outbox import Outbox
from ray_whisper_streaming.wire.native import Audio, ServerSide
from ray_whisper_streaming.wire.native_messages import Close, Flush

steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 40)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("send"), st.integers(1, 10)),
        st.tuples(st.just("lose"), st.integers(0, 5)),
        st.tuples(st.just("forget"), st.integers(0, 5)),
        st.tuples(st.just("acknowledge"), st.integers(0, 100)),
        st.tuples(st.just("answer"), st.just(0)),
    ),
    max_size=60,
)

FRAME = 2


class Server:
    """The server's side, with what reached it."""

    def __init__(self, begins_at: int) -> None:
        self.machine = ServerSide()
        self.machine.receive('{"type":"options"}')
        self.begins_at = begins_at
        self.heard = bytearray()
        self.starts: set[int] = set()
        self.flushes: list[str] = []
        self.closed = False

    def receive(self, message: str | bytes) -> None:
        command = self.machine.receive(message)
        if isinstance(command, Audio):
            self.starts.add(self.begins_at + len(self.heard))
            self.heard += command.data
        elif isinstance(command, Flush):
            self.flushes.append(command.id)
        elif isinstance(command, Close):
            self.closed = True


@given(steps=steps, packets=st.booleans())
def test_everything_arrives_once_and_in_order(steps: list[tuple[str, int]], packets: bool) -> None:
    """Samples, cut anywhere; or packets, whole."""
    outbox, server = Outbox(1 if packets else FRAME), Server(0)
    outbox.limit_messages(64 if packets else 16)
    said = bytearray()
    starts: set[int] = set()
    asked: list[str] = []
    answered: set[str] = set()
    wire: list[str | bytes] = []

    def deliver() -> None:
        while wire:
            server.receive(wire.pop(0))

    def lose(delivered: int, *, forget: bool) -> None:
        """Of what is on its way a part arrives."""
        nonlocal server
        for message in wire[:delivered]:
            server.receive(message)
        wire.clear()
        if forget:
            server = Server(outbox.restart())
            assert server.begins_at <= len(said)
        else:
            outbox.resume(server.machine.next_audio, closing=server.machine.state == "closing")

    for kind, amount in [*steps, ("close", 0), ("send", 2), ("lose", 1)]:
        if kind == "push":
            piece = bytes((len(said) + index) % 251 for index in range(amount))
            starts.add(len(said))
            said += piece
            outbox.push(piece)
        elif kind == "flush":
            asked.append(str(len(asked)))
            outbox.flush(asked[-1])
        elif kind == "send":
            taken = (outbox.take() for _ in range(amount))
            wire += [message for message in taken if message is not None]
        elif kind in ("lose", "forget"):
            lose(amount, forget=kind == "forget")
        elif kind == "acknowledge":
            deliver()
            if packets:
                outbox.acknowledge_messages(min(amount, server.machine.next_audio))
            else:
                outbox.acknowledge(min(amount, len(server.heard) // FRAME))
        elif kind == "answer":
            deliver()
            for flush_id in server.flushes:
                if outbox.answered(flush_id):
                    answered.add(flush_id)
        else:
            outbox.close()
        assert not packets or server.starts <= starts
        # All that no server has acknowledged is there.
        assert bytes(server.heard) == bytes(said[server.begins_at : server.begins_at + len(server.heard)])
    while (message := outbox.take()) is not None:
        wire.append(message)
    deliver()
    assert server.begins_at + len(server.heard) == len(said)
    assert bytes(server.heard) == bytes(said[server.begins_at :])
    assert server.closed
    assert answered | set(server.flushes) == set(asked)
