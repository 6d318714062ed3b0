"""Every metric equals its published definition, pair by pair."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import LayerError
from contrans_lens.layers.similarity import METRICS, STATE_METRICS, SimilarityOptions, similarity_grid
from contrans_lens.layers.similarity import compare as compare_module
from contrans_lens.layers.similarity import sides as sides_module
from tests.layers.similarity import oracles


def names(layers):
    return [f"blocks.{layer}.hook_resid_post" for layer in range(layers)]


def states(n=40, layers=3, d=6, seed=0, dtype=torch.float32, shared=None):
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(n, layers, d, generator=generator)
    if shared is not None:
        mix = torch.randn(shared.shape[2], d, generator=generator)
        own = own + torch.linspace(0, 1, layers)[:, None] * (shared[:, :1].float() @ mix)
    scale = torch.linspace(0.2, 3, d) * torch.linspace(0.1, 10, layers)[:, None]
    return (own * scale + 4).to(dtype)


def pair(n=40, dtype=torch.float32):
    x = states(n, 3, 6, 0, dtype)
    return x, states(n, 2, 9, 1, dtype, x)


def measured(x, y, metric, options=None, **more):
    more = {"n_permutations": 0, "n_subsamples": 0, **more}
    grid = similarity_grid(x, y, names(x.shape[1]), names(y.shape[1]), metrics=[metric], options=options, **more)
    return grid[metric].values.numpy()


@pytest.mark.parametrize("metric", STATE_METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_pairs_equal_the_definition(metric, dtype):
    x, y = pair(dtype=dtype)
    expected = oracles.all_pairs(oracles.ORACLES[metric], x, y)
    assert measured(x, y, metric) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", STATE_METRICS)
def test_float32_products_equal_the_definition_too(metric, monkeypatch):
    monkeypatch.setattr(sides_module, "DOUBLE_LIMIT", 0)
    x, y = pair(300)
    expected = oracles.all_pairs(oracles.ORACLES[metric], x, y)
    assert measured(x, y, metric) == pytest.approx(expected, abs=1e-6)


def test_debiased_cka_is_the_mean_over_quadruples():
    x, y = (z[:7, 0].double().numpy() for z in pair())
    k, length = x @ x.T, y @ y.T
    assert oracles.hsic_u_statistic(k, length) == pytest.approx(oracles.hsic_fourth_order(k, length))
    assert oracles.cka(x, y) == pytest.approx(oracles.cka_by_centring(x, y), abs=1e-8)
    assert measured(*(z[:7] for z in pair()), "cka")[0, 0] == pytest.approx(oracles.cka(x, y), abs=1e-8)


@pytest.mark.parametrize("n", [5, 12])
def test_cka_with_fewer_texts_than_dimensions(n):
    x, y = states(n, 2, 30, 0), states(n, 2, 50, 1)
    assert measured(x, y, "cka") == pytest.approx(oracles.all_pairs(oracles.cka, x, y), abs=1e-6)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 5, 38])
def test_neighbours_by_either_distance(distance, k):
    x, y = pair()
    expected = oracles.all_pairs(oracles.mutual_knn, x, y, k=k, distance=distance)
    assert measured(x, y, "mutual_knn", SimilarityOptions(k=k, knn_distance=distance)) == pytest.approx(expected)


@pytest.mark.parametrize("limit", [0, 2**22])
def test_neighbours_of_texts_that_repeat(limit, monkeypatch):
    monkeypatch.setattr(sides_module, "DOUBLE_LIMIT", limit)
    x, y = (z[torch.arange(40) // 4] for z in pair())  # four copies of each text, and ties between copies
    x[::5] += 1e-3
    expected = oracles.all_pairs(oracles.mutual_knn, x, y, k=6)
    assert measured(x, y, "mutual_knn", SimilarityOptions(k=6)) == pytest.approx(expected)


def test_neighbours_where_float32_products_cannot_tell(monkeypatch):
    monkeypatch.setattr(sides_module, "DOUBLE_LIMIT", 0)
    x, y = pair(200)
    x[:, :, 0] *= 3000  # distances differ in the seventh digit of the squared lengths
    y[:, :, 1] += 1000 * torch.sign(y[:, :, 2] - 4)
    expected = oracles.all_pairs(oracles.mutual_knn, x, y)
    assert measured(x, y, "mutual_knn") == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("correlation", ["spearman", "pearson"])
def test_rsa_in_every_form(distance, correlation):
    x, y = pair()
    x[5:9] = x[0]  # repeated texts share distances: tied ranks
    expected = oracles.all_pairs(oracles.rsa, x, y, distance=distance, correlation=correlation)
    options = SimilarityOptions(rsa_distance=distance, rsa_correlation=correlation)
    assert measured(x, y, "rsa", options) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", ["svcca", "pwcca"])
@pytest.mark.parametrize(("share", "most"), [(0.7, None), (1.0, 3), (1.0, None)])
def test_cca_cuts(metric, share, most):
    x, y = pair()
    expected = oracles.all_pairs(oracles.ORACLES[metric], x, y, share=share, most=most)
    options = SimilarityOptions(variance_share=share, max_components=most)
    assert measured(x, y, metric, options) == pytest.approx(expected, abs=1e-6)


def test_cca_equals_scikit_learn():
    from sklearn.cross_decomposition import CCA

    x, y = (z[:, 0].double().numpy() for z in pair(200))
    a, b = CCA(6, scale=False, max_iter=5000, tol=1e-12).fit_transform(x, y)
    rho = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(6)]
    options = SimilarityOptions(variance_share=1.0, max_components=None)
    assert measured(*pair(200), "svcca", options)[0, 0] == pytest.approx(np.mean(rho), abs=1e-5)


def test_few_layers_at_a_time_change_nothing(monkeypatch):
    x, y = pair()
    whole = {m: measured(x, y, m) for m in ("cka", "mutual_knn", "rsa")}
    monkeypatch.setattr(compare_module, "_ELEMENTS", 2 * 40**2)
    for metric, values in whole.items():
        assert measured(x, y, metric) == pytest.approx(values, abs=1e-14)


def test_one_call_is_many():
    x, y = pair()
    together = similarity_grid(x, y, names(3), names(2), n_permutations=30, n_subsamples=20)
    assert tuple(together) == STATE_METRICS
    for metric, grid in together.items():
        alone = similarity_grid(x, y, names(3), names(2), metrics=[metric], n_permutations=30, n_subsamples=20)[metric]
        assert torch.allclose(alone.values, grid.values, atol=1e-12)
        assert torch.allclose(alone.p_corrected, grid.p_corrected)
        assert torch.allclose(alone.low, grid.low, atol=1e-9)


@pytest.mark.parametrize("metric", STATE_METRICS)
def test_a_model_with_itself(metric):
    x = states(60, 4, 7)
    values = measured(x, x, metric, SimilarityOptions(max_components=None))
    assert np.diag(values) == pytest.approx(METRICS[metric].perfect, abs=1e-6)
    assert values == pytest.approx(measured(x, x.clone(), metric, SimilarityOptions(max_components=None)), abs=1e-9)
    if METRICS[metric].symmetric:
        assert values == pytest.approx(values.T, abs=1e-9)


turns = st.integers(0, 2**20)


@settings(max_examples=15, deadline=None)
@given(seed=turns, scale=st.floats(0.01, 100), n=st.integers(20, 60))
def test_turning_and_scaling_change_nothing(seed, scale, n):
    x = states(n, 2, 5, seed, torch.float64)
    y = states(n, 2, 7, seed + 1, torch.float64, x)
    generator = torch.Generator().manual_seed(seed + 2)
    turn = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64)).Q
    moved = scale * y @ turn + torch.randn(7, generator=generator, dtype=torch.float64)
    for metric in STATE_METRICS:
        before, after = measured(x, y, metric), measured(x, moved, metric)
        assert after == pytest.approx(before, abs=1e-7), metric


@settings(max_examples=15, deadline=None)
@given(seed=turns)
def test_canonical_correlations_see_no_invertible_map(seed):
    x, y = states(50, 2, 5, seed, torch.float64), states(50, 2, 7, seed + 1, torch.float64)
    generator = torch.Generator().manual_seed(seed + 2)
    mix = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64)).Q * torch.linspace(0.1, 3, 7)
    options = SimilarityOptions(variance_share=1.0, max_components=None)
    for metric in ("svcca", "pwcca"):
        assert measured(x, y @ mix, metric, options) == pytest.approx(measured(x, y, metric, options), abs=1e-8)


@settings(max_examples=10, deadline=None)
@given(seed=turns)
def test_swapping_models_and_reordering_texts(seed):
    x = states(30, 3, 5, seed)
    y = states(30, 2, 8, seed + 1, shared=x)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    for metric in STATE_METRICS:
        values = measured(x, y, metric)
        assert measured(x[order], y[order], metric) == pytest.approx(values, abs=1e-9)
        if METRICS[metric].symmetric:
            assert measured(y, x, metric) == pytest.approx(values.T, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:-1], y), "39 source states but 40"),
        (lambda x, y: (x[:3], y[:3]), "at least 4"),
        (lambda x, y: (x.index_fill(0, torch.tensor([2]), float("nan")), y), "NaN or infinity"),
        (lambda x, y: (x, y * torch.tensor([1.0, 0.0])[:, None] + 3), r"target states at blocks\.1\.hook"),
        (lambda x, y: (x * torch.tensor([0.0, 1.0, 1.0])[:, None], y), r"source states at blocks\.0\.hook"),
        (lambda x, y: (x[:11], y[:11]), "k = 10"),
    ],
)
def test_states_that_cannot_be_compared(change, message):
    with pytest.raises(LayerError, match=message):
        measured(*change(*pair()), "mutual_knn")


def test_requests_that_mean_nothing():
    x, y = pair()
    for more, message in (
        ({"metrics": ["cka", "cosine"]}, "name each of"),
        ({"metrics": []}, "at least one"),
        ({"n_permutations": 5}, "5 shuffles"),
        ({"n_subsamples": 3}, "3 subsamples"),
        ({"level": 1.0}, "between 0 and 1"),
        ({"groups": ["a"] * 39}, "39"),
        ({"groups": ["a"] * 20 + ["b"] * 20}, "at least 3"),
    ):
        with pytest.raises(LayerError, match=message):
            similarity_grid(x, y, names(3), names(2), **more)
    with pytest.raises(LayerError, match="hook points"):
        similarity_grid(x, y, ["a", "a", "b"], names(2))
    for options in ({"k": 0}, {"variance_share": 0}, {"max_components": 0}, {"keep": 1.0}):
        with pytest.raises(LayerError):
            SimilarityOptions(**options)


def test_warnings_say_what_the_numbers_mean():
    x, y = states(20, 2, 30), states(20, 2, 8, 1)
    x[:, 1, 3] += 5000 * torch.rand(20, generator=torch.Generator().manual_seed(0))
    y[7, 0] += 500
    grids = similarity_grid(
        x, y, names(2), names(2), n_permutations=0, n_subsamples=0, options=SimilarityOptions(variance_share=1.0)
    )
    text = " ".join(grids["svcca"].warnings)
    assert "20 texts for 30 source dimensions" in text
    assert re.search(r"dimension 3 carries \d+% of the variance of the source at blocks.1.hook_resid_post", text)
    assert re.search(r"text 7 carries \d+% of the variance of the target at blocks.0.hook_resid_post", text)
    assert "by construction; lower" in text
    assert "by construction; lower" not in " ".join(grids["cka"].warnings)
    plain = [torch.randn(40, 2, 9, generator=torch.Generator().manual_seed(side)) for side in (0, 1)]
    assert not similarity_grid(*plain, names(2), names(2), n_permutations=0, n_subsamples=0)["cka"].warnings
