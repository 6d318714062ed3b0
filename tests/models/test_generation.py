"""Generation: what hooks see, where rows end, what a seed fixes, and what is refused."""

import pytest
import torch

from contrans_lens.errors import ModelError
from contrans_lens.models import generate_tokens, hooks, logits, resid_post, tokenize
from tests.tiny_models import D_MODEL, KINDS, N_CTX, TEXTS, open_tiny

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_hooks_see_the_prompt_and_then_one_token_a_step(kind):
    model = open_tiny("llama", kind)
    batch, shapes = tokenize(model, TEXTS), []
    with hooks(model, {resid_post(2): lambda x: shapes.append(tuple(x.shape))}):
        generate_tokens(model, batch, max_new_tokens=4, stop_at_eos=False)
    width = batch.tokens.shape[1]
    steps = [(4, width + n, D_MODEL) for n in range(4)] if kind == "native" else [(4, 1, D_MODEL)] * 4
    assert shapes == [(4, width, D_MODEL), *steps[1:]]


@every_kind
def test_a_replaced_residual_steers_cached_and_uncached_generation_alike(kind):
    model = open_tiny("gpt2", kind)
    batch = tokenize(model, TEXTS)
    plain = generate_tokens(model, batch, max_new_tokens=6, stop_at_eos=False)
    with hooks(model, {resid_post(1): lambda x: x + 2 * torch.linspace(-1, 1, D_MODEL)}):
        cached = generate_tokens(model, batch, max_new_tokens=6, stop_at_eos=False)
        whole = generate_tokens(model, batch, max_new_tokens=6, stop_at_eos=False, use_cache=False)
    assert torch.equal(cached, whole)
    assert not torch.equal(cached, plain)
    assert torch.equal(generate_tokens(model, batch, max_new_tokens=6, stop_at_eos=False), plain)


@every_kind
def test_a_row_ends_at_its_first_eos_and_the_others_go_on(kind):
    model = open_tiny("llama", kind, fresh=True)
    batch = tokenize(model, TEXTS)
    free = generate_tokens(model, batch, max_new_tokens=10, stop_at_eos=False)
    eos = int(free[0, 3])  # whatever the first row says fourth now ends a text
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(eos)
    found = generate_tokens(model, batch, max_new_tokens=10)
    for row in range(len(TEXTS)):
        said = free[row].tolist()
        end = said.index(eos) + 1 if eos in said else 10
        assert found[row].tolist() == (said[:end] + [eos] * 10)[: found.shape[1]]


@every_kind
def test_generation_stops_early_when_every_row_has_ended(kind):
    model = open_tiny("gpt2", kind, fresh=True)
    batch = tokenize(model, TEXTS[:1])
    free = generate_tokens(model, batch, max_new_tokens=10, stop_at_eos=False)
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(int(free[0, 2]))
    found = generate_tokens(model, batch, max_new_tokens=10)
    assert found.shape[1] == free[0].tolist().index(int(free[0, 2])) + 1


@every_kind
def test_a_prompt_of_the_token_that_is_bos_eos_and_padding_continues_by_its_own_mask(kind):
    """GPT-2: one token is all three, and here it is inside the prompt as well."""
    model = open_tiny("gpt2", kind)
    assert model.tokenizer.bos_token_id == model.tokenizer.eos_token_id == model.tokenizer.pad_token_id
    texts = ["<|endoftext|>The fox", "A longer text with<|endoftext|> the token inside it"]
    batch = tokenize(model, texts)
    assert batch.bos
    together = generate_tokens(model, batch, max_new_tokens=5, stop_at_eos=False)
    for row, text in enumerate(texts):
        alone = generate_tokens(model, tokenize(model, [text]), max_new_tokens=5, stop_at_eos=False)
        assert together[row].tolist() == alone[0].tolist()


def test_a_seed_fixes_the_draws_on_every_kind_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    drawn = {}
    for kind in [kind for kind in KINDS if kind != "native"]:
        model = open_tiny("qwen3", kind)
        batch = tokenize(model, TEXTS)
        drawn[kind] = generate_tokens(model, batch, max_new_tokens=8, temperature=1.0, seed=3).tolist()
        again = generate_tokens(model, batch, max_new_tokens=8, temperature=1.0, seed=3, use_cache=False)
        assert again.tolist() == drawn[kind]
        other = generate_tokens(model, batch, max_new_tokens=8, temperature=1.0, seed=4)
        assert other.tolist() != drawn[kind]
    assert len({str(tokens) for tokens in drawn.values()}) == 1
    assert torch.equal(state, torch.get_rng_state())


def test_draws_follow_the_probabilities():
    model = open_tiny("gpt2", "bridge")
    batch = tokenize(model, ["The"] * 2000)
    expected = (logits(model, tokenize(model, ["The"]))[0, -1].double() / 0.7).softmax(-1)
    found = generate_tokens(model, batch, max_new_tokens=1, temperature=0.7, seed=0)[:, 0]
    counts = torch.bincount(found, minlength=len(expected)) / 2000
    sigma = (expected * (1 - expected) / 2000).sqrt()
    assert ((counts - expected).abs() <= 5 * sigma + 1e-3).all()


def test_what_does_not_fit_or_makes_no_sense_is_refused():
    model = open_tiny("llama", "bridge")
    batch = tokenize(model, TEXTS)
    width = batch.tokens.shape[1]
    exact = generate_tokens(model, batch, max_new_tokens=N_CTX - width + 1, stop_at_eos=False)
    assert exact.shape[1] == N_CTX - width + 1
    with pytest.raises(ModelError, match=r"do not fit the model's 128.*shorten"):
        generate_tokens(model, batch, max_new_tokens=N_CTX - width + 2)
    with pytest.raises(ModelError, match="at least 1"):
        generate_tokens(model, batch, max_new_tokens=0)
    with pytest.raises(ModelError, match="temperature is -1"):
        generate_tokens(model, batch, max_new_tokens=1, temperature=-1.0)
    with pytest.raises(ModelError, match="temperature is nan"):
        generate_tokens(model, batch, max_new_tokens=1, temperature=float("nan"))
