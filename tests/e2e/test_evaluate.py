"""``ray-whisper evaluate`` as a user runs it, on the packaged samples."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from importlib import resources
from pathlib import Path

import pytest

SAMPLES = Path(str(resources.files("ray_whisper_streaming") / "samples"))
TOUR = str(SAMPLES / "city_tour.flac")
TIMEOUT_S = 240


def evaluate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray_whisper_streaming", "evaluate", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def reference(tmp_path: Path) -> str:
    listed = json.loads((SAMPLES / "samples.json").read_text())
    path = tmp_path / "tour.txt"
    path.write_text(next(each["text"] for each in listed if each["file"] == "city_tour.flac"))
    return str(path)


@pytest.mark.model
@pytest.mark.speech
@pytest.mark.slow
def test_figures_a_table_and_a_page(tmp_path: Path, reference: str) -> None:
    figures, page = tmp_path / "figures.json", tmp_path / "page.html"
    done = evaluate(
        TOUR, "--reference", reference, "--policy", "hybrid",
        "--variant", "name=later,policy=cutoff,commit_delay_s=1.5",
        "--condition", "phone", "--json", str(figures), "--html", str(page),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(figures.read_text())
    assert (document["mode"], document["step_s"], document["model"]) == ("steps", 1.0, "tiny.en")
    assert "ray-whisper-streaming" in document["machine"]["versions"]
    hybrid, later = document["results"]
    assert (hybrid["variant"], later["variant"]) == ("hybrid", "later")
    for row in (hybrid, later):
        assert row["condition"] == "phone"
        assert (row["lost_stretches"], row["uncovered_voice_s"]) == (0, 0.0)
        assert row["wer"] <= 0.1
        assert row["offline_wer"] <= 0.1
        assert row["words"] == row["words_timed"] == 49
        assert row["utterances_ended_by_silence"] >= 2
        # Silence of 0.8 s, found out at the end of a step.
        assert 0.5 < row["endpoint_delay_s"]["p50"] < 2.5
        assert 0.0 < row["first_partial_latency_s"]["p50"] < 2.0
        assert 0.0 <= row["partial_changed_share"] < 0.3
        assert row["decoded_seconds_per_audio_second"] > 2
        assert row["latency_reference"] == "the system's own word ends"
    # Words are committed a second later, but for those that a pause settles.
    assert later["commit_latency_s"]["mean"] > hybrid["commit_latency_s"]["mean"] + 0.3
    assert "hybrid" in done.stdout
    assert "later, en phone: all voice decoded, no stretch lost" in done.stdout
    assert "<svg" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "AUDIO is 'nothing'"),
        ([TOUR], 2, "--reference is '0 of them'; it must be one text file for each of 1 recordings"),
        ([TOUR, "--reference", "missing.txt"], 2, "--reference is 'missing.txt'"),
        (["missing.flac", "--reference", "REFERENCE"], 1, "missing.flac does not exist"),
        (["--manifest", "missing.jsonl"], 2, "manifest is 'missing.jsonl'"),
        ([TOUR, "--manifest", "MANIFEST"], 2, "alone"),
        (["--manifest", "MANIFEST"], 2, "manifest.jsonl, line 2 is 'no JSON"),
        ([TOUR, "--reference", "REFERENCE", "--variant", "polcy=cutoff"], 2, "variant is 'polcy'"),
        ([TOUR, "--reference", "REFERENCE", "--variant", "beam_size=50"], 2, "beam_size is 50; it must be from 1"),
        ([TOUR, "--reference", "REFERENCE", "--policy", "hybrid", "--policy", "hybrid"], 2, "given once"),
        ([TOUR, "--reference", "REFERENCE", "--language", "de"], 2, "--model base"),
        ([TOUR, "--reference", "REFERENCE", "--condition", "rain"], 2, "condition is 'rain'; it must be one of clean"),
        ([TOUR, "--reference", "REFERENCE", "--condition", "background=5"], 2, "given with recordings without speech"),
        ([TOUR, "--reference", "REFERENCE", *["--condition", "phone"] * 2], 2, "'phone'; it must be given once"),
        ([TOUR, "--reference", "REFERENCE", "--html", "no/such/folder/page.html"], 2, "--html is"),
        ([TOUR, "--reference", "REFERENCE", "--html", "/proc/page.html"], 2, "--html is"),
        ([TOUR, "--reference", "REFERENCE", "--json", "REFERENCE"], 2, "another file than what is read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_a_model_is_loaded(
    tmp_path: Path, reference: str, arguments: list[str], code: int, said: str
) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"path": "a.flac", "language": "en", "text": "good"}\n{"path": "b.flac"\n')
    files = {"REFERENCE": reference, "MANIFEST": str(manifest)}
    done = evaluate(*(files.get(argument, argument) for argument in arguments))
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_what_to_install_is_said_where_the_extra_is_missing(reference: str) -> None:
    program = f"""
        import sys
        sys.modules["jiwer"] = None
        from ray_whisper_streaming.cli.main import app
        app(["evaluate", {TOUR!r}, "--reference", {reference!r}])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("ray-whisper: ")
    assert "pip install 'ray-whisper-streaming[bench]'" in done.stderr
    assert "Traceback" not in done.stderr
