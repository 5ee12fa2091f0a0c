"""Single cases of the stream machine. What must hold in all of them: tests/property/test_stream_invariants.py."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tests.support.play import Player, Troubles
from tests.support.world import LOUD, World, random_words, say, voice_of

from ray_whisper_streaming.core.events import (
    Committed,
    Event,
    Final,
    Flushed,
    JobFailed,
    LanguageDetected,
    Partial,
    SpeechEnded,
    SpeechStarted,
    StreamFailed,
)
from ray_whisper_streaming.core.jobs import SAMPLE_RATE, Failure, Job, Result, Timings
from ray_whisper_streaming.core.options import EndpointingOptions, StreamOptions, TrimmingOptions
from ray_whisper_streaming.core.stream import MAX_FAILURES, Stream
from ray_whisper_streaming.core.transcript import Word, join_text
from ray_whisper_streaming.errors import EngineError, NotReady, Overloaded, StreamClosed

SECOND = SAMPLE_RATE
ENGLISH = StreamOptions(language="en")
WITHOUT_VOICE = StreamOptions(language="en", voice_activity=False)


def loud(seconds: float) -> np.ndarray:
    return np.full(round(seconds * SECOND), LOUD, np.int16)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SECOND), np.int16)


def hear(stream: Stream) -> None:
    while (samples := stream.voice_input()) is not None:
        stream.receive_voice(voice_of(samples))


def push(stream: Stream, samples: np.ndarray) -> None:
    stream.receive_audio(samples)
    hear(stream)


def finish(stream: Stream) -> None:
    stream.receive_eof()
    hear(stream)


def next_job(stream: Stream, now: float = 0.0) -> Job:
    job = stream.next_job(now)
    assert job is not None
    return job


def answer(stream: Stream, job: Job, *words: Word, **facts: Any) -> None:
    stream.receive_result(Result(job_id=job.job_id, words=words, **facts))


def fail(stream: Stream, job: Job, error: Any = None, now: float = 0.0) -> None:
    error = error or EngineError("as told", job_id=job.job_id)
    stream.receive_failure(Failure(job_id=job.job_id, error=error), now)


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def play(text: str, options: StreamOptions = ENGLISH, *, tail_s: float = 2.0, **settings: Any) -> Player:
    words = say(text)
    world = World(words, (words[-1].end_s if words else 0.0) + tail_s)
    return Player(world, options, random.Random(0), **settings).play()


# ---------------------------------------------------------------- beginning and end


@pytest.mark.parametrize("options", [ENGLISH, WITHOUT_VOICE])
def test_nothing_in_nothing_out(options: StreamOptions) -> None:
    stream = Stream("s", options)
    assert stream.events() == []
    stream.receive_eof()
    assert stream.events() == [Final(utterance=0, words=(), end_of_stream=True)]
    assert stream.over
    stream.receive_eof()
    assert stream.events() == []


@pytest.mark.parametrize("options", [ENGLISH, WITHOUT_VOICE])
def test_after_the_end_of_input_nothing_is_taken(options: StreamOptions) -> None:
    stream = Stream("s", options)
    push(stream, loud(1.0))
    stream.receive_eof()
    assert stream.ended
    assert not stream.over
    with pytest.raises(StreamClosed):
        stream.receive_audio(loud(1.0))
    with pytest.raises(StreamClosed):
        stream.request_flush()


def test_empty_pushes_are_nothing() -> None:
    stream = Stream("s", WITHOUT_VOICE)
    push(stream, silence(0.0))
    finish(stream)
    assert stream.next_job(0.0) is None
    assert kinds(stream.events()) == ["Final"]


def test_the_events_of_two_utterances() -> None:
    player = play("hello there | good bye")
    seen = [kind for kind in kinds(player.events) if kind not in ("Partial", "Committed")]
    assert seen == ["SpeechStarted", "SpeechEnded", "Final", "SpeechStarted", "SpeechEnded", "Final", "Final"]
    assert [final.text for final in player.finals] == ["hello there", "good bye", ""]


def test_the_last_utterance_may_end_with_the_input() -> None:
    player = play("hello there", tail_s=0.0)
    assert kinds(player.events)[-2:] == ["SpeechEnded", "Final"] or player.finals[-1].text == "hello there"
    assert [final.end_of_stream for final in player.finals] == [True]


# ---------------------------------------------------------------- voice activity


def test_silence_sends_no_jobs_and_is_not_kept() -> None:
    stream = Stream("s", ENGLISH)
    for _ in range(600):
        push(stream, silence(1.0))
        assert stream.next_job(0.0) is None
        assert stream.buffered_s <= 3.0
    assert stream.events() == []


@pytest.mark.parametrize("length_s", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("tail_s", [0.0, 2.0])
def test_a_single_short_word_is_decoded(length_s: float, tail_s: float) -> None:
    world = World((Word(" yes", 1.0, 1.0 + length_s),), 1.0 + length_s + tail_s)
    assert Player(world, ENGLISH).play().text == [" yes"]


def test_a_click_at_the_very_end_is_decoded_rather_than_lost() -> None:
    stream = Stream("s", ENGLISH)
    push(stream, np.concatenate((silence(1.0), loud(0.03))))
    finish(stream)
    assert next_job(stream).final


def test_speech_that_begins_right_after_an_end_is_a_new_utterance_without_overlap() -> None:
    options = replace(
        ENGLISH, endpointing=EndpointingOptions(min_silence_s=0.2, end_padding_s=0.2, start_padding_s=0.3)
    )
    player = Player(World((*say("one", 0.5), *say("two", 1.05)), 3.0), options).play()
    assert [final.text for final in player.finals] == ["one", "two", ""]
    starts = [event.at_s for event in player.events if isinstance(event, SpeechStarted)]
    ends = [event.at_s for event in player.events if isinstance(event, SpeechEnded)]
    assert ends[0] <= starts[1]


def test_speech_tells_how_many_flushes_are_before_it() -> None:
    stream = Stream("s", ENGLISH)
    push(stream, loud(1.0))
    stream.request_flush("a")
    push(stream, loud(1.0))
    stream.request_flush("b")
    stream.request_flush("c")
    push(stream, loud(1.0))
    started = [event for event in stream.events() if isinstance(event, SpeechStarted)]
    assert [(event.at_s, event.flushes) for event in started] == [(0.0, 0), (1.0, 1), (2.0, 3)]


SENTENCES = replace(ENGLISH, endpointing=EndpointingOptions(min_silence_s=1.0, sentence_silence_s=0.4))


def finals_after(text: str, silence_s: float, options: StreamOptions = SENTENCES) -> list[Event]:
    """Ends and finals of a stream that heard a second of speech and so much silence, as it comes."""
    stream = Stream("s", options)
    push(stream, loud(1.0))
    events: list[Event] = []
    for _ in range(round(silence_s / 0.1)):
        push(stream, silence(0.1))
        if (job := stream.next_job(0.0)) is not None:
            answer(stream, job, Word(text, 0.2, 0.9))
        events += stream.events()
    return [event for event in events if isinstance(event, (SpeechEnded, Final))]


def test_a_finished_sentence_ends_an_utterance_sooner_than_silence_alone() -> None:
    assert finals_after(" Yes.", 0.3) == []
    early = finals_after(" Yes.", 0.6)
    assert kinds(early) == ["SpeechEnded", "Final"]
    assert early == finals_after(" Yes.", 1.3, replace(SENTENCES, endpointing=EndpointingOptions()))


@pytest.mark.parametrize("text", [" Yes", " Yes,", " the.", " 41."])
def test_an_unfinished_one_waits_for_the_silence(text: str) -> None:
    assert finals_after(text, 0.9) == []
    assert kinds(finals_after(text, 1.3)) == ["SpeechEnded", "Final"]


def test_a_pause_is_heard_at_once_however_far_apart_passes_are() -> None:
    assert kinds(finals_after(" Yes.", 0.6, replace(SENTENCES, update_interval_s=10.0))) == [
        "SpeechEnded",
        "Final",
    ]


def test_a_pass_that_did_not_hear_the_last_voice_ends_nothing() -> None:
    stream = Stream("s", SENTENCES)
    push(stream, loud(1.0))
    job = next_job(stream)
    push(stream, np.concatenate((loud(0.5), silence(0.5))))
    answer(stream, job, Word(" Yes.", 0.2, 0.9))
    assert not {"SpeechEnded", "Final"} & set(kinds(stream.events()))
    job = next_job(stream)
    answer(stream, job, Word(" Yes.", 0.2, 0.9), Word(" Sir.", 1.0, 1.4))
    final = stream.events()[-1]
    assert isinstance(final, Final)
    assert final.text == "Yes. Sir."


def test_who_goes_on_while_a_pass_runs_is_not_interrupted() -> None:
    stream = Stream("s", SENTENCES)
    push(stream, np.concatenate((loud(1.0), silence(0.5))))
    job = next_job(stream)
    push(stream, loud(0.2))
    answer(stream, job, Word(" Yes.", 0.2, 0.9))
    assert not {"SpeechEnded", "Final"} & set(kinds(stream.events()))


@pytest.mark.parametrize("extra", [1, 100, 256, 511])
def test_an_utterance_that_ends_in_the_last_unfilled_frame(extra: int) -> None:
    # The frame is filled up with silence; the utterance must not end behind the audio there is.
    options = replace(ENGLISH, endpointing=EndpointingOptions(min_silence_s=0.06, end_padding_s=0.06))
    stream = Stream("s", options)
    push(stream, np.concatenate((loud(0.512), np.zeros(512 + extra, np.int16))))
    finish(stream)
    job = next_job(stream)
    assert job.final
    answer(stream, job, Word(" one", 0.0, 0.5))
    assert kinds(stream.events())[-1] == "Final"


def test_speech_ends_where_the_input_does_at_the_latest() -> None:
    options = replace(ENGLISH, endpointing=EndpointingOptions(min_silence_s=0.06, end_padding_s=0.06))
    stream = Stream("s", options)
    push(stream, np.concatenate((loud(0.512), np.zeros(600, np.int16))))
    finish(stream)
    ended = [event.at_s for event in stream.events() if isinstance(event, SpeechEnded)]
    assert ended
    assert ended[0] <= stream.received_s


# ---------------------------------------------------------------- jobs


def test_a_job_says_all_that_a_worker_needs() -> None:
    options = StreamOptions(
        model="base",
        language="de",
        task="translate",
        prompt="Namen: Ada.",
        hotwords="Lovelace",
        beam_size=3,
        temperature=0.5,
        tenant="acme",
        allowed_languages=("de", "en"),
        voice_activity=False,
    )
    stream = Stream("call 7", options, model="tiny")
    push(stream, loud(1.0))
    job = next_job(stream, now=5.0)
    assert (job.stream_id, job.model, job.language, job.task) == ("call 7", "base", "de", "translate")
    assert (job.context, job.hotwords, job.tenant) == ("", "Namen: Ada. Lovelace", "acme")
    assert job.allowed_languages == ("de", "en")
    assert (job.options.beam_size, job.options.temperature) == (3, 0.5)
    assert (job.start_sample, len(job.audio), job.final) == (0, SECOND, False)
    assert job.deadline == 5.0 + options.update_interval_s


def test_a_final_job_is_wanted_at_once() -> None:
    stream = Stream("s", WITHOUT_VOICE)
    push(stream, loud(0.1))
    assert stream.next_job(1.0) is None, "not enough new audio yet"
    finish(stream)
    job = next_job(stream, now=7.0)
    assert job.final
    assert job.deadline == 7.0


def test_the_pools_model_is_taken_where_the_stream_names_none() -> None:
    stream = Stream("s", WITHOUT_VOICE, model="large-v3-turbo")
    push(stream, loud(1.0))
    assert next_job(stream).model == "large-v3-turbo"


def test_a_stream_that_fell_behind_decodes_more_at_once() -> None:
    stream = Stream("s", WITHOUT_VOICE)
    push(stream, loud(1.0))
    job = next_job(stream)
    for _ in range(59):
        push(stream, loud(1.0))
        assert stream.next_job(0.0) is None
    answer(stream, job)
    spans: list[tuple[int, int]] = []
    while (job := stream.next_job(0.0)) is not None:
        spans.append((job.start_sample, job.start_sample + len(job.audio)))
        answer(stream, job)
    assert len(spans) <= 4
    assert spans[-1][1] == 60 * SECOND
    assert all(later[0] <= earlier[1] for earlier, later in pairwise(spans)), "no gap"


def test_no_pass_where_nothing_new_was_said() -> None:
    options = replace(ENGLISH, endpointing=EndpointingOptions(min_silence_s=30.0))
    stream = Stream("s", options)
    push(stream, np.concatenate((loud(2.0), silence(1.0))))
    answer(stream, next_job(stream), Word(" one", 0.5, 1.0))
    for _ in range(20):
        push(stream, silence(1.0))
        assert stream.next_job(0.0) is None


def test_an_utterance_heard_to_its_end_needs_no_other_pass() -> None:
    stream = Stream("s", replace(ENGLISH, policy="agreement"))
    push(stream, np.concatenate((loud(1.0), silence(0.5))))
    answer(stream, next_job(stream), Word(" one", 0.2, 0.6))
    assert "Committed" not in kinds(stream.events()), "one pass alone agrees with nobody"
    push(stream, silence(0.4))
    assert stream.next_job(0.0) is None
    assert [kind for kind in kinds(stream.events()) if kind != "Partial"] == [
        "SpeechEnded",
        "Committed",
        "Final",
    ]


# ---------------------------------------------------------------- results


def test_partials_show_what_is_not_committed_and_end_empty() -> None:
    player = play("one two three four five six")
    partials = [event for event in player.events if isinstance(event, Partial)]
    assert any(partial.text for partial in partials)
    assert partials[-1].words == ()
    texts = [partial.text for partial in partials]
    assert all(one != other for one, other in pairwise(texts)), "only changes are told"


def test_unknown_results_are_ignored_and_counted() -> None:
    stream = Stream("s", WITHOUT_VOICE)
    push(stream, loud(5.0))
    job = next_job(stream)
    stream.receive_result(Result(job_id="other/1", words=(Word(" no", 0.0, 0.1),)))
    answer(stream, job, Word(" yes", 0.2, 0.6))
    first = stream.events()
    answer(stream, job, Word(" yes", 0.2, 0.6))
    fail(stream, job)
    assert stream.events() == []
    assert stream.ignored_results == 3
    assert [event.text for event in first if isinstance(event, Committed)] == ["yes"]


def test_words_said_again_and_again_are_all_kept() -> None:
    said = "no no no and then no no said the man | no no no no"
    assert join_text(play(said).words) == said.replace("| ", "")


@pytest.mark.parametrize("policy", ["hybrid", "agreement"])
def test_a_comma_that_comes_and_goes_blocks_and_doubles_nothing(policy: Any) -> None:
    stream = Stream("s", replace(WITHOUT_VOICE, policy=policy, commit_delay_s=5.0))
    told: list[str] = []
    for text in ("well no no more", "Well, no. No more", "well no no more,", '"WELL no no" more'):
        push(stream, loud(1.5))
        words = (replace(word, probability=0.1) for word in say(text, 0.1, word_s=0.2, gap_s=0.05))
        answer(stream, next_job(stream), *words)
        told += [event.text for event in stream.events() if isinstance(event, Committed)]
    assert told == ["Well, no. No more"], "as the pass spelled it that confirmed it"


def test_words_behind_more_repetitions_than_believed_are_not_lost() -> None:
    said = "no no no no no no no no stop it now please and listen to me"
    for policy in ("cutoff", "agreement", "hybrid"):
        text = join_text(play(said, replace(ENGLISH, policy=policy)).words)  # type: ignore[arg-type]
        assert text.endswith("no stop it now please and listen to me")


def test_an_echo_of_what_was_committed_is_not_committed() -> None:
    stream = Stream("s", WITHOUT_VOICE)
    words = say("welcome to the old town", 0.1, word_s=0.2, gap_s=0.0)
    push(stream, loud(4.0))
    answer(stream, next_job(stream), *words)
    push(stream, loud(0.5))
    finish(stream)
    echo = [Word(word.text, 4.3, 4.3) for word in words[:2]] + [Word(" the", 4.3, 4.42)]
    echo += [Word(word.text, 4.42, 4.42) for word in words[3:]]
    answer(stream, next_job(stream), *words, *echo)
    told = [event.text for event in stream.events() if isinstance(event, Committed)]
    assert " ".join(told) == "welcome to the old town"


def test_a_made_up_answer_is_not_believed() -> None:
    stream = Stream("s", WITHOUT_VOICE)
    push(stream, loud(2.0))
    answer(stream, next_job(stream), Word(" thanks", 0.2, 0.6), compression_ratio=5.0)
    push(stream, loud(0.1))
    finish(stream)
    doubt = {"no_speech_probability": 0.9, "average_log_probability": -2.0}
    answer(stream, next_job(stream), Word(" thanks", 0.2, 0.6), **doubt)
    assert [event for event in stream.events() if isinstance(event, (Committed, Partial))] == []
    assert stream.over


def test_the_context_is_what_was_trimmed_away() -> None:
    options = replace(ENGLISH, context=True)
    player = play(" ".join(f"{i * 7919}" for i in range(60)), options)
    context = player.applied[-1].context
    start_s = player.applied[-1].start_sample / SAMPLE_RATE
    told = [word for word in player.words if word.text.strip() in context.split()]
    assert told
    assert all((word.start_s + word.end_s) / 2 <= start_s + 0.1 for word in told)


# ---------------------------------------------------------------- languages


def test_a_short_pause_stays_in_the_window_and_a_long_one_does_not() -> None:
    for pause_s, goes_on in ((1.5, True), (5.0, False)):
        first = say("first second third", start_s=1.0)
        second = say("fourth fifth sixth", start_s=first[-1].end_s + pause_s)
        world = World((*first, *second), second[-1].end_s + 2.0)
        player = Player(world, replace(ENGLISH, trimming=TrimmingOptions(bridge_s=3.0))).play()
        assert player.text == world.text
        last = player.applied[-1]
        assert (last.prefix.startswith(" first") and last.start_sample < SECOND) is goes_on
        assert (last.start_sample > first[-1].end_s * SECOND) is not goes_on


def test_the_longest_window_and_the_longest_bridge_leave_room_for_speech() -> None:
    longest = TrimmingOptions(
        trim_after_s=27.0, keep_s=25.0, hard_limit_s=27.0, bridge_s=10.0, busy_after_s=99.0
    )
    text = " ".join(f"w{index}" for index in range(66))
    first = say(text, start_s=0.5)
    second = say("and then some", start_s=first[-1].end_s + 9.0)
    world = World((*first, *second), second[-1].end_s + 2.0)
    assert Player(world, replace(ENGLISH, trimming=longest)).play().text == world.text


def test_passes_far_apart_are_hurried_and_leave_a_shorter_window() -> None:
    def windows(step_s: float) -> tuple[set[bool], float]:
        stream = Stream("s", WITHOUT_VOICE)
        hurried: set[bool] = set()
        longest = 0.0
        for _ in range(round(60 / step_s)):
            push(stream, loud(step_s))
            job = next_job(stream)
            hurried.add(job.hurried)
            longest = max(longest, job.audio_s)
            start_s = job.start_sample / SECOND
            seconds = range(int(start_s) + 1, int(start_s + job.audio_s))
            answer(stream, job, *(Word(f" w{at}", at - 0.5, at) for at in seconds))
        return hurried, longest

    defaults = TrimmingOptions()
    hurried, longest = windows(1.0)
    assert hurried == {False}
    assert defaults.trim_after_s - 1 < longest < defaults.trim_after_s + 2
    hurried, longest = windows(1.25)
    assert hurried == {True}
    assert defaults.busy_trim_after_s - 1 < longest < defaults.busy_trim_after_s + 2


def test_the_language_is_settled_once_and_then_kept() -> None:
    stream = Stream("s", StreamOptions(voice_activity=False, policy="cutoff"))
    push(stream, loud(1.0))
    job = next_job(stream)
    assert job.language is None
    answer(stream, job, Word(" ja", 0.2, 0.4), language="de", language_probability=0.6)
    assert "Committed" not in kinds(stream.events()), (
        "what was heard in a doubtful language can't be taken back"
    )
    push(stream, loud(2.0))
    answer(stream, next_job(stream), Word(" ja", 0.2, 0.4), language="de", language_probability=0.9)
    seen = stream.events()
    assert [e for e in seen if isinstance(e, LanguageDetected)] == [
        LanguageDetected(language="de", probability=0.9)
    ]
    assert "Committed" in kinds(seen)
    push(stream, loud(1.0))
    assert next_job(stream).language == "de"


@pytest.mark.parametrize("final", [False, True])
def test_an_odd_window_that_settles_another_language_is_decoded_again(final: bool) -> None:
    stream = Stream("s", StreamOptions(voice_activity=False))
    push(stream, loud(4.0))
    answer(stream, next_job(stream), Word(" ja", 0.2, 0.4), language="de", language_probability=0.6)
    push(stream, loud(2.5))
    if final:
        finish(stream)
    odd = next_job(stream)
    answer(stream, odd, Word(" yeah", 0.2, 0.4), language="en", language_probability=0.3)
    [settled] = [e for e in stream.events() if isinstance(e, (LanguageDetected, Committed, Final))]
    assert isinstance(settled, LanguageDetected)
    assert (settled.language, settled.probability) == ("de", pytest.approx(2.4 / (2.4 + 0.3 * 6.5)))
    again = next_job(stream)
    assert (again.language, again.start_sample, len(again.audio)) == ("de", odd.start_sample, len(odd.audio))
    answer(stream, again, Word(" ja", 0.2, 0.4), language="de")
    assert [word.text for e in stream.events() if isinstance(e, Committed) for word in e.words] == [" ja"]


def test_an_utterance_too_short_to_settle_the_language_is_committed_all_the_same() -> None:
    stream = Stream("s", StreamOptions(voice_activity=False))
    push(stream, loud(1.0))
    finish(stream)
    answer(stream, next_job(stream), Word(" ja", 0.2, 0.4), language="de", language_probability=0.4)
    assert [final.text for final in stream.events() if isinstance(final, Final)] == ["ja"]


@pytest.mark.parametrize("voice_activity", [False, True])
def test_whispers_own_doubt_weighs_more_where_no_voice_was_listened_for(voice_activity: bool) -> None:
    stream = Stream("s", replace(WITHOUT_VOICE, voice_activity=voice_activity))
    push(stream, loud(3.0))
    hear(stream)
    doubt = {"no_speech_probability": 0.5, "average_log_probability": -0.9}
    answer(stream, next_job(stream), Word(" okay", 0.2, 0.6), **doubt)
    shown = [e.text for e in stream.events() if isinstance(e, (Partial, Committed)) and e.words]
    assert bool(shown) is voice_activity


@pytest.mark.parametrize("given", [{}, {"hotwords": "Helstone"}, {"prompt": "Of Helstone."}])
def test_text_given_beforehand_makes_up_no_word_where_no_voice_was_listened_for(
    given: dict[str, str],
) -> None:
    stream = Stream("s", replace(WITHOUT_VOICE, **given))
    push(stream, loud(3.0))
    doubt = {"no_speech_probability": 0.35, "average_log_probability": -0.65}
    answer(stream, next_job(stream), Word(" helstone", 0.2, 0.6), **doubt)
    shown = [e.text for e in stream.events() if isinstance(e, (Partial, Committed)) and e.words]
    assert bool(shown) is not bool(given)


def test_a_doubtful_language_loses_no_word_when_windows_are_short() -> None:
    trimming = TrimmingOptions(trim_after_s=1.5, keep_s=1.0, hard_limit_s=2.0)
    options = StreamOptions(voice_activity=False, trimming=trimming)
    world = World(say("one two three four five six seven eight nine ten eleven twelve"), 6.0)
    stream = Stream("s", options)
    heard: list[str] = []
    for start in range(0, world.samples, SECOND // 2):
        stream.receive_audio(world.audio()[start : start + SECOND // 2])
        while (job := stream.next_job(0.0)) is not None:
            stream.receive_result(replace(world.result(job), language_probability=0.3))
    stream.receive_eof()
    while (job := stream.next_job(0.0)) is not None:
        stream.receive_result(replace(world.result(job), language_probability=0.3))
    heard = [word.text for event in stream.events() if isinstance(event, Committed) for word in event.words]
    assert heard == world.text


# ---------------------------------------------------------------- flushes


def test_a_flush_with_nothing_to_do_is_confirmed_at_once() -> None:
    for options in (ENGLISH, WITHOUT_VOICE):
        stream = Stream("s", options)
        stream.request_flush("a")
        stream.request_flush("b")
        assert stream.events() == [Flushed(flush_id="a", at_s=0.0), Flushed(flush_id="b", at_s=0.0)]


def test_a_flush_is_confirmed_after_its_audio_was_decoded_and_committed() -> None:
    stream = Stream("s", ENGLISH)
    push(stream, loud(1.0))
    stream.request_flush("now")
    hear(stream)
    job = next_job(stream)
    assert job.final
    push(stream, loud(1.0))
    assert "Flushed" not in kinds(stream.events())
    answer(stream, job, Word(" one", 0.3, 0.9))
    happened = [kind for kind in kinds(stream.events()) if kind != "Partial"]
    assert happened == ["Committed", "Final", "Flushed"]
    job = next_job(stream)
    assert job.start_sample + len(job.audio) >= 2 * SECOND - 512, "and the stream goes on"


@pytest.mark.parametrize("options", [ENGLISH, WITHOUT_VOICE])
@pytest.mark.parametrize("at", [1, 159, 511, 7001])
def test_a_flush_anywhere_loses_no_sample(options: StreamOptions, at: int) -> None:
    stream = Stream("s", options)
    audio = loud(2.0)
    stream.receive_audio(audio[:at])
    stream.request_flush("here")
    stream.receive_audio(audio[at:])
    stream.receive_eof()
    decoded = np.zeros(len(audio), bool)
    while not stream.over:
        hear(stream)
        if (job := stream.next_job(0.0)) is not None:
            decoded[job.start_sample : job.start_sample + len(job.audio)] = True
            answer(stream, job)
        stream.events()
    assert decoded.all()


# ---------------------------------------------------------------- failures


def test_a_failure_only_delays() -> None:
    stream = Stream("s", WITHOUT_VOICE)
    push(stream, loud(1.0))
    job = next_job(stream, now=10.0)
    fail(stream, job, now=10.0)
    (event,) = stream.events()
    assert isinstance(event, JobFailed)
    wakeup = 10.0 + event.retry_in_s
    assert stream.next_wakeup() == wakeup
    assert stream.next_job(wakeup - 0.01) is None
    again = next_job(stream, now=wakeup)
    assert again.job_id != job.job_id
    assert np.array_equal(again.audio, job.audio)
    assert stream.next_wakeup() is None


def test_pauses_grow_and_begin_anew_after_a_success() -> None:
    stream = Stream("s", WITHOUT_VOICE)
    push(stream, loud(1.0))
    now, pauses = 0.0, []
    for _ in range(4):
        fail(stream, next_job(stream, now), now=now)
        wakeup = stream.next_wakeup()
        assert wakeup is not None
        pauses.append(wakeup - now)
        now = wakeup
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]
    answer(stream, next_job(stream, now))
    push(stream, loud(1.0))
    fail(stream, next_job(stream, now), now=now)
    assert stream.next_wakeup() == pytest.approx(now + pauses[0])


def test_a_stream_gives_up_after_many_failures_in_a_row() -> None:
    stream = Stream("s", WITHOUT_VOICE)
    push(stream, loud(1.0))
    now = 0.0
    for _ in range(MAX_FAILURES):
        fail(stream, next_job(stream, now), now=now)
        now += 100.0
    assert kinds(stream.events()) == ["JobFailed"] * (MAX_FAILURES - 1) + ["StreamFailed"]
    assert stream.over


def test_an_overloaded_pool_is_waited_for_as_long_as_it_takes() -> None:
    stream = Stream("s", WITHOUT_VOICE)
    push(stream, loud(1.0))
    for now in range(5 * MAX_FAILURES):
        error = Overloaded("the queue", limit=1, current=1, retry_after_s=0.25)
        fail(stream, next_job(stream, float(now)), error, now=float(now))
        assert stream.next_wakeup() == now + 0.25
    assert not stream.over


@pytest.mark.parametrize("error", [EngineError("as told", job_id="s/1", retryable=False), NotReady("closed")])
def test_what_will_not_pass_ends_the_stream(error: Exception) -> None:
    stream = Stream("s", ENGLISH)
    push(stream, loud(1.0))
    fail(stream, next_job(stream), error)
    assert stream.events()[-1] == StreamFailed(error=error)  # type: ignore[arg-type]
    assert stream.over
    with pytest.raises(StreamClosed):
        stream.receive_audio(loud(1.0))
    stream.receive_eof()
    assert stream.events() == []


def test_nothing_follows_the_terminal_event_even_if_voice_is_heard_late() -> None:
    stream = Stream("s", ENGLISH)
    push(stream, loud(1.0))
    job = next_job(stream)
    stream.receive_audio(np.concatenate((silence(2.0), loud(1.0))))
    late = stream.voice_input()
    assert late is not None
    stream.fail(NotReady("gone"))
    assert kinds(stream.events())[-1] == "StreamFailed"
    stream.receive_voice(voice_of(late))
    answer(stream, job, Word(" one", 0.1, 0.5))
    stream.fail(NotReady("gone again"))
    assert stream.events() == []


def test_no_wakeup_in_the_past_when_the_failed_job_is_not_needed_any_more() -> None:
    stream = Stream("s", replace(ENGLISH, policy="agreement", update_interval_s=0.4))
    push(stream, np.concatenate((loud(0.75), silence(0.25))))
    answer(stream, next_job(stream), Word(" one", 0.1, 0.4))
    push(stream, silence(0.52))
    job = next_job(stream)
    push(stream, silence(0.5))  # now the utterance has ended, in audio that was decoded before
    fail(stream, job, now=0.0)
    assert kinds(stream.events())[-1] == "Final"
    assert stream.next_job(1000.0) is None
    assert stream.next_wakeup() is None, "a busy loop otherwise"


# ---------------------------------------------------------------- limits


def test_too_much_audio_is_refused_whole() -> None:
    stream = Stream("s", replace(WITHOUT_VOICE, max_buffer_s=60.0))
    push(stream, loud(50.0))
    assert stream.has_room(10 * SECOND)
    assert not stream.has_room(10 * SECOND + 1)
    with pytest.raises(Overloaded) as caught:
        stream.receive_audio(loud(11.0))
    assert (caught.value.limit, caught.value.current) == (60.0, 50.0)
    assert stream.received_s == 50.0


@pytest.mark.parametrize("voice_activity", [True, False])
@pytest.mark.parametrize("hard_limit_s", [9.0, 24.0, 27.0])
@pytest.mark.parametrize("language", ["en", "auto"])
def test_noise_without_words_goes_on_for_ever_in_bounded_windows(
    voice_activity: bool, hard_limit_s: float, language: str
) -> None:
    options = StreamOptions(
        language=language,
        voice_activity=voice_activity,
        trimming=TrimmingOptions(trim_after_s=8.0, keep_s=3.0, hard_limit_s=hard_limit_s),
    )
    stream = Stream("s", options)
    decoded_until = 0
    for _ in range(120):
        push(stream, loud(1.0))
        while (job := stream.next_job(0.0)) is not None:
            assert job.start_sample <= decoded_until, "no audio skipped"
            decoded_until = job.start_sample + len(job.audio)
            assert job.audio_s <= hard_limit_s + 1.1
            answer(stream, job, language_probability=0.2)
        assert stream.buffered_s <= hard_limit_s + 2.0
    assert decoded_until >= 119 * SECOND


def test_a_word_on_the_border_of_a_forced_cut_is_committed_not_halved() -> None:
    # 20 s of nothing, then a word that lies across the place where the hard limit cuts.
    for start_s in np.arange(20.0, 26.0, 0.23):
        words = say("first second third", start_s=float(start_s), word_s=0.5)
        world = World(words, 40.0)
        player = Player(world, WITHOUT_VOICE, chunk_s=(0.7, 0.7)).play()
        assert player.text == world.text


def test_one_endless_word_does_not_stop_the_stream() -> None:
    stream = Stream("s", WITHOUT_VOICE)
    for _ in range(60):
        push(stream, loud(1.0))
        while (job := stream.next_job(0.0)) is not None:
            start_s = job.start_sample / SAMPLE_RATE
            answer(stream, job, Word(" aaah", start_s, start_s + job.audio_s + 5.0))
    assert stream.buffered_s < 30.0
    assert any(isinstance(event, Committed) for event in stream.events())


def test_two_hours_take_no_more_memory_than_ten_minutes() -> None:
    # The same minute again and again, so that sizes can be compared at the same moment of it.
    minute = World(random_words(random.Random(1), 58.0), 60.0)
    audio = minute.audio()
    stream = Stream("s", StreamOptions(update_interval_s=3.0, context=True))
    sizes: list[int] = []
    committed = 0
    for number in range(120):
        for start in range(0, len(audio), 4 * SECOND):
            push(stream, audio[start : start + 4 * SECOND])
            while (job := stream.next_job(0.0)) is not None:
                shifts = range(max(0, number - 1) * 60, number * 60 + 60, 60)
                words = tuple(word.shifted(float(by_s)) for by_s in shifts for word in minute.words)
                stream.receive_result(replace(minute, words=words).result(job))
            committed += sum(len(event.words) for event in stream.events() if isinstance(event, Committed))
        sizes.append(len(pickle.dumps(stream)))
    assert committed > 119 * len(minute.words)
    assert max(sizes[100:]) < 1.05 * max(sizes[:10])


def test_a_recording_pushed_much_faster_than_it_was_spoken() -> None:
    rng = random.Random(3)
    world = World(random_words(rng, 300.0), 300.0)
    player = Player(world, ENGLISH, rng, Troubles(delay=0.9), chunk_s=(20.0, 30.0)).play()
    assert player.text == world.text
    assert player.most_buffered_s <= ENGLISH.max_buffer_s


def test_a_job_that_was_taken_back_gives_its_place_to_one_with_all_the_audio():
    stream = Stream("s", WITHOUT_VOICE)
    push(stream, loud(1.0))
    first = next_job(stream, now=10.0)
    assert not first.keeps_place
    assert not stream.is_stale()
    push(stream, loud(0.5))
    assert stream.is_stale()
    stream.take_back(first.job_id)
    second = next_job(stream, now=11.0)
    assert second.job_id != first.job_id
    assert len(second.audio) == len(first.audio) + round(0.5 * SECOND)
    assert (second.keeps_place, second.deadline) == (True, first.deadline)
    # Answered, it has no place to give away.
    answer(stream, second)
    push(stream, loud(1.0))
    third = next_job(stream, now=12.0)
    assert not third.keeps_place
    assert third.deadline > 12.0


@pytest.mark.parametrize("taken_back", [False, True])
def test_a_stream_whose_passes_wait_asks_less_often(taken_back: bool) -> None:
    stream = Stream("s", replace(WITHOUT_VOICE, update_interval_s=0.4))
    asked_for = stream.interval_s
    for second in range(10):
        push(stream, loud(2.5))
        job = next_job(stream, now=second)
        waited_s = 0.5
        if taken_back:
            stream.take_back(job.job_id)
            job = next_job(stream, now=second + waited_s)
            waited_s = 0.0  # the last one was begun at once
        answer(stream, job, timings=Timings(queue_wait_s=waited_s, inference_s=0.2))
    assert stream.interval_s > 2 * asked_for
    push(stream, loud(2 * asked_for))
    assert stream.next_job(20.0) is None
    push(stream, loud(stream.interval_s))
    answer(stream, next_job(stream, now=20.0))
    for hurried, one in ((True, stream), (False, Stream("idle", WITHOUT_VOICE))):
        push(one, loud(0.2))
        finish(one)
        job = next_job(one, now=21.0)
        assert (job.final, job.hurried) == (True, hurried), "however little is new"


# ---------------------------------------------------------------- answers that were made up, stop early, and backlogs


def test_a_pass_that_was_made_up_is_no_evidence_for_what_an_earlier_one_heard() -> None:
    stream = Stream("s", ENGLISH)
    push(stream, loud(2.0))
    answer(stream, next_job(stream), Word(" merry", 1.0, 1.7, 0.3))
    push(stream, loud(4.0))
    answer(stream, next_job(stream), Word(" noise", 1.0, 1.7, 0.3), compression_ratio=3.0)
    assert [event.text for event in stream.events() if isinstance(event, (Committed, Partial))] == ["merry"]
    push(stream, loud(1.0))
    answer(stream, next_job(stream), Word(" many", 1.0, 1.7, 0.9))
    assert [event.text for event in stream.events() if isinstance(event, Committed)] == ["many"]


@pytest.mark.parametrize("heard_behind", [0, 1])
@pytest.mark.parametrize("length_s", [12.0, 50.0])
def test_an_answer_that_stops_early_loses_nothing_where_its_window_is_not_heard_again(
    heard_behind: int, length_s: float
) -> None:
    """12 s: the window is the last one; 50 s: it is beyond the hard limit."""
    numbers = " ".join(f"w{number}" for number in range(round(2.4 * length_s) - 4))
    world = World(say(f"Hello there everybody. {numbers}", start_s=0.5), length_s)
    stream, stopped, text = Stream("s", ENGLISH), False, list[str]()

    def work() -> None:
        nonlocal stopped
        while (job := stream.next_job(0.0)) is not None:
            result = world.result(job)
            if job.prefix.endswith(".") and not stopped:
                stopped = True
                count = len(job.prefix.split()) + heard_behind
                result = replace(result, words=result.words[:count])
            stream.receive_result(result)
            hear(stream)

    first = round(2.4 * SECOND)  # ends behind the sentence, which becomes the prefix of the next window
    push(stream, world.audio()[:first])
    work()
    push(stream, world.audio()[first:])
    finish(stream)
    work()
    for event in stream.events():
        if isinstance(event, Committed):
            text += [word.text for word in event.words]
    assert stopped
    assert text == [word.text for word in world.words]


def test_an_utterance_does_not_end_with_a_pass_that_stopped_early() -> None:
    """It heard all of the utterance before its end was known, so that no last pass was needed."""
    stream = Stream("s", ENGLISH)
    push(stream, loud(6.0))
    push(stream, silence(0.5))
    answer(stream, next_job(stream), Word(" one", 0.1, 1.2))
    push(stream, silence(2.0))
    last = next_job(stream)
    assert last.final
    answer(stream, last, Word(" one", 0.1, 1.2), Word(" two", 5.0, 5.9))
    assert stream.next_job(0.0) is None
    (final,) = (event for event in stream.events() if isinstance(event, Final))
    assert [word.text for word in final.words] == [" one", " two"]


def test_nobody_need_keep_what_was_read_before_the_rest() -> None:
    stream = Stream("s", ENGLISH)
    push(stream, loud(6.0))
    finish(stream)
    answer(stream, next_job(stream), Word(" one", 0.1, 1.2))
    rest = next_job(stream)
    assert (rest.start_sample / SECOND, rest.prefix) == (1.2, "")
    assert stream.kept_from_s == 1.2
    answer(stream, rest, Word(" two", 5.0, 5.9))
    assert stream.over


def test_words_made_up_at_the_beginning_of_each_window_don_t_keep_the_rest_back() -> None:
    stream = Stream("s", ENGLISH)
    push(stream, loud(60.0))
    finish(stream)
    jobs = 0
    while (job := stream.next_job(0.0)) is not None:
        jobs += 1
        assert jobs < 10
        start_s = job.start_sample / SECOND
        answer(stream, job, Word(f" you{jobs}", start_s + 0.1, start_s + 0.4))
        hear(stream)
    assert stream.over


def test_a_busy_pool_cuts_no_word_away_that_a_slow_policy_has_not_committed() -> None:
    """16 s of silence, then speech, all of it at once."""
    words = say(" ".join(f"w{number}" for number in range(60)), start_s=16.0)
    options = replace(WITHOUT_VOICE, policy="agreement")
    player = Player(World(words, 45.0), options, random.Random(1), chunk_s=(30.0, 30.0)).play()
    assert any(job.hurried for job in player.applied)
    assert list(player.text) == [word.text for word in words]
