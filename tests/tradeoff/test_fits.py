import math

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit

from contrans_lens.errors import TradeoffError
from contrans_lens.tradeoff.curve import Curve
from contrans_lens.tradeoff.fits import fit_alignment, fit_helpfulness, top_of_bell
from contrans_lens.tradeoff.laws import bell, gaussian_bell, parabola_terms, tanh_law
from tests.tradeoff.simulated import behaviour_curve, grid, helpfulness_curve, truth

R = grid(3, 25)
B, H = truth(R)


def _exact(values, strengths=R):
    """A curve without noise: one item."""
    return Curve(strengths, values[:, None])


def test_the_tanh_law_is_found_in_exact_data():
    fit = fit_alignment(_exact(B), n_resamples=0)
    assert fit.best.name == "tanh"
    assert (fit.a.value, fit.b0.value) == pytest.approx((0.5, -0.56), abs=1e-7)
    assert fit.B0.value == pytest.approx(math.tanh(-0.56), abs=1e-7)
    assert fit.slope0.value == pytest.approx(0.5 * (1 - math.tanh(0.56) ** 2), abs=1e-7)
    assert fit.r_half.value == pytest.approx(1.12, abs=1e-7)
    assert not fit.a.has_interval
    assert fit.measured == float(B[12])
    assert torch.allclose(fit.fits["tanh"].predict(R), B, atol=1e-7)


@pytest.mark.parametrize(
    ("values", "best"),
    [
        (0 * R + 0.3, "constant"),
        (0 * R, "constant"),
        (0 * R - 1, "constant"),
        (0.2 * R + 0.1, "line"),
        (tanh_law(R, -0.7, 0.1), "tanh"),
        (-0.3 + 0.4 * torch.tanh(2 * R), "plateaus"),
    ],
)
def test_the_law_that_made_exact_data_ranks_first(values, best):
    """Zero residuals are no NaN, and rounding errors do not rank: equals are won by fewer parameters."""
    fit = fit_alignment(_exact(values), n_resamples=0)
    assert fit.best.name == best
    for each in fit.fits.values():
        assert all(math.isfinite(number) for number in (each.rss, each.aic, each.aicc, each.delta, each.r_squared))


@pytest.mark.parametrize(
    ("values", "best"),
    [
        (H, "symmetric_parabola"),
        (0.44 + 0.03 * R - 0.018 * R.square(), "parabola"),
        (bell(R, 0.6, 0.5), "bell"),
        (gaussian_bell(R, 0.6, 0.1, 0.4), "gaussian_bell"),
        (0 * R, "symmetric_parabola"),
        (0 * R + 1, "symmetric_parabola"),
    ],
)
def test_the_bell_that_made_exact_data_ranks_first(values, best):
    fit = fit_helpfulness(_exact(values), window=(-3.0, 3.0), n_resamples=0)
    assert fit.best.name == best
    assert all(math.isfinite(each.aic) for each in fit.fits.values())


def test_the_bells_terms_follow_from_their_parameters():
    fit = fit_helpfulness(_exact(gaussian_bell(R, 0.6, 0.1, 0.4)), window=(-3.0, 3.0), n_resamples=0)
    found = fit.fits["gaussian_bell"]
    assert [found.parameters[name].value for name in ("p0", "mu", "b")] == pytest.approx([0.6, 0.1, 0.4], abs=1e-6)
    assert (found.derived["l"].value, found.derived["k"].value) == pytest.approx(
        parabola_terms(0.6, 0.1, 0.4), abs=1e-6
    )
    exact = fit_helpfulness(_exact(bell(R, 0.6, 0.4)), window=(-3.0, 3.0), n_resamples=0).fits["bell"]
    assert exact.derived["k"].value == pytest.approx(parabola_terms(0.6, 0.0, 0.4)[1], abs=1e-6)
    assert exact.parameters["b"].value == pytest.approx(0.4, abs=1e-6)


def test_criteria_are_their_formulas():
    fit = fit_alignment(behaviour_curve(R, B), n_resamples=0)
    n = 25
    for name, p in (("constant", 1), ("line", 2), ("tanh", 2), ("plateaus", 4)):
        each = fit.fits[name]
        means = behaviour_curve(R, B).mean
        rss = float((each.predict(R) - means).square().sum())
        assert each.rss == pytest.approx(rss)
        assert each.r_squared == pytest.approx(1 - rss / float((means - means.mean()).square().sum()))
        assert each.aic == pytest.approx(n * math.log(rss / n) + 2 * (p + 1))
        assert each.aicc == pytest.approx(each.aic + 2 * (p + 1) * (p + 2) / (n - p - 2))
    assert fit.criterion == "aicc"
    least = min(each.aicc for each in fit.fits.values())
    assert all(each.delta == pytest.approx(each.aicc - least) for each in fit.fits.values())
    assert fit.best.delta == 0


def test_many_strengths_are_ranked_by_aic():
    fine = grid(3, 201)
    fit = fit_alignment(_exact(torch.tanh(0.5 * fine), fine), n_resamples=0)
    assert fit.criterion == "aic"


def test_a_law_with_too_many_parameters_for_the_grid_is_never_the_best():
    few = grid(3, 5)
    fit = fit_alignment(_exact(-0.3 + 0.4 * torch.tanh(2 * few), few), n_resamples=0)
    assert fit.fits["plateaus"].aicc == math.inf
    assert fit.best.name in ("constant", "line", "tanh")
    assert fit.to_dict()["fits"]["plateaus"]["aicc"] is None


def test_intervals_are_those_of_fits_to_resamples():
    """Scipy's fit of each of the first resamples, and its percentiles over all of them."""
    curve = behaviour_curve(R, B, seed=4)
    fit = fit_alignment(curve, n_resamples=300, seed=9)
    drawn = curve.resampled(300, 9)
    expected = np.array(
        [curve_fit(lambda r, a, b0: np.tanh(a * r + b0), R.numpy(), each, (0.5, -0.5))[0] for each in drawn.numpy()]
    )
    for column, name in enumerate(("a", "b0")):
        assert np.allclose(fit.fits["tanh"].draws(name).numpy(), expected[:, column], atol=1e-4)
    assert np.allclose(fit.fits["tanh"].draws("r_half").numpy(), -expected[:, 1] / expected[:, 0], atol=1e-3)
    low, high = np.quantile(expected[:, 0], [0.023, 0.977])  # 100 groups widen the percentiles a little
    assert (fit.a.low, fit.a.high) == pytest.approx((low, high), abs=0.01)
    assert fit.a.low < fit.a.value < fit.a.high
    assert fit.fits["tanh"].converged_share == 1.0


def test_parabola_draws_are_numpys():
    curve = helpfulness_curve(R, H, seed=4)
    fit = fit_helpfulness(curve, window=(-2.0, 2.0), n_resamples=200, seed=1)
    part = curve.window(-2.0, 2.0)
    expected = np.polyfit(part.strengths.numpy(), part.resampled(200, 1).numpy().T, 2)
    for row, name, sign in ((0, "k", -1), (1, "l", 1), (2, "H0", 1)):
        assert np.allclose(fit.fits["parabola"].draws(name).numpy(), sign * expected[row], atol=1e-12)


def test_a_band_holds_the_law_and_narrows_with_items():
    few, many = (fit_alignment(behaviour_curve(R, B, n), n_resamples=300) for n in (50, 800))
    (few_low, few_high), (low, high) = few.fits["tanh"].band(R), many.fits["tanh"].band(R)
    assert bool(((high - low) < (few_high - few_low)).all())
    assert bool(((low <= many.fits["tanh"].predict(R)) & (many.fits["tanh"].predict(R) <= high)).all())
    with pytest.raises(TradeoffError, match="no resamples"):
        fit_alignment(_exact(B), n_resamples=0).fits["tanh"].band(R)


def test_groups_widen_intervals():
    """Items in pairs that behave alike: half as many independent units."""
    single = behaviour_curve(R, B, 60)
    doubled = Curve(R, single.values.repeat_interleave(2, dim=1))
    grouped = Curve(R, doubled.values, tuple(f"g{i // 2}" for i in range(120)))
    naive, honest = (fit_alignment(each, n_resamples=400) for each in (doubled, grouped))
    assert (honest.n_items, honest.n_groups) == (120, 60)
    assert honest.a.value == pytest.approx(naive.a.value, abs=1e-6)
    assert 1.2 < (honest.a.high - honest.a.low) / (naive.a.high - naive.a.low) < 1.7


def test_paired_directions_share_their_resamples():
    """The same luck of items under two directions: gains differ by less than either's interval says."""
    one = behaviour_curve(R, B, shared=0.9)
    other = behaviour_curve(R, tanh_law(R, 0.5, -0.5), shared=0.9)
    fits = [fit_alignment(each, n_resamples=300, seed=2).fits["tanh"].draws("b0") for each in (one, other)]
    difference = fits[0] - fits[1]
    assert float(difference.std()) < 0.5 * min(float(each.std()) for each in fits)


def test_a_flat_curve_has_no_gain_to_divide_by():
    fit = fit_alignment(behaviour_curve(R, 0 * R + 0.2), n_resamples=300)
    assert fit.a.holds(0.0)
    assert not fit.r_half.defined
    assert "gain" in fit.r_half.reason


def test_what_the_grid_does_not_determine_is_undefined():
    """A step between two strengths: any steep enough gain fits; where it crosses is known up to the spacing."""
    fit = fit_alignment(behaviour_curve(R, torch.sign(R - 0.1)), n_resamples=200)
    assert not fit.a.defined
    assert not fit.slope0.defined
    assert "do not determine" in fit.a.reason
    assert (fit.r_half.low, fit.r_half.high) == (0.0, 0.25)
    never = fit_alignment(behaviour_curve(R, 0 * R - 1), n_resamples=200)
    assert not never.r_half.defined
    assert never.saturated


def test_plateaus_are_found_in_noise():
    fit = fit_alignment(behaviour_curve(R, -0.3 + 0.4 * torch.tanh(2 * R), 400), n_resamples=300)
    assert fit.best.name == "plateaus"
    assert fit.best.parameters["low"].holds(-0.7)
    assert fit.best.parameters["high"].holds(0.1)
    assert fit.best.parameters["a"].holds(2.0)
    falling = fit_alignment(_exact(-0.3 - 0.4 * torch.tanh(2 * R - 1)), n_resamples=0).fits["plateaus"]
    found = [falling.parameters[name].value for name in ("low", "high", "a", "b0")]
    assert found == pytest.approx([-0.7, 0.1, -2.0, 1.0], abs=1e-5)


@pytest.mark.parametrize(("start", "saturated"), [(0.96, True), (-0.99, True), (0.94, False), (0.0, False)])
def test_saturation_is_read_off_the_measured_start(start, saturated):
    assert fit_alignment(_exact(tanh_law(R, 0.5, math.atanh(start))), n_resamples=0).saturated is saturated


def test_a_cost_is_detected_or_not():
    costly = fit_helpfulness(helpfulness_curve(R, H, 400), window=(-3.0, 3.0), n_resamples=300)
    assert costly.cost_detected
    assert costly.k.holds(0.018)
    assert costly.verdict.startswith("cost detected")
    flat = fit_helpfulness(helpfulness_curve(R, 0 * R + 0.44), window=(-3.0, 3.0), n_resamples=300)
    assert flat.no_cost_detected
    assert flat.cost_detected is False
    assert flat.verdict.startswith("no cost detected")
    assert f"{flat.k.high * 9:.3g} at |r| = 3" in flat.verdict  # what may have been missed
    tilted = fit_helpfulness(helpfulness_curve(R, 0.44 + 0.08 * R, 400), window=(-3.0, 3.0), n_resamples=300)
    assert tilted.no_cost_detected
    assert "in proportion to the strength" in tilted.verdict
    rising = fit_helpfulness(helpfulness_curve(R, 0.3 + 0.03 * R.square(), 400), window=(-3.0, 3.0), n_resamples=300)
    assert rising.cost_detected is False
    assert "rises away from zero" in rising.verdict
    unknown = fit_helpfulness(_exact(H), n_resamples=0)
    assert unknown.cost_detected is None
    assert "not known" in unknown.verdict


def test_the_top_of_a_bell_is_the_run_that_keeps_its_height():
    wide = grid(5, 41)
    heights = gaussian_bell(wide, 0.44, 0.0, 0.39)
    low, high = top_of_bell(_exact(heights, wide))
    inside = wide[heights >= 0.75 * 0.44]
    assert (low, high) == (float(inside[0]), float(inside[-1]))
    lifted = top_of_bell(_exact(0.25 + 0.75 * heights, wide), floor=0.25)
    assert lifted == (low, high)
    assert top_of_bell(_exact(0 * wide + 0.4, wide)) == (-5.0, 5.0)
    assert top_of_bell(_exact(heights, wide), share=0.5)[1] > high
    narrow = top_of_bell(_exact(gaussian_bell(wide, 0.9, 0.0, 9.0), wide))
    assert narrow == (-0.5, 0.5)  # the five strengths nearest to zero


def test_one_noisy_mean_does_not_end_the_window():
    wide = grid(5, 41)
    heights = gaussian_bell(wide, 0.44, 0.0, 0.39)
    dented = heights.clone()
    dented[22] = 0.3  # at 0.5, a quarter below its neighbours
    assert top_of_bell(_exact(dented, wide)) == top_of_bell(_exact(heights, wide))


def test_the_window_of_a_fit_is_on_record():
    fit = fit_alignment(behaviour_curve(R, B), window=(-1.1, 2.0), n_resamples=0)
    assert (fit.window, fit.n_points) == ((-1.0, 2.0), 13)
    assert fit_helpfulness(_exact(H), n_resamples=0).window == top_of_bell(_exact(H))


def test_records_are_plain():
    import json

    curve, cost = behaviour_curve(R, B, name="honesty"), helpfulness_curve(R, H)
    for fit in (fit_alignment(curve, n_resamples=200), fit_helpfulness(cost, n_resamples=200)):
        record = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
        assert record["best"] == fit.best.name
        assert record["window"] == list(fit.window)
        assert record["n_resamples"] == 200


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_alignment(_exact(B)), "one item.*n_resamples=0"),
        (lambda: fit_alignment(Curve(R, B[:, None].repeat(1, 4), ("a",) * 4)), "all in one group"),
        (lambda: fit_alignment(behaviour_curve(R, B), n_resamples=50), "resamples"),
        (lambda: fit_alignment(behaviour_curve(R, B), level=1.0), "level"),
        (lambda: fit_alignment(behaviour_curve(R, B), window=(-0.5, 0.25)), "4 strengths in the window; a fit needs 5"),
        (lambda: fit_alignment(behaviour_curve(R, B), window=(4.0, 5.0)), "no strength"),
        (lambda: fit_alignment(_exact(2 * B), n_resamples=0), r"at strength -3 is -1\.9.* lies in \[-1, 1\]"),
        (lambda: fit_helpfulness(_exact(H - 0.5), window=(-3.0, 3.0), n_resamples=0), r"lies in \[0, 1\]"),
        (lambda: fit_helpfulness(_exact(H[13:], R[13:]), n_resamples=0), "strength 0 is not on the grid"),
        (lambda: fit_alignment(behaviour_curve(R, B), n_resamples=200).fits["tanh"].draws("k"), "it has a, b0, B0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(TradeoffError, match=message):
        call()


def test_one_sided_strengths_are_fitted_where_a_window_is_given():
    fit = fit_alignment(_exact(B[12:], R[12:]), n_resamples=0)
    assert fit.a.value == pytest.approx(0.5, abs=1e-6)
    cost = fit_helpfulness(_exact(H[13:], R[13:]), window=(0.0, 3.0), n_resamples=0)
    assert cost.k.value == pytest.approx(0.018, abs=1e-9)
    assert cost.measured is None
