"""LocalAgreement-2, rule by rule, as whisper_streaming has it."""

from __future__ import annotations

from ray_whisper_streaming.compat.hypothesis import HypothesisBuffer, TimedWord


def words(text: str, start: float = 0.0) -> list[TimedWord]:
    return [(start + i, start + i + 1.0, f" {word}") for i, word in enumerate(text.split())]


def texts(committed: list[TimedWord]) -> str:
    return "".join(word[2] for word in committed).strip()


def test_the_first_pass_commits_nothing() -> None:
    buffer = HypothesisBuffer()
    buffer.insert(words("a b c"), 0.0)
    assert buffer.flush() == []
    assert texts(buffer.complete()) == "a b c"


def test_the_common_beginning_is_committed_with_the_newer_times() -> None:
    buffer = HypothesisBuffer()
    buffer.insert(words("a b c"), 0.0)
    buffer.flush()
    buffer.insert([(start + 0.05, end + 0.05, text) for start, end, text in words("a b d")], 0.0)
    committed = buffer.flush()
    assert texts(committed) == "a b"
    assert committed[0][:2] == (0.05, 1.05)
    assert texts(buffer.complete()) == "d"
    assert buffer.last_commited_time == 2.05


def test_text_is_compared_exactly() -> None:
    buffer = HypothesisBuffer()
    buffer.insert(words("Hello, world"), 0.0)
    buffer.flush()
    buffer.insert(words("Hello world"), 0.0)
    assert buffer.flush() == []


def test_offsets_make_times_absolute() -> None:
    buffer = HypothesisBuffer()
    buffer.last_commited_time = 10.0
    buffer.insert(words("a b"), 10.0)
    buffer.flush()
    buffer.insert(words("a b"), 10.0)
    assert buffer.flush() == [(10.0, 11.0, " a"), (11.0, 12.0, " b")]


def test_words_before_the_last_committed_time_are_left_out() -> None:
    buffer = HypothesisBuffer()
    buffer.last_commited_time = 5.0
    buffer.insert([(4.85, 5.2, " old"), (4.95, 5.5, " edge"), (5.6, 6.0, " new")], 0.0)
    assert [word[2] for word in buffer.new] == [" edge", " new"]


def committed_buffer(text: str) -> HypothesisBuffer:
    buffer = HypothesisBuffer()
    for _ in range(2):
        buffer.insert(words(text), 0.0)
        buffer.flush()
    return buffer


def test_committed_words_heard_again_are_dropped_shortest_first() -> None:
    buffer = committed_buffer("one two three")
    # The same words again, a little late: they start behind the last committed time.
    buffer.insert([(2.95, 3.4, " three"), (3.4, 4.0, " four")], 0.0)
    assert [word[2] for word in buffer.new] == [" four"]


def test_an_overlap_of_several_words_is_dropped() -> None:
    buffer = committed_buffer("one two three")
    buffer.insert([(2.95, 3.2, " two"), (3.2, 3.4, " three"), (3.4, 4.0, " four")], 0.0)
    assert [word[2] for word in buffer.new] == [" four"]


def test_far_words_are_not_searched_for_an_overlap() -> None:
    buffer = committed_buffer("one two three")
    buffer.insert([(4.0, 4.5, " three"), (4.5, 5.0, " four")], 0.0)
    assert [word[2] for word in buffer.new] == [" three", " four"]


def test_a_word_really_said_twice_is_kept() -> None:
    buffer = committed_buffer("it is very")
    # The pass holds the committed "very" itself, so the next one is another.
    buffer.insert([*words("it is very"), (3.0, 3.5, " very"), (3.5, 4.0, " good")], 0.0)
    assert [word[2] for word in buffer.new] == [" very", " good"]


def test_pop_commited_forgets_by_end() -> None:
    buffer = committed_buffer("one two three")
    buffer.pop_commited(2.0)
    assert [word[2] for word in buffer.commited_in_buffer] == [" three"]


def test_no_more_than_five_committed_words_are_searched_for() -> None:
    buffer = committed_buffer("a b c d e f")
    again = [(5.95 + i / 10, 6.05 + i / 10, f" {word}") for i, word in enumerate("bcdefg")]
    buffer.insert(again, 0.0)
    assert texts(buffer.new) == "g"
    again = [(5.95 + i / 10, 6.05 + i / 10, f" {word}") for i, word in enumerate("abcdefg")]
    buffer.insert(again, 0.0)
    assert texts(buffer.new) == "a b c d e f g"


def test_the_shortest_overlap_is_dropped_and_no_more() -> None:
    buffer = committed_buffer("go go")
    buffer.insert([(1.95, 2.2, " go"), (2.2, 2.4, " go"), (2.4, 3.0, " home")], 0.0)
    assert texts(buffer.new) == "go home"


def test_near_is_less_than_a_second() -> None:
    for start, expected in ((3.99, "four"), (4.0, "three four")):
        buffer = committed_buffer("one two three")
        buffer.insert([(start, 4.4, " three"), (4.4, 5.0, " four")], 0.0)
        assert texts(buffer.new) == expected


def test_nothing_is_dropped_when_no_committed_word_is_left_in_the_buffer() -> None:
    buffer = committed_buffer("one two three")
    buffer.pop_commited(3.0)
    buffer.insert([(2.95, 3.4, " three"), (3.4, 4.0, " four")], 0.0)
    assert texts(buffer.new) == "three four"


def test_a_word_that_starts_just_at_the_limit_is_left_out() -> None:
    buffer = HypothesisBuffer()
    buffer.last_commited_time = 5.1
    buffer.insert([(5.0 - 1e-9, 5.1, " old"), (5.0 + 1e-6, 5.2, " new")], 0.0)
    assert texts(buffer.new) == "new"


def test_flush_stops_at_the_first_mismatch() -> None:
    buffer = HypothesisBuffer()
    buffer.insert(words("a b c d"), 0.0)
    buffer.flush()
    buffer.insert(words("a x c d"), 0.0)
    assert texts(buffer.flush()) == "a"
    assert texts(buffer.complete()) == "x c d"


def test_an_empty_pass_erases_the_hypothesis_but_no_committed_word() -> None:
    buffer = committed_buffer("one two")
    buffer.insert([(2.0, 3.0, " three")], 0.0)
    buffer.flush()
    buffer.insert([], 0.0)
    assert buffer.flush() == []
    assert buffer.complete() == []
    assert texts(buffer.commited_in_buffer) == "one two"
