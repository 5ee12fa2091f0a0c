"""The events of a session, for readers that come, go and come back."""

from __future__ import annotations

import asyncio

import pytest

from ray_whisper_streaming.server.event_log import MAX_KEPT, EventLog, Missed


def filled(count: int) -> EventLog:
    log = EventLog()
    for number in range(count):
        log.append(b"%d" % number)
    return log


def test_reading_on_from_where_one_was() -> None:
    log = filled(3)
    assert log.read(-1) == ([b"0", b"1", b"2"], 2)
    assert log.read(1) == ([b"2"], 2)
    assert log.read(2) == ([], 2)


def test_of_partials_only_the_last_of_each_channel_is_kept_at_its_place() -> None:
    log = EventLog()
    log.append(b"a")
    log.append_partial(b"p0", 0)
    log.append_partial(b"q0", 1)
    log.append(b"b")
    log.append_partial(b"p1", 0)
    assert log.read(-1) == ([b"a", b"q0", b"b", b"p1"], 4)
    assert log.read(2) == ([b"b", b"p1"], 4)
    assert log.read(4) == ([], 4)


def test_what_was_dropped_is_missed() -> None:
    log = filled(MAX_KEPT + 1)
    assert log.first_kept > 0
    with pytest.raises(Missed):
        log.read(log.first_kept - 2)
    kept, last = log.read(log.first_kept - 1)
    assert (kept[0], last) == (b"%d" % log.first_kept, MAX_KEPT)


@pytest.mark.parametrize("after", [3, 100])
def test_the_future_can_t_be_had(after: int) -> None:
    with pytest.raises(Missed):
        filled(3).read(after)


async def test_followers_get_everything_each_at_its_own_pace() -> None:
    log = filled(1)

    async def follow(after: int, pause: bool) -> list[bytes]:
        heard: list[bytes] = []
        async for batch in log.follow(after):
            heard += batch
            if pause:
                for _ in range(5):
                    await asyncio.sleep(0)
        return heard

    followers = [
        asyncio.create_task(follow(*arguments)) for arguments in ((-1, False), (-1, True), (0, False))
    ]
    for number in range(1, 20):
        log.append(b"%d" % number)
        await asyncio.sleep(0)
    log.end()
    everything = [b"%d" % number for number in range(20)]
    assert await asyncio.gather(*followers) == [everything, everything, everything[1:]]
    assert log.readers == 0


async def test_a_follower_that_falls_behind_what_is_kept_is_told() -> None:
    log = filled(1)
    following = log.follow(-1)
    await anext(following)
    for number in range(2 * MAX_KEPT):
        log.append(b"%d" % number)
    with pytest.raises(Missed):
        await anext(following)
    assert log.readers == 0
