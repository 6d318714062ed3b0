"""Held-out R2 and the carriage of a concept over all pairs, against one map at a time."""

import itertools

import numpy as np
import pytest
import torch

from contrans_lens.errors import LayerError
from contrans_lens.layers.similarity import affine_r2_grid, concept_carriage
from contrans_lens.layers.similarity.carried import cosine_influence
from contrans_lens.layers.similarity.resampling import plan_resampling
from contrans_lens.maps import MAP_METHODS, fit_map_grid, r2_score

SOURCE = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
TARGET = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
PAIRS = list(itertools.product(range(3), range(2)))


def mixing(d_source=6, d_target=8):
    return torch.randn(d_source, d_target, generator=torch.Generator().manual_seed(99))


def states(n=90, d_source=6, d_target=8, seed=0):
    """Source layer 2 foretells target layer 1; nothing else is related."""
    generator = torch.Generator().manual_seed(seed)
    mix = mixing(d_source, d_target)
    x = torch.randn(n, 3, d_source, generator=generator) + 2
    y = torch.randn(n, 2, d_target, generator=generator) - 1
    y[:, 1] += x[:, 2] @ mix
    return x, y


def fitted(n=60, **options):
    x, y = states(n + 30)
    return fit_map_grid(x[:n], y[:n], SOURCE, TARGET, **options), x[n:], y[n:]


def vectors(seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 6, generator=generator), torch.randn(2, 8, generator=generator)


@pytest.mark.parametrize("method", MAP_METHODS)
def test_r2_of_every_kind_of_map_is_that_of_its_maps(method):
    maps, x, y = fitted(method=method)
    grid = affine_r2_grid(maps, x, y, n_permutations=19, n_subsamples=20)
    for s, t in PAIRS:
        predicted = maps.map(SOURCE[s], TARGET[t])(x[:, s])
        assert float(grid.values[s, t]) == pytest.approx(r2_score(y[:, t], predicted), abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"method": "ols"}, {"ridge": 3.0}])
@pytest.mark.parametrize("n", [60, 6])
def test_r2_is_that_of_the_grid(options, n):
    maps, x, y = fitted(n, **options)
    grid = affine_r2_grid(maps, x, y, n_permutations=0, n_subsamples=0)
    assert torch.allclose(grid.values, maps.held_out_r2(x, y), atol=1e-9)
    assert grid.low is None
    assert grid.p_values is None


def test_shuffles_and_subsets_of_r2_by_doing_them():
    maps, x, y = fitted()
    grid = affine_r2_grid(maps, x, y, n_permutations=19, n_subsamples=40, seed=4)
    plan = plan_resampling(30, None, n_permutations=19, n_subsamples=40, keep=0.8, level=0.95, seed=4)
    null = torch.stack([maps.held_out_r2(x, y[order]) for order in plan.orders])
    assert torch.allclose(grid.null_mean, null.mean(0), atol=1e-6)
    assert torch.allclose(grid.p_values, (1 + (null >= grid.values).double().sum(0)) / 20, atol=1e-6)
    subsets = torch.stack([maps.held_out_r2(x[inside], y[inside]) for inside in plan.members])
    half = subsets.std(0) * 2 * 2.04523  # t of 29 degrees
    assert torch.allclose(grid.low, grid.values - half, atol=1e-4)
    best = grid.best()
    assert (best.source, best.target) == (SOURCE[2], TARGET[1])
    assert best.p_corrected == pytest.approx(1 / 20)
    assert grid.significant().sum() == 1


@pytest.mark.parametrize("method", MAP_METHODS)
def test_carriage_of_every_kind_of_map(method):
    maps, x, y = fitted(method=method)
    own_source, own_target = vectors()
    found = concept_carriage(maps, own_source, own_target, x, y, n_permutations=19, n_subsamples=20, seed=7)
    for s, t in PAIRS:
        one = maps.map(SOURCE[s], TARGET[t])
        carried = one.concept(own_source[s]).double()
        u = carried / carried.norm()
        truth, guess = y[:, t].double() @ u, one(x[:, s]).double() @ u
        pair = (SOURCE[s], TARGET[t])
        assert found.carried_r2.at(*pair)["values"] == pytest.approx(r2_score(truth[:, None], guess[:, None]), abs=1e-5)
        cosine = float(torch.cosine_similarity(carried, own_target[t].double(), dim=0))
        assert found.concept_cosine.at(*pair)["values"] == pytest.approx(cosine, abs=1e-5)
        centred = y[:, t].double() - y[:, t].double().mean(0)
        length = float(carried.norm() / centred.norm(dim=1).mean())
        assert float(found.relative_length[s, t]) == pytest.approx(length, rel=1e-4)
        assert float(found.shrinkage[s, t]) == pytest.approx(float(carried.norm() / own_target[t].norm()), rel=1e-4)
        gain = float((centred @ u).std(correction=0) / centred.var(0, correction=0).mean().sqrt())
        assert float(found.gain[s, t]) == pytest.approx(gain, rel=1e-4)
        if method == "identity":
            assert found.concept_cosine.p_values is None
            continue
        drawn = maps.shuffled_concepts(own_source[s], *pair, n_draws=19, seed=7).double()
        null = torch.cosine_similarity(drawn, own_target[t].double(), dim=1)
        assert float(found.concept_cosine.null_mean[s, t]) == pytest.approx(float(null.mean()), abs=1e-5)
        p = (1 + int((null >= cosine - 1e-6).sum())) / 20
        assert float(found.concept_cosine.p_values[s, t]) == pytest.approx(p)
    assert (found.concept_cosine.low is not None) == (method in ("ols", "ridge"))
    assert set(found.grids) == {"concept_cosine", "carried_r2"}


def test_without_target_vectors_there_is_no_cosine():
    maps, x, y = fitted()
    found = concept_carriage(maps, vectors()[0], None, x, y, n_permutations=19, n_subsamples=20)
    assert found.concept_cosine is None
    assert found.shrinkage is None
    assert set(found.grids) == {"carried_r2"}


def test_a_concept_that_crosses_is_found_and_others_are_not():
    x, y = states(d_target=40)
    maps = fit_map_grid(x[:60], y[:60], SOURCE, TARGET)
    generator = torch.Generator().manual_seed(5)
    own_source, own_target = torch.randn(3, 6, generator=generator), torch.randn(2, 40, generator=generator)
    own_target[1] = own_source[2] @ mixing(d_target=40)
    found = concept_carriage(maps, own_source, own_target, x[60:], y[60:], n_permutations=39)
    for name, grid in found.grids.items():
        best = grid.best()
        assert (best.source, best.target) == (SOURCE[2], TARGET[1])
        assert grid.at(best.source, best.target)["p_values"] == pytest.approx(1 / 40)
        if name == "carried_r2":  # the cosine's null is wide: this target moves in six directions
            assert best.p_corrected == pytest.approx(1 / 40)
            assert grid.significant().sum() == 1
        assert 0.7 < best.value < 1
        low, high = (grid.at(best.source, best.target)[end] for end in ("low", "high"))
        assert low < best.value < high


def test_shuffles_and_subsets_of_the_component_by_doing_them():
    maps, x, y = fitted()
    own_source, _ = vectors()
    found = concept_carriage(maps, own_source, None, x, y, n_permutations=19, n_subsamples=40, seed=4).carried_r2
    plan = plan_resampling(30, None, n_permutations=19, n_subsamples=40, keep=0.8, level=0.95, seed=4)
    for s, t in PAIRS:
        one = maps.map(SOURCE[s], TARGET[t])
        u = one.concept(own_source[s]).double()
        truth, guess = (y[:, t].double() @ u)[:, None], (one(x[:, s]).double() @ u)[:, None]
        null = np.array([r2_score(truth[order], guess) for order in plan.orders])
        assert float(found.null_mean[s, t]) == pytest.approx(null.mean(), abs=1e-4)
        subsets = np.array([r2_score(truth[inside], guess[inside]) for inside in plan.members])
        half = subsets.std(ddof=1) * 2 * 2.04523
        assert float(found.values[s, t] - found.low[s, t]) == pytest.approx(half, rel=1e-3)


@pytest.mark.parametrize(("n", "options"), [(60, {"ridge": 5.0}), (60, {"method": "ols"}), (6, {"ridge": 5.0})])
def test_influence_is_what_leaving_a_text_out_does(n, options):
    maps, _, _ = fitted(n, **options)
    own_source, own_target = (v.double() for v in vectors())
    carried = maps.concepts(own_source)
    influence = cosine_influence(maps, own_source, carried, own_target)
    before = torch.cosine_similarity(carried, own_target, dim=2)
    exact = torch.zeros_like(influence)
    for i in range(n):
        kept = torch.arange(n) != i
        without = fit_map_grid(maps.x[kept], maps.y[kept], SOURCE, TARGET, **options)
        exact[..., i] = torch.cosine_similarity(without.concepts(own_source), own_target, dim=2) - before
    for s, t in PAIRS:
        a, b = exact[s, t], influence[s, t]
        # One text in six is no small change, so the first order is only roughly right there.
        assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > (0.95 if n > 6 else 0.8)
        assert float(b.norm() / a.norm()) == pytest.approx(1, abs=0.25 if n > 6 else 0.6)


def test_the_interval_of_the_cosine_covers():
    covered, cosines = [], []
    own_source, own_target = vectors()
    for seed in range(40):
        x, y = states(seed=seed)
        maps = fit_map_grid(x[:60], y[:60], SOURCE, TARGET, ridge=1.0)
        grid = concept_carriage(maps, own_source, own_target, x[60:], y[60:], n_permutations=0, n_subsamples=0)
        cosines.append(grid.concept_cosine.values)
        covered.append((grid.concept_cosine.low, grid.concept_cosine.high))
    mean = torch.stack(cosines).mean(0)
    inside = torch.stack([(low <= mean) & (mean <= high) for low, high in covered]).double().mean(0)
    assert float(inside[2, 1]) > 0.85
    assert float(inside.min()) > 0.8


def test_what_does_not_fit_is_told():
    maps, x, y = fitted()
    own_source, own_target = vectors()
    for change, message in (
        (lambda: affine_r2_grid(maps, x, y[:-1]), "30 source states but 29"),
        (lambda: affine_r2_grid(maps, x[:3], y[:3]), "at least 4"),
        (lambda: affine_r2_grid(maps, x[:, :2], y), "do not fit maps"),
        (lambda: affine_r2_grid(maps, x * float("nan"), y), "NaN"),
        (lambda: affine_r2_grid(maps, x, y * torch.tensor([1.0, 0.0])[:, None]), r"at blocks\.1\.hook"),
        (lambda: concept_carriage(maps, own_source[:2], None, x, y), "one vector per layer"),
        (lambda: concept_carriage(maps, own_source * 0, None, x, y), "are zero"),
        (lambda: concept_carriage(maps, own_source, own_target[:, :3], x, y), "target vectors"),
    ):
        with pytest.raises(LayerError, match=message):
            change()
