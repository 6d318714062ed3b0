"""Maps for differences: between which layers, and fitted on which pairs."""

import pytest
import torch

from contrans_lens.errors import HookPointError, MapError
from contrans_lens.maps import AffineMap, fit_map
from contrans_lens.models import residual_hook_points
from contrans_lens.models.hook_points import resid_post, resid_pre
from contrans_lens.rahf.transfer_maps import fit_maps, maps_from_pairs, proportional_points, shuffled_maps
from contrans_lens.residuals import capture_pair
from tests.tiny_models import D_MODEL, N_LAYERS, TEXTS, open_tiny

GENERIC = [f"{text} {other}" for text in TEXTS for other in TEXTS]


def paired():
    return capture_pair(open_tiny("gpt2"), open_tiny("neox"), GENERIC, pairing="token_ends")


@pytest.mark.parametrize(
    ("n_source", "n_target", "expected"),
    [
        (4, 6, {0: 0, 1: 0, 2: 1, 3: 2, 4: 2, 5: 3}),  # 2/3, 4/3, 2, 8/3, 10/3 and 4 blocks
        (6, 6, dict(enumerate(range(6)))),
        (12, 4, {0: 2, 1: 5, 2: 8, 3: 11}),
        (1, 4, {0: 0, 1: 0, 2: 0, 3: 0}),
        (2, 4, {0: 0, 1: 0, 2: 1, 3: 1}),  # one half and three halves go up
    ],
)
def test_the_same_share_of_the_depth(n_source, n_target, expected):
    found = proportional_points([resid_post(layer) for layer in expected], n_source, n_target)
    assert found == {resid_post(target): resid_post(source) for target, source in expected.items()}
    # Before a block stands what comes out of the block below.
    before = proportional_points([resid_pre(layer) for layer in range(n_target)], n_source, n_target)
    assert before.pop(resid_pre(0)) == resid_pre(0)
    assert list(before.values()) == [found[resid_post(layer)] for layer in range(n_target - 1)]


def test_refuses_depths_that_there_are_not():
    with pytest.raises(MapError, match="of a target of 6 blocks"):
        proportional_points([resid_post(6)], 4, 6)
    with pytest.raises(MapError, match="in a source of 0"):
        proportional_points([resid_post(1)], 0, 6)
    with pytest.raises(HookPointError, match="no hook point between blocks"):
        proportional_points(["blocks.0.hook_mlp_out"], 4, 6)


@pytest.mark.parametrize("pairing", ["token_ends", "text_end"])
def test_a_model_is_mapped_to_itself_by_the_identity(pairing):
    model = open_tiny("gpt2")
    points = {resid_post(2): resid_post(2)}
    [found] = fit_maps(model, model, [f"{text} {n}" for n in range(10) for text in GENERIC], points, pairing=pairing)
    if pairing == "token_ends":
        torch.testing.assert_close(found.weight, torch.eye(D_MODEL), atol=0.02, rtol=0)
    assert found.diagnostics.loo_r2 > 0.99
    found.source_fingerprint.require(found.target_fingerprint, "the map")


def test_maps_are_those_of_the_states_at_each_pair_of_layers():
    points = {resid_post(3): resid_post(1), resid_post(0): resid_post(1), resid_post(2): resid_pre(0)}
    read = capture_pair(
        open_tiny("gpt2"),
        open_tiny("neox"),
        GENERIC,
        source_hook_points=list(dict.fromkeys(points.values())),
        target_hook_points=list(points),
        pairing="token_ends",
    )
    found = maps_from_pairs(read, points, ridge=3.0)
    assert [(each.target_hook_point, each.source_hook_point) for each in found] == list(points.items())
    for each in found:
        x, y = read.source.tensor(each.source_hook_point), read.target.tensor(each.target_hook_point)
        assert torch.equal(each.weight, fit_map(x, y, ridge=3.0).weight)
    together = fit_maps(open_tiny("gpt2"), open_tiny("neox"), GENERIC, points, ridge=3.0, pairing="token_ends")
    for each, other in zip(found, together, strict=True):
        torch.testing.assert_close(each.weight, other.weight, rtol=1e-4, atol=1e-5)
        assert (each.source_hook_point, each.target_hook_point) == (other.source_hook_point, other.target_hook_point)


def test_by_default_every_block_has_its_share():
    found = fit_maps(open_tiny("gpt2"), open_tiny("neox"), GENERIC, pairing="token_ends", per_text=2, ridge=1.0)
    names = residual_hook_points(open_tiny("neox"))
    assert len(names) == N_LAYERS
    assert [(each.source_hook_point, each.target_hook_point) for each in found] == list(zip(names, names, strict=True))
    assert found[0].diagnostics.n_train == 2 * len(GENERIC)


def test_shuffled_maps_are_fitted_on_the_same_states_of_other_places():
    read = paired()
    true = maps_from_pairs(read, {resid_post(1): resid_post(0), resid_post(2): resid_post(0)})
    null = shuffled_maps(read, true, seed=3)
    order = torch.randperm(read.n_examples, generator=torch.Generator().manual_seed(3))
    for own, found in zip(true, null, strict=True):
        assert (found.source_hook_point, found.target_hook_point) == (own.source_hook_point, own.target_hook_point)
        assert found.ridge == own.ridge
        x, y = read.source.tensor(own.source_hook_point), read.target.tensor(own.target_hook_point)
        torch.testing.assert_close(found.weight, fit_map(x, y[order], ridge=own.ridge).weight)
        # The mean still goes to the mean, the rest of it no longer to what belongs to it.
        torch.testing.assert_close(found(x.mean(0)), y.mean(0), rtol=1e-3, atol=1e-4)
        assert error(own, x, y) < 0.7 * error(found, x, y)
    other = shuffled_maps(read, true, seed=4)
    assert not torch.allclose(other[0].weight, null[0].weight, atol=1e-3)


def error(fitted: AffineMap, x: torch.Tensor, y: torch.Tensor) -> float:
    return float((fitted(x) - y).square().sum())


def test_refuses_what_cannot_be_fitted():
    read = paired()
    with pytest.raises(MapError, match="no hook points were given"):
        maps_from_pairs(read, {})
    with pytest.raises(MapError, match="shuffled pairs mean nothing"):
        shuffled_maps(read, [])
    same = maps_from_pairs(read, {resid_post(1): resid_post(1)}, method="identity")
    with pytest.raises(MapError, match="shuffled pairs mean nothing"):
        shuffled_maps(read, same)
