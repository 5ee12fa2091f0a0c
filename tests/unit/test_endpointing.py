from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from tests.support.world import UNVOICED, VOICED

from ray_whisper_streaming.core.endpointing import VOICE_FRAME, Boundary, Endpointer, VoiceMap
from ray_whisper_streaming.core.options import EndpointingOptions

FRAME_S = VOICE_FRAME / 16_000
# Times that are whole frames, so that the expected samples can be read off.
OPTIONS = EndpointingOptions(
    min_speech_s=2 * FRAME_S,
    min_silence_s=5 * FRAME_S,
    start_padding_s=3 * FRAME_S,
    end_padding_s=2 * FRAME_S,
)


def frames(pattern: str) -> list[float]:
    """A probability per character: ``#`` voice, ``.`` silence, ``~`` between the two thresholds."""
    return [{"#": VOICED, ".": UNVOICED, "~": 0.4}[char] for char in pattern]


def boundaries(pattern: str, options: EndpointingOptions = OPTIONS) -> list[tuple[float, bool]]:
    """Where boundaries lie, in frames."""
    found = Endpointer(options).receive(frames(pattern))
    return [(boundary.sample / VOICE_FRAME, boundary.starts) for boundary in found]


def test_speech_begins_a_padding_before_its_first_frame_and_ends_one_behind_its_last() -> None:
    assert boundaries("......####......") == [(3, True), (12, False)]


def test_speech_at_the_very_start_begins_at_zero() -> None:
    assert boundaries("###") == [(0, True)]


def test_a_click_is_no_speech() -> None:
    assert boundaries("....#....#.....") == []


def test_a_short_pause_ends_nothing() -> None:
    assert boundaries("###....###....###.") == [(0, True)]


def test_hovering_between_the_thresholds_neither_starts_nor_ends_speech() -> None:
    assert boundaries("~~~~~~~~") == []
    assert boundaries("...###~~~~~~~~~~~~") == [(0, True)]


def test_padding_never_reaches_into_the_utterance_before() -> None:
    found = boundaries("###.....###.....")
    assert found == [(0, True), (5, False), (5, True), (13, False)]


def test_boundaries_alternate_and_never_go_back_for_any_pattern() -> None:
    for pattern in itertools.product(".#~", repeat=8):
        endpointer = Endpointer(OPTIONS)
        found = endpointer.receive(frames("".join(pattern)))
        found += endpointer.cut(endpointer.position)
        assert [b.starts for b in found] == [i % 2 == 0 for i in range(len(found))]
        samples = [b.sample for b in found]
        assert samples == sorted(samples)
        assert len(found) % 2 == 0, "a cut ends what was begun"


def test_frames_may_come_one_by_one() -> None:
    pattern = "..###......#..####....~~...."
    endpointer = Endpointer(OPTIONS)
    one_by_one = [found for frame in frames(pattern) for found in endpointer.receive([frame])]
    assert one_by_one == Endpointer(OPTIONS).receive(frames(pattern))


def test_a_cut_ends_speech_there_and_counts_frames_from_there() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.receive(frames("...####"))
    assert endpointer.cut(3500) == [Boundary(3500, False)]
    assert endpointer.position == 3500
    assert endpointer.receive(frames("##")) == [Boundary(3500, True)]


def test_a_cut_takes_voice_too_short_to_be_sure_of() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.receive(frames("....#"))
    assert endpointer.cut(5 * VOICE_FRAME) == [Boundary(VOICE_FRAME, True), Boundary(5 * VOICE_FRAME, False)]


def test_a_cut_in_silence_says_nothing() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.receive(frames("...."))
    assert endpointer.cut(4 * VOICE_FRAME) == []


def test_speech_pauses_when_it_was_silent_long_enough_for_a_sentence_and_for_its_padding() -> None:
    for sentence_frames, padding_frames, expected in ((3, 2, 3), (2, 4, 4), (9, 2, None)):
        options = replace(
            OPTIONS, sentence_silence_s=sentence_frames * FRAME_S, end_padding_s=padding_frames * FRAME_S
        )
        endpointer = Endpointer(options)
        endpointer.receive(frames("..####"))
        found = None
        for silent in range(1, 8):
            endpointer.receive(frames("."))
            found = silent if endpointer.pausing and found is None else found
        assert found == expected


def test_without_the_option_speech_never_pauses_and_in_silence_there_is_nothing_to_end() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.receive(frames("####...."))
    assert not endpointer.pausing
    endpointer = Endpointer(replace(OPTIONS, sentence_silence_s=2 * FRAME_S))
    endpointer.receive(frames("........"))
    assert not endpointer.pausing


def test_speech_ended_in_a_pause_ends_where_silence_alone_would_have_ended_it() -> None:
    endpointer = Endpointer(replace(OPTIONS, sentence_silence_s=3 * FRAME_S))
    endpointer.receive(frames("..####..."))
    assert endpointer.end_now() == Boundary(8 * VOICE_FRAME, False)
    assert not endpointer.pausing
    assert endpointer.receive(frames("....")) == []
    assert boundaries("..####......")[-1] == (8, False)


def test_who_goes_on_after_an_early_end_begins_anew_without_overlap() -> None:
    endpointer = Endpointer(replace(OPTIONS, sentence_silence_s=2 * FRAME_S))
    endpointer.receive(frames("..####.."))
    end = endpointer.end_now()
    assert endpointer.receive(frames("##")) == [Boundary(end.sample, True)]


def test_silence_is_let_go_but_for_the_padding() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.receive(frames("." * 10))
    assert endpointer.silent_until == 7 * VOICE_FRAME
    endpointer.receive(frames("#"))
    assert endpointer.silent_until == 7 * VOICE_FRAME, "an onset keeps its padding"


def test_what_may_be_forgotten_never_belongs_to_a_later_utterance() -> None:
    for pattern in itertools.product(".#", repeat=11):
        endpointer = Endpointer(OPTIONS)
        let_go = 0
        for frame in frames("".join(pattern)):
            for found in endpointer.receive([frame]):
                assert not found.starts or found.sample >= let_go
            if not endpointer.speaking:
                let_go = max(let_go, endpointer.silent_until)


def test_the_voice_map_counts_voiced_samples() -> None:
    voice = VoiceMap()
    for start, end in ((0, 10), (10, 20), (30, 40), (35, 50)):
        voice.add(start, end)
    assert voice.voiced(0, 100) == 40
    assert voice.voiced(15, 35) == 10
    assert voice.voiced(20, 30) == 0
    voice.trim(20)
    assert voice.voiced(0, 100) == 20
    voice.trim(45)
    assert voice.voiced(45, 100) == 5


@pytest.mark.parametrize("silence_s", [0.05, 0.8])
def test_speech_that_never_pauses_never_ends(silence_s: float) -> None:
    options = EndpointingOptions(min_silence_s=silence_s, end_padding_s=0.0)
    assert [starts for _, starts in boundaries("#" * 5000, options)] == [True]
