from dataclasses import replace

import pytest
import torch

from contrans_lens.errors import ArtifactError, RahfError
from contrans_lens.models import HookedModel
from contrans_lens.rahf.scoring import (
    Reading,
    Scored,
    ScoredPairs,
    asked,
    measured_damage,
    scored_rows,
    words_damage,
)
from contrans_lens.texts import Preference, PreferenceSet
from tests.rahf.made_results import rows
from tests.rahf.small_runs import NEUTRAL, WORDS, small_set
from tests.tiny_models import N_CTX, hf_tiny, open_tiny


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return open_tiny("gpt2")


@pytest.fixture(scope="module")
def pairs(model: HookedModel) -> ScoredPairs:
    return ScoredPairs.of(model, small_set(), WORDS)


def log_probability(prompt: str, answer: str) -> float:
    """Of a whole answer, by the Hugging Face model: teacher forcing, token by token."""
    hf, tokenizer = hf_tiny("gpt2")
    start = len(tokenizer(prompt)["input_ids"]) + 1  # BOS
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt + answer)["input_ids"]]])
    with torch.no_grad():
        log_p = hf(ids).logits[0].log_softmax(-1)
    return sum(float(log_p[place - 1, ids[0, place]]) for place in range(start, ids.shape[1]))


@pytest.mark.parametrize("words", [None, WORDS])
def test_log_odds_are_those_of_whole_answers(model: HookedModel, pairs: ScoredPairs, words: object):
    found = pairs.log_odds(model, words)
    for pair, value in list(zip(pairs.pairs, found, strict=True))[:4]:
        prompt = pair.prompt if words is None else WORDS.positive + pair.prompt
        expected = log_probability(prompt, pair.chosen) - log_probability(prompt, pair.rejected)
        assert value == pytest.approx(expected, abs=1e-4)


def test_pairs_of_one_length_are_told_by_their_tokens(model: HookedModel, pairs: ScoredPairs):
    tokenizer = model.tokenizer
    for number, pair in enumerate(pairs.pairs):
        sizes = [len(tokenizer(text)["input_ids"]) for text in (pair.chosen, pair.rejected)]
        assert (number in pairs.matched) == (max(sizes) - min(sizes) <= 0.1 * max(sizes))
    assert pairs.left_out == 0


def test_pairs_that_do_not_fit_are_left_out_and_counted(model: HookedModel):
    long = Preference("so " * N_CTX + "the fox felt", " happy", " sad", "long")
    # Only the words before the prompt are too many for this one.
    tokenizer = model.tokenizer
    room = N_CTX - 2 - len(tokenizer(" happy")["input_ids"]) - len(tokenizer("No!")["input_ids"])
    near = Preference("No!" + "!" * room, " happy", " sad", "near")
    given = PreferenceSet((*small_set().preferences, long, near), "x")
    found = ScoredPairs.of(model, given, WORDS)
    assert (found.left_out, found.too_long) == (2, 2)
    assert len(found.pairs) == len(small_set())


def test_one_group_has_no_interval(model: HookedModel):
    one = PreferenceSet(tuple(replace(pair, group="g") for pair in small_set()), "x")
    with pytest.raises(RahfError, match=r"of 1 group; .* Give pairs of more groups"):
        ScoredPairs.of(model, one, WORDS)
    # Without a group, pairs with one prompt are one unit.
    same = PreferenceSet(tuple(replace(pair, group="", prompt="Why?") for pair in small_set()), "x")
    with pytest.raises(RahfError, match=r"of 1 group; .* more prompts"):
        ScoredPairs.of(model, same, WORDS)


def test_a_refusal_names_what_left_too_few(model: HookedModel):
    long = [Preference("so " * N_CTX + "the fox felt", " happy", " sad", f"long {number}") for number in range(3)]
    fits = Preference("The fox felt", " happy", " sad", "short")
    with pytest.raises(RahfError) as one:
        ScoredPairs.of(model, PreferenceSet((*long, fits), "x"), WORDS)
    assert str(one.value) == (
        "1 of 4 pairs can be scored, of 1 group; intervals need two groups or more. Of the pairs 3 need more tokens "
        f"than the context of {N_CTX}, p+ included. Give shorter pairs, or take a base with a longer context."
    )
    with pytest.raises(RahfError, match=r"^0 of 1 pair can be scored, of 0 groups; .* 1 needs more tokens"):
        ScoredPairs.of(model, PreferenceSet((long[0],), "x"), WORDS)


def test_instructions_go_by_topic():
    pair = Preference("  Why?", " a", " b", topic="kindness")
    assert asked(pair, None) == "  Why?"
    assert asked(pair, {"kindness": WORDS}) == "All is happy.\nWhy?"
    with pytest.raises(RahfError, match="kindness"):
        asked(pair, {"honesty": WORDS})


def test_rows_hold_means_and_paired_differences(pairs: ScoredPairs):
    n = len(pairs.pairs)
    odds = {"base": [0.0] * n, "aligned": [1.0] * n, "shuffled 0": [(-1.0) ** number for number in range(n)]}
    models = {"base": ("base", None), "aligned": ("aligned", "adapter"), "shuffled 0": ("shuffled", "control/x")}
    readings = {name: Reading(tuple(values), None, 2.0) for name, values in odds.items()}
    base, aligned, shuffled = scored_rows(models, readings, pairs, 0)
    assert (base.probability.value, base.accuracy.value, base.change) == (0.5, 0.5, None)
    raised = float(torch.tensor(1.0).sigmoid())
    assert aligned.probability.value == pytest.approx(raised)
    assert aligned.change.value == pytest.approx(raised - 0.5)
    assert aligned.change.low == pytest.approx(raised - 0.5)  # the same in every pair
    assert (aligned.lead, aligned.margin.value, aligned.accuracy.value) == (None, 1.0, 1.0)
    assert shuffled.lead.value == pytest.approx(raised - 0.5)
    assert shuffled.lead.low < shuffled.lead.value
    assert (shuffled.probability.n, shuffled.probability.n_groups) == (n, 12)
    assert shuffled.matched.n == len(pairs.matched)
    assert (shuffled.folder, shuffled.scale) == ("control/x", 2.0)


def test_too_few_pairs_of_one_length_give_none(pairs: ScoredPairs):
    few = replace(pairs, matched=(0, 1))  # of one group
    readings = {name: Reading((0.0,) * len(pairs.pairs), None) for name in ("base", "aligned")}
    models = {"base": ("base", None), "aligned": ("aligned", "adapter")}
    assert scored_rows(models, readings, few, 0)[0].matched is None


def test_damage_of_no_change_is_none_but_words_do_some(model: HookedModel):
    none = measured_damage(model, model, NEUTRAL)
    assert none["kl"] == pytest.approx(0, abs=1e-5)
    assert none["top_changed"] == 0
    assert none["perplexity"] == pytest.approx(none["unsteered_perplexity"])
    words = words_damage(model, WORDS, NEUTRAL)
    assert words["kl"] > 1e-3
    assert words["kl_ci"] is None
    assert words.keys() == none.keys()
    assert measured_damage(model, model, ()) is None
    assert words_damage(model, WORDS, ()) is None
    assert words_damage(model, {"": WORDS}, NEUTRAL) is None


def test_readings_and_rows_are_kept_as_json():
    reading = Reading((0.5, -1.0), {"kl": 0.1}, 0.5)
    assert Reading.from_dict(reading.to_dict()) == reading
    with pytest.raises(ArtifactError, match="log_odds"):
        Reading.from_dict({})
    assert all(Scored.from_dict(row.to_dict()) == row for row in rows())
    with pytest.raises(ArtifactError, match="margin"):
        Scored.from_dict({"name": "x", "probability": None, "accuracy": None})
