"""What counts as lost, on hand-made passes and texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_whisper_streaming.bench.coverage import find_lost, uncovered_s
from ray_whisper_streaming.bench.scoring import Pass, Shown, StreamLog
from ray_whisper_streaming.bench.voice import find_voice, overlap_s
from ray_whisper_streaming.core.transcript import Word, join_text

SECONDS = 40
SAID = tuple(Word(f" w{i}", i / 2, i / 2 + 0.4) for i in range(2 * SECONDS))
VOICE = [(0.0, float(SECONDS))]
ALL = Pass(0.0, SECONDS, SAID)


def log(committed: Sequence[Word], *passes: Pass, seen: bool = True) -> StreamLog:
    shown = [Shown(word.end_s + 1, True, (word,)) for word in committed]
    return StreamLog(shown=shown, passes=list(passes) if seen else None)


def without(first: int, last: int) -> tuple[Word, ...]:
    return SAID[:first] + SAID[last + 1 :]


class TestUncovered:
    def test_voice_outside_all_passes_counts(self):
        passes = [Pass(3.0, 6.0), Pass(0.0, 2.0), Pass(5.0, 8.0)]
        assert uncovered_s([(0.0, 10.0)], passes) == pytest.approx(1.0 + 2.0)
        assert uncovered_s([(2.5, 3.5), (9.0, 9.5)], passes) == pytest.approx(0.5 + 0.5)
        assert uncovered_s([(0.0, 2.0), (3.0, 8.0)], passes) == 0.0
        assert uncovered_s([(1.0, 2.0)], []) == 1.0

    spans = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=8)

    @given(spans, spans)
    def test_as_if_counted_second_by_second(self, voice, passes):
        heard = {at for start, length in passes for at in range(start, start + length)}
        voiced = {at for start, length in voice for at in range(start, start + length)}
        merged = [(float(at), float(at + 1)) for at in sorted(voiced)]
        given_passes = [Pass(start, start + length) for start, length in passes]
        assert uncovered_s(merged, given_passes) == pytest.approx(len(voiced - heard))


class TestLost:
    @pytest.mark.parametrize("timed", [True, False])
    def test_a_stretch_without_a_word_is_found_where_it_was(self, timed: bool):
        words = SAID if timed else ()
        (lost,) = find_lost(join_text(SAID), words, log(without(20, 29), ALL), VOICE)
        assert (lost.words, lost.said.split()[0], lost.said.split()[-1]) == (10, "w20", "w29")
        assert lost.start_s == pytest.approx(10.0 if timed else 9.5)
        assert lost.end_s == pytest.approx(14.9 if timed else 15.4)
        assert lost.offline is None

    def test_nothing_is_lost_where_words_are_wrong_or_few(self):
        text = join_text(SAID)
        assert find_lost(text, SAID, log(SAID), VOICE) == []
        assert find_lost(text, SAID, log(without(20, 23)), VOICE) == []
        wrong = [*SAID[:20], *(Word(" hm", w.start_s, w.end_s) for w in SAID[20:30]), *SAID[30:]]
        assert find_lost(text, SAID, log(wrong), VOICE) == []

    def test_a_reference_that_says_more_than_the_recording_loses_nothing(self):
        silent = [(0.0, 9.0), (16.0, float(SECONDS))]
        assert find_lost(join_text(SAID), SAID, log(without(20, 29)), silent) == []

    def test_everything_can_be_lost(self):
        for words in (SAID, ()):  # with word times, and without
            (lost,) = find_lost(join_text(SAID), words, log([]), VOICE)
            assert (lost.words, lost.start_s) == (2 * SECONDS, 0.0)
            assert lost.end_s >= SECONDS - 0.2

    @pytest.mark.parametrize(
        ("passes", "reason"),
        [
            ([], "not decoded"),
            ([Pass(0.0, 12.0, SAID[:20]), Pass(13.0, 40.0)], "not decoded"),
            ([Pass(0.0, 40.0, without(20, 29))], "decoded, nothing heard"),
            ([Pass(0.0, 40.0, without(20, 29)), Pass(5.0, 20.0, SAID[10:40])], "heard, then dropped"),
        ],
    )
    def test_the_passes_tell_why(self, passes: list[Pass], reason: str):
        (lost,) = find_lost(join_text(SAID), SAID, log(without(20, 29), *passes), VOICE)
        assert lost.reason == reason

    def test_where_passes_can_not_be_seen_nothing_is_known(self):
        (lost,) = find_lost(join_text(SAID), SAID, log(without(20, 29), seen=False), VOICE)
        assert lost.reason == "unknown"

    def test_what_the_model_lacks_in_one_go_is_told_apart(self):
        live = log(without(20, 29), ALL)
        for offline, has in (
            (SAID, True),
            (without(20, 29), False),
            (without(25, 29), True),
            (without(21, 29), False),
        ):
            (lost,) = find_lost(join_text(SAID), SAID, live, VOICE, join_text(offline))
            assert lost.offline is has

    def test_scripts_without_spaces_count_letters(self):
        text = "今天天气很好我们去公园散步吧晚上一起吃饭"
        words = [Word(text[i : i + 2], i / 4, i / 4 + 0.5) for i in range(0, len(text), 2)]
        spans = [(0.0, 5.0)]
        (lost,) = find_lost(text, (), log([*words[:2], *words[8:]]), spans, language="zh")
        assert (lost.words, lost.said) == (12, text[4:16])
        assert find_lost(text, (), log([*words[:2], *words[5:]]), spans, language="zh") == []


def test_digital_silence_holds_no_voice():
    assert find_voice(np.zeros(40_000, np.int16)) == []
    assert find_voice(np.zeros(0, np.int16)) == []


def test_spans_overlap_by_what_they_share():
    assert overlap_s([(0.0, 2.0), (3.0, 5.0)], 1.0, 4.0) == 2.0
    assert overlap_s([], 0.0, 9.0) == 0.0
