"""Figures of hand-made logs, and the page and table that show them."""

from __future__ import annotations

import io
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from ray_whisper_streaming.bench.evaluation import ClipText, Figures, Heard, as_row, summarise
from ray_whisper_streaming.bench.evaluation_page import render_page
from ray_whisper_streaming.bench.evaluation_run import choose_entries
from ray_whisper_streaming.bench.evaluation_table import make_table, tell_coverage
from ray_whisper_streaming.bench.lockstep import Work
from ray_whisper_streaming.bench.material import Clip, read_manifest
from ray_whisper_streaming.bench.scatter import LETTER, Point, draw_scatter
from ray_whisper_streaming.bench.scoring import Pass, Shown, StreamLog, Utterance
from ray_whisper_streaming.bench.text_errors import Edit
from ray_whisper_streaming.core.jobs import SAMPLE_RATE
from ray_whisper_streaming.core.options import StreamOptions
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.errors import ConfigurationError

OPTIONS = StreamOptions(language="en")


def say(text: str) -> tuple[Word, ...]:
    """One word a second, each ending half a second after its start."""
    return tuple(Word(f" {word}", i, i + 0.5) for i, word in enumerate(text.split()))


def clip(text: str, *, seconds: float = 10.0, timed: bool = True, name: str = "clip") -> Clip:
    audio = np.zeros(round(seconds * SAMPLE_RATE), np.int16)
    return Clip(name=name, audio=audio, text=text, words=say(text) if timed else ())


def committed(text: str, delay_s: float = 1.0) -> StreamLog:
    return StreamLog(shown=[Shown(word.end_s + delay_s, True, (word,)) for word in say(text)])


def summed(
    *speech: Heard,
    silence: tuple[Heard, ...] = (),
    variant: str = "a",
    language: str = "en",
    condition: str = "clean",
) -> Figures:
    return summarise(variant, OPTIONS, language, speech, Work(jobs=30, audio_s=50.0), silence, condition)


class TestFigures:
    def test_errors_and_work_of_all_clips_count_together(self):
        figures = summed(
            Heard(clip("red green blue"), committed("red grin blue"), "red green"),
            Heard(clip("black"), committed("black gold"), "black"),
        )
        row = as_row(figures)
        assert (row["words"], row["wer"], row["offline_wer"]) == (4, 2 / 4, 1 / 4)
        assert (row["substitutions"], row["deletions"], row["insertions"]) == (1, 0, 1)
        assert row["cer"] is row["offline_cer"] is None
        assert row["decoded_seconds_per_audio_second"] == 50 / 20
        assert row["jobs_per_audio_second"] == 30 / 20
        assert row["options"]["trimming"]["keep_s"] == 13.0
        json.dumps(row)

    def test_scripts_without_spaces_have_a_letter_error_rate(self):
        log = StreamLog(shown=[Shown(3.0, True, (Word("今天天汽", 0, 2),))])
        row = as_row(summed(Heard(clip("今天天气", timed=False), log, "今天天气"), language="zh"))
        assert (row["words"], row["cer"], row["offline_cer"]) == (4, 1 / 4, 0.0)
        assert row["wer"] is row["offline_wer"] is None
        # Each letter counts from the end of the word it is in.
        assert row["words_timed"] == 4
        assert row["commit_latency_s"]["mean"] == pytest.approx(1.0)

    def test_latencies_are_of_clips_with_word_times_where_there_are_any(self):
        slow = Heard(clip("black white", timed=False), committed("black white", delay_s=9.0))
        row = as_row(summed(Heard(clip("red green"), committed("red green", delay_s=1.0)), slow))
        assert row["commit_latency_s"] == pytest.approx({"mean": 1.0, "p50": 1.0, "p95": 1.0, "p99": 1.0})
        assert (row["words_timed"], row["latency_reference"]) == (2, "word times of the recordings")
        row = as_row(summed(slow))
        assert row["commit_latency_s"]["p50"] == pytest.approx(9.0)
        assert row["latency_reference"] == "the system's own word ends"

    def test_utterances_have_first_partials_and_ends(self):
        log = committed("red green")
        log.utterances = [Utterance(words=say("red green"), shown_at_s=0.7, final_at_s=2.7, silent_at_s=2.5)]
        row = as_row(summed(Heard(clip("red green"), log)))
        assert row["first_partial_latency_s"]["p50"] == pytest.approx(0.7)
        assert row["endpoint_delay_s"]["p50"] == pytest.approx(1.2)
        assert (row["utterances"], row["utterances_ended_by_silence"]) == (1, 1)

    def test_words_where_nobody_spoke_are_counted_by_the_hour(self):
        noise = [Heard(clip("", seconds=90.0), committed(text)) for text in ("Thank you.", "")]
        row = as_row(summed(Heard(clip("red"), committed("red")), silence=tuple(noise)))
        assert (row["non_speech_s"], row["hallucinated_words"]) == (180.0, 2)
        assert row["hallucinated_words_per_hour"] == pytest.approx(40.0)
        assert row["words"] == 1  # they are no part of the texts that are scored
        assert as_row(summed(Heard(clip("red"), committed("red"))))["hallucinated_words_per_hour"] is None

    def test_nothing_committed_has_no_latency(self):
        row = as_row(summed(Heard(clip("red"), StreamLog(failure="PoolError"))))
        assert row["commit_latency_s"] == {"mean": None, "p50": None, "p95": None, "p99": None}
        assert (row["wer"], row["partial_changed_share"], row["failures"]) == (1.0, None, 1)


class Elements(HTMLParser):
    """What a browser would see: tags, and text by the tag around it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "path", "circle"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and data.strip():
            self.texts.setdefault(self._open[-1], []).append(data.strip())


class TestPage:
    def test_errors_are_marked_in_the_text(self):
        heard = Heard(
            clip("Red green blue black white silver"), committed("red grin blue white silver gold"), "red"
        )
        seen = Elements(render_page([summed(heard)], {}))
        assert "green" in seen.texts["s"]
        assert "grin" in seen.texts["b"]
        assert "black" in " ".join(seen.texts["del"])
        assert "gold" in " ".join(seen.texts["ins"])
        assert any("red" in text for text in seen.texts["p"])

    def test_the_worst_clip_comes_first(self):
        good = Heard(clip("red green", name="good"), committed("red green"))
        bad = Heard(clip("red green", name="bad"), committed("red"))
        page = render_page([summed(good, bad)], {})
        assert page.index("<summary>bad") < page.index("<summary>good")

    def test_nothing_of_what_is_shown_is_taken_for_markup(self):
        evil = "<script>alert('x')</script> & \"quoted\""
        heard = Heard(clip(f"red {evil}", name=evil), committed(f"blue {evil} <b>"), evil)
        silence = Heard(clip("", name=evil), committed(evil))
        page = render_page([summed(heard, silence=(silence,), variant=evil, language="en")], {evil: evil})
        assert "<script" not in page
        assert "alert(&#x27;x&#x27;)" in page
        assert "script" not in Elements(page).tags

    def test_words_are_shown_as_they_are_whatever_their_kind(self):
        # The normalisers leave no such words; the page doesn't count on it.
        kinds = ("equal", "substitution", "deletion", "insertion")
        edits = tuple(Edit(kind, (f"<i>said {kind}",), (f"<i>heard {kind}",)) for kind in kinds)
        figures = replace(
            summed(Heard(clip("red"), committed("red"))), clips=(ClipText(name="a", edits=edits),)
        )
        page = render_page([figures], {})
        assert page.count("&lt;i&gt;") == 5
        assert "i" not in Elements(page).tags

    def test_it_loads_nothing(self):
        page = render_page([summed(Heard(clip("red"), committed("red")))], {"model": "tiny.en"})
        assert not re.search(r"(src|href)=|url\(|@import|<link|https?://", page)
        assert "prefers-color-scheme: dark" in page

    def test_each_language_has_a_plot_with_its_variants_and_the_offline_line(self):
        rows = [
            summed(Heard(clip("red green"), committed("red green", delay_s=delay_s), "red"), variant=name)
            for name, delay_s in (("early", 0.5), ("late", 2.0))
        ]
        seen = Elements(render_page(rows, {}))
        assert seen.tags.count("circle") == 2
        assert {"early", "late", "offline 50.0 %"} <= set(seen.texts["text"])

    def test_many_variants_are_numbered_in_the_plot(self):
        rows = [
            summed(Heard(clip("red"), committed("red", delay_s=n)), variant=f"v{n}") for n in range(1, 10)
        ]
        seen = Elements(render_page(rows, {}))
        assert {"1", "9"} <= set(seen.texts["text"])
        assert "v9" not in seen.texts["text"]
        assert "v9" in seen.texts["th"]

    def test_what_can_not_be_timed_has_no_plot(self):
        page = render_page([summed(Heard(clip("red"), StreamLog()))], {})
        assert "Nothing was committed" in page


class TestPlot:
    def test_labels_do_not_cover_each_other(self):
        points = [Point(1.0 + 0.001 * (n % 3), 10.0 + 0.01 * n, "a label", "") for n in range(8)]
        drawing = draw_scatter([*points, Point(9.0, 20.0, "far", "")], x_title="x", y_title="y")
        places = re.findall(r'<text x="([\d.]+)"( text-anchor="end")? y="([\d.]+)">a label', drawing)
        width = len("a label") * LETTER
        boxes = [(float(x) - (width if end else 0), float(y)) for x, end, y in places]
        assert len(boxes) == 8
        for (x, y), (other_x, other_y) in itertools.combinations(boxes, 2):
            assert abs(x - other_x) >= width or abs(y - other_y) >= 14

    @pytest.mark.parametrize("value", [0.0, 0.5, 7.0])
    def test_a_single_point_has_room_around_it(self, value: float):
        drawing = draw_scatter([Point(value, value, "a", "")], x_title="x", y_title="y")
        assert "nan" not in drawing
        assert re.search(r'cx="(\d+)', drawing)


def test_the_table_fits_a_terminal():
    heard = Heard(clip("red green", timed=False), committed("red green"), "red")
    out = io.StringIO()
    rows = [summed(heard, variant="[bold]policy=cutoff,commit_delay_s=0.8,beam_size=5")]
    Console(file=out, width=80).print(make_table(rows, "a title"))
    text = out.getvalue()
    assert "1.00/1.00*" in text
    assert "the system's own word ends" in text
    assert "[bold]" in text
    assert "…" not in text


class TestCoverage:
    SAID = " ".join(f"word{letter}" for letter in "abcdefghijklmnop")

    def lossy(self, offline: str | None = None, *passes: Pass) -> Heard:
        words = say(self.SAID)
        log = StreamLog(shown=[Shown(20.0, True, (*words[:4], *words[12:]))], passes=list(passes) or None)
        heard = replace(clip(self.SAID, seconds=16.0, name="call"), voice=((0.0, 16.0),))
        return Heard(heard, log, offline)

    def test_a_lost_stretch_is_named_and_its_words_are_no_figures(self):
        figures = summed(self.lossy(self.SAID, Pass(0.0, 9.0), Pass(10.0, 16.0)))
        row = as_row(figures)
        assert (row["lost_stretches"], row["uncovered_voice_s"]) == (1, pytest.approx(1.0))
        (lost,) = row["clips"][0]["lost"]
        assert (lost["start_s"], lost["end_s"], lost["words"]) == (4.0, 11.5, 8)
        assert (lost["reason"], lost["offline"]) == ("not decoded", True)
        assert "wordf" not in json.dumps(row)
        told = "\n".join(tell_coverage(figures))
        assert "a, en: 1.00 s of voice were never decoded" in told
        assert "a, en: call, 4.0 to 11.5 s lost: not decoded" in told
        assert "<del>worde wordf" in render_page([figures], {})

    def test_what_the_model_does_not_have_either_is_told_on_the_page_alone(self):
        figures = summed(self.lossy("worda wordp", Pass(0.0, 16.0)))
        assert as_row(figures)["lost_stretches"] == 0
        assert tell_coverage(figures) == ["a, en: all voice decoded, no stretch lost"]
        assert "nor has the model in one go" in render_page([figures], {})

    def test_where_passes_were_not_seen_nothing_is_said_of_them(self):
        figures = summed(self.lossy())
        assert as_row(figures)["uncovered_voice_s"] is None
        assert tell_coverage(figures) == ["a, en: call, 4.0 to 11.5 s lost: unknown"]
        whole = summed(Heard(clip("red"), committed("red")))
        assert tell_coverage(whole) == ["a, en: no stretch lost"]

    def test_a_recording_that_no_pass_heard_was_not_decoded(self):
        heard = self.lossy()
        heard.log.passes = []
        figures = summed(heard)
        assert as_row(figures)["uncovered_voice_s"] == pytest.approx(16.0)
        assert "a, en: call, 4.0 to 11.5 s lost: not decoded" in tell_coverage(figures)

    def test_conditions_stand_side_by_side(self):
        heard = Heard(clip("red green"), committed("red green"), "red")
        joined = (Heard(clip("red", name="one"), committed("red")), Heard(clip("blue"), committed("blue")))
        rows = [
            summed(heard, condition="clean"),
            summed(*joined, condition="phone"),  # another number of clips
        ]
        assert [as_row(row)["condition"] for row in rows] == ["clean", "phone"]
        seen = Elements(render_page(rows, {}))
        assert {"en: texts, the worst first", "en phone: texts, the worst first"} <= set(seen.texts["h2"])
        out = io.StringIO()
        Console(file=out, width=80).print(make_table(rows, "a title"))
        assert "phone" in out.getvalue()
        assert "a title, a, en" in out.getvalue()


class TestEntries:
    def manifest(self, tmp_path, *lines: str):
        path = tmp_path / "manifest.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    def entry(self, name: str, language: str, text: str) -> str:
        return json.dumps({"path": name, "language": language, "text": text})

    def test_languages_are_chosen_and_the_first_of_each_taken(self, tmp_path):
        lines = [
            self.entry(f"{language}{n}", language, "words") for n in range(3) for language in ("en", "de")
        ]
        lines += [self.entry(f"noise{n}", "none", "") for n in range(3)]
        entries = read_manifest(self.manifest(tmp_path, *lines))
        names = [entry.path.name for entry in choose_entries(entries, ["de"], 2)]
        assert names == ["de0", "de1", "noise0", "noise1"]
        assert len(choose_entries(entries)) == 9

    def test_a_language_nobody_speaks_is_refused(self, tmp_path):
        entries = read_manifest(self.manifest(tmp_path, self.entry("a", "en", "words")))
        with pytest.raises(ConfigurationError, match=r"language is 'fr'; .*\(en\)"):
            choose_entries(entries, ["fr"])
        noise = read_manifest(self.manifest(tmp_path, self.entry("a", "none", "")))
        with pytest.raises(ConfigurationError, match="nothing"):
            choose_entries(noise)

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('{"path": "a.flac", "secret', "line 3 is 'no JSON"),
            ("[1]", "line 3 is 'list'; it must be a JSON object"),
            ('{"path": "a.flac", "language": "en"}', "line 3 is 'path, language'; .*text"),
            (
                '{"path": "a", "language": "en", "text": "secret", "words": [{"word": "a"}]}',
                "line 3 is 'words'",
            ),
        ],
    )
    def test_a_line_that_is_wrong_is_named_and_not_repeated(self, tmp_path, line: str, said: str):
        path = self.manifest(tmp_path, self.entry("a", "en", "words"), "", line)
        with pytest.raises(ConfigurationError, match=said) as caught:
            read_manifest(path)
        assert "secret" not in str(caught.value)
