"""What must hold for every stream, whatever is said, however it arrives, whatever goes wrong."""

from __future__ import annotations

import random
from dataclasses import replace
from difflib import SequenceMatcher

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.play import Player, Troubles
from tests.support.world import World, random_words, voice_of

from ray_whisper_streaming.core.endpointing import VOICE_FRAME
from ray_whisper_streaming.core.events import SpeechEnded
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Int16Samples
from ray_whisper_streaming.core.options import EndpointingOptions, StreamOptions, TrimmingOptions
from ray_whisper_streaming.core.transcript import normalise
from ray_whisper_streaming.core.turns import ends_sentence

quick = settings(max_examples=60)
seeds = st.integers(0, 2**32 - 1)

POLICIES = ("hybrid", "cutoff", "agreement")
TRIMMINGS = (
    TrimmingOptions(),
    TrimmingOptions(at="segment"),
    TrimmingOptions(at="sentence", trim_after_s=4.0, keep_s=1.0, hard_limit_s=8.0),
    TrimmingOptions(trim_after_s=2.0, keep_s=0.5, hard_limit_s=3.0),
)
ENDPOINTINGS = (
    EndpointingOptions(),
    EndpointingOptions(min_silence_s=0.2, end_padding_s=0.2),
    EndpointingOptions(min_silence_s=3.0, start_padding_s=0.1, end_padding_s=0.0),
)
BY_SENTENCE = (
    EndpointingOptions(sentence_silence_s=0.3),
    EndpointingOptions(sentence_silence_s=0.05, end_padding_s=0.0),
    EndpointingOptions(min_silence_s=3.0, sentence_silence_s=0.6),
)


def whole_frames(audio: Int16Samples) -> Int16Samples:
    """The audio, filled up with silence as a stream does it."""
    return np.pad(audio, (0, -len(audio) % VOICE_FRAME))


@st.composite
def stream_options(draw: st.DrawFn) -> StreamOptions:
    return StreamOptions(
        language=draw(st.sampled_from(("en", "auto"))),
        policy=draw(st.sampled_from(POLICIES)),
        agreement_passes=draw(st.sampled_from((2, 3))),
        commit_delay_s=draw(st.sampled_from((0.3, 0.5, 1.0))),
        update_interval_s=draw(st.sampled_from((0.2, 0.5, 1.0, 3.0))),
        voice_activity=draw(st.booleans()),
        endpointing=draw(st.sampled_from(ENDPOINTINGS + BY_SENTENCE)),
        trimming=draw(st.sampled_from(TRIMMINGS)),
        max_utterance_s=draw(st.sampled_from((5.0, 60.0))),
        context=draw(st.booleans()),
    )


@st.composite
def worlds(draw: st.DrawFn, *, longest_s: float = 40.0) -> World:
    rng = random.Random(draw(seeds))
    length_s = rng.uniform(0.0, longest_s)
    words = tuple(
        replace(word, text=word.text + rng.choice(("", "", ".", "?", "...", ",")))
        for word in random_words(rng, length_s)
    )
    return World(words, length_s, seed=draw(seeds))


troubles = st.builds(
    Troubles,
    delay=st.sampled_from((0.0, 0.3, 0.9)),
    failure=st.sampled_from((0.0, 0.2)),
    overload=st.sampled_from((0.0, 0.2)),
    nonsense=st.sampled_from((0.0, 0.3)),
    flush=st.sampled_from((0.0, 0.05, 0.5)),
)


@quick
@given(worlds(), stream_options(), troubles, seeds)
def test_with_exact_results_the_text_is_the_script_whatever_goes_wrong(
    world: World, options: StreamOptions, trouble: Troubles, seed: int
) -> None:
    player = Player(world, options, random.Random(seed), trouble).play()
    assert player.text == world.text


@quick
@given(worlds(), stream_options(), troubles, seeds, st.floats(0.0, 0.3), st.booleans())
def test_with_jittery_results_the_invariants_hold(
    world: World, options: StreamOptions, trouble: Troubles, seed: int, jitter_s: float, respell: bool
) -> None:
    world = replace(world, jitter_s=jitter_s, respell=respell)
    Player(world, options, random.Random(seed), trouble).play()  # checks on the way


@quick
@given(worlds(), stream_options(), st.sampled_from(BY_SENTENCE), troubles, seeds)
def test_an_utterance_ends_behind_silence_and_behind_a_short_one_only_with_a_sentence(
    world: World, options: StreamOptions, endpointing: EndpointingOptions, trouble: Troubles, seed: int
) -> None:
    # Each end by voice has one final, in order: no flushes, and no long utterance split.
    options = replace(options, voice_activity=True, endpointing=endpointing, max_utterance_s=60.0)
    player = Player(world, options, random.Random(seed), replace(trouble, flush=0.0)).play()
    voiced = [p >= endpointing.release for p in voice_of(whole_frames(player.audio))]
    ends = [event for event in player.events if isinstance(event, SpeechEnded)]
    for end, final in zip(ends, player.finals, strict=False):
        last = round((end.at_s - endpointing.end_padding_s) * SAMPLE_RATE / VOICE_FRAME)
        if end.at_s * SAMPLE_RATE > len(player.audio) - VOICE_FRAME:
            continue  # the input ended
        assert voiced[last - 1], "speech ends with voice"
        silent = next((i for i, each in enumerate(voiced[last:]) if each), len(voiced) - last)
        sentence = ends_sentence(final.text, "en")
        wanted_s = endpointing.sentence_silence_s if sentence else endpointing.min_silence_s
        assert wanted_s is not None
        assert silent * VOICE_FRAME / SAMPLE_RATE >= wanted_s


@quick
@given(worlds(), stream_options(), seeds, seeds)
def test_chunking_changes_nothing(world: World, options: StreamOptions, one: int, other: int) -> None:
    # What depends on when passes happen is left out: the language, and where utterances end by their text.
    endpointing = replace(options.endpointing, sentence_silence_s=None)
    options = replace(options, language="en", max_utterance_s=60.0, endpointing=endpointing)
    first = Player(world, options, random.Random(one), chunk_s=(0.001, 0.2)).play()
    second = Player(world, options, random.Random(other), chunk_s=(0.1, 2.0)).play()
    # Texts, not times: a word at the end of a window ends with it, and where windows end is the chunks' doing.
    assert [(final.text, final.utterance, final.end_of_stream) for final in first.finals] == [
        (final.text, final.utterance, final.end_of_stream) for final in second.finals
    ]


@pytest.mark.parametrize("policy", POLICIES)
def test_spelling_and_times_that_change_lose_and_double_hardly_a_word(policy: str) -> None:
    options = StreamOptions(language="en", policy=policy)  # type: ignore[arg-type]
    said = wrong = 0
    for seed in range(12):
        words = random_words(random.Random(seed), 40.0)
        world = World(words, 40.0, jitter_s=0.15, respell=True, seed=seed)
        player = Player(world, options, random.Random(seed), chunk_s=(0.1, 0.5)).play()
        heard = [normalise(text) for text in player.text]
        wanted = [normalise(text) for text in world.text]
        said += len(wanted)
        matches = SequenceMatcher(None, wanted, heard, autojunk=False).get_opcodes()
        wrong += sum(max(b - a, d - c) for kind, a, b, c, d in matches if kind != "equal")
    assert said > 500
    assert wrong <= said // 200
