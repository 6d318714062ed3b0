"""fit_map against scikit-learn, numpy and scipy, and the properties a linear map must have."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from contrans_lens.errors import MapError
from contrans_lens.maps import MAP_METHODS, fit_map

SHAPES = st.tuples(st.integers(2, 30), st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**31))
quick = settings(max_examples=25, deadline=None)


def states(n, d_source, d_target, seed=0, noise=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d_source, generator=generator, dtype=torch.float64) * 2 + 5
    a = torch.randn(d_target, d_source, generator=generator, dtype=torch.float64)
    y = x @ a.T - 3 + noise * torch.randn(n, d_target, generator=generator, dtype=torch.float64)
    return x.to(dtype), y.to(dtype), a


def test_ols_is_numpy_lstsq_with_an_intercept():
    x, y, _ = states(50, 7, 4)
    fitted = fit_map(x, y, method="ols")
    design = np.c_[x.numpy(), np.ones(50)]
    solution, *_ = np.linalg.lstsq(design, y.numpy())
    np.testing.assert_allclose(fitted.weight.numpy(), solution[:-1].T, atol=1e-9)
    np.testing.assert_allclose(fitted.bias.numpy(), solution[-1], atol=1e-8)


@pytest.mark.parametrize("n", [40, 9, 5])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 300.0])
def test_ridge_is_scikit_learns(n, alpha):
    x, y, _ = states(n, 9, 4)
    fitted = fit_map(x, y, ridge=alpha)
    oracle = Ridge(alpha=alpha, solver="svd").fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(fitted.weight.numpy(), oracle.coef_, atol=1e-8)
    np.testing.assert_allclose(fitted.bias.numpy(), oracle.intercept_, atol=1e-7)
    assert fitted.ridge == alpha


def test_fewer_texts_than_dimensions_gives_the_minimum_norm_solution():
    x, y, _ = states(6, 10, 3)
    fitted = fit_map(x, y, method="ols")
    xc, yc = (v.numpy() - v.numpy().mean(0) for v in (x, y))
    np.testing.assert_allclose(fitted.weight.numpy(), (np.linalg.pinv(xc) @ yc).T, atol=1e-9)
    assert torch.allclose(fitted(x), y)


def test_a_constant_or_repeated_feature_gets_the_minimum_norm_share():
    x, y, _ = states(40, 5, 3)
    x[:, 2] = 4.0
    x[:, 4] = x[:, 3]
    fitted = fit_map(x, y, method="ols")
    assert fitted.weight[:, 2].abs().max() < 1e-12
    assert torch.allclose(fitted.weight[:, 3], fitted.weight[:, 4])


def test_loo_ridge_generalises_better_than_ols_when_texts_are_few():
    x, y, a = states(30, 20, 10, noise=12.0)
    wide = fit_map(x, y)
    plain = fit_map(x, y, method="ols")
    assert wide.ridge > 0
    assert (wide.weight - a).norm() < (plain.weight - a).norm()


def test_procrustes_of_equal_widths_is_scipys():
    x, y, _ = states(60, 6, 6)
    xc, yc = (v.numpy() - v.numpy().mean(0) for v in (x, y))
    rotation, total = scipy.linalg.orthogonal_procrustes(xc, yc)
    expected = rotation.T * total / np.square(xc).sum()
    fitted = fit_map(x, y, method="procrustes")
    np.testing.assert_allclose(fitted.weight.numpy(), expected, atol=1e-9)
    assert torch.allclose(fitted.bias, y.mean(0) - fitted.weight @ x.mean(0))


@pytest.mark.parametrize("widths", [(4, 7), (7, 4)])
def test_procrustes_of_unequal_widths_is_the_padded_square_problem_cut_back(widths):
    d_source, d_target = widths
    x, y, _ = states(80, d_source, d_target)
    wide = max(widths)
    xc, yc = (v.numpy() - v.numpy().mean(0) for v in (x, y))
    padded_x = np.pad(xc, ((0, 0), (0, wide - d_source)))
    padded_y = np.pad(yc, ((0, 0), (0, wide - d_target)))
    rotation, _ = scipy.linalg.orthogonal_procrustes(padded_x, padded_y)
    weight = fit_map(x, y, method="procrustes").weight
    q = rotation.T[:d_target, :d_source]
    scale = (yc * (xc @ q.T)).sum() / np.square(xc @ q.T).sum()
    np.testing.assert_allclose(weight.numpy(), scale * q, atol=1e-8)
    gram = weight.T @ weight if d_target > d_source else weight @ weight.T
    assert torch.allclose(gram / gram[0, 0], torch.eye(min(widths), dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 20.0])
def test_reduced_rank_is_the_best_of_its_rank_on_augmented_data(alpha):
    x, y, _ = states(50, 8, 6, noise=6.0)
    xc, yc = (v.numpy() - v.numpy().mean(0) for v in (x, y))
    augmented_x = np.r_[xc, np.sqrt(alpha) * np.eye(8)]
    augmented_y = np.r_[yc, np.zeros((8, 6))]
    full, *_ = np.linalg.lstsq(augmented_x, augmented_y)
    directions = np.linalg.svd(augmented_x @ full)[2][:3]
    fitted = fit_map(x, y, method="reduced_rank", ridge=alpha, rank=3)
    np.testing.assert_allclose(fitted.weight.numpy(), (full @ directions.T @ directions).T, atol=1e-8)
    assert torch.linalg.matrix_rank(fitted.weight) == 3 == fitted.rank


def test_full_rank_is_plain_ridge_and_the_default_rank_finds_a_planted_one():
    x, y, _ = states(50, 5, 4)
    full = fit_map(x, y, method="reduced_rank", ridge=2.0, rank=4)
    assert torch.allclose(full.weight, fit_map(x, y, ridge=2.0).weight)
    generator = torch.Generator().manual_seed(1)
    planted = torch.randn(4, 2, generator=generator, dtype=torch.float64) @ torch.randn(
        2, 5, generator=generator, dtype=torch.float64
    )
    assert fit_map(x, x @ planted.T, method="reduced_rank", ridge=0.0).rank <= 2


def test_identity_pads_with_zeros_and_fits_nothing():
    x, y, _ = states(10, 3, 5)
    fitted = fit_map(x, y, method="identity")
    assert torch.equal(fitted(x)[:, :3], x)
    assert fitted(x)[:, 3:].abs().max() == 0
    with pytest.raises(MapError, match="at least as wide"):
        fit_map(y, x, method="identity")


@quick
@given(SHAPES)
def test_exactly_linear_data_give_back_their_map(shape):
    n, d_source, d_target, seed = shape
    x, y, a = states(n + 2 * d_source + 2, d_source, d_target, seed, noise=0.0)
    fitted = fit_map(x, y, method="ols")
    assert torch.allclose(fitted.weight, a, atol=1e-6)
    assert torch.allclose(fitted(x), y, atol=1e-6)


@quick
@given(SHAPES, st.sampled_from([m for m in MAP_METHODS if m != "identity"]))
def test_a_concept_never_feels_the_bias(shape, method):
    n, d_source, d_target, seed = shape
    x, y, _ = states(n + 3, d_source, d_target, seed)
    v = torch.randn(d_source, dtype=torch.float64)
    near, far = fit_map(x, y, method=method), fit_map(x + 7, y - 1000, method=method)
    assert torch.allclose(near.concept(v), far.concept(v), rtol=1e-5, atol=1e-6)
    assert torch.allclose(near.concept(2 * v), 2 * near.concept(v))
    assert torch.allclose(near(x[0] + v) - near(x[0]), near.concept(v), atol=1e-8)


@quick
@given(SHAPES, st.sampled_from(["ols", "ridge", "reduced_rank"]), st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_map_follows_a_change_of_units(shape, method, x_unit, y_unit):
    n, d_source, d_target, seed = shape
    x, y, _ = states(n + 12, d_source, d_target, seed)
    base = fit_map(x, y, method=method)
    scaled = fit_map(x * x_unit, y * y_unit, method=method)
    assert torch.allclose(scaled.weight * (x_unit / y_unit), base.weight, rtol=1e-5, atol=1e-7)


@quick
@given(SHAPES, st.sampled_from(["ols", "ridge", "procrustes", "reduced_rank"]))
def test_a_map_follows_rotations_of_either_stream(shape, method):
    n, d_source, d_target, seed = shape
    x, y, _ = states(n + 12, d_source, d_target, seed)
    generator = torch.Generator().manual_seed(seed)
    r, s = (
        torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q for d in (d_source, d_target)
    )
    base, turned = fit_map(x, y, method=method), fit_map(x @ r.T, y @ s.T, method=method)
    assert torch.allclose(turned.weight, s @ base.weight @ r.T, atol=1e-6)


def test_float32_states_are_fitted_in_float64():
    x, y, _ = states(200, 6, 5)
    x, y = x.float() + 1000, y.float()  # a large mean costs nothing: it is taken off in float64
    fitted = fit_map(x, y, method="ols")
    oracle = fit_map(x.double(), y.double(), method="ols")
    assert fitted.weight.dtype == torch.float32
    assert torch.allclose(fitted.weight.double(), oracle.weight, atol=1e-6)


def test_few_texts_are_said_to_be_few():
    x, y, _ = states(12, 10, 3)
    assert any("training R2 means nothing" in text for text in fit_map(x, y).diagnostics.warnings)
    x, y, _ = states(100, 10, 3)
    assert fit_map(x, y).diagnostics.warnings == ()


def test_unpredictable_targets_end_at_the_strongest_ridge_and_say_so():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 20, generator=generator), torch.randn(200, 20, generator=generator)
    fitted = fit_map(x, y, ridges=[1.0, 10.0, 100.0])
    assert fitted.ridge == 100.0
    assert any("strongest ridge" in text for text in fitted.diagnostics.warnings)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"y": torch.zeros(9, 2)}, "10 source states but 9 target states"),
        ({"x": torch.zeros(1, 3), "y": torch.zeros(1, 2)}, "at least 2 texts"),
        ({"x": torch.full((10, 3), torch.nan)}, "source states hold NaN"),
        ({"y": torch.full((10, 2), torch.inf)}, "target states hold NaN or infinity in 10 of 10"),
        ({"x": torch.full((10, 3), 7.1)}, "the same for every text"),
        ({"method": "lasso"}, "choose one of ols, ridge"),
        ({"ridge": -1.0}, "at least 0"),
        ({"ridge": "gcv"}, "unknown ridge rule"),
        ({"ridges": []}, "at least one"),
        ({"ridges": [1.0, float("nan")]}, "finite"),
        ({"method": "reduced_rank", "rank": 5}, "between 1 and 2"),
        ({"method": "reduced_rank", "rank": 0}, "between 1 and 2"),
    ],
)
def test_bad_input_is_named(change, match):
    generator = torch.Generator().manual_seed(0)
    good = {"x": torch.randn(10, 3, generator=generator), "y": torch.randn(10, 2, generator=generator)}
    arguments = good | change
    with pytest.raises(MapError, match=match):
        fit_map(arguments.pop("x"), arguments.pop("y"), **arguments)


def test_states_of_the_wrong_width_are_refused_by_the_map():
    x, y, _ = states(20, 3, 4)
    fitted = fit_map(x, y, source_hook_point="blocks.1.hook_resid_post")
    for use in (fitted, fitted.concept):
        with pytest.raises(MapError, match=r"3 -> 4.*blocks\.1"):
            use(torch.zeros(4))
