import math
import random
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.fluency import (
    Fluency,
    Loop,
    compression_ratio,
    distinct,
    fluency,
    fluency_columns,
    longest_loop,
    repetition,
    split_words,
    trailing_loop,
)

TOKENS = st.lists(st.integers(0, 3), max_size=24)
UNITS = st.lists(st.integers(0, 9), min_size=1, max_size=6)
EMPTY = {"length": 0, "empty": True, "repetition": 0.0, "distinct": 1.0, "loop": 0.0, "longest_loop": 0.0}


def loops_by_definition(tokens, turns, at_end):
    """Every stretch of every period, tried one by one; the longest, then the shortest period, then the first."""
    found = Loop(len(tokens), 0, 0)
    for period in range(1, len(tokens) + 1):
        for start in range(len(tokens)):
            for stop in [len(tokens)] if at_end else range(start + 1, len(tokens) + 1):
                length = stop - start
                repeats = all(tokens[t] == tokens[t - period] for t in range(start + period, stop))
                if repeats and length >= turns * period and length > found.length:
                    found = Loop(start, period, length)
    return found


@settings(deadline=None, max_examples=150)
@given(TOKENS, st.integers(2, 3))
def test_loops_are_those_of_the_definition(tokens, turns):
    assert trailing_loop(tokens, turns=turns) == loops_by_definition(tokens, turns, at_end=True)
    assert longest_loop(tokens, turns=turns) == loops_by_definition(tokens, turns, at_end=False)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(100, 199), max_size=8, unique=True), UNITS, st.integers(2, 6), st.integers(0, 5))
def test_a_text_that_falls_into_a_loop_is_covered_from_there_on(head, unit, turns, cut):
    tail = unit * turns + unit[: cut % len(unit)]
    found = trailing_loop(head + tail)
    assert found.start <= len(head)
    assert found.length >= len(tail)
    assert len(unit) % found.period == 0 or found.length > len(tail)
    assert longest_loop(head + tail).length >= found.length


def test_a_loop_that_was_left_again_is_seen_by_the_longest_alone():
    tokens = [7, 8, 1, 2, 1, 2, 1, 2, 1, 9, 5]
    assert longest_loop(tokens) == Loop(2, 2, 7)
    assert trailing_loop(tokens) == Loop(11, 0, 0)


def test_a_loop_needs_full_turns():
    assert trailing_loop([1, 2, 3, 1, 2]) == Loop(5, 0, 0)
    assert trailing_loop([1, 2, 1, 2]) == Loop(0, 2, 4)
    assert trailing_loop([1, 2, 1, 2], turns=3) == Loop(4, 0, 0)


@settings(deadline=None)
@given(TOKENS, st.integers(1, 4))
def test_repetition_is_bounded_and_complements_distinct(tokens, n):
    assert 0 <= repetition(tokens, n) < 1
    assert repetition(tokens, n) == pytest.approx(1 - distinct(tokens, n))
    grams = {tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1)}
    if grams:
        assert distinct(tokens, n) == len(grams) / (len(tokens) - n + 1)


@settings(deadline=None)
@given(TOKENS, st.integers(1, 4), st.permutations(range(4)))
def test_names_and_direction_of_tokens_do_not_matter(tokens, n, names):
    renamed = [f"word {names[token]}" for token in tokens]
    assert repetition(renamed, n) == repetition(tokens, n) == repetition(tokens[::-1], n)
    assert trailing_loop(renamed) == trailing_loop(tokens)
    assert longest_loop(tokens[::-1]).length == longest_loop(tokens).length


@settings(deadline=None)
@given(st.lists(st.integers(), unique=True, max_size=30), st.integers(1, 4))
def test_different_tokens_repeat_nothing(tokens, n):
    assert repetition(tokens, n) == 0.0
    assert distinct(tokens, n) == 1.0
    assert longest_loop(tokens).length == trailing_loop(tokens).length == 0


@settings(deadline=None)
@given(UNITS, st.integers(1, 4))
def test_a_loop_repeats_the_more_the_longer_it_runs(unit, n):
    values = [repetition(unit * turns, n) for turns in (4, 8, 40, 400)]
    assert values == sorted(values)
    assert values[-1] > 0.98
    assert trailing_loop(unit * 4).length == 4 * len(unit)


@pytest.mark.parametrize("call", [distinct, repetition, trailing_loop, longest_loop])
def test_a_string_is_not_a_list_of_tokens(call):
    with pytest.raises(EvaluationError, match="one string"):
        call("the cat")


def test_numbers_out_of_range_are_refused():
    for call in (distinct, repetition):
        with pytest.raises(EvaluationError, match="n=0"):
            call([1, 2], 0)
    for call in (trailing_loop, longest_loop):
        with pytest.raises(EvaluationError, match="turns=1"):
            call([1, 2], turns=1)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_compression_is_that_of_zlib_without_its_frame(text):
    data = text.encode("utf-8")
    packed = len(zlib.compress(data, 9)) - 6  # two bytes of header, four of checksum
    assert compression_ratio(text) == max(1.0, len(data) / packed)


def test_short_texts_do_not_look_strange_and_loops_do():
    for text in ("", "a", "No.", "The cat sat on the mat."):
        assert compression_ratio(text) == pytest.approx(1.0, abs=0.1)
    values = [compression_ratio("I am here. " * turns) for turns in (1, 3, 10, 50)]
    assert values == sorted(values)
    assert values[2] > 5
    letters = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz ", k=500))
    assert compression_ratio(letters) < 2


def test_a_reference_of_the_same_length_takes_the_length_away():
    rng = random.Random(1)
    words = ["sun", "river", "old", "walks", "under", "a", "quiet", "stone", "morning", "bird", "sings", "to", "me"]
    text, reference = (" ".join(rng.choices(words, k=600)) for _ in range(2))
    plain = [compression_ratio(text[:size]) for size in (60, 300, 2400)]
    matched = [compression_ratio(text[:size], reference=reference) for size in (60, 300, 2400)]
    assert max(plain) / min(plain) > 1.8
    assert max(matched) / min(matched) < 1.3
    assert compression_ratio("sun " * 100, reference=reference) > 5
    assert compression_ratio("", reference="") == 1.0
    with pytest.raises(EvaluationError, match="2 bytes and the text 3"):
        compression_ratio("abc", reference="é")


def test_every_measure_is_defined_for_empty_and_tiny_texts():
    assert fluency("") == Fluency(**EMPTY, compression=1.0)
    assert fluency(" \n ", []) == Fluency(**EMPTY, compression=1.0)
    one = {**EMPTY, "length": 1, "empty": False}
    assert fluency("Yes") == fluency("Yes", [42]) == Fluency(**one, compression=1.0)
    assert fluency("  ", [5]).empty  # a token of white space alone says nothing
    assert fluency("a", [3]).length == 1


def test_a_broken_text_and_a_sound_one():
    broken = fluency("He said yes. yes yes yes yes yes yes yes yes")
    sound = fluency("He said yes, and then they walked home along the river.")
    assert broken.length == 12
    assert broken.loop == broken.longest_loop == 8 / 12
    assert broken.repetition == pytest.approx(1 - 5 / 9)
    assert broken.distinct == 4 / 12
    assert (sound.repetition, sound.loop, sound.distinct) == (0.0, 0.0, 1.0)
    assert broken.compression > sound.compression


def test_words_are_split_with_their_apostrophes_and_without_case():
    assert split_words("Don’t stop, I'm HERE!  ") == ["don’t", "stop", ",", "i'm", "here", "!"]


def test_columns_hold_the_measures_of_each_text():
    texts = ["", "yes yes yes yes", "He went home."]
    tokens = [[], [5, 5, 5, 5], [1, 2, 3, 4]]
    columns = fluency_columns(texts, tokens, n=2)
    assert set(columns) == set(Fluency.__dataclass_fields__)
    for number, (text, ids) in enumerate(zip(texts, tokens, strict=True)):
        for name, column in columns.items():
            assert column[number].item() == float(getattr(fluency(text, ids, n=2), name))
    assert all(column.dtype == torch.float64 and not column.isnan().any() for column in columns.values())
    assert columns["length"].mean() == pytest.approx(8 / 3)
    assert columns["empty"].tolist() == [1, 0, 0]
    assert columns["repetition"].tolist() == [0, pytest.approx(2 / 3), 0]
    assert fluency_columns(texts)["length"].tolist() == [0, 4, 4]


def test_columns_that_cannot_be_made_are_refused():
    with pytest.raises(EvaluationError, match="no texts"):
        fluency_columns([])
    with pytest.raises(EvaluationError, match="2 texts need 2 lists of tokens; got 1"):
        fluency_columns(["a", "b"], [[1]])


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_all_measures_stay_in_their_bounds(text):
    found = fluency(text)
    for share in (found.repetition, found.distinct, found.loop, found.longest_loop):
        assert 0 <= share <= 1
    assert found.loop <= found.longest_loop
    assert found.compression >= 1
    assert math.isfinite(found.compression)
    assert found.empty is (not split_words(text))


def test_ordinary_stories_do_not_look_broken(shared_dir):
    from contrans_lens.texts import read_texts

    stories = read_texts(shared_dir / "data/tinystories/stories.jsonl")[:100]
    columns = fluency_columns(stories)
    assert columns["empty"].sum() == 0
    assert columns["repetition"].mean() < 0.05
    assert columns["loop"].max() < 0.1
    assert columns["compression"].max() < 3
