import json

import pytest
import torch

from contrans_lens.errors import TradeoffError
from contrans_lens.tradeoff.curve import Curve
from contrans_lens.tradeoff.fits import fit_alignment, fit_helpfulness
from contrans_lens.tradeoff.guards import guard_alignment, guard_degeneration, guard_helpfulness
from contrans_lens.tradeoff.laws import tanh_law
from tests.tradeoff.simulated import behaviour_curve, grid, helpfulness_curve, quick_fits, truth

R = grid(3, 17)
B, H = truth(R)
RUNS = 200
RESAMPLES = 200
# Good curves: the spec's; one with long noisy plateaus, the hardest for a test of monotony; a weak one; a steep one.
GOOD = {"spec": B, "plateaus": 0.6 * torch.tanh(2 * R), "weak": 0.12 * R, "steep": torch.tanh(1.5 * R - 0.5)}
U_SHAPED = -0.5 + 0.6 * (R / 3).square()
TURNS_LOW = torch.where(R < -1.5, -0.86 + 0.8 * (-R - 1.5) / 1.5, torch.tanh(0.9 * (R + 1.5) - 1.3))


def _fired(flags):
    return {flag.name for flag in flags if flag.fired}


def _named(flags, name):
    return next(flag for flag in flags if flag.name == name)


def _share(simulate, runs=RUNS):
    """How often each flag fires."""
    counts = {}
    for seed in range(runs):
        for name in _fired(simulate(seed)):
            counts[name] = counts.get(name, 0) + 1
    return {name: count / runs for name, count in counts.items()}


def _exact(values, strengths=R):
    return Curve(strengths, values[:, None])


@pytest.mark.parametrize("shared", [0.0, 0.5])
@pytest.mark.parametrize("kind", list(GOOD))
def test_good_behaviour_raises_few_alarms(kind, shared):
    """At most 7 % for each test of shape; nothing else fires at all."""

    def simulate(seed):
        return guard_alignment(behaviour_curve(R, GOOD[kind], 100, seed, shared), n_resamples=RESAMPLES, seed=seed)

    shares = _share(simulate)
    assert max([shares.pop("not_monotone", 0.0), shares.pop("u_shaped", 0.0)]) <= 0.07
    assert sum(shares.values()) <= 0.02, shares


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_good_helpfulness_raises_few_alarms(shared):
    def simulate(seed):
        curve = helpfulness_curve(R, H, 200, seed, shared)
        fit = quick_fits(Curve(R, 2 * curve.values - 1), curve, RESAMPLES, seed)[1]
        return guard_helpfulness(curve, fit, n_resamples=RESAMPLES, seed=seed)

    shares = _share(simulate)
    assert max(shares.values(), default=0.0) <= 0.07, shares


@pytest.mark.parametrize(
    ("means", "names"),
    [
        (U_SHAPED, {"not_monotone", "u_shaped"}),
        (-U_SHAPED, {"not_monotone", "u_shaped"}),
        (TURNS_LOW, {"not_monotone", "u_shaped"}),
        (0.3 * R + 0.5 * torch.sin(4 * R) * (1 - (R / 3).square()), {"not_monotone"}),
        (tanh_law(R, -0.5, 0.0), {"reversed"}),
        (tanh_law(R, 1.3, -3.4), {"saturated"}),
        (tanh_law(R, 1.3, 3.4), {"saturated"}),
        (torch.sign(R - 0.1), {"step", "saturated"}),
        (0 * R - 1, {"constant", "flat", "saturated"}),
    ],
)
def test_bad_behaviour_is_flagged(means, names):
    shares = _share(
        lambda seed: guard_alignment(behaviour_curve(R, means, 150, seed, 0.3), n_resamples=RESAMPLES, seed=seed), 20
    )
    assert min(shares.get(name, 0.0) for name in names) >= 0.9, shares
    assert sum(share for name, share in shares.items() if name not in names) <= 0.25, shares


def test_no_effect_is_called_flat():
    shares = _share(
        lambda seed: guard_alignment(behaviour_curve(R, 0 * R, 100, seed), n_resamples=RESAMPLES, seed=seed)
    )
    assert shares["flat"] >= 0.9


def test_a_reversal_that_does_not_matter_is_let_pass():
    """Certain, for all items share it, and a fiftieth of the range."""
    means = B.clone()
    means[-1] = means[-2] - 0.02 * float(B.max() - B.min())
    luck = 0.3 * torch.randn(1, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flag = _named(guard_alignment(Curve(R, means[:, None] + luck - luck.mean())), "not_monotone")
    assert (flag.fired, flag.statistic > 0, flag.p_value < 0.01) == (False, True, True)


def test_a_saturated_start_is_given_its_half_point():
    curve = behaviour_curve(R, tanh_law(R, 1.5, -3.4), 400)
    fit = fit_alignment(curve, n_resamples=200)
    flag = _named(guard_alignment(curve, fit), "saturated")
    assert flag.fired
    assert "no linear claim" in flag.text
    assert f"r_half = {fit.r_half}" in flag.text
    assert fit.r_half.holds(3.4 / 1.5)
    inside = _named(guard_alignment(behaviour_curve(R, B), fit), "saturated")
    assert not inside.fired
    assert "no linear claim" not in inside.text


def test_a_turn_is_told_with_the_part_to_fit():
    flag = _named(guard_alignment(behaviour_curve(R, TURNS_LOW, 400, seed=1)), "u_shaped")
    assert flag.fired
    assert "turns round at r = -1.5; fit [-1.5, 3]" in flag.text
    part = behaviour_curve(R, TURNS_LOW, 400, seed=1).window(-1.5, 3.0)
    assert not _fired(guard_alignment(part)) & {"not_monotone", "u_shaped"}
    right = _named(guard_alignment(behaviour_curve(R, TURNS_LOW.flip(0), 400, seed=1)), "u_shaped")
    assert "fit [-3, 1.5]" in right.text


def test_curves_of_means_are_judged_by_a_tolerance_and_say_so():
    flags = guard_alignment(_exact(U_SHAPED))
    assert {"few_items", "not_monotone", "u_shaped"} <= _fired(flags)
    assert "not calibrated" in _named(flags, "u_shaped").text
    assert _named(flags, "u_shaped").p_value is None
    assert _fired(guard_alignment(_exact(B))) == {"few_items"}


def test_grids_and_items_that_are_too_small_are_flagged():
    def flags(strengths, n_items=100, groups=None):
        curve = behaviour_curve(strengths, truth(strengths)[0], n_items, groups=groups)
        return _fired(guard_alignment(curve)) - {"not_monotone", "u_shaped"}  # their false alarms are counted above

    assert flags(R) == set()
    assert flags(R, 29) == {"few_items"}
    assert flags(R, 100, tuple(f"g{i % 9}" for i in range(100))) == {"few_items"}
    assert flags(R, 100, ("a",) * 100) == {"few_items"}
    assert "few_strengths" in flags(grid(3, 5))
    assert flags(R[8:]) == {"one_sided"}
    assert flags(-R[8:].flip(0)) == {"one_sided"}
    assert flags(R[9:]) >= {"one_sided", "no_zero"}
    assert flags(torch.cat([R[:8], R[9:]])) == {"no_zero"}


def test_no_cost_is_said_with_and_without_a_fit():
    flat, costly = helpfulness_curve(R, 0 * R + 0.44), helpfulness_curve(R, H, 400)
    for curve, found in ((flat, True), (costly, False)):
        fit = fit_helpfulness(curve, window=(-3.0, 3.0), n_resamples=200)
        for flags in (guard_helpfulness(curve), guard_helpfulness(curve, fit)):
            flag = _named(flags, "no_cost")
            assert flag.fired is found
            assert ("no cost detected" in flag.text) is found


def test_helpfulness_that_is_no_bell_is_flagged():
    def fired(means, floor=0.0, window=(-3.0, 3.0)):
        curve = helpfulness_curve(R, means, 400)
        fit = fit_helpfulness(curve, window=window, n_resamples=200)
        return _fired(guard_helpfulness(curve, fit, floor=floor))

    assert fired(H) == set()
    assert fired(0.3 + 0.04 * R.square()) == {"no_cost", "rises"}
    assert "off_centre" in fired(0.5 + 0.1 * R - 0.01 * R.square())
    assert "not_parabolic" in fired(0.8 * torch.exp(-4 * R.square()))
    assert fired(0.25 + 0 * R, floor=0.25) == {"no_cost", "at_floor"}
    assert "few_strengths" in fired(H, window=(-0.8, 0.8))


GAIN_RANGE = grid(4, 17)
GAIN = torch.tanh(0.5 * GAIN_RANGE - 0.5)
LATE = torch.tanh(2 * (GAIN_RANGE - 3))  # behaviour that comes from strength 3 on
BREAKS = 3.0 + 3 * torch.sigmoid(4 * (GAIN_RANGE.abs() - 2.5))  # surprise that doubles from 2 on


def _noisy(means, seed, spread=0.5, n_items=60):
    generator = torch.Generator().manual_seed(seed + 77)
    own = torch.randn(n_items, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(len(means), n_items, generator=generator, dtype=torch.float64)
    return Curve(GAIN_RANGE, means[:, None] + spread * (own + noise))


def test_behaviour_that_comes_with_degeneration_is_flagged():
    def simulate(seed):
        curve = behaviour_curve(GAIN_RANGE, LATE, 100, seed)
        return guard_degeneration(curve, {"nll": _noisy(BREAKS, seed)}, n_resamples=RESAMPLES, seed=seed)

    assert _share(simulate, 20) == {"degenerates:nll": 1.0}
    [flag] = simulate(0)
    assert flag.statistic > 0.9
    assert "of it not before nll gets worse by" in flag.text


@pytest.mark.parametrize(
    ("behaviour", "measure"),
    [
        (GAIN, 0 * GAIN + 3.0),  # text stays as it was
        (torch.tanh(GAIN_RANGE - 0.5), BREAKS),  # most of the gain comes before
        (0 * GAIN, BREAKS),  # nothing gained
        (-LATE, BREAKS),  # lost, not gained
        (LATE, BREAKS.flip(0).where(GAIN_RANGE < 0, torch.tensor(3.0, dtype=torch.float64))),  # on the other side
        (LATE, 6.0 - BREAKS),  # text gets better
    ],
)
def test_good_gains_are_not_blamed_on_degeneration(behaviour, measure):
    def simulate(seed):
        curve = behaviour_curve(GAIN_RANGE, behaviour, 100, seed)
        return guard_degeneration(curve, {"nll": _noisy(measure, seed)}, n_resamples=RESAMPLES, seed=seed)

    assert _share(simulate, 40).get("degenerates:nll", 0.0) <= 0.05


def test_margins_decide_what_is_worse():
    curve = behaviour_curve(GAIN_RANGE, LATE, 100)
    small = 0.02 + 0.03 * torch.sigmoid(4 * (GAIN_RANGE.abs() - 2))
    measures = {"repetition": _noisy(small, 0, 0.01), "nll": _noisy(BREAKS, 0)}
    assert _fired(guard_degeneration(curve, measures)) == {"degenerates:repetition", "degenerates:nll"}
    assert _fired(guard_degeneration(curve, measures, margins={"repetition": 0.1})) == {"degenerates:nll"}
    exact = {"nll": Curve(GAIN_RANGE, BREAKS[:, None])}
    assert _fired(guard_degeneration(Curve(GAIN_RANGE, LATE[:, None]), exact)) == {"degenerates:nll"}


def test_bad_input_is_named():
    curve = behaviour_curve(GAIN_RANGE, GAIN)
    with pytest.raises(TradeoffError, match="margin was given for 'ppl'"):
        guard_degeneration(curve, {"nll": _noisy(BREAKS, 0)}, margins={"ppl": 1.0})
    other = Curve(torch.tensor([-1.1, 0.0, 1.1]), torch.zeros(3, 5))
    with pytest.raises(TradeoffError, match="strength 0 and a positive one in common"):
        guard_degeneration(curve, {"nll": other})
    with pytest.raises(TradeoffError, match="resamples"):
        guard_alignment(curve, n_resamples=10)


def test_records_are_plain():
    flags = (*guard_alignment(behaviour_curve(R, B)), *guard_helpfulness(helpfulness_curve(R, H)))
    record = json.loads(json.dumps([flag.to_dict() for flag in flags], allow_nan=False))
    assert len({each["name"] for each in record}) >= 12
    assert all(each["text"] for each in record)
