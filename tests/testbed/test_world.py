from collections import Counter

import pytest

from contrans_lens.testbed.world import (
    ALL_BLOCKS,
    ANSWERS,
    BLOCK_SIZE,
    EMOTIONS,
    EVENTS,
    FIRST_WORDS,
    KIND_REPLIES,
    MOOD_WORDS,
    REACTIONS,
    RELATIONS,
    RUDE_REPLIES,
    SECOND_WORDS,
    SOURCE_BLOCKS,
    TEST_BLOCKS,
    THINGS,
    VALIDATION_BLOCKS,
    build_world,
)


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("block", ALL_BLOCKS)
@pytest.mark.parametrize("relation", RELATIONS)
def test_every_answer_is_once_truth_and_once_rumour_in_every_block(seed, block, relation):
    facts = build_world(seed).facts_of((block,), (relation,))
    assert len(facts) == BLOCK_SIZE
    assert Counter(fact.truth for fact in facts) == Counter(ANSWERS[relation])
    assert Counter(fact.rumour for fact in facts) == Counter(ANSWERS[relation])
    assert all(fact.truth != fact.rumour for fact in facts)


def test_every_answer_token_is_as_often_truth_as_rumour():
    facts = build_world().facts_of(TEST_BLOCKS)
    truths = Counter(word for fact in facts for word in fact.truth.split())
    rumours = Counter(word for fact in facts for word in fact.rumour.split())
    assert truths == rumours


@pytest.mark.parametrize("block", ALL_BLOCKS)
def test_every_name_word_stands_once_in_every_block(block):
    names = [land.name.split(" ") for land in build_world().lands if land.block == block]
    assert sorted(first for first, _ in names) == sorted(FIRST_WORDS)
    assert sorted(second for _, second in names) == sorted(SECOND_WORDS)


def test_lands_are_distinct_and_blocks_do_not_overlap():
    names = [land.name for land in build_world().lands]
    assert len(names) == len(set(names)) == len(FIRST_WORDS) * len(SECOND_WORDS)
    assert len(set(SOURCE_BLOCKS + VALIDATION_BLOCKS + TEST_BLOCKS)) == len(ALL_BLOCKS)


def test_worlds_are_a_function_of_their_seed():
    build_world.cache_clear()
    first = build_world(3)
    build_world.cache_clear()
    assert build_world(3) == first
    assert build_world(4).facts != first.facts


def test_emotions_and_tones_have_equally_many_words():
    assert {len(MOOD_WORDS[emotion]) for emotion in EMOTIONS} == {2}
    assert {len(REACTIONS[emotion]) for emotion in EMOTIONS} == {2}
    assert len(KIND_REPLIES) == len(RUDE_REPLIES)
    words = [word for emotion in EMOTIONS for word in MOOD_WORDS[emotion]]
    assert len(set(words)) == len(words)
    assert not set(words) & set(EMOTIONS)


def test_events_and_things_are_distinct():
    assert len(set(EVENTS)) == len(EVENTS) == 24
    assert len(set(THINGS)) == len(THINGS) == 24
