"""Names of hook points, and hooks that are gone when their block ends."""

import dataclasses
import warnings

import pytest
import torch
from torch import nn

from contrans_lens.errors import HookPointError, ModelError
from contrans_lens.models import (
    HookedModel,
    check_hook_points,
    hooks,
    layer_of,
    logits,
    resid_post,
    resid_pre,
    residual_hook_points,
    run,
    tokenize,
)
from contrans_lens.models.hook_points import _find
from tests.tiny_models import ARCHITECTURES, KINDS, N_LAYERS, TEXTS, open_tiny

every_kind = pytest.mark.parametrize("kind", KINDS)


def n_hooks(model):
    """Over distinct modules: a Bridge lists one hook point under several names."""
    return sum(len(point._forward_hooks) for point in {id(p): p for p in model.hook_dict.values()}.values())


@every_kind
def test_every_kind_is_a_hooked_model(kind):
    model = open_tiny("gpt2", kind)
    assert isinstance(model, HookedModel)
    assert not isinstance(nn.Linear(2, 2), HookedModel)


def test_names():
    assert resid_post(3) == "blocks.3.hook_resid_post"
    assert resid_pre(0) == "blocks.0.hook_resid_pre"
    assert layer_of("blocks.12.attn.hook_z") == 12
    with pytest.raises(HookPointError, match=r"'hook_embed' names no block.*blocks\.3\.hook_resid_post"):
        layer_of("hook_embed")


@every_kind
@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama"])
def test_residual_hook_points_are_one_per_layer(architecture, kind):
    model = open_tiny(architecture, kind)
    assert residual_hook_points(model) == [resid_post(layer) for layer in range(N_LAYERS)]
    assert residual_hook_points(model, "resid_pre") == [resid_pre(layer) for layer in range(N_LAYERS)]


@every_kind
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_quick_look_up_finds_the_modules_of_hook_dict(architecture, kind):
    model = open_tiny(architecture, kind)
    names = [*residual_hook_points(model), *residual_hook_points(model, "resid_pre"), "blocks.0.hook_attn_out"]
    if "blocks.0.hook_resid_mid" in model.hook_dict:
        names += residual_hook_points(model, "resid_mid")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _find(model, names)
    known = model.hook_dict
    assert all(point is known[name] for point, name in zip(found, names, strict=True))


@every_kind
def test_a_name_that_is_none_is_refused_with_what_resembles_it(kind):
    model = open_tiny("gpt2", kind)
    before = n_hooks(model)
    with pytest.raises(HookPointError, match=r"no hook point 'blocks\.1\.hook_resid_pots'.*hook_resid_post"):
        check_hook_points(model, ["blocks.1.hook_resid_pots"])
    wrong = hooks(model, {resid_post(0): lambda x: None, resid_post(9): lambda x: None})
    with pytest.raises(HookPointError, match=r"no hook point 'blocks\.9\..*4 layers"), wrong:
        pass
    assert n_hooks(model) == before
    with pytest.raises(HookPointError):
        run(model, tokenize(model, TEXTS), stop_after="blocks.0.nowhere")


@every_kind
def test_hooks_are_gone_after_an_exception_inside_the_block(kind):
    model = open_tiny("gpt2", kind)
    batch, before = tokenize(model, TEXTS), n_hooks(model)
    plain = logits(model, batch)

    def interrupt():
        with hooks(model, {resid_post(0): lambda x: x * 2}):
            assert n_hooks(model) == before + 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert n_hooks(model) == before
    assert torch.equal(logits(model, batch), plain)


@every_kind
def test_hooks_are_gone_after_an_exception_inside_a_hook(kind):
    model = open_tiny("llama", kind)
    batch, before = tokenize(model, TEXTS, padding_side="left"), n_hooks(model)
    plain = logits(model, batch)

    def fail(x):
        raise RuntimeError("in the hook")

    with pytest.raises(RuntimeError, match="in the hook"), hooks(model, {resid_post(2): fail}):
        logits(model, batch)
    assert n_hooks(model) == before
    assert torch.equal(logits(model, batch), plain)


@every_kind
def test_hooks_at_one_point_run_in_order_and_leave_others_alone(kind):
    model = open_tiny("gpt2", kind)
    batch, seen = tokenize(model, TEXTS), []
    own = model.hook_dict[resid_post(1)].register_forward_hook(lambda module, inputs, output: seen.append("own"))
    pairs = [
        (resid_post(1), lambda x: seen.append("first")),
        (resid_post(1), lambda x: seen.append("second")),
    ]
    with hooks(model, pairs):
        logits(model, batch)
    logits(model, batch)
    own.remove()
    assert seen == ["own", "first", "second", "own"]


@every_kind
def test_a_hook_that_returns_none_changes_nothing(kind):
    model = open_tiny("gemma", kind)
    batch = tokenize(model, TEXTS)
    plain = logits(model, batch)
    with hooks(model, {name: lambda x: None for name in residual_hook_points(model)}):
        assert torch.equal(logits(model, batch), plain)


@every_kind
def test_no_gradients_are_kept(kind):
    model = open_tiny("gpt2", kind)
    assert not logits(model, tokenize(model, TEXTS)).requires_grad


def test_a_batch_longer_than_the_context_is_refused():
    model = open_tiny("gpt2", "bridge")
    batch = tokenize(model, ["a b c"])
    long = dataclasses.replace(batch, tokens=batch.tokens[:, :1].expand(1, 200), mask=batch.mask[:, :1].expand(1, 200))
    with pytest.raises(ModelError, match=r"200 positions.*at most 128"):
        logits(model, long)
