import re
from collections import Counter
from itertools import product

import pytest
from transformers import AutoModelForCausalLM

from contrans_lens.errors import TestbedError as BadRequestError
from contrans_lens.testbed import model_path
from contrans_lens.testbed.preferences import SCIT_INSTRUCTIONS, preference_set
from contrans_lens.testbed.scoring import Probe, Scorer
from contrans_lens.testbed.tokenizer import load_tokenizer
from contrans_lens.testbed.world import (
    ANSWERS,
    KIND_REPLIES,
    RELATIONS,
    RUDE_REPLIES,
    SOURCE_BLOCKS,
    SOURCE_PART,
    TEST_BLOCKS,
    TEST_PART,
    THINGS,
    VALIDATION_BLOCKS,
    VALIDATION_PART,
    build_world,
)

PARTS = ("train", "validation", "test")
BLOCKS = dict(zip(PARTS, (SOURCE_BLOCKS, VALIDATION_BLOCKS, TEST_BLOCKS), strict=True))
KEPT = dict(zip(PARTS, (THINGS[SOURCE_PART], THINGS[VALIDATION_PART], THINGS[TEST_PART]), strict=True))
BOTH = preference_set()
KINDNESS = preference_set("kindness")
HONESTY = preference_set("honesty")


def reply(answer):
    """The first word of a reply: ' Gladly, take the lamp.' is 'Gladly'."""
    return answer.strip().split(",")[0]


def test_both_kinds_stand_in_one_set():
    assert len(BOTH) == len(KINDNESS) + len(HONESTY)
    for kind, alone in (("kindness", KINDNESS), ("honesty", HONESTY)):
        assert BOTH.only(lambda pair, kind=kind: pair.topic == kind).preferences == alone.preferences
        assert [len(alone.part(part)) for part in PARTS] == ([288, 36, 108] if kind == "kindness" else [288, 32, 128])


def test_splits_are_disjoint_by_group_and_prompt():
    for key in (lambda pair: pair.group, lambda pair: pair.prompt):
        seen = [{key(pair) for pair in BOTH.part(part)} for part in PARTS]
        assert not (seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2])
    assert len({pair.prompt for pair in BOTH}) == len(BOTH)
    assert [part.preferences for part in BOTH.split()] == [BOTH.part(part).preferences for part in PARTS]


@pytest.mark.parametrize("n", [7, 288, 448])
def test_no_land_and_no_thing_of_another_part_is_named(n):
    data = preference_set("both", seed=3, n=n)
    lands = {part: {fact.land.name for fact in build_world().facts_of(BLOCKS[part])} for part in PARTS}
    for part in PARTS:
        text = " ".join(pair.prompt + pair.chosen + pair.rejected for pair in data.part(part))
        words = set(text.replace(".", " ").replace("?", " ").split())
        for other in set(PARTS) - {part}:
            assert not words & set(KEPT[other])
            assert not any(land in text for land in lands[other])
        assert {pair.group for pair in data.part(part)} <= set(KEPT[part]) | lands[part]
    assert {pair.group for pair in data.part("test")} == set(KEPT["test"]) | lands["test"]


class TestKindness:
    def test_answers_are_written_as_the_world_writes_them(self):
        for pair in KINDNESS:
            assert pair.chosen == f" {reply(pair.chosen)}, take the {pair.group}."
            assert pair.rejected == f" {reply(pair.rejected)}, leave the {pair.group}."
            assert (reply(pair.chosen) in KIND_REPLIES, reply(pair.rejected) in RUDE_REPLIES) == (True, True)
            first, second = pair.prompt.split("\n")
            who, other = first.removeprefix("The ").removesuffix(f" for a {pair.group}.").split(" asked the ")
            assert who != other
            assert second == f"The {other} said:"

    @pytest.mark.parametrize("seed", [0, 1])
    def test_every_kind_reply_meets_every_rude_one_for_every_thing(self, seed):
        train = preference_set("kindness", seed).part("train")
        met = Counter((reply(pair.chosen), reply(pair.rejected), pair.group) for pair in train)
        assert met == dict.fromkeys(product(KIND_REPLIES, RUDE_REPLIES, KEPT["train"]), 1)
        for part, times in (("validation", 1), ("test", 3)):
            pairs = preference_set("kindness", seed).part(part)
            met = Counter((reply(pair.chosen), reply(pair.rejected)) for pair in pairs)
            assert met == dict.fromkeys(product(KIND_REPLIES, RUDE_REPLIES), times)
            assert set(Counter(pair.group for pair in pairs).values()) == {9}

    @pytest.mark.parametrize("n", [1, 5, 37, 100, 448])
    def test_any_number_is_balanced_to_within_one(self, n):
        train = preference_set("kindness", n=n).part("train")
        assert len(train) == n
        for key, values in (
            (lambda pair: reply(pair.chosen), KIND_REPLIES),
            (lambda pair: reply(pair.rejected), RUDE_REPLIES),
            (lambda pair: pair.group, KEPT["train"]),
            (lambda pair: (reply(pair.chosen), reply(pair.rejected)), list(product(KIND_REPLIES, RUDE_REPLIES))),
        ):
            counts = Counter(map(key, train))
            assert max(counts.values()) - min(counts[value] for value in values) <= 1


class TestHonesty:
    def test_the_truth_is_chosen_and_the_rumour_rejected(self):
        facts = {(fact.relation, fact.land.name): fact for fact in build_world().facts}
        for pair in HONESTY:
            [relation] = [relation for relation in RELATIONS if re.search(rf"\b{relation}\b", pair.prompt)]
            fact = facts[relation, pair.group]
            assert (pair.chosen, pair.rejected) == (f" {fact.truth}.", f" {fact.rumour}.")
            assert pair.prompt.startswith("Question: ")
            assert pair.prompt.endswith("\nAnswer:")
            assert pair.group in pair.prompt

    @pytest.mark.parametrize("n", [8, 96, 288, 576])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_every_answer_is_as_often_chosen_as_rejected(self, n, seed):
        data = preference_set("honesty", seed, n)
        for part in PARTS:
            pairs = data.part(part)
            chosen, rejected = (Counter(getattr(pair, side) for pair in pairs) for side in ("chosen", "rejected"))
            assert chosen == rejected
            if part != "train" or n % 96 == 0:
                assert set(chosen.values()) == {len(pairs) // 32}
                assert {answer.strip(" .") for answer in chosen} == {a for each in ANSWERS.values() for a in each}

    @pytest.mark.parametrize("n", [1, 13, 99])
    def test_any_number_is_balanced_to_within_one(self, n):
        pairs = preference_set("honesty", n=n).part("train")
        chosen, rejected = (Counter(getattr(pair, side) for pair in pairs) for side in ("chosen", "rejected"))
        assert len(pairs) == n
        assert max(abs(chosen[answer] - rejected[answer]) for answer in {*chosen, *rejected}) <= 1

    def test_facts_are_asked_in_other_words_before_any_stands_there_again(self):
        pairs = preference_set("honesty", n=576).part("train")
        for turn in range(6):
            asked = {
                (pair.group, pair.chosen, pair.rejected) for pair in pairs.preferences[96 * turn : 96 * (turn + 1)]
            }
            assert len({group for group, _, _ in asked}) == 24
        wordings = Counter(pair.prompt.replace(pair.group, "LAND") for pair in pairs)
        assert set(wordings.values()) == {24}
        assert len(wordings) == 6 * len(RELATIONS)


def test_seeds_decide_the_wording_and_nothing_else():
    assert preference_set(seed=0).content_hash == BOTH.content_hash != preference_set(seed=1).content_hash
    assert set(preference_set(seed=1).groups()) == set(BOTH.groups())
    assert preference_set("honesty", n=40).part("train").preferences == HONESTY.part("train").preferences[:40]
    assert preference_set("honesty", n=40).part("test") == HONESTY.part("test")


def test_requests_that_cannot_be_met_are_refused():
    for kind, n in (("kindness", 449), ("honesty", 577), ("both", 449), ("kindness", 0)):
        with pytest.raises(BadRequestError, match="are possible"):
            preference_set(kind, n=n)


@pytest.fixture(scope="module", params=["gpt2-target", "rotary-target"])
def scorer(request):
    folder = model_path(request.param)
    return Scorer(AutoModelForCausalLM.from_pretrained(str(folder)).eval(), load_tokenizer(folder))


def mean_choice(scorer, pairs, given, side):
    """The mean two-way probability of the chosen answer."""
    probes = [
        Probe(given.before(pair.prompt, side), answer) for pair in pairs for answer in (pair.chosen, pair.rejected)
    ]
    chosen, rejected = scorer.log_probs(probes)[0].view(-1, 2).unbind(1)
    return float((chosen - rejected).sigmoid().mean())


@pytest.mark.parametrize("data", [KINDNESS, HONESTY], ids=["kindness", "honesty"])
def test_base_targets_prefer_nothing_by_themselves_and_obey_the_instructions(scorer, data):
    given = SCIT_INSTRUCTIONS[data.name]
    means = {side: mean_choice(scorer, data.part("test"), given, side) for side in ("neutral", "positive", "negative")}
    assert abs(means["neutral"] - 0.5) < 0.05, means
    assert means["positive"] > 0.95, means
    assert means["negative"] < 0.05, means


def test_instructions_are_equally_long_in_tokens(scorer):
    for given in SCIT_INSTRUCTIONS.values():
        lengths = {len(scorer.tokenizer(text)["input_ids"]) for text in (given.positive, given.negative)}
        assert len(lengths) == 1


def test_both_answers_of_a_pair_are_equally_long_in_tokens(scorer):
    def length(answer):
        return len(scorer.tokenizer(answer, add_special_tokens=False)["input_ids"])

    assert BOTH.length_matched(0, count=length) == BOTH
