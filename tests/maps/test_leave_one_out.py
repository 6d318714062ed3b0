"""The PRESS path against fits that really leave a text out."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from contrans_lens.maps import factor_source, fit_map, leave_one_out_path
from contrans_lens.maps.leave_one_out import one_minus_leverage, residual_gain


def brute_force(x, y, alpha):
    total = 0.0
    for i in range(len(x)):
        kept = np.arange(len(x)) != i
        model = Ridge(alpha=alpha, solver="svd") if alpha else LinearRegression()
        total += np.square(y[i] - model.fit(x[kept], y[kept]).predict(x[i : i + 1])[0]).sum()
    return total


def path_of(x, y, ridges):
    factor = factor_source(x[:, None])
    centred = y.double() - y.double().mean(0)
    return leave_one_out_path(factor.left(x), factor.singular[0], centred[None], torch.tensor(ridges).double())


def data(n, d_source, d_target, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d_source, generator=generator, dtype=torch.float64) + 4
    y = x @ torch.randn(d_source, d_target, generator=generator, dtype=torch.float64)
    return x, y + 2 * torch.randn(n, d_target, generator=generator, dtype=torch.float64) - 9


@pytest.mark.parametrize("n", [30, 13, 12, 11, 6])
def test_press_is_brute_force_leave_one_out(n):
    x, y = data(n, 12, 5)
    ridges = [0.01, 1.0, 30.0]
    press = path_of(x, y, ridges).press[0]
    np.testing.assert_allclose(press.numpy(), [brute_force(x.numpy(), y.numpy(), a) for a in ridges], rtol=1e-8)


def test_press_of_least_squares_is_brute_force_too():
    x, y = data(30, 6, 4)
    np.testing.assert_allclose(path_of(x, y, [0.0]).press.item(), brute_force(x.numpy(), y.numpy(), 0), rtol=1e-9)


@pytest.mark.parametrize("n", [7, 6, 4, 2])
def test_press_of_an_interpolating_fit_is_that_of_the_minimum_norm_fit(n):
    x, y = (values.numpy() for values in data(n, 6, 4))
    total = 0.0
    for i in range(n):
        kept = np.arange(n) != i
        x_mean, y_mean = x[kept].mean(0), y[kept].mean(0)
        weight = np.linalg.pinv(x[kept] - x_mean) @ (y[kept] - y_mean)
        total += np.square(y[i] - y_mean - (x[i] - x_mean) @ weight).sum()
    press = path_of(torch.tensor(x), torch.tensor(y), [0.0, 1e-9]).press[0]
    np.testing.assert_allclose(press.numpy(), [total, total], rtol=1e-6)


def test_press_with_a_repeated_feature_and_one_output():
    x, y = data(20, 5, 1)
    x = torch.cat([x, x[:, :2]], 1)
    np.testing.assert_allclose(path_of(x, y, [3.0]).press.item(), brute_force(x.numpy(), y.numpy(), 3.0), rtol=1e-8)


def test_an_almost_exact_fit_keeps_its_digits():
    """A path that forms |y|^2 - 2 y.y^ + |y^|^2 has lost them all here."""
    x, y = data(40, 6, 3)
    y = x @ torch.ones(6, 3, dtype=torch.float64) + 1e-7 * y
    np.testing.assert_allclose(path_of(x, y, [1e-9]).press.item(), brute_force(x.numpy(), y.numpy(), 1e-9), rtol=1e-5)


def test_several_targets_at_once_are_each_their_own():
    x, y = data(25, 6, 4)
    _, other = data(25, 6, 4, seed=1)
    factor = factor_source(x[:, None])
    stacked = torch.stack([y - y.mean(0), other - other.mean(0)])
    ridges = torch.tensor([0.1, 10.0], dtype=torch.float64)
    both = leave_one_out_path(factor.left(x), factor.singular[0], stacked, ridges)
    for row, single in enumerate((y, other)):
        alone = path_of(x, single, [0.1, 10.0])
        assert torch.allclose(both.press[row], alone.press[0])
        assert torch.allclose(both.baseline[row], alone.baseline[0])


def test_float32_products_choose_the_same_strength():
    x, y = data(80, 20, 10)
    factor = factor_source(x[:, None])
    single = (y - y.mean(0)).float()[None]
    ridges = factor.default_ridges()
    path = leave_one_out_path(factor.left(x), factor.singular[0], single, ridges)
    double = leave_one_out_path(factor.left(x), factor.singular[0], single.double(), ridges)
    assert torch.equal(path.best, double.best)
    assert torch.allclose(path.press, double.press, rtol=1e-4)


def test_r2_is_zero_for_the_mean_of_the_others():
    x, y = data(20, 4, 3)
    path = path_of(x, y, [1e14])
    assert abs(path.r2.item()) < 1e-6
    direct = sum(np.square(y[i] - np.delete(y, i, 0).mean(0)).sum() for i in range(20))
    np.testing.assert_allclose(path.baseline.item(), direct)


def test_the_chosen_ridge_is_the_brute_force_minimum():
    x, y = data(15, 10, 4)
    ridges = [0.1, 1.0, 10.0, 100.0]
    errors = [brute_force(x.numpy(), y.numpy(), a) for a in ridges]
    assert fit_map(x, y, ridges=ridges[::-1]).ridge == ridges[int(np.argmin(errors))]


def test_leverages_are_the_hat_matrix():
    x, _ = data(20, 4, 1)
    factor = factor_source(x[:, None])
    xc = x - x.mean(0)
    hat = xc @ torch.linalg.solve(xc.T @ xc + 5 * torch.eye(4), xc.T) + 1 / 20
    gains = residual_gain(factor.singular[0][:, None], torch.tensor([5.0]).double(), 20)
    found = one_minus_leverage(factor.left(x), gains, exact=False)
    assert torch.allclose(found[:, 0], 1 - hat.diagonal())
