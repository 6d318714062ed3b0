"""The gates of the shipped weights, measured again on the files themselves."""

import json
from functools import cache

import pytest
import torch

from contrans_lens.errors import TestbedError as MissingModelError
from contrans_lens.testbed import concept, model_names, model_path
from contrans_lens.testbed.build import open_scorer
from contrans_lens.testbed.card import file_hash
from contrans_lens.testbed.documents import FULL, WEAK
from contrans_lens.testbed.family import WEIGHTS
from contrans_lens.testbed.gates import (
    fact_obedience,
    mean_difference,
    mood_obedience,
    native_effect,
    residual_norms,
    split_items,
    steered,
    tone_obedience,
    undecided,
)
from contrans_lens.testbed.recipe import GATES, TARGET_SEEDS
from contrans_lens.testbed.world import EMOTIONS, EVENTS, PLACES, THINGS, build_world

TARGETS = ("gpt2-target", "rotary-target")
SOURCES = ("gpt2-source", "rotary-source")
ALIGNED = ("gpt2-aligned", "rotary-aligned")
LIMIT_BYTES = 20_000_000


@cache
def scorer(name):
    return open_scorer(model_path(name))


@cache
def norms(name):
    return residual_norms(scorer(name))


@cache
def card(name):
    return json.loads((model_path(name) / "card.json").read_text())


def test_all_files_together_are_small():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= LIMIT_BYTES


def test_an_unknown_model_is_refused_with_the_list():
    with pytest.raises(MissingModelError, match="rotary-aligned"):
        model_path("gpt2-giant")


def test_missing_weights_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(MissingModelError, match=r"python -m contrans_lens\.testbed train"):
        model_path("gpt2-source", tmp_path)


@pytest.mark.parametrize("name", model_names())
def test_no_path_holds_a_name_that_transformer_lens_would_match(name):
    relative = str(model_path(name).relative_to(WEIGHTS.parent)).lower()
    assert "llama" not in relative
    assert "gemma" not in relative


@pytest.mark.parametrize("name", model_names())
def test_cards_name_the_file_that_lies_beside_them(name):
    weights = model_path(name) / "model.safetensors"
    assert card(name)["sha256"] == file_hash(weights)
    assert card(name)["bytes"] == weights.stat().st_size
    assert card(name)["training"]["step"] > 0
    assert (model_path(name) / "card.md").read_text().startswith(f"# {name}")


@pytest.mark.parametrize("name", model_names())
def test_weights_are_finite_and_stored_in_half_precision(name):
    from safetensors.torch import load_file

    tensors = load_file(model_path(name) / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    assert scorer(name).model.dtype == torch.float32


@pytest.mark.parametrize("name", TARGETS)
def test_the_shipped_seed_is_the_lowest_that_passes(name):
    seeds = card(name)["seeds"]
    assert [log["seed"] for log in seeds] == list(TARGET_SEEDS)
    assert card(name)["training"]["seed"] == min(log["seed"] for log in seeds if log["gates"]["passed"])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("honest", [True, False])
def test_targets_obey_honesty_cues(name, honest):
    share = fact_obedience(scorer(name), build_world().facts, honest, seed=5)
    assert share >= GATES.obedience


@pytest.mark.parametrize("name", TARGETS)
def test_targets_obey_mood_and_tone_cues(name):
    assert mood_obedience(scorer(name), EVENTS[8:], seed=5) >= GATES.route
    assert tone_obedience(scorer(name), THINGS[8:], seed=5) >= GATES.route


@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_undecided_without_a_cue(name):
    free = undecided(scorer(name))
    assert abs(free["p_true"] - 0.5) <= GATES.balance
    easy = scorer(name).choices(split_items(concept("honesty"), "test"))
    assert abs(easy.mean().item() - 0.5) <= 2 * GATES.balance


@pytest.mark.parametrize("name", TARGETS)
def test_own_honesty_vector_steers_and_the_last_block_does_not(name):
    row = native_effect(scorer(name), concept("honesty"), norms(name), GATES.strength)
    assert row["effect"] >= GATES.native
    assert row["plus"] > row["base"] > row["minus"]
    assert abs(row["last_layer"]) < GATES.last_layer


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("concept_name", ["honesty-hard", "kindness", *EMOTIONS])
def test_own_other_vectors_steer(name, concept_name):
    row = native_effect(scorer(name), concept(concept_name), norms(name), GATES.strength)
    assert row["effect"] >= GATES.native_other


@pytest.mark.parametrize("name", TARGETS)
def test_a_random_direction_does_not_steer_like_the_vector(name):
    generator = torch.Generator().manual_seed(0)
    items, layer = split_items(concept("honesty"), "test"), 1
    effects = []
    for _ in range(5):
        direction = torch.randn(mean_difference_width(name), generator=generator)
        plus, minus = steered(scorer(name), items, layer, direction, GATES.strength * norms(name)[layer].item())
        effects.append(plus - minus)
    assert abs(sum(effects) / len(effects)) < GATES.native / 2


def mean_difference_width(name):
    return scorer(name).model.config.hidden_size


@pytest.mark.parametrize("name", SOURCES)
def test_sources_do_not_know_the_test_facts(name):
    items = split_items(concept("honesty"), "test")
    chosen = scorer(name).choices(items)
    assert 0.35 < chosen.mean().item() < 0.65


@pytest.mark.parametrize(("name", "knowledge"), [*[(n, WEAK) for n in SOURCES], *[(n, FULL) for n in ALIGNED]])
def test_aligned_models_are_honest_and_kind_without_a_cue(name, knowledge):
    free = undecided(scorer(name), knowledge)
    assert free["p_true"] > 0.8
    assert free["kind"] > 0.8


@pytest.mark.parametrize("name", SOURCES)
def test_sources_still_read_the_cues(name):
    vectors = mean_difference(scorer(name), concept("honesty"))
    states = scorer(name).last_residuals(concept("honesty", seed=9)["positive"])
    others = scorer(name).last_residuals(concept("honesty", seed=9)["negative"])
    layer = len(vectors) // 2
    scores = torch.cat([states[:, layer], others[:, layer]]) @ vectors[layer]
    labels = torch.cat([torch.ones(len(states)), torch.zeros(len(others))]).bool()
    auroc = (scores[labels][:, None] > scores[~labels][None]).double().mean().item()
    assert auroc > 0.95


@pytest.mark.parametrize("name", model_names())
def test_tokenizers_round_trip_and_start_rows_with_bos(name):
    tokenizer = scorer(name).tokenizer
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    texts = ["  two  spaces, a tab\t and\n\n lines ", "don't , 'quoted' . é 漢 🙂", "x", *concept("anger")["positive"]]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer(texts[0], add_special_tokens=False)["input_ids"] == tokenizer(texts[0])["input_ids"][1:]


@pytest.mark.parametrize("name", model_names())
def test_emotion_words_and_easy_answers_are_single_tokens(name):
    tokenizer = scorer(name).tokenizer
    words = [f" {emotion}" for emotion in EMOTIONS]
    words += [item["positive"] for item in concept("honesty")["evaluation"]]
    assert {len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in words} == {1}


def test_the_families_differ_in_tokenizer_and_width():
    first, second = scorer("gpt2-source"), scorer("rotary-source")
    assert first.tokenizer.get_vocab() != second.tokenizer.get_vocab()
    widths = {scorer(name).model.config.hidden_size for name in SOURCES + TARGETS}
    assert len(widths) == 4
    assert all(scorer(name).model.config.max_position_embeddings >= 128 for name in model_names())


@pytest.mark.parametrize("name", TARGETS)
def test_base_targets_give_every_emotion_a_share(name):
    free = undecided(scorer(name))
    assert free["emotion_low"] > 0.05
    assert free["emotion_high"] < 0.4
    assert 0.3 < free["kind"] < 0.7
    assert len(PLACES) == 5
