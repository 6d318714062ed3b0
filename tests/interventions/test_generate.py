import pytest
import torch

from contrans_lens.errors import InterventionError
from contrans_lens.interventions import GENERATED, PROMPT, FromMarker, generate, steer
from contrans_lens.models import generate_tokens, tokenize
from tests.interventions.cases import LATER, PROMPTS, addition
from tests.tiny_models import HF_KINDS, KINDS, open_tiny


@pytest.fixture(params=KINDS)
def model(request):
    return open_tiny("gpt2", request.param)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("kind", HF_KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_users_own_call_of_generate_is_steered(architecture, kind, use_cache):
    model = open_tiny(architecture, kind)
    ids = tokenize(model, PROMPTS[:1]).tokens
    chosen = [addition(FromMarker("Answer:")), addition(GENERATED, LATER, 1), addition(PROMPT, LATER, 2)]
    with steer(model, chosen):
        found = model.generate(
            ids,
            max_new_tokens=6,
            do_sample=False,
            use_past_kv_cache=use_cache,
            stop_at_eos=False,
            verbose=False,
        )
    assert found[0, ids.shape[1] :].tolist() == list(
        generate(model, PROMPTS[:1], chosen, max_new_tokens=6, stop_at_eos=False).tokens[0]
    )


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("kind", HF_KINDS)
def test_a_users_own_call_of_generate_on_several_texts_finds_each_rows_marker(kind, use_cache):
    model = open_tiny("llama", kind)
    chosen = [addition(FromMarker("Answer:")), addition(GENERATED, LATER, 1)]
    with steer(model, chosen, audit=True) as session:
        found = model.generate(
            list(PROMPTS),
            max_new_tokens=6,
            do_sample=False,
            use_past_kv_cache=use_cache,
            stop_at_eos=False,
            return_type="tokens",
            verbose=False,
        )
    ours = generate(model, PROMPTS, chosen, max_new_tokens=6, stop_at_eos=False, audit=True)
    assert found[:, -6:].tolist() == [list(row) for row in ours.tokens]
    assert session.audit.changed == ours.audit.changed


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("bridge")])
def test_hugging_face_generate_below_a_bridge_is_steered(kind):
    model = open_tiny("llama", kind)
    chosen = [addition(FromMarker("Answer:")), addition(GENERATED, LATER, 1)]
    ids = tokenize(model, PROMPTS[:1]).tokens
    with steer(model, chosen):
        found = model.original_model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, min_new_tokens=5, do_sample=False
        )
    ours = generate(model, PROMPTS[:1], chosen, max_new_tokens=5, stop_at_eos=False).tokens[0]
    eos = model.tokenizer.eos_token_id  # min_new_tokens forbids it there, so compare up to a first EOS of ours
    kept = ours[: ours.index(eos)] if eos in ours else ours
    assert found[0, ids.shape[1] :][: len(kept)].tolist() == list(kept)


def test_generated_texts_do_not_depend_on_the_batch_size(model):
    steering = addition(FromMarker("Answer:"))
    whole = generate(model, PROMPTS, steering, max_new_tokens=6, audit=True)
    assert whole.prompts == PROMPTS
    for size in (1, 2):
        parts = generate(model, PROMPTS, steering, max_new_tokens=6, batch_size=size, audit=True)
        assert parts.texts == whole.texts
        assert parts.tokens == whole.tokens
        assert parts.audit.changed == whole.audit.changed


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma"])
def test_generated_texts_are_what_follows_the_prompt(architecture):
    model = open_tiny(architecture, "bridge")
    found = generate(model, PROMPTS, addition(), max_new_tokens=8, stop_at_eos=False)
    for prompt, text, new in zip(PROMPTS, found.texts, found.tokens, strict=True):
        ids = tokenize(model, [prompt]).tokens[0].tolist()
        whole = model.tokenizer.decode([*ids, *new], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert whole == prompt + text


def test_sampling_repeats_with_its_seed(model):
    options = {"max_new_tokens": 8, "temperature": 1.5}
    one = generate(model, PROMPTS, addition(), seed=3, **options)
    assert generate(model, PROMPTS, addition(), seed=3, **options) == one
    assert generate(model, PROMPTS, addition(), seed=4, **options) != one


def test_no_interventions_generate_plainly(model):
    batch = tokenize(model, PROMPTS, padding_side="left")
    plain = generate_tokens(model, batch, max_new_tokens=5, stop_at_eos=False).tolist()
    assert [list(row) for row in generate(model, PROMPTS, max_new_tokens=5, stop_at_eos=False).tokens] == plain


def test_no_prompts_and_no_batch_size(model):
    assert generate(model, [], addition()).texts == ()
    with pytest.raises(InterventionError, match="batch_size"):
        generate(model, PROMPTS, batch_size=0)


def test_a_text_ends_at_any_of_the_tokens_that_end_texts():
    """Chat models have several such tokens; what follows the first of them is filling and no part of the text."""
    model = open_tiny("gpt2", "bridge", fresh=True)
    prompts = ["The little fox", "Once upon a time there was a girl who"]
    plain = generate(model, prompts, max_new_tokens=6)
    ending = plain.tokens[0][0]
    config = model.original_model.generation_config
    config.eos_token_id = [config.eos_token_id, ending]
    ended = generate(model, prompts, max_new_tokens=6)
    assert ended.tokens[0] == (ending,)
    assert all(ending not in tokens[:-1] for tokens in ended.tokens)
