"""Who gets a session: measured load, limits of keys, and what is said to those who get none."""

from __future__ import annotations

from typing import Any

import pytest

from ray_whisper_streaming.pool.base import PoolStats
from ray_whisper_streaming.server.access import Principal
from ray_whisper_streaming.server.admission import Admission, Lease
from ray_whisper_streaming.server.config import ServerConfig
from ray_whisper_streaming.server.keys import KeyLimits
from ray_whisper_streaming.server.load import Load, LoadMeter
from ray_whisper_streaming.server.refusal import ANSWERS, Refusal
from ray_whisper_streaming.server.room import Room

ANNE, BOB = Principal(tenant="anne"), Principal(tenant="bob")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Door(Admission):
    """Of a server with one model, whose workers are ready."""

    def __init__(self, clock: Clock, **config: Any) -> None:
        super().__init__(ServerConfig(**config), clock)
        self.room = Room(ServerConfig(**config), clock)
        self.room.load = Load()

    def enter(self, principal: Principal, streams: int = 1) -> Lease:
        return self.admit(principal, self.room, streams)


def refused(door: Door, principal: Principal = ANNE, streams: int = 1) -> tuple[str, float | None]:
    with pytest.raises(Refusal) as caught:
        door.enter(principal, streams)
    return caught.value.code, caught.value.retry_after_s


def test_nobody_comes_in_before_workers_are_ready_and_while_it_goes_down(clock: Clock) -> None:
    door = Door(clock)
    door.room.load = Load(ready=False)
    assert refused(door)[0] == "not_ready"
    door.room.load = Load()
    door.enter(ANNE)
    door.draining = True
    assert refused(door)[0] == "draining"


@pytest.mark.parametrize("load", [Load(queue_wait_s=2.5), Load(lag_s=9.0)])
def test_measured_load_closes_the_door_and_opens_it(clock: Clock, load: Load) -> None:
    door = Door(clock, max_queue_wait_s=2.0, max_lag_s=6.0)
    door.room.load = load
    code, retry_after_s = refused(door)
    assert code == "overloaded"
    assert retry_after_s == max(load.queue_wait_s, load.lag_s)
    door.room.load = Load(queue_wait_s=2.0, lag_s=6.0)
    door.enter(ANNE)


def test_a_crowd_waits_until_the_first_can_be_measured(clock: Clock) -> None:
    door = Door(clock, max_new_streams=3)
    first = door.enter(ANNE, 2)
    door.enter(BOB)
    assert refused(door)[0] == "overloaded"
    first.release()  # who has gone is no load
    door.enter(ANNE, 2)
    assert refused(door)[0] == "overloaded"
    clock.now += 2.0
    door.enter(ANNE, 3)


def test_a_count_of_streams_is_a_bound_too(clock: Clock) -> None:
    door = Door(clock, max_streams=3)
    door.enter(ANNE, 2)
    assert refused(door, BOB, 2)[0] == "overloaded"
    lease = door.enter(BOB)
    assert door.streams == 3
    lease.release()
    lease.release()
    assert door.streams == 2


def test_streams_of_a_key(clock: Clock) -> None:
    door = Door(clock, max_streams_per_key=2)
    leases = [door.enter(ANNE), door.enter(ANNE)]
    assert refused(door)[0] == "too_many_streams"
    door.enter(BOB)
    leases[0].release()
    door.enter(ANNE)
    rich = Principal(tenant="rich", limits=KeyLimits(streams=3))
    door.enter(rich, 3)
    assert refused(door, rich)[0] == "too_many_streams"


def test_new_sessions_of_a_key_per_minute(clock: Clock) -> None:
    door = Door(clock, max_sessions_per_minute=2)
    door.enter(ANNE).release()
    clock.now += 20
    door.enter(ANNE).release()
    assert refused(door) == ("too_many_sessions", 40.0)
    door.enter(BOB)
    clock.now += 40
    door.enter(ANNE)
    assert refused(door) == ("too_many_sessions", 20.0)


def test_audio_of_a_key_per_hour(clock: Clock) -> None:
    door = Door(clock, max_audio_minutes_per_hour=2.0)
    assert door.charge(ANNE, 60.0)
    clock.now += 1800
    assert door.charge(ANNE, 60.0)
    assert refused(door) == ("audio_quota", 1800.0)
    assert not door.charge(ANNE, 1.0)
    clock.now += 1800
    door.enter(ANNE)


def test_keys_that_use_nothing_are_forgotten(clock: Clock) -> None:
    door = Door(clock)
    lease = door.enter(ANNE)
    for number in range(100):
        door.enter(Principal(tenant=str(number))).release()
        clock.now += 2.0
    door.charge(BOB, 1.0)
    clock.now += 3601
    door.sweep()
    assert set(door._usage) == {"anne"}
    lease.release()
    door.sweep()
    assert door._usage == {}


def test_what_is_said() -> None:
    refusal = Refusal("overloaded", "busy", retry_after_s=2.2)
    assert (refusal.http_status, refusal.close_code) == (429, 1013)
    assert refusal.headers == {"Retry-After": "3"}
    assert refusal.body == {"error": {"code": "overloaded", "message": "busy", "retry_after": 2.2}}
    assert Refusal("unauthorized", "who?").headers == {"WWW-Authenticate": "Bearer"}
    assert all(400 <= answer.http_status < 600 for answer in ANSWERS.values())


# ---------------------------------------------------------------- several models


def test_a_model_that_is_busy_keeps_nobody_from_another(clock: Clock) -> None:
    door = Door(clock, max_new_streams=3)
    other = Room(ServerConfig(max_new_streams=3), clock)
    other.load = Load()
    for load, code in ((Load(queue_wait_s=9.0), "overloaded"), (Load(ready=False), "not_ready")):
        door.room.load = load
        assert refused(door)[0] == code
        door.admit(ANNE, other).release()
        door.check(ANNE, [door.room, other])  # whoever has not said yet which one he wants
    other.load = Load(queue_wait_s=3.0)
    with pytest.raises(Refusal) as caught:
        door.check(ANNE, [door.room, other])
    assert caught.value.retry_after_s == 3.0  # the first that may have room again


def test_a_crowd_at_one_model_is_none_at_another(clock: Clock) -> None:
    door = Door(clock, max_new_streams=3, max_streams=5)
    other = Room(ServerConfig(max_new_streams=3), clock)
    other.load = Load()
    door.enter(ANNE, 3)
    assert refused(door)[0] == "overloaded"
    lease = door.admit(ANNE, other, 2)
    assert (door.streams, door.room.streams, other.streams) == (5, 3, 2)
    clock.now += 2.0
    assert refused(door)[0] == "overloaded"  # the bound for memory is the server's
    lease.release()
    assert (door.streams, other.streams) == (3, 0)
    door.enter(ANNE, 2)


# ---------------------------------------------------------------- measuring


def stats(jobs: int, wait_s: float, queued: int = 0, workers: int = 1) -> PoolStats:
    """Of a pool without batches."""
    return PoolStats(
        workers=workers,
        queued=queued,
        batches=jobs,
        batch_size_mean=1.0 if jobs else 0.0,
        queue_wait_s=wait_s,
    )


def test_the_wait_is_that_of_the_last_second(clock: Clock) -> None:
    meter = LoadMeter(clock)
    assert meter.measure(stats(100, 1.0), []).queue_wait_s == pytest.approx(1.0)
    clock.now += 1
    # Ten more, which waited 0.1 s: the mean since the start says 0.92.
    assert meter.measure(stats(110, 101 / 110), []).queue_wait_s == pytest.approx(0.1)
    clock.now += 1
    assert meter.measure(stats(110, 101 / 110), []).queue_wait_s == 0.0


def test_a_queue_that_does_not_move_is_a_wait(clock: Clock) -> None:
    meter = LoadMeter(clock)
    meter.measure(stats(10, 0.1), [])
    for second in range(1, 4):
        clock.now += 1
        assert meter.measure(stats(10, 0.1, queued=5), []).queue_wait_s == second
    clock.now += 1
    assert meter.measure(stats(11, 0.1), []).queue_wait_s < 1


def test_one_in_ten_may_lag(clock: Clock) -> None:
    meter = LoadMeter(clock)
    assert meter.measure(stats(0, 0.0), []).lag_s == 0.0
    assert meter.measure(stats(0, 0.0), [4.0]).lag_s == 4.0
    assert meter.measure(stats(0, 0.0), [1.0] * 19 + [9.0]).lag_s == 1.0
    assert meter.measure(stats(0, 0.0), [1.0] * 8 + [9.0] * 2).lag_s == 9.0


def test_without_workers_it_is_not_ready(clock: Clock) -> None:
    assert not LoadMeter(clock).measure(stats(0, 0.0, workers=0), []).ready


def test_a_place_is_passed_on_whatever_is_refused_to_others(clock: Clock) -> None:
    door = Door(clock, max_sessions_per_minute=1, max_streams=1)
    lease = door.enter(ANNE)
    door.draining = True
    door.room.load = Load(ready=False)
    heir = lease.pass_on(door.room)
    lease.release()  # it is spent
    assert (door.streams, door.room.streams) == (1, 1)
    heir.release()
    assert (door.streams, door.room.streams) == (0, 0)
    with pytest.raises(Refusal, match="going down"):
        heir.pass_on(door.room)


def test_a_place_is_passed_on_to_another_model_that_has_room(clock: Clock) -> None:
    door = Door(clock)
    other = Room(ServerConfig(), clock)
    lease = door.enter(ANNE)
    with pytest.raises(Refusal, match="no worker"):
        lease.pass_on(other)
    assert (door.room.streams, other.streams) == (1, 0)
    other.load = Load()
    heir = lease.pass_on(other)
    assert (door.streams, door.room.streams, other.streams) == (1, 0, 1)
    heir.release()
    assert (door.streams, other.streams) == (0, 0)
