import json
import math
import re

import pytest
import torch

from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation.resampling import expanded_percentiles
from contrans_lens.tradeoff.curve import Curve
from contrans_lens.tradeoff.fits import fit_alignment, fit_helpfulness
from contrans_lens.tradeoff.laws import tanh_law
from contrans_lens.tradeoff.regime import useful_regime
from tests.tradeoff.simulated import behaviour_curve, grid, helpfulness_curve, quick_fits, truth

R = grid(3, 25)
B, H = truth(R)
WINDOW = (-3.0, 3.0)


def _regime(behaviour, helpfulness, n_resamples=0, weight=1.0, epsilon=0.05, paired=False, seeds=(0, 0)):
    fit = fit_alignment(behaviour, n_resamples=n_resamples, seed=seeds[0])
    cost = fit_helpfulness(helpfulness, window=WINDOW, n_resamples=n_resamples, seed=seeds[1])
    return useful_regime(behaviour, fit, helpfulness, cost, weight=weight, epsilon=epsilon, paired=paired)


def _exact(values, strengths=R):
    return Curve(strengths, values[:, None])


@pytest.mark.parametrize("weight", [0.5, 5.0])
def test_optimum_break_even_and_budget_are_their_formulas(weight):
    linear, k, top = 0.02, 0.018, 0.44
    found = _regime(_exact(B), _exact(top + linear * R - k * R.square()), weight=weight, epsilon=0.1)
    slope = 0.5 * (1 - math.tanh(0.56) ** 2)
    assert found.optimum.value == pytest.approx((slope + weight * linear) / (2 * weight * k), rel=1e-6)
    assert found.break_even.value == pytest.approx(2 * found.optimum.value, rel=1e-12)
    for edge, sign in ((found.budget_up, 1), (found.budget_down, -1)):
        assert sign * edge.value > 0
        assert top + linear * edge.value - k * edge.value**2 == pytest.approx(0.9 * top, rel=1e-9)


def test_the_raw_curves_give_the_grid_point_and_the_crossings():
    weight = 10.0
    found = _regime(_exact(B), _exact(H), weight=weight)
    utility = B + weight * H
    assert found.raw_optimum.value == float(R[utility.argmax()])
    fine = torch.linspace(0, 3, 30_001, dtype=torch.float64)
    behaviour, helpfulness = truth(fine)
    gain = behaviour + weight * helpfulness - utility[12]
    spent = float(fine[(gain <= 0) & (fine > 1)][0])
    assert found.raw_break_even.value == pytest.approx(spent, abs=0.02)  # interpolated between steps of .25
    edge = math.sqrt(0.05 * 0.44 / 0.018)
    assert found.raw_budget_up.value == pytest.approx(edge, abs=0.02)
    assert found.raw_budget_down.value == pytest.approx(-edge, abs=0.02)


def test_where_law_and_grid_agree_the_grid_is_the_law_to_its_spacing():
    """Behaviour that is nearly a line over the grid."""
    line = _exact(tanh_law(R, 0.05, 0.0))
    found = _regime(line, _exact(H), weight=1.0)
    assert found.raw_optimum.value == pytest.approx(found.optimum.value, abs=0.13)
    assert found.raw_break_even.value == pytest.approx(found.break_even.value, abs=0.05)
    assert found.warnings == ()


def test_the_front_has_its_points_and_their_shares():
    curve, cost = behaviour_curve(R, B, 400), helpfulness_curve(R, H, 400)
    found = _regime(curve, cost, n_resamples=200)
    assert [point.strength for point in found.front] == R.tolist()
    assert [point.behaviour for point in found.front] == curve.mean.tolist()
    assert [point.helpfulness for point in found.front] == cost.mean.tolist()
    shares = {point.strength: point.share for point in found.front}
    assert max(share for strength, share in shares.items() if strength <= -1.5) < 0.2  # worse in both than zero
    assert shares[3.0] > 0.8
    drawn = curve.resampled(200, 0), cost.resampled(200, 0).roll(1, 0)
    dominated = ((drawn[0] >= drawn[0][:, :1]) & (drawn[1] >= drawn[1][:, :1]))[:, 1:].any(1)
    assert shares[-3.0] == pytest.approx(1 - float(dominated.double().mean()), abs=1e-12)


def test_intervals_cover_the_truth():
    """Optimum and budget of the spec's fourth fixture, weight 5: inside the grid."""
    weight, covered = 5.0, dict.fromkeys(("optimum", "break_even", "budget_up", "budget_down"), 0)
    slope, edge = 0.5 * (1 - math.tanh(0.56) ** 2), math.sqrt(0.05 * 0.44 / 0.018)
    expected = {"optimum": slope / (2 * weight * 0.018), "budget_up": edge, "budget_down": -edge}
    expected["break_even"] = 2 * expected["optimum"]
    strengths = grid(3, 13)
    behaviour, helpfulness = truth(strengths)
    for seed in range(100):
        curve = behaviour_curve(strengths, behaviour, 100, seed, 0.5)
        cost = helpfulness_curve(strengths, helpfulness, 100, seed, 0.5)
        fit, helpful = quick_fits(curve, cost, 200, seed)
        found = useful_regime(curve, fit, cost, helpful, weight=weight)
        for name, value in expected.items():
            each = getattr(found, name)
            covered[name] += not each.defined or each.holds(value)
    assert min(covered.values()) >= 0.9 * 100, covered


def test_intervals_are_percentiles_for_the_fewest_groups():
    curve = behaviour_curve(R, B, 120, groups=tuple(f"g{i % 12}" for i in range(120)))
    cost = helpfulness_curve(R, H, 400)
    fit, helpful = quick_fits(curve, cost, 300, 5)
    found = useful_regime(curve, fit, cost, helpful, weight=5.0)
    slope, linear, k = (
        fit.fits["tanh"].draws("slope0"),
        *(helpful.fits["parabola"].draws(name).roll(1) for name in ("l", "k")),
    )
    low, high = expanded_percentiles(((slope + 5 * linear) / (10 * k))[:, None], 12, 0.95)
    assert (found.optimum.low, found.optimum.high) == (float(low), float(high))


def test_pairing_keeps_what_items_share():
    """B gains and H loses on the same items: paired, the gain of utility is certain.

    Unpaired it is not, although both were resampled with one seed.
    """
    turning = torch.rand(1, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    steps = (R / 3).clamp_min(0)[:, None]
    behaviour = Curve(R, -0.5 + 0.9 * steps * turning)
    helpfulness = Curve(R, 0.9 - 0.85 * steps * turning)  # every item gains .05 of what it turns
    paired, free = (_regime(behaviour, helpfulness, 400, paired=each) for each in (True, False))
    assert (paired.raw_optimum.low, paired.raw_optimum.high) == (3.0, 3.0)
    assert free.raw_optimum.low < 3.0
    with pytest.raises(TradeoffError, match="same items"):
        _regime(behaviour, helpfulness, 200, paired=True, seeds=(0, 1))


@pytest.mark.parametrize(
    ("behaviour", "helpfulness", "reason"),
    [
        (B, 0 * R + 0.44, "no cost detected"),
        (B, 0.3 + 0.02 * R.square(), "no cost detected"),
        (tanh_law(R, -0.5, 0.0), H, "nothing to gain at positive strengths"),
        (0 * R + 0.2, H, "is not above zero: nothing to gain"),
        (tanh_law(R, 1.3, -3.4), H, r"saturated.*r_half = 2\.\d"),
        (tanh_law(R, 0.05, 0.0), 0.44 - 0.08 * R - 0.01 * R.square(), "outweighs the gain"),
    ],
)
def test_what_does_not_exist_has_a_reason(behaviour, helpfulness, reason):
    found = _regime(behaviour_curve(R, behaviour, 400), helpfulness_curve(R, helpfulness, 400), n_resamples=200)
    for each in (found.optimum, found.break_even):
        assert not each.defined
        assert each.value is each.low is each.high is None
        assert re.search(reason, each.reason), each.reason


def test_crossings_that_the_grid_does_not_reach_have_a_reason():
    found = _regime(_exact(B), _exact(0 * R + 0.44 - 0.0001 * R.square()))
    assert "not used up at 3" in found.raw_break_even.reason
    assert "within the budget up to 3" in found.raw_budget_up.reason
    assert "within the budget up to -3" in found.raw_budget_down.reason
    assert any("grid's end" in warning for warning in found.warnings)
    worse = _regime(_exact(tanh_law(R, -0.5, 0.0)), _exact(H))
    assert "no positive strength is better" in worse.raw_break_even.reason


def test_one_sided_grids_have_no_other_side():
    right = R[12:]
    behaviour, cost = _exact(B[12:], right), _exact(H[12:], right)
    fit, helpful = fit_alignment(behaviour, n_resamples=0), fit_helpfulness(cost, window=(0.0, 3.0), n_resamples=0)
    found = useful_regime(behaviour, fit, cost, helpful)
    assert "no negative strength" in found.raw_budget_down.reason
    assert found.raw_budget_up.defined


def test_extrapolations_are_said():
    found = _regime(_exact(B), _exact(H))  # r* is beyond 10
    assert found.optimum.value > 10
    assert sum("extrapolated" in warning for warning in found.warnings) == 2
    assert any("behaviour saturates" in warning for warning in found.warnings)


def test_grids_may_differ_where_they_share_enough():
    fine, coarse = grid(3, 61), grid(4, 17)
    behaviour, helpfulness = _exact(truth(fine)[0], fine), _exact(truth(coarse)[1], coarse)
    found = _regime(behaviour, helpfulness, weight=5.0)
    assert [point.strength for point in found.front] == pytest.approx([-3 + 0.5 * i for i in range(13)])
    odd = torch.tensor([-2.05, -1.05, 0.0, 1.05, 2.05], dtype=torch.float64)
    with pytest.raises(TradeoffError, match="share 1 strengths"):
        _regime(behaviour, _exact(truth(odd)[1], odd))


def test_records_are_plain():
    found = _regime(behaviour_curve(R, B), helpfulness_curve(R, H), n_resamples=200, weight=5.0)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["optimum"]["value"] == found.optimum.value
    assert len(record["front"]) == 25


def test_bad_input_is_named():
    curve, cost = _exact(B), _exact(H)
    for weight, epsilon in ((0.0, 0.05), (1.0, 0.0), (1.0, 1.0), (math.nan, 0.05)):
        with pytest.raises(TradeoffError, match="weight must be above 0"):
            _regime(curve, cost, weight=weight, epsilon=epsilon)
    fit = fit_alignment(behaviour_curve(R, B), n_resamples=200)
    helpful = fit_helpfulness(helpfulness_curve(R, H), n_resamples=300)
    with pytest.raises(TradeoffError, match=r"same n_resamples and level; got 200 at 0\.95 and 300"):
        useful_regime(behaviour_curve(R, B), fit, helpfulness_curve(R, H), helpful)
