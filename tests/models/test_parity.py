"""Every kind of model computes what Hugging Face computes, however the batch is padded."""

import functools

import pytest
import torch

from contrans_lens.models import (
    generate_tokens,
    hooks,
    logits,
    resid_post,
    resid_pre,
    residual_hook_points,
    run,
    tokenize,
)
from tests.tiny_models import (
    ARCHITECTURES,
    D_MODEL,
    HF_KINDS,
    KINDS,
    N_LAYERS,
    PARITY_ARCHITECTURES,
    TEXTS,
    blocks_of,
    hf_residuals,
    hf_tiny,
    open_tiny,
)

PROCESSED = ("hooked_processed", "bridge_compat")
LAYER_NORM = ("gpt2", "neox")
every_kind = pytest.mark.parametrize("kind", KINDS)
every_hf_kind = pytest.mark.parametrize("kind", HF_KINDS)
every_architecture = pytest.mark.parametrize("architecture", PARITY_ARCHITECTURES)


def captured(model, batch):
    found = {}
    names = residual_hook_points(model)
    with hooks(model, {name: lambda x, name=name: found.update({name: x.clone()}) for name in names}):
        run(model, batch)
    return [found[name] for name in names]


@every_hf_kind
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probs_equal_hugging_face(architecture, kind):
    model, (oracle, _) = open_tiny(architecture, kind), hf_tiny(architecture)
    batch = tokenize(model, TEXTS)
    with torch.no_grad():
        expected = oracle(batch.tokens, attention_mask=batch.mask.long()).logits
    found = logits(model, batch)
    if kind not in PROCESSED:  # processing centres the unembedding, which moves logits but not log-probs
        torch.testing.assert_close(found[batch.mask], expected[batch.mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        found.log_softmax(-1)[batch.mask], expected.log_softmax(-1)[batch.mask], atol=1e-5, rtol=0
    )


@every_hf_kind
@every_architecture
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_capture_equals_a_hugging_face_hook(architecture, kind, padding_side):
    model, (oracle, _) = open_tiny(architecture, kind), hf_tiny(architecture)
    batch = tokenize(model, TEXTS, padding_side=padding_side)
    right = batch.padded("right")  # Hugging Face derives no positions from the mask, so its side is the right
    expected = hf_residuals(oracle, right.tokens, right.mask)
    found = captured(model, batch)
    assert len(found) == len(expected) == N_LAYERS
    for ours, theirs in zip(found, expected, strict=True):
        theirs = theirs[right.mask]
        if kind in PROCESSED and architecture in LAYER_NORM:
            theirs = theirs - theirs.mean(dim=-1, keepdim=True)
        torch.testing.assert_close(ours[batch.mask], theirs, atol=1e-5, rtol=0)


@every_kind
@every_architecture
def test_padding_on_either_side_equals_no_padding(architecture, kind):
    model = open_tiny(architecture, kind)
    alone = [captured(model, tokenize(model, [text]))[-1][0] for text in TEXTS]
    alone_logits = [logits(model, tokenize(model, [text]))[0] for text in TEXTS]
    for side in ("left", "right"):
        batch = tokenize(model, TEXTS, padding_side=side)
        states, scores = captured(model, batch)[-1], logits(model, batch)
        for row in range(len(TEXTS)):
            torch.testing.assert_close(states[row][batch.mask[row]], alone[row], atol=1e-5, rtol=0)
            torch.testing.assert_close(scores[row][batch.mask[row]], alone_logits[row], atol=1e-5, rtol=0)


@every_kind
@every_architecture
def test_residual_before_a_block_is_that_after_the_last(architecture, kind):
    model = open_tiny(architecture, kind)
    batch, found = tokenize(model, TEXTS), {}
    names = [resid_post(1), resid_pre(2)]
    with hooks(model, {name: lambda x, name=name: found.update({name: x.clone()}) for name in names}):
        run(model, batch)
    assert torch.equal(found[names[0]], found[names[1]])


@every_kind
@every_architecture
def test_a_replaced_residual_reaches_the_logits_as_a_hugging_face_hook_does(architecture, kind):
    model, layer = open_tiny(architecture, kind), 1
    batch = tokenize(model, TEXTS)
    addition = torch.linspace(-1, 1, D_MODEL)
    plain = logits(model, batch)
    with hooks(model, {resid_post(layer): lambda x: x + addition}):
        found = logits(model, batch).log_softmax(-1)[batch.mask]
    assert (found - plain.log_softmax(-1)[batch.mask]).abs().max() > 1e-2
    if kind == "native":
        return
    oracle, _ = hf_tiny(architecture)

    def add(module, inputs, output):
        return (output[0] + addition, *output[1:]) if isinstance(output, tuple) else output + addition

    handle = blocks_of(oracle)[layer].register_forward_hook(add)
    with torch.no_grad():
        expected = oracle(batch.tokens, attention_mask=batch.mask.long()).logits
    handle.remove()
    torch.testing.assert_close(found, expected.log_softmax(-1)[batch.mask], atol=1e-5, rtol=0)


@functools.cache
def hf_continuation(architecture, prompt):
    """Made once for all kinds of an architecture."""
    tokens = torch.tensor([prompt])
    oracle, _ = hf_tiny(architecture)
    told = oracle.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False)
    return told[0, len(prompt) :]


@every_hf_kind
@every_architecture
def test_greedy_generation_equals_hugging_face(architecture, kind):
    model, (_, tokenizer) = open_tiny(architecture, kind), hf_tiny(architecture)
    batch = tokenize(model, TEXTS)
    found = generate_tokens(model, batch, max_new_tokens=12)
    for row, length in enumerate(batch.lengths.tolist()):
        expected = hf_continuation(architecture, tuple(batch.tokens[row, :length].tolist()))
        assert found[row, : len(expected)].tolist() == expected.tolist()
        assert all(token == tokenizer.eos_token_id for token in found[row, len(expected) :].tolist())


@every_kind
@every_architecture
def test_generation_cached_uncached_batched_left_and_right_agree(architecture, kind):
    model = open_tiny(architecture, kind)
    expected = [greedy_by_hand(model, text, 4) for text in TEXTS]
    for side in ("left", "right"):
        batch = tokenize(model, TEXTS, padding_side=side)
        for use_cache in (True, False):
            found = generate_tokens(model, batch, max_new_tokens=4, use_cache=use_cache, stop_at_eos=False)
            assert found.tolist() == expected


@every_kind
def test_a_live_model_whose_tokenizer_pads_on_the_left_is_read_rightly(kind):
    """HookedTransformer then takes a leading BOS for padding, if the two are one token."""
    model, expected = open_tiny("gpt2", kind, fresh=True), open_tiny("gpt2", kind)
    model.tokenizer.padding_side = "left"
    for texts in (TEXTS, TEXTS[:1]):
        for side in ("left", "right"):
            batch = tokenize(model, texts, padding_side=side)
            assert torch.equal(batch.tokens, tokenize(expected, texts, padding_side=side).tokens)
            found, wanted = logits(model, batch), logits(expected, batch)
            torch.testing.assert_close(found[batch.mask], wanted[batch.mask], atol=1e-5, rtol=0)
        assert torch.equal(
            generate_tokens(model, batch, max_new_tokens=4), generate_tokens(expected, batch, max_new_tokens=4)
        )


def greedy_by_hand(model, text, n_tokens):
    tokens = tokenize(model, [text]).tokens
    for _ in range(n_tokens):
        with torch.no_grad():
            chosen = model(tokens, return_type="logits")[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, chosen], dim=1)
    return tokens[0, -n_tokens:].tolist()


@every_kind
@every_architecture
def test_a_stopped_pass_runs_hooks_up_to_there_and_no_further(architecture, kind):
    model = open_tiny(architecture, kind)
    batch, seen = tokenize(model, TEXTS), []
    names = residual_hook_points(model)
    expected = captured(model, batch)
    for last, name in enumerate(names):
        seen.clear()
        kept = {}

        def keep(x, n, kept=kept):
            seen.append(n)
            kept[n] = x.clone()

        with hooks(model, {n: lambda x, n=n: keep(x, n) for n in names}):
            assert run(model, batch, stop_after=name) is None
        assert seen == names[: last + 1]
        torch.testing.assert_close(kept[name], expected[last], atol=0, rtol=0)
    # and the model is as it was before
    assert torch.equal(logits(model, batch), logits(model, batch))
    torch.testing.assert_close(captured(model, batch)[-1], expected[-1], atol=0, rtol=0)
