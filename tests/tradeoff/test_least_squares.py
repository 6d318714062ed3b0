import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from contrans_lens.tradeoff.families import ALIGNMENT_FAMILIES, HELPFULNESS_FAMILIES
from contrans_lens.tradeoff.least_squares import levenberg_marquardt, solve_linear
from tests.tradeoff.simulated import behaviour_curve, grid, helpfulness_curve, truth

R = grid(3, 25)
FAMILIES = {family.name: family for family in (*ALIGNMENT_FAMILIES, *HELPFULNESS_FAMILIES)}
NONLINEAR = ["tanh", "plateaus", "bell", "gaussian_bell"]
# Inner parameters at which each law bends: near its middle and near a bound.
POINTS = {
    "tanh": [[0.5, -0.56], [-1.3, 0.2]],
    "plateaus": [[-0.7, 0.4, 1.5, 0.3], [0.2, -0.9, 0.6, -1.0]],
    "bell": [[0.44, 0.08], [0.9, 1.5]],
    "gaussian_bell": [[0.44, 0.1, 0.08], [0.8, -0.4, 0.6]],
}


def _targets(name, n=40):
    """Resampled mean curves of noisy items, as the bootstrap makes them."""
    behaviour, helpfulness = truth(R)
    alignment = name in ("tanh", "plateaus")
    curve = behaviour_curve(R, behaviour, seed=3) if alignment else helpfulness_curve(R, helpfulness, seed=3)
    return curve, curve.resampled(max(n, 100), 0)[:n]


def _scipy_best(family, target, starts):
    """The best end of scipy's bounded trust-region search from several starts: parameters and residual sum."""
    r = torch.as_tensor(R)

    def residual(parameters):
        return (family.values(r, torch.as_tensor(parameters)[None])[0] - target).numpy()

    ends = [
        least_squares(residual, start, bounds=(family.lower, family.upper), xtol=1e-14, ftol=1e-14, gtol=1e-14)
        for start in starts
    ]
    best = min(ends, key=lambda end: end.cost)
    return best.x, 2 * best.cost


@pytest.mark.parametrize("name", list(FAMILIES))
def test_jacobians_are_the_derivatives(name):
    family = FAMILIES[name]
    points = torch.tensor(POINTS.get(name, [[0.3, 0.1, 0.2][: len(family.parameters)]]), dtype=torch.float64)
    values, jacobian = family.evaluate(R, points)
    assert values.shape == (len(points), len(R))
    for row, point in enumerate(points):
        found = torch.autograd.functional.jacobian(lambda at: family.values(R, at[None])[0], point)
        assert torch.allclose(jacobian[row], found, atol=1e-12)


@pytest.mark.parametrize("name", NONLINEAR)
def test_batched_fits_are_scipys(name):
    """Every resample, fitted from the curve's own optimum, against scipy from there and from two other places."""
    family = FAMILIES[name]
    curve, targets = _targets(name, 12)
    near = family.fit(R, curve.mean[None])
    found = family.fit(R, targets, near=near.parameters[0])
    middle = [np.clip(point, family.lower, family.upper) for point in POINTS[name]]
    for row, target in enumerate(targets):
        inside = np.clip(near.parameters[0].numpy(), np.add(family.lower, 1e-6), np.subtract(family.upper, 1e-6))
        expected, rss = _scipy_best(family, target, [inside, *middle])
        assert float(found.rss[row]) <= rss * (1 + 1e-7)
        assert found.parameters[row].tolist() == pytest.approx(expected, rel=2e-3, abs=2e-3)
    assert bool(found.converged.all())


@pytest.mark.parametrize("name", NONLINEAR)
def test_a_curve_itself_is_fitted_to_the_last_digits(name):
    family = FAMILIES[name]
    curve, _ = _targets(name)
    found = family.fit(R, curve.mean[None])
    expected, rss = _scipy_best(family, curve.mean, POINTS[name])
    assert float(found.rss[0]) == pytest.approx(rss, rel=1e-10)
    assert found.parameters[0].tolist() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("name", NONLINEAR)
@pytest.mark.parametrize("row", [0, 1])
def test_exact_data_give_their_parameters_back(name, row):
    family = FAMILIES[name]
    point = torch.tensor([POINTS[name][row]], dtype=torch.float64)
    found = family.fit(R, family.values(R, point))
    assert family.report(found.parameters)[0].tolist() == pytest.approx(family.report(point)[0].tolist(), abs=1e-6)
    assert float(found.rss[0]) < 1e-13
    assert bool(found.converged[0])


@pytest.mark.parametrize("name", NONLINEAR)
def test_a_batch_is_its_members_one_by_one(name):
    family = FAMILIES[name]
    _, targets = _targets(name, 6)
    together = family.fit(R, targets)
    for row in range(6):
        alone = family.fit(R, targets[row : row + 1])
        assert torch.allclose(alone.parameters[0], together.parameters[row], rtol=1e-6, atol=1e-8)


def test_bounds_hold_and_are_reached_where_the_optimum_lies_beyond():
    """A curve that rises away from zero: no bell does better than a constant."""
    family = FAMILIES["bell"]
    target = (0.3 + 0.02 * R.square())[None]
    found = family.fit(R, target)
    assert float(found.parameters[0, 1]) == 0.0
    assert float(found.parameters[0, 0]) == pytest.approx(float(target.mean()), abs=1e-6)
    line = FAMILIES["plateaus"].fit(R, (0.5 * R)[None].clamp(-1, 1))
    assert bool((line.parameters[:, :2].abs() <= 1).all())


def test_a_search_that_is_cut_short_says_so_and_is_no_worse_than_its_start():
    family = FAMILIES["tanh"]
    start = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    target = torch.tanh(0.5 * R - 0.56)[None]
    free = torch.full((2,), float("inf"), dtype=torch.float64)
    first = (family.values(R, start) - target).square().sum()
    cut = levenberg_marquardt(family.evaluate, R, target, start, -free, free, max_steps=6)
    assert not bool(cut.converged[0])
    assert 0 < float(cut.rss[0]) < float(first)
    whole = levenberg_marquardt(family.evaluate, R, target, start, -free, free)
    assert bool(whole.converged[0])
    assert whole.parameters[0].tolist() == pytest.approx([0.5, -0.56], abs=1e-6)


def test_values_that_are_not_finite_are_never_stepped_to():
    def evaluate(strengths, parameters):
        values = parameters.log() * strengths  # NaN for negative parameters
        return values, (strengths / parameters)[..., None]

    free = torch.full((1,), float("inf"), dtype=torch.float64)
    target = -3 * R[None]
    start = torch.tensor([[50.0]], dtype=torch.float64)  # the first full step leads below zero
    found = levenberg_marquardt(evaluate, R, target, start, -free, free)
    assert float(found.parameters[0, 0]) == pytest.approx(np.exp(-3), rel=1e-6)


def test_linear_laws_are_numpys():
    design = torch.stack([torch.ones_like(R), R, -R.square()], dim=1)
    targets = torch.randn(5, 25, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, rss, *_ = np.linalg.lstsq(design.numpy(), targets.T.numpy(), rcond=None)
    found = solve_linear(design, targets)
    assert np.allclose(found.parameters.numpy(), expected.T)
    assert np.allclose(found.rss.numpy(), rss)


def test_rounding_is_no_parameter():
    """A constant has no slope and no curvature, not ones of 1e-17 with an interval that excludes zero."""
    design = torch.stack([torch.ones_like(R), R, -R.square()], dim=1)
    found = solve_linear(design, torch.full((1, 25), 0.3, dtype=torch.float64))
    assert found.parameters[0, 1:].tolist() == [0.0, 0.0]
