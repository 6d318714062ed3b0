"""The grid of all layer pairs: equal to one fit per pair, cheap because it is not one."""

import itertools

import pytest
import torch

from contrans_lens.errors import MapError
from contrans_lens.maps import MAP_METHODS, MapGrid, fit_map, fit_map_grid, pair_ridges
from contrans_lens.maps.shuffled import permutations

SOURCE = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
TARGET = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
PAIRS = list(itertools.product(range(3), range(2)))


def states(n=40, d_source=6, d_target=8, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, d_source, generator=generator) * torch.tensor([1.0, 3.0, 0.2])[:, None] + 2
    mix = torch.randn(3 * d_source, 2 * d_target, generator=generator)
    y = (x.flatten(1) @ mix).reshape(n, 2, d_target) + 5 * torch.randn(n, 2, d_target, generator=generator)
    return x.to(dtype), y.to(dtype)


def grid_of(x, y, **options) -> MapGrid:
    return fit_map_grid(x, y, SOURCE, TARGET, **options)


@pytest.mark.parametrize("method", MAP_METHODS)
@pytest.mark.parametrize("n", [40, 5])
def test_every_pair_is_its_own_fit(method, n):
    x, y = states(n)
    grid = grid_of(x, y, method=method)
    v = torch.randn(6, generator=torch.Generator().manual_seed(1))
    for s, t in PAIRS:
        alone = fit_map(x[:, s], y[:, t], method=method)
        pair = grid.map(SOURCE[s], TARGET[t])
        assert torch.allclose(pair.weight, alone.weight, atol=1e-6)
        assert torch.allclose(pair.bias, alone.bias, atol=1e-5)
        assert (pair.ridge, pair.rank) == (
            pytest.approx(alone.ridge) if alone.ridge else alone.ridge,
            alone.rank,
        )
        assert (pair.source_hook_point, pair.target_hook_point) == (SOURCE[s], TARGET[t])
        assert torch.allclose(grid.concept(v, SOURCE[s], TARGET[t]), alone.concept(v), atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"method": "ols"}, {"ridge": 3.0}, {"ridges": [0.5, 5.0]}])
def test_all_pairs_at_once_are_the_pairs(options):
    x, y = states()
    grid = grid_of(x, y, **options)
    vectors = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    carried, weights = grid.concepts(vectors), grid.weights()
    for s, t in PAIRS:
        pair = grid.map(SOURCE[s], TARGET[t])
        assert torch.allclose(carried[s, t], pair.concept(vectors[s]), atol=1e-4)
        assert torch.allclose(weights[s, t].float(), pair.weight, atol=1e-5)


def test_held_out_r2_of_all_pairs_is_that_of_the_maps():
    x, y = states(60)
    grid = grid_of(x[:40], y[:40])
    table = grid.held_out_r2(x[40:], y[40:])
    for s, t in PAIRS:
        pair = grid.map(SOURCE[s], TARGET[t], held_out=(x[40:, s], y[40:, t]))
        assert table[s, t].item() == pytest.approx(pair.diagnostics.r2, abs=1e-5)


def test_chosen_ridges_are_those_of_single_fits_whatever_is_asked_first():
    x, y = states()
    early, late = grid_of(x, y), grid_of(x, y)
    early.map(SOURCE[1], TARGET[1])
    assert torch.equal(early.chosen_ridges(), late.chosen_ridges())
    assert early.chosen_ridges()[2, 1].item() == pytest.approx(fit_map(x[:, 2], y[:, 1]).ridge)


def test_products_in_float32_stay_close_to_float64(monkeypatch):
    x, y = states(300)
    exact = grid_of(x, y)
    assert exact.dtype == torch.float64
    exact_ridges, vectors = exact.chosen_ridges(), torch.randn(3, 6)
    carried, weights = exact.concepts(vectors), exact.weights()
    monkeypatch.setattr(pair_ridges, "_DOUBLE_LIMIT", 0)
    single = grid_of(x, y)
    assert single.dtype == torch.float32
    assert torch.equal(single.chosen_ridges(), exact_ridges)
    assert torch.allclose(single.concepts(vectors), carried, rtol=1e-3, atol=1e-4)
    assert torch.allclose(single.weights(), weights.float(), rtol=1e-3, atol=1e-5)


def test_one_factorisation_serves_pairs_strengths_and_shuffles(monkeypatch):
    calls = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: calls.append(matrix.shape) or eigh(matrix))
    x, y = states()
    grid = grid_of(x, y)
    grid.chosen_ridges()
    grid.concepts(torch.randn(3, 6))
    for s, t in PAIRS:
        grid.map(SOURCE[s], TARGET[t])
        grid.shuffled_concepts(torch.randn(6), SOURCE[s], TARGET[t], 5)
    assert calls == [(3, 6, 6)]


@pytest.mark.parametrize("method", ["ols", "ridge", "reduced_rank", "procrustes"])
def test_shuffled_concepts_are_refits_on_permuted_rows(method):
    x, y = states(dtype=torch.float64)
    grid = grid_of(x, y, method=method)
    v = torch.randn(6, dtype=torch.float64)
    true = grid.map(SOURCE[1], TARGET[0])
    draws = grid.shuffled_concepts(v, SOURCE[1], TARGET[0], n_draws=4, seed=3)
    for draw, order in zip(draws, permutations(40, 4, 3), strict=True):
        strength = {"ridge": true.ridge} if true.ridge is not None else {}
        refit = fit_map(x[:, 1], y[order, 0], method=method, **strength)
        assert torch.allclose(draw, refit.concept(v), atol=1e-8)


def test_shuffled_concepts_can_choose_their_ridge_anew():
    x, y = states(dtype=torch.float64)
    grid = grid_of(x, y)
    v = torch.randn(6, dtype=torch.float64)
    draws = grid.shuffled_concepts(v, SOURCE[0], TARGET[1], n_draws=4, seed=3, ridge="loo")
    for draw, order in zip(draws, permutations(40, 4, 3), strict=True):
        assert torch.allclose(draw, fit_map(x[:, 0], y[order, 1]).concept(v), atol=1e-8)


def test_shuffled_concepts_repeat_with_their_seed_and_lose_the_true_direction():
    x, y = states(400)
    grid = grid_of(x, y, ridge=1.0)
    v = torch.randn(6, generator=torch.Generator().manual_seed(0))
    first = grid.shuffled_concepts(v, SOURCE[1], TARGET[0], 50, seed=1)
    assert torch.equal(first, grid.shuffled_concepts(v, SOURCE[1], TARGET[0], 50, seed=1))
    assert not torch.equal(first, grid.shuffled_concepts(v, SOURCE[1], TARGET[0], 50, seed=2))
    true = grid.concept(v, SOURCE[1], TARGET[0])
    assert first.norm(dim=1).max() < true.norm() / 2
    assert abs(torch.cosine_similarity(first, true[None]).mean()) < 0.3


def test_sources_are_factorised_in_parts_when_memory_is_short(monkeypatch):
    x, y = states()
    whole = grid_of(x, y)
    monkeypatch.setattr("contrans_lens.maps.factor._CHUNK_ELEMENTS", 1)
    parts = grid_of(x, y)
    assert torch.allclose(whole.factor.singular, parts.factor.singular)
    assert torch.allclose(whole.weights(), parts.weights())


def test_bad_grids_are_named():
    x, y = states()
    with pytest.raises(MapError, match="3 source layers need as many"):
        fit_map_grid(x, y, SOURCE[:2], TARGET)
    with pytest.raises(MapError, match="different hook points"):
        fit_map_grid(x, y, SOURCE, (TARGET[0], TARGET[0]))
    with pytest.raises(MapError, match="same texts"):
        fit_map_grid(x[1:], y, SOURCE, TARGET)
    with pytest.raises(MapError, match=r"layer index \[1\]"):
        fit_map_grid(x * torch.tensor([1.0, 0.0, 1.0])[:, None], y, SOURCE, TARGET)
    with pytest.raises(MapError, match="unknown map"):
        grid_of(x, y, method="cca")
    with pytest.raises(MapError, match="at least 0"):
        grid_of(x, y, ridge=-2.0)
    grid = grid_of(x, y)
    with pytest.raises(MapError, match="not a source hook point"):
        grid.map("blocks.7.hook_resid_post", TARGET[0])
    with pytest.raises(MapError, match="width 5"):
        grid.concept(torch.zeros(5), SOURCE[0], TARGET[0])
    with pytest.raises(MapError, match="one per source layer"):
        grid.concepts(torch.zeros(2, 6))
    with pytest.raises(MapError, match="ask for at least 1"):
        grid.shuffled_concepts(torch.zeros(6), SOURCE[0], TARGET[0], 0)
    with pytest.raises(MapError, match="'true' or 'loo'"):
        grid.shuffled_concepts(torch.zeros(6), SOURCE[0], TARGET[0], ridge="mine")
    with pytest.raises(MapError, match="not fitted"):
        grid_of(x, y, method="identity").shuffled_concepts(torch.zeros(6), SOURCE[0], TARGET[0])
    with pytest.raises(MapError, match=r"use grid\.map"):
        grid_of(x, y, method="procrustes").weights()
