import json
import math

import pytest
import torch

from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation.behaviours import Measurement
from contrans_lens.tradeoff import AnalysisSettings, SweepResult, analyse, strength_grid
from contrans_lens.tradeoff.analysis import family_band

STRENGTHS = strength_grid(3.0, 8)
R = torch.tensor(STRENGTHS, dtype=torch.float64)
N = 60


def noise(seed, scale=0.02):
    return scale * torch.randn(len(R), N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tanh(a, b0, seed=0):
    return ((a * R + b0).tanh()[:, None] + noise(seed)).clamp(-1, 1)


def bell(k, seed=1):
    return (0.9 / (0.9 + 0.1 * (1 + k * R**2))[:, None] + noise(seed)).clamp(0, 1)


def result(curves, roles=("mood", "facts"), kinds=None):
    """A sweep with made-up curves: by direction and behaviour, per-item values."""
    groups = ("",) * N
    names = list(dict.fromkeys(behaviour for _, behaviour in curves))
    measured = {}
    for (direction, behaviour), columns in curves.items():
        columns = columns if isinstance(columns, dict) else {"value": columns}
        measured[direction, behaviour] = Measurement(behaviour, columns, next(iter(columns)), groups)
    plan = {
        "directions": {direction: ["made up"] for direction, _ in curves},
        "behaviours": {name: (kinds or {}).get(name, "own") for name in names},
        "chance": {name: 0.25 if name == "facts" else 0.0 for name in names},
        "strengths": list(STRENGTHS),
        "roles": {role: name for role, name in zip(("alignment", "helpfulness"), roles, strict=True) if name in names},
    }
    return SweepResult({"name": "nobody"}, plan, measured)


def draws(n=9):
    return {(f"random/{draw}", "mood"): tanh(0.02, 0.1, seed=20 + draw) for draw in range(n)}


def test_a_good_curve_is_claimed_with_its_slope_and_beats_the_draws():
    found = analyse(result({("v", "mood"): tanh(0.5, 0.2), ("v", "facts"): bell(0.5), **draws()}))
    each = found.directions["v"]
    assert each.claim.startswith("slope 0.4")
    assert not each.fired
    assert each.alignment.a.holds(0.5)
    assert each.swing == pytest.approx(math.tanh(1.7) - math.tanh(-1.3), abs=0.02)
    assert each.regime.budget_up.value > 0
    best = each.regime.law_optimum  # the laws with what they were made of
    fine = torch.linspace(0, 6, 6001, dtype=torch.float64)
    a, b0 = each.alignment.a.value, each.alignment.b0.value
    gain = (a * fine + b0).tanh() + each.helpfulness.linear.value * fine - each.helpfulness.k.value * fine**2
    assert best.value == pytest.approx(float(fine[gain.argmax()]), abs=2 * each.regime.optimum.value / 400)
    assert best.low <= best.value <= best.high < each.regime.optimum.value
    family = found.families["random"]
    assert len(family.slopes) == 9
    assert family.p_slope["v"] == family.p_swing["v"] == 0.1
    assert "random (9 draws)" in str(found)
    json.dumps(found.summary(), allow_nan=False)


def test_guessing_is_taken_from_the_behaviour_unless_it_is_given():
    made = result({("v", "mood"): tanh(0.5, 0.2), ("v", "facts"): bell(0.5)})
    known = analyse(made).directions["v"].helpfulness.window
    assert known == analyse(made, AnalysisSettings(floor=0.25)).directions["v"].helpfulness.window
    assert known != analyse(made, AnalysisSettings(floor=0.0)).directions["v"].helpfulness.window


def test_a_flat_cost_does_not_take_the_effect_away():
    flat = torch.full((len(R), N), 0.8, dtype=torch.float64)
    each = analyse(result({("v", "mood"): tanh(0.5, 0.2), ("v", "facts"): flat})).directions["v"]
    assert {flag.name for flag in each.fired} >= {"helpfulness:constant", "helpfulness:no_cost"}
    assert each.claim.startswith("slope")


@pytest.mark.parametrize(
    ("curve", "claim"),
    [
        (torch.zeros(len(R), N, dtype=torch.float64) + noise(3, 0.3), "no effect"),
        (tanh(1.0, 2.5), "starts on a plateau"),
        ((R**2 / 9)[:, None] + noise(4), "does not rise monotonically"),
    ],
)
def test_what_may_not_be_claimed_is_not_claimed(curve, claim):
    assert analyse(result({("v", "mood"): curve.clamp(-1, 1)})).directions["v"].claim.startswith(claim)


def test_a_gain_that_comes_with_broken_text_is_said():
    late = ((R - 2) * 2).sigmoid()[:, None] * 1.8 - 0.9 + noise(5)
    worse = ((R - 1.2) * 6).sigmoid()[:, None] * 0.8 + 0.02 + noise(6, 0.01)
    columns = {"score": late.clamp(-1, 1), "repetition": worse, "loop": worse, "compression": 1 + 3 * worse}
    made = result({("v", "mood"): late.clamp(-1, 1), ("v", "talk"): columns}, kinds={"talk": "generations"})
    each = analyse(made).directions["v"]
    assert "degenerates:talk repetition" in {flag.name for flag in each.fired}
    assert "degenerates" in each.claim


def test_sweeps_without_what_is_needed_are_refused():
    with pytest.raises(TradeoffError, match="role 'alignment'"):
        analyse(result({("v", "mood"): tanh(0.5, 0.2)}, roles=("other", "facts")))
    with pytest.raises(TradeoffError, match="control draws only"):
        analyse(result(draws()))
    with pytest.raises(TradeoffError, match="no family 'x'"):
        family_band(result(draws()), "x", "mood")
    with pytest.raises(TradeoffError, match="no 'facts' under 'v'"):
        result({("v", "mood"): tanh(0.5, 0.2)}).curve("v", "facts")


def test_bands_and_ranks_of_families():
    made = result(draws(4))
    band = family_band(made, "random", "mood")
    means = torch.stack([made.curve(f"random/{draw}", "mood").mean for draw in range(4)])
    assert torch.equal(band, torch.stack([means.mean(0), means.amin(0), means.amax(0)]))
