"""The microphone helper, with a stand-in for `sounddevice`."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ray_whisper_streaming.client import Microphone, microphone
from ray_whisper_streaming.errors import AudioError, ConfigurationError


class NoDevice(Exception):
    """As PortAudio's."""


class Input:
    """What `sounddevice` opens."""

    opened: Input

    def __init__(self, **settings: Any) -> None:
        if settings["device"] == "none":
            raise NoDevice("no such device")
        self.settings, self.running = settings, False
        Input.opened = self

    def start(self) -> None:
        self.running = True
        if self.settings["device"] == "busy":
            raise NoDevice("it is busy")

    def close(self) -> None:
        self.running = False

    def hear(self, data: bytes) -> None:
        self.settings["callback"](memoryview(data), len(data) // 2, None, None)


@pytest.fixture(autouse=True)
def sounddevice(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(RawInputStream=Input, PortAudioError=NoDevice)
    monkeypatch.setitem(sys.modules, "sounddevice", module)


def test_sound_comes_until_it_is_closed() -> None:
    with microphone(8_000, 2) as source:
        Input.opened.hear(b"ab")
        Input.opened.hear(b"cd")
        packets = iter(source)
        assert next(packets) == b"ab"
        assert Input.opened.running
    assert not Input.opened.running
    assert list(packets) == [b"cd"]
    assert list(source) == []  # and it does not hang
    settings = Input.opened.settings
    assert (settings["samplerate"], settings["channels"], settings["blocksize"]) == (8_000, 2, 800)


async def test_sound_in_async_programs() -> None:
    with microphone() as source:
        Input.opened.hear(b"ab")
    assert [packet async for packet in source] == [b"ab"]


def test_sound_that_nobody_fetches_is_dropped_from_its_beginning() -> None:
    with Microphone(packet_s=10.0) as source:
        for packet in (b"1", b"2", b"3", b"4", b"5"):
            Input.opened.hear(packet)
        assert source.dropped_s == pytest.approx(20.0)
    assert list(source)[-1] == b"5"


def test_no_such_microphone() -> None:
    with pytest.raises(AudioError, match="no such device"):
        microphone(device="none").start()


def test_a_microphone_that_does_not_start_is_closed_again() -> None:
    with pytest.raises(AudioError, match="busy"):
        microphone(device="busy").start()
    assert not Input.opened.running


def test_it_may_be_used_again() -> None:
    source = microphone()
    for sound in (b"ab", b"cd"):
        with source:
            Input.opened.hear(sound)
        assert list(source) == [sound]


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ConfigurationError, match="libportaudio2"):
        microphone()
