"""``ray-whisper`` as a user runs it: real processes, the real model, the packaged samples."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from functools import partial
from importlib import resources
from pathlib import Path

import psutil
import pytest

from ray_whisper_streaming import __version__
from ray_whisper_streaming.media import decode_file

SAMPLES = Path(str(resources.files("ray_whisper_streaming") / "samples"))
TOUR, SOUP = str(SAMPLES / "city_tour.flac"), str(SAMPLES / "soup_recipe.flac")
COMMAND = [sys.executable, "-m", "ray_whisper_streaming"]
TIMEOUT_S = 120


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, timeout=TIMEOUT_S, check=False
    )
    out, said = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in said
    return subprocess.CompletedProcess(done.args, done.returncode, out, said)


def pcm(path: str) -> bytes:
    return b"".join(piece.tobytes() for piece in decode_file(path))


def test_version_and_help() -> None:
    assert run("--version").stdout == f"ray-whisper {__version__}\n"
    text = run("--help").stdout
    assert all(command in text for command in ("demo", "transcribe", "models"))


def test_help_loads_no_runtime() -> None:
    program = """
        import sys
        from ray_whisper_streaming.cli.main import app
        for command in ([], ["demo"], ["serve"], ["listen"], ["evaluate"]):
            try:
                app([*command, "--help"])
            except SystemExit as end:
                assert end.code == 0
        heavy = {"av", "ctranslate2", "faster_whisper", "onnx", "onnxruntime", "ray", "torch", "uvicorn"}
        print("loaded:", sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("loaded: []\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--language", "de"], "--model base"),
        (["--task", "translate"], "--model base"),
        (["--language", "xx", "--model", "base"], "language is 'xx'"),
        (["--rate", "100"], "sample_rate is 100"),
        (["--beam-size", "30"], "--beam-size"),
        (["--temperature", "1.5"], "--temperature"),
        (["--min-speech-s", "-1"], "min_speech_s is -1"),
        (["--min-silence-s", "0"], "min_silence_s is 0"),
        (["--sentence-silence-s", "0"], "sentence_silence_s is 0"),
        (["--max-utterance-s", "0.5"], "max_utterance_s is 0.5"),
        (["--lines", "3"], "lines is 3"),
        ([SOUP, "--output", TOUR], "--output"),
    ],
)
def test_wrong_usage_is_told_before_a_model_is_loaded(arguments: list[str], said: str) -> None:
    done = run("transcribe", TOUR, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in re.sub(r"\x1b\[[0-9;]*m", "", done.stderr)


def test_stdin_can_be_named_once() -> None:
    done = run("transcribe", "-", "-")
    assert (done.returncode, done.stdout) == (2, "")
    assert "stdin is 'named more than once'" in done.stderr


def test_a_recording_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = tmp_path / "mine.wav"
    recording.write_bytes(b"what can't be had again")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.srt").symlink_to(recording)
    (tmp_path / "folder" / "mine.txt").hardlink_to(recording)
    monkeypatch.chdir(tmp_path)
    for output in (str(recording), "folder/../mine.wav", "link.srt", "folder"):
        for files in (["mine.wav"], [TOUR, "mine.wav"] if output == "folder" else [str(recording)]):
            done = run("transcribe", *files, "--output", output)
            assert (done.returncode, done.stdout) == (2, "")
            assert "it must be another file than what is read" in done.stderr
    assert recording.read_bytes() == b"what can't be had again"
    assert [each.name for each in (tmp_path / "folder").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("output", ["FOLDER.txt", "FILE/x.txt", "/proc/x.txt"])
def test_an_output_that_can_not_be_written_is_told_before_a_model_is_loaded(
    tmp_path: Path, output: str
) -> None:
    (tmp_path / "FILE").touch()
    (tmp_path / "out" / "city_tour.txt").mkdir(parents=True)
    path = {"FOLDER.txt": tmp_path / "out", "FILE/x.txt": tmp_path / "FILE" / "x.txt"}.get(output, output)
    done = run("transcribe", TOUR, "--output", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "--output is" in done.stderr


@pytest.mark.model
def test_models_lists_what_is_installed() -> None:
    done = run("models")
    assert done.returncode == 0
    assert re.search(r"^tiny\.en +English +installed package$", done.stdout, re.MULTILINE)


@pytest.mark.model
def test_a_bad_file_does_not_cost_the_good_ones(tmp_path: Path) -> None:
    notes = tmp_path / "notes.wav"
    notes.write_text("this is no audio")
    done = run("transcribe", TOUR, str(notes), SOUP)
    assert done.returncode == 1
    (complaint,) = done.stderr.splitlines()
    assert complaint.startswith("ray-whisper: ")
    assert "notes.wav" in complaint
    tour, soup = re.split(r"^# .*\n", done.stdout, flags=re.MULTILINE)[1:]
    assert "stone bridge" in tour
    assert "two onions" in soup


@pytest.mark.model
def test_a_folder_without_recordings_does_not_cost_the_others(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("transcribe", TOUR, str(tmp_path / "empty"), str(tmp_path / "missing.wav"))
    assert done.returncode == 1
    assert "stone bridge" in done.stdout
    assert done.stderr.splitlines() == [
        f"ray-whisper: {tmp_path / 'empty'} holds no recordings",
        f"ray-whisper: {tmp_path / 'missing.wav'} does not exist",
    ]


@pytest.mark.model
def test_subtitles_into_a_folder(tmp_path: Path) -> None:
    looks = ("--line-length", "30", "--lines", "1")
    done = run("transcribe", TOUR, TOUR, "--format", "srt", *looks, "--output", str(tmp_path / "texts"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    first, second = sorted((tmp_path / "texts").iterdir())
    assert (first.name, second.name) == ("city_tour-2.srt", "city_tour.srt")
    cues = first.read_text().split("\n\n")
    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:0\d,\d{3}\nWelcome to the old town", cues[0], re.IGNORECASE)
    assert all(len(line) <= 30 for line in first.read_text().splitlines())
    assert all(len(cue.split("\n")) == 3 for cue in first.read_text().strip().split("\n\n"))


@pytest.mark.model
def test_stdin_as_json_lines() -> None:
    done = run("transcribe", "-", "--format", "jsonl", stdin=pcm(TOUR))
    assert (done.returncode, done.stderr) == (0, "")
    utterances = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(utterances) >= 2
    assert all(each["file"] == "-" and each["words"] for each in utterances)
    words = [word for each in utterances for word in each["words"]]
    starts = [word["start"] for word in words]
    assert starts == sorted(starts)
    assert "stone bridge" in " ".join(each["text"] for each in utterances)


@pytest.mark.model
def test_text_from_stdin_comes_while_it_is_open_and_ctrl_c_ends_it() -> None:
    with subprocess.Popen(
        [*COMMAND, "transcribe", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Tests that a shell runs in the background are started with the signal ignored, and hand that on.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(pcm(TOUR))
        process.stdin.flush()
        assert b"Welcome" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        # Before stdin is closed: a reader that can't be interrupted would hang here.
        assert process.wait(TIMEOUT_S) == 130
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.model
def test_raw_samples_are_wanted_on_stdin() -> None:
    done = run("transcribe", "-", stdin=Path(TOUR).read_bytes())
    assert done.returncode == 1
    assert "raw 16-bit samples" in done.stderr


@pytest.mark.model
@pytest.mark.parametrize(
    "arguments", [["transcribe", TOUR], ["demo", "--backend", "local", "--streams", "3", "--limit-s", "2"]]
)
def test_a_reader_that_has_gone_is_nothing_to_complain_about(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=TIMEOUT_S, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [["transcribe", TOUR], ["models"]])
def test_a_closed_stdout_is_an_error(arguments: list[str]) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stderr) == (1, b"ray-whisper: stdout is closed\n")


@pytest.mark.model
@pytest.mark.ray
def test_demo_on_ray_leaves_no_process() -> None:
    command = [*COMMAND, "demo", "--plain", "--limit-s", "5", "--streams", "3", TOUR, SOUP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        started = psutil.Process(process.pid).children(recursive=True)
        out, said = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, said) == (0, "")
    assert started  # Ray's own and the worker's
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []
    lines = [first, *out.splitlines()]
    assert any("3 city_tour" in line and "Welcome" in line for line in lines)
    assert "3 streams on 1 Ray worker, tiny.en" in out
    everyone = next(line for line in lines if line.startswith(" all"))
    assert everyone.split()[1] == "15.0"
    assert "Failed: 0 of 3 streams, 0 of the passes" in out


@pytest.mark.model
def test_demo_of_what_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("this is no audio")
    done = run("demo", "--backend", "local", "--speed", "4", "--limit-s", "5", str(tmp_path), TOUR)
    assert done.returncode == 1
    assert "notes: notes.wav can't be read as audio" in done.stdout
    assert "Welcome" in done.stdout
    assert "Failed: 1 of 2 streams" in done.stdout
