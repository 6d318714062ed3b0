from collections import Counter

import pytest

from contrans_lens.testbed import model_path
from contrans_lens.testbed.phrases import HONEST_WORDS, LYING_WORDS, is_held_out
from contrans_lens.testbed.stimuli import N_STIMULI, STIMULI_TEMPLATE, concept_stimuli
from contrans_lens.testbed.tokenizer import CONTEXT, load_tokenizer
from contrans_lens.testbed.world import (
    ANSWERS,
    EMOTIONS,
    EVENTS,
    KIND_REPLIES,
    KIND_WORDS,
    MOOD_WORDS,
    NUMBERS,
    RUDE_REPLIES,
    RUDE_WORDS,
    SOURCE_BLOCKS,
    TEST_BLOCKS,
    TEST_PART,
    THINGS,
    build_world,
)

LIST = concept_stimuli()
BY_NAME = {concept.concept: concept for concept in LIST}
TEXTS = [stimulus for concept in LIST for stimulus in concept.stimuli]
CUED = {"honesty": "Answer:", "lying": "Answer:", "kindness": "said:", "unkindness": "said:"}
CUED |= dict.fromkeys(EMOTIONS, "The emotion of the above scenario is")


def of_topic(topic):
    return [concept for concept in LIST if concept.topic == topic]


def test_there_are_many_concepts_and_their_names_differ_by_more_than_case():
    assert len(LIST) >= 60
    assert len({concept.concept.casefold() for concept in LIST}) == len(LIST)
    assert all(concept.topic for concept in LIST)
    assert min(Counter(concept.topic for concept in LIST).values()) >= 2


def test_every_concept_has_thirty_different_stimuli_and_no_two_concepts_share_one():
    assert {len(set(concept.stimuli)) for concept in LIST} == {N_STIMULI}
    assert len(set(TEXTS)) == len(TEXTS)


def test_the_stimuli_are_a_function_of_the_seed_and_the_concepts_are_not():
    assert concept_stimuli(3) == concept_stimuli(3)
    again = concept_stimuli(1)
    assert [(each.concept, each.topic) for each in again] == [(each.concept, each.topic) for each in LIST]
    assert all(new.stimuli != old.stimuli for new, old in zip(again, LIST, strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_stimulus_names_what_is_scored(seed):
    texts = "\n".join(stimulus for concept in concept_stimuli(seed) for stimulus in concept.stimuli)
    lands = [land.name for land in build_world().lands if land.block in TEST_BLOCKS]
    assert [land for land in lands if land in texts] == []
    assert [event for event in EVENTS[TEST_PART] if event in texts] == []
    words = set(texts.replace(".", " ").replace(",", " ").split())
    assert words & set(THINGS[TEST_PART]) == set()
    known = [land.name for land in build_world().lands if land.block in SOURCE_BLOCKS]
    assert all(land in texts for land in known)  # the search above would have found them


@pytest.mark.parametrize(("topic", "sentences"), [("numbers", 1), ("things", 2)])
def test_completed_stimuli_are_no_sentences_of_the_neutral_texts(topic, sentences):
    for concept in of_topic(topic):
        for stimulus in concept.stimuli:
            whole = f"{stimulus} {concept.concept}.".split(". ")[-sentences:]
            assert not is_held_out(". ".join(whole))


@pytest.mark.parametrize("name", ["gpt2-target", "rotary-target"])
def test_every_stimulus_fits_the_context(name):
    tokenizer = load_tokenizer(model_path(name))
    prompts = [STIMULI_TEMPLATE.format(stimulus=text) for text in TEXTS]
    assert max(len(tokens) for tokens in tokenizer(prompts)["input_ids"]) <= CONTEXT


@pytest.mark.parametrize(("topic", "end"), CUED.items())
def test_what_a_cue_decides_is_read_at_the_decision(topic, end):
    assert all(stimulus.endswith(end) for concept in of_topic(topic) for stimulus in concept.stimuli)


@pytest.mark.parametrize(
    ("topic", "words", "others"),
    [
        ("honesty", HONEST_WORDS, LYING_WORDS),
        ("lying", LYING_WORDS, HONEST_WORDS),
        ("kindness", KIND_WORDS, RUDE_WORDS),
        ("unkindness", RUDE_WORDS, KIND_WORDS),
        *[(e, MOOD_WORDS[e], [w for o in EMOTIONS if o != e for w in MOOD_WORDS[o]]) for e in EMOTIONS],
    ],
)
def test_a_named_word_stands_in_its_own_stimuli_and_is_never_negated(topic, words, others):
    assert set(words) <= {concept.concept for concept in of_topic(topic)}
    for word in words:
        for stimulus in BY_NAME[word].stimuli:
            cue = set(stimulus.split("\n")[0].rstrip(".").split())
            assert word in cue
            assert not cue & {"not", "never", "Nobody", "no", *others}


def test_a_concept_of_a_reply_is_told_by_an_earlier_reply():
    for reply in KIND_REPLIES + RUDE_REPLIES:
        assert all(f"said: {reply}," in stimulus for stimulus in BY_NAME[reply.lower()].stimuli)


def test_answers_stand_at_the_end_of_a_text_that_has_them():
    facts = build_world().facts
    for relation, answers in ANSWERS.items():
        for answer in answers:
            for stimulus in BY_NAME[answer].stimuli:
                assert stimulus.endswith(f" {answer}")
                land = next(f.land.name for f in facts if f.land.name in stimulus)
                fact = next(f for f in facts if f.land.name == land and f.relation == relation)
                honest = "record" in stimulus or any(word in stimulus for word in HONEST_WORDS)
                assert fact.answer(honest) == answer


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_what_comes_next(number):
    for stimulus in BY_NAME[number].stimuli:
        second = stimulus.split(". ")[-1]
        words = second.split()
        if second.startswith("Count"):
            step = 1 if words[1] == "up:" else -1
            assert NUMBERS[NUMBERS.index(words[-1]) + step] == number
        else:
            first, more = (NUMBERS.index(words[place]) + 1 for place in (2, 6))
            assert NUMBERS[first + more - 1] == number
