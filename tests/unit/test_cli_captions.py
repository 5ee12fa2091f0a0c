"""What the demo measures, and how it shows it."""

import io
import re

import pytest
from rich.console import Console

from ray_whisper_streaming import (
    Committed,
    EngineError,
    Final,
    JobFailed,
    Partial,
    PoolStats,
    StreamFailed,
    Word,
)
from ray_whisper_streaming.cli.captions import Caption, Figures
from ray_whisper_streaming.cli.screen import CaptionScreen, figures_table, plain_line


def words(text: str, *ends_s: float) -> tuple[Word, ...]:
    return tuple(Word(f" {word}", end - 0.2, end) for word, end in zip(text.split(), ends_s, strict=True))


def committed(text: str, *ends_s: float) -> Committed:
    return Committed(words=words(text, *ends_s), first_index=0)


def shown(renderable: object, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_latencies_count_from_the_end_of_a_word_on_the_pacing_clock() -> None:
    caption = Caption("a", started_at=100.0)
    caption.receive(Partial(words=words("one two", 1.0, 1.5)), 102.0)
    caption.receive(committed("one", 1.0), 103.0)
    caption.receive(Partial(words=words("two three", 1.5, 2.5)), 103.0)
    caption.receive(committed("two three", 1.5, 2.5), 105.0)
    assert caption.shown_latencies_s == pytest.approx([1.0, 0.5, 0.5])
    assert caption.commit_latencies_s == pytest.approx([2.0, 3.5, 2.5])
    assert caption.words == 3
    assert caption.committed == " one two three"


def test_what_a_pass_commits_and_shows_at_once_is_one_update() -> None:
    caption = Caption("a")
    caption.receive(committed("one", 1.0), 2.0)
    caption.receive(Partial(words=words("two", 1.5)), 2.001)
    caption.receive(Partial(words=words("two", 1.5)), 3.0)
    assert caption.updates == 2


def test_played_faster_words_end_earlier() -> None:
    caption = Caption("a", started_at=0.0, speed=2.0)
    caption.receive(committed("one", 3.0), 2.0)
    assert caption.commit_latencies_s == pytest.approx([0.5])


def test_words_that_turned_fewer_are_not_shown_twice() -> None:
    caption = Caption("a")
    caption.receive(Partial(words=words("a b c", 1.0, 1.2, 1.4)), 2.0)
    caption.receive(Partial(words=words("ab", 1.2)), 3.0)
    caption.receive(committed("ab c", 1.2, 1.4), 4.0)
    assert len(caption.shown_latencies_s) == 3


def test_how_streams_end() -> None:
    caption = Caption("a")
    caption.receive(Partial(words=words("half", 1.0)), 1.0)
    caption.receive(Final(utterance=0, words=()), 2.0)
    assert (caption.partial, caption.done) == ("", False)
    caption.receive(Final(utterance=1, words=(), end_of_stream=True), 3.0)
    assert caption.done
    broken = Caption("b")
    broken.receive(JobFailed(error=EngineError("no", job_id="1"), retry_in_s=1.0), 1.0)
    broken.receive(StreamFailed(error=EngineError("worse", job_id="1")), 1.0)
    assert (broken.failed_jobs, broken.error, broken.done) == (1, "worse", False)
    assert (Figures([caption, broken]).failed, Figures([caption, broken]).failed_jobs) == (1, 1)


def test_figures_of_nothing() -> None:
    figures = Figures([Caption("a", reference="never said")])
    assert figures.commit_latency_s(50) is None
    assert figures.updates_per_s == 0.0
    assert figures.word_error_rate() is None


def test_word_error_rate_of_whole_captions_only() -> None:
    pytest.importorskip("jiwer")
    pytest.importorskip("whisper_normalizer")
    right = Caption(
        "a", reference="We're here, Mister Smith.", committed=" we are here mr. smith", whole=True, done=True
    )
    wrong = Caption("b", reference="Blue sky", committed=" blue sea", whole=True, done=True)
    cut = Caption("c", reference="Never heard", committed="", whole=False, done=True)
    assert Figures([right, cut]).word_error_rate() == 0.0
    assert Figures([right, wrong, cut]).word_error_rate() == pytest.approx(1 / 7)


def test_captions_roll_up_without_breaking_their_lines_anew() -> None:
    caption = Caption("talk")
    screen = CaptionScreen([caption], "1 worker, tiny.en")
    before: list[str] = []
    for number in range(60):
        caption.receive(committed(f"word{number}", float(number)), float(number))
        header, *lines = shown(screen, width=50)
        assert "1 stream on 1 worker, tiny.en" in header
        assert len(lines) == 2
        texts = [line[5:42].strip() for line in lines]
        if before and before[1]:
            assert texts[0] in before
        assert f"word{number}" in " ".join(texts)
        before = texts


def test_what_is_written_without_spaces_rolls_up_without_losing_a_letter() -> None:
    caption = Caption("talk")
    screen = CaptionScreen([caption], "1 worker")
    said = "".join(chr(0x3042 + number) for number in range(80))
    seen: list[str] = []
    for number, letter in enumerate(said):
        caption.receive(Committed(words=(Word(letter, number, number + 1.0),), first_index=number), 0.0)
        _, *lines = shown(screen, width=50)
        texts = ["".join(letter for letter in line if letter in said) for line in lines]
        seen += [text for text in texts if text and text not in seen]
    whole = [text for text in seen if not any(text in longer for longer in seen if longer != text)]
    assert len(whole) > 3
    assert "".join(whole) == said


def test_partials_may_come_and_go_without_losing_committed_text() -> None:
    caption = Caption("talk")
    screen = CaptionScreen([caption], "1 worker")
    caption.receive(committed("alpha beta", 1.0, 2.0), 2.0)
    caption.receive(Partial(words=words("much " * 30, *map(float, range(30)))), 3.0)
    assert len(shown(screen, width=50)) == 3
    caption.receive(Partial(words=words("less", 3.0)), 4.0)
    assert "alpha beta less" in shown(screen, width=50)[1]


def test_a_failed_stream_says_why() -> None:
    caption = Caption("talk", error="no [such] model")
    assert "no [such] model" in shown(CaptionScreen([caption], "x"))[1]


def test_more_streams_than_lines() -> None:
    captions = [Caption(f"talk {number}") for number in range(40)]
    lines = shown(CaptionScreen(captions, "1 worker"), height=20)
    assert len(lines) <= 19
    assert lines[-1] == "... and 24 more streams: no room here"
    two_each = shown(CaptionScreen(captions[:8], "1 worker"), height=20)
    assert len(two_each) == 17


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("reference", ["", "one two"])
def test_the_table_fits_the_screen(width: int, reference: str) -> None:
    captions = [
        Caption(f"{number} weather_report", audio_s=60.0, reference=reference, whole=True)
        for number in range(1, 4)
    ]
    for number, caption in enumerate(captions):
        caption.receive(committed("one two", 1.0, 2.0), 13.0 + number)
        caption.done = True
    stats = PoolStats(jobs_done=5, batches=2, batch_size_mean=2.5, inference_s=0.5, queue_wait_s=0.25)
    lines = shown(figures_table(captions, stats, 20.0, "2 Ray workers, tiny.en"), width=width)
    assert lines[0] == "3 streams on 2 Ray workers, tiny.en"
    first = next(line for line in lines if line.startswith(" 1 weather"))
    assert first.count("11.50 / 11.95") == 2  # committed and shown
    assert re.search(r"11\.95 +\d\.\d *$", first)  # updates per second
    assert ("WER %" in " ".join(lines)) is bool(reference)
    everyone = next(line for line in lines if line.startswith(" all"))
    assert everyone.split()[1:3] == ["180.0", "6"]
    text = " ".join(lines)
    assert "5 passes in 2 batches of 2.5; a pass waited 250 ms, a batch took 500 ms." in text
    assert "Real-time factor 0.01: 1.0 s of work for 180.0 s of audio, in 20.0 s." in text
    assert max(map(len, lines)) <= width


def test_plain_lines_say_when_who_and_what() -> None:
    line = plain_line(Caption("talk", started_at=10.0), "so it [goes]", 12.34)
    assert line.split() == ["2.3", "s", "talk", "so", "it", "[goes]"]
