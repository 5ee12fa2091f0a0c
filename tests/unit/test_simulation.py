"""The lines of ``python -m whisper_online`` and when they come, with a clock that the test moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ray_whisper_streaming.compat.processor import Output
from ray_whisper_streaming.compat.simulate import format_line, main, simulate
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.errors import EngineError

NOTHING: Output = (None, None, "")


class Clock:
    """Time that passes only when someone sleeps or works."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


class Recorder:
    """A processor that says how much audio each pass brought, and takes `work_s` for it."""

    def __init__(
        self, clock: Clock, work_s: float = 0.0, fail_at: int | None = None, *, retryable: bool = True
    ) -> None:
        self.clock, self.work_s, self.fail_at, self.retryable = clock, work_s, fail_at, retryable
        self.chunks: list[int] = []

    def insert_audio_chunk(self, audio: np.ndarray) -> None:
        self.chunks.append(len(audio))

    def process_iter(self) -> Output:
        self.clock.now += self.work_s
        if len(self.chunks) == self.fail_at:
            raise EngineError("no", job_id="x", retryable=self.retryable)
        end = sum(self.chunks) / SAMPLE_RATE
        return end - self.chunks[-1] / SAMPLE_RATE, end, f" pass{len(self.chunks)}"

    def finish(self) -> Output:
        return 0.0, 1.0, " end"


def play(seconds: float, **settings: Any) -> tuple[list[str], Recorder]:
    clock = Clock()
    online = Recorder(
        clock,
        settings.pop("work_s", 0.0),
        settings.pop("fail_at", None),
        retryable=settings.pop("retryable", True),
    )
    lines: list[str] = []
    audio = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    simulate(audio, online, write=lines.append, clock=clock, sleep=clock.sleep, **settings)
    return lines, online


@pytest.mark.parametrize(
    ("output", "emission_s", "line"),
    [
        ((0.0, 1.36, " First, chop"), 2.0001234, "2000.1234 0 1360  First, chop"),
        ((12.3456, 13.0, "x"), 0.5, "500.0000 12346 13000 x"),
        ((0.0005, 0.0015, "half"), 1.0, None),
        (NOTHING, 1.0, None),
    ],
)
def test_a_line_is_formatted_as_the_original_does(
    output: Output, emission_s: float, line: str | None
) -> None:
    start, end, text = output
    if start is None or end is None:
        assert format_line(output, emission_s) is None
        return
    original = "%1.4f %1.0f %1.0f %s" % (emission_s * 1000, start * 1000, end * 1000, text)  # noqa: UP031
    assert format_line(output, emission_s) == original == (line or original)


def test_fixed_steps_count_no_computing_time() -> None:
    lines, online = play(2.5, step_s=1.0, unaware=True, work_s=7.0)
    assert online.chunks == [16_000, 16_000, 8_000]
    assert lines == [
        "1000.0000 0 1000  pass1",
        "2000.0000 1000 2000  pass2",
        "2500.0000 2000 2500  pass3",
        "2500.0000 0 1000  end",
    ]


def test_at_real_pace_a_pass_waits_for_its_audio() -> None:
    lines, online = play(2.0, step_s=1.0, work_s=0.25)
    assert online.chunks == [16_000, 16_000]
    assert [line.split()[0] for line in lines] == ["1250.0000", "2250.0000", "2250.0000"]


def test_what_came_during_a_slow_pass_is_taken_at_once() -> None:
    lines, online = play(10.0, step_s=1.0, work_s=4.0)
    # Passes at 1, 5 and 9 s; the last one, at 13 s, has what was left.
    assert online.chunks == [16_000, 64_000, 64_000, 16_000]
    assert [line.split()[0] for line in lines[:-1]] == ["5000.0000", "9000.0000", "13000.0000", "17000.0000"]


@pytest.mark.parametrize("unaware", [False, True])
def test_a_simulation_may_start_within_the_audio(unaware: bool) -> None:
    lines, online = play(5.0, step_s=1.0, start_at_s=3.0, unaware=unaware)
    assert online.chunks == [16_000, 16_000]
    assert lines[0].split()[0] == "4000.0000"


def test_a_failed_pass_writes_nothing_and_the_stream_goes_on() -> None:
    lines, online = play(3.0, step_s=1.0, unaware=True, fail_at=2)
    assert len(online.chunks) == 3
    assert [line.split()[-1] for line in lines] == ["pass1", "pass3", "end"]


def test_a_pass_that_would_fail_again_ends_the_run() -> None:
    with pytest.raises(EngineError):
        play(3.0, step_s=1.0, unaware=True, fail_at=2, retryable=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--min-chunk-size", "0"], "--min-chunk-size: is 0; it must be a number of seconds above 0"),
        (["--min-chunk-size", "-1"], "--min-chunk-size: is -1"),
        (["--min-chunk-size", "nan"], "--min-chunk-size: is nan"),
        (["--vac", "--vac-chunk-size", "0"], "--vac-chunk-size: is 0"),
        (["--start_at", "-3"], "--start_at: is -3; it must be a number of seconds from 0 on"),
        (["--beam-size", "0"], "--beam-size: is 0; it must be 1 or more"),
        (["-l", "foo"], "-l/--log-level: invalid choice: 'FOO'"),
    ],
)
def test_numbers_that_can_not_be_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["missing.wav", *arguments])
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lan", "xx"], "lan is 'xx'"),
        (["--backend", "openai-api"], "backend is 'openai-api'"),
        (["--buffer_trimming", "sentence"], "lan is 'auto'"),
        (["--model", "tiny.en", "--lan", "de"], "tiny.en knows English alone"),
        (["--model", "tiny.en", "--task", "translate"], "tiny.en knows English alone"),
    ],
)
def test_what_can_not_be_served_is_wrong_usage_told_before_any_work(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["missing.wav", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("whisper_online: ")
    assert said in line


def test_what_is_missing_is_no_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["missing.wav", "-l", "error"]) == 1
    assert "missing.wav" in capsys.readouterr().err


def test_a_closed_stdout_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert main(["missing.wav"]) == 1
    assert capsys.readouterr().err == "whisper_online: stdout is closed\n"


def test_wrong_usage_is_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["a.wav", "--offline", "--comp_unaware"], ["a.wav", "--task", "sing"], []):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2
    assert "exclude each other" in capsys.readouterr().err
