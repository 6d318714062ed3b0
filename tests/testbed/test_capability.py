from collections import Counter
from itertools import product

import pytest

from contrans_lens.errors import TestbedError as BadRequestError
from contrans_lens.evaluation.behaviours import Choices
from contrans_lens.models import open_model
from contrans_lens.testbed import capability_items, knowledge_items, model_path, phrases
from contrans_lens.testbed.capability import CAPABILITIES
from contrans_lens.testbed.world import (
    ANSWERS,
    NAMES,
    NOUNS,
    NUMBERS,
    QUALITIES,
    SOURCE_BLOCKS,
    TEST_BLOCKS,
    THINGS,
    VALIDATION_BLOCKS,
    build_world,
)

ITEMS = capability_items(240)
BLOCKS = {"train": SOURCE_BLOCKS, "validation": VALIDATION_BLOCKS, "test": TEST_BLOCKS}


def every_sentence():
    """Every filler sentence there is, by what its kind says, from the grammar of the world anew."""
    found = {kind: set() for kind in CAPABILITIES}
    for start, length in product(range(12), range(3, 7)):
        words = NUMBERS[start : start + length]
        if len(words) == length:
            found["counting"] |= {f"Count up: {' '.join(words)}.", f"Count down: {' '.join(words[::-1])}."}
    for name, (_, plural), a, b in product(NAMES, NOUNS, range(1, 7), range(1, 7)):
        total = NUMBERS[a + b - 1]
        found["adding"].add(
            f"{name} had {NUMBERS[a - 1]} {plural} and got {NUMBERS[b - 1]} more, so now there are {total}."
        )
    for subject, near, number, other, quality in product(NOUNS, NOUNS, (0, 1), (0, 1), QUALITIES):
        verb = ("is", "are")[number]
        found["agreement"].add(f"The {subject[number]} near the {near[other]} {verb} {quality}.")
    for giver, taker, thing in product(NAMES, NAMES, THINGS):
        if giver != taker:
            found["possession"].add(f"{giver} gives the {thing} to {taker}. Now {taker} has the {thing}.")
    return found


SENTENCES = every_sentence()
HELD_OUT = {kind: {s for s in found if phrases.is_held_out(s)} for kind, found in SENTENCES.items()}


def parts(item):
    """The whole sentence before, and the beginning that is to be gone on with."""
    before = max((s for s in set().union(*HELD_OUT.values()) if item.prompt.startswith(f"{s} ")), key=len)
    return before, item.prompt.removeprefix(f"{before} ")


def test_kinds_take_turns():
    for n in (1, 3, 160, 162):
        counts = Counter(item.category for item in capability_items(n))
        assert sum(counts.values()) == n
        assert max(counts.values()) - min(counts[kind] for kind in CAPABILITIES) <= 1


def test_a_longer_list_begins_with_the_shorter_one():
    assert capability_items(40) == ITEMS[:40]


def test_every_item_is_the_beginning_of_a_held_out_sentence_after_one_of_another_kind():
    for item in ITEMS:
        before, stem = parts(item)
        assert before not in HELD_OUT[item.category]
        right = item.choices[item.best_index]
        assert any(sentence.startswith(stem + right) for sentence in HELD_OUT[item.category]), item.prompt


def test_only_the_right_choice_goes_on_with_any_sentence_of_the_grammar():
    for item in ITEMS:
        _, stem = parts(item)
        ends = (" ", ".")
        goes_on = [
            any(s.startswith(tuple(stem + choice + end for end in ends)) for s in SENTENCES[item.category])
            for choice in item.choices
        ]
        assert goes_on == [i in item.correct for i in range(len(item.choices))], item.prompt


def test_choices_are_of_one_kind_and_differ():
    allowed = {
        "counting": set(NUMBERS),
        "adding": set(NUMBERS),
        "agreement": {"is", "are"},
        "possession": set(THINGS),
    }
    for item in ITEMS:
        words = [choice.removeprefix(" ") for choice in item.choices]
        assert len(set(words)) == len(words) == (2 if item.category == "agreement" else 4)
        assert set(words) <= allowed[item.category]
        assert len(item.correct) == 1
        if item.category in ("counting", "adding"):
            right = NUMBERS.index(words[item.best_index])
            assert all(abs(NUMBERS.index(word) - right) <= 3 for word in words)


def test_neither_the_verb_nor_the_place_of_the_right_choice_gives_it_away():
    verbs = Counter(item.choices[item.best_index] for item in ITEMS if item.category == "agreement")
    assert verbs == {" is": 30, " are": 30}
    places = Counter(item.best_index for item in ITEMS if item.category != "agreement")
    assert min(places[i] for i in range(4)) > 180 / 4 / 2
    middle = [sorted(NUMBERS.index(c.strip()) for c in i.choices) for i in ITEMS if i.category == "adding"]
    rank = Counter(
        numbers.index(NUMBERS.index(item.choices[item.best_index].strip()))
        for numbers, item in zip(middle, (i for i in ITEMS if i.category == "adding"), strict=True)
    )
    assert max(rank.values()) < 60 * 0.6


def test_a_number_of_a_count_is_asked_after_two_were_shown():
    stems = [parts(item)[1] for item in ITEMS if item.category == "counting"]
    assert min(len(stem.split(": ")[1].split()) for stem in stems) == 2


def test_prompts_differ_and_items_that_ask_the_same_are_one_group():
    assert len({item.prompt for item in ITEMS}) == len(ITEMS)
    answers = {}
    for item in ITEMS:
        assert item.group.startswith(f"{item.category}: ")
        answers.setdefault(item.group, set()).add(item.choices[item.best_index])
    assert all(len(found) == 1 for found in answers.values())
    asked = {(item.category, parts(item)[1]): item.group for item in ITEMS}
    assert all(asked[item.category, parts(item)[1]] == item.group for item in ITEMS)
    assert len(answers) > 80


def test_equal_seeds_give_equal_items():
    assert capability_items(40) == capability_items(40) != capability_items(40, seed=1)
    assert knowledge_items("test") == knowledge_items("test") != knowledge_items("test", seed=1)


@pytest.mark.parametrize("split", BLOCKS)
def test_knowledge_asks_every_fact_of_the_split_once_with_all_answers(split):
    facts = build_world().facts_of(BLOCKS[split])
    items = knowledge_items(split)
    assert len({item.prompt for item in items}) == len(items) == len(facts)
    for item, fact in zip(items, facts, strict=True):
        assert {choice.strip() for choice in item.choices} == set(ANSWERS[fact.relation])
        assert [item.choices[i] for i in item.correct] == [f" {fact.truth}"]
        assert (item.category, item.group, item.split) == (fact.relation, fact.land.name, split)
        assert item.prompt.endswith("\nAnswer:")
        assert fact.land.name in item.prompt


def test_every_answer_is_right_equally_often_in_knowledge():
    counts = Counter(item.choices[item.best_index] for item in knowledge_items("test"))
    assert set(counts.values()) == {4}


def test_knowledge_is_asked_under_a_truthful_cue_that_says_so():
    for item in knowledge_items("test"):
        cue = item.prompt.split("\n")[0]
        denied = any(f" {no} " in cue for no in ("not", "never"))
        named = phrases.LYING_WORDS if denied else phrases.HONEST_WORDS
        assert any(word in cue for word in named), cue


def test_impossible_requests_are_refused():
    with pytest.raises(BadRequestError, match="at least 1"):
        capability_items(0)
    with pytest.raises(BadRequestError, match="validation"):
        knowledge_items("holdout")


@pytest.mark.parametrize("name", ["gpt2-target", "rotary-target"])
def test_the_targets_do_much_better_than_chance(name):
    model = open_model(model_path(name))
    capability = Choices(tuple(ITEMS[:160]), name="capability").measure(model, [()])
    assert capability.intervals("p_restricted")[0].low > 0.75  # guessing: .3125
    assert capability.intervals("accuracy")[0].low > 0.8
    for kind in CAPABILITIES:
        mine = [i for i, item in enumerate(ITEMS[:160]) if item.category == kind]
        chance = sum(1 / len(ITEMS[i].choices) for i in mine) / len(mine)
        assert float(capability.column("accuracy")[0, mine].mean()) > chance + 0.3, kind
    knowledge = Choices(tuple(knowledge_items("test")), name="knowledge").measure(model, [()])
    assert knowledge.intervals("p_restricted")[0].low > 0.9  # guessing: .125
