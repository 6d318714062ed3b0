"""Steering equals plain Hugging Face forward hooks, on every back end, architecture, batching and padding."""

import pytest
import torch

from contrans_lens.interventions import (
    ALL,
    GENERATED,
    PROMPT,
    Between,
    FromMarker,
    Intervention,
    generate,
    steer,
)
from contrans_lens.models import generate_tokens, logits, tokenize
from tests.interventions.cases import marker_ranks, real_rows
from tests.interventions.oracles import adding, hf_greedy_added, hf_logits
from tests.tiny_models import D_MODEL, HF_KINDS, KINDS, PARITY_ARCHITECTURES, open_tiny

LAYER = 1
HOOK = f"blocks.{LAYER}.hook_resid_post"
NEW = 5
PROMPTS = (
    "Question: is the sky green? Answer: no",
    "Why? Answer: he said that nobody asked him",
    "The little fox. Answer: home",
)
CELLS = [(kind, architecture) for architecture in PARITY_ARCHITECTURES for kind in KINDS]
HF_CELLS = [(kind, architecture) for architecture in PARITY_ARCHITECTURES for kind in HF_KINDS]
PROCESSED = ("hooked_processed", "bridge_compat")


def addition(positions=ALL, strength=1.0, layer=LAYER, seed=0):
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    return Intervention(
        f"blocks.{layer}.hook_resid_post", vector, strength=strength, residual_norm=6.0, positions=positions
    )


def start_stop(name, n_prompt, marker):
    return {
        "all": (0, None),
        "prompt": (0, n_prompt),
        "generated": (n_prompt, None),
        "between": (1, 3),
        "marker": (marker, None),
    }[name]


POSITIONS = {
    "all": ALL,
    "prompt": PROMPT,
    "generated": GENERATED,
    "between": Between(1, 3),
    "marker": FromMarker("Answer:"),
}


@pytest.mark.parametrize(("kind", "architecture"), HF_CELLS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_steered_logits_equal_a_hugging_face_hook(kind, architecture, side):
    model = open_tiny(architecture, kind)
    batch = tokenize(model, PROMPTS, padding_side=side)
    steering = addition()
    with torch.no_grad(), steer(model, steering):
        found = logits(model, batch)
    for row, (ids, mask) in enumerate(zip(real_rows(batch), batch.mask, strict=True)):
        expected = hf_logits(architecture, ids, {LAYER: adding(steering.delta().float())})
        ours = found[row][mask][:, : expected.shape[-1]]
        if kind in PROCESSED:  # centring the unembedding shifts logits by a constant
            ours, expected = ours.log_softmax(-1), expected.log_softmax(-1)
        torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "architecture"), HF_CELLS)
def test_steered_greedy_generation_equals_a_hugging_face_hook(kind, architecture):
    model = open_tiny(architecture, kind)
    batch = tokenize(model, PROMPTS, padding_side="left")
    for name, positions in POSITIONS.items():
        steering = addition(positions)
        found = generate(model, PROMPTS, steering, max_new_tokens=NEW, stop_at_eos=False).tokens
        for row, (ids, marker) in enumerate(zip(real_rows(batch), marker_ranks(batch, PROMPTS), strict=True)):
            delta = tuple(steering.delta().float().tolist())
            where = start_stop(name, len(ids), marker)
            assert found[row] == hf_greedy_added(architecture, tuple(ids), delta, *where, NEW), (name, row)


@pytest.mark.parametrize(("kind", "architecture"), CELLS)
def test_cached_uncached_batched_alone_and_either_padding_agree(kind, architecture):
    model = open_tiny(architecture, kind)
    several = [
        addition(PROMPT),
        addition(FromMarker("Answer:"), layer=2, seed=1),
        addition(GENERATED, layer=2, seed=2),
    ]

    def run(side, use_cache, rows):
        batch = tokenize(model, rows, padding_side=side)
        with steer(model, several):
            return generate_tokens(model, batch, max_new_tokens=NEW, use_cache=use_cache, stop_at_eos=False).tolist()

    reference = [run("left", False, [prompt])[0] for prompt in PROMPTS]
    assert run("left", True, PROMPTS[:1]) == reference[:1]
    for side, use_cache in (("left", True), ("right", True), ("left", False)):
        assert run(side, use_cache, PROMPTS) == reference, (side, use_cache)


@pytest.mark.parametrize(("kind", "architecture"), CELLS)
def test_native_logits_agree_with_transformer_lens_own_hooks(kind, architecture):
    """An oracle for every kind, the one without a Hugging Face counterpart included."""
    model = open_tiny(architecture, kind)
    batch = tokenize(model, PROMPTS[:1])
    steering = addition()
    delta = steering.delta().float()
    with torch.no_grad():
        with steer(model, steering):
            found = model(batch.tokens, return_type="logits")
        expected = model.run_with_hooks(
            batch.tokens,
            return_type="logits",
            fwd_hooks=[(HOOK, lambda activation, hook: activation + delta)],
        )
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("kind", "architecture"), CELLS)
def test_strength_zero_is_bit_identical_to_no_hook(kind, architecture):
    model = open_tiny(architecture, kind)
    batch = tokenize(model, PROMPTS, padding_side="left")
    with torch.no_grad():
        plain = logits(model, batch)
        with steer(model, [addition(strength=0.0), addition(FromMarker("Answer:"), strength=0.0)]):
            assert torch.equal(logits(model, batch), plain)
        with steer(model, addition()):
            assert not torch.equal(logits(model, batch), plain)
        assert torch.equal(logits(model, batch), plain)
