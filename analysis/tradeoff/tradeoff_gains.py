"""What steering gains and costs, read straight off measured curves."""

import math
from typing import Any

import torch

from contrans_lens.evaluation import bootstrap_mean_ci
from contrans_lens.tradeoff import AlignmentFit, Curve, HelpfulnessFit, SweepResult


def best_gain(curve: Curve) -> float:
    """Largest ``|B(r) - B(-r)|`` over the grid."""
    return float((curve.mean - curve.mean.flip(0)).max())


def net_gain(behaviour: Curve, helpfulness: Curve, weight: float = 1.0, *, both_signs: bool = False) -> dict[str, Any]:
    """The largest ``B(r) - B(0) - w (H(0) - H(r))`` over positive strengths, with what was gained and lost there.

    The strength is the best of the measured ones, so the gain is a little too high, for controls as for directions.

    Args:
        behaviour: what is gained.
        helpfulness: what it costs, at the same strengths.
        weight: what a unit of helpfulness is worth in units of behaviour.
        both_signs: over all strengths: a direction of no meaning counts with its better sign.
    """
    gained = behaviour.mean - behaviour.at_zero
    lost = helpfulness.at_zero - helpfulness.mean
    utility = gained - weight * lost
    allowed = behaviour.strengths >= (-math.inf if both_signs else 0.0)
    place = int(utility.masked_fill(~allowed, -math.inf).argmax())
    values = {"strength": behaviour.strengths, "gained": gained, "lost": lost, "gain": utility}
    return {name: float(each[place]) for name, each in values.items()}


def law_optimum(behaviour: AlignmentFit, helpfulness: HelpfulnessFit, weight: float = 1.0) -> dict[str, Any]:
    """Where ``tanh(a r + b0) + w (H0 + l r - k r^2)`` is largest for r from 0 to the largest |r| that was fitted.

    The law of behaviour itself, not its line at zero: a line goes on rising where behaviour has saturated. A value at
    the end of the window says that the optimum lies beyond what the laws were fitted on.
    """
    end = min(behaviour.window[1], helpfulness.window[1])
    r = torch.linspace(0, end, 601, dtype=torch.float64)
    utility = behaviour.fits["tanh"].predict(r) + weight * helpfulness.fits["parabola"].predict(r)
    place = int(utility.argmax())
    return {"strength": float(r[place]), "at_the_end": place == len(r) - 1}


def at_budget(result: SweepResult, name: str, budget: float) -> dict[str, Any]:
    """``(B(r) - B(-r)) / 2`` at the strength at which the worse sign does ``budget`` of KL on neutral text.

    Between measured strengths the KL is interpolated on logarithms and the effect of every item linearly.
    """
    curve, kl = result.curve(name, "answers"), result.curve(name, "neutral", "kl")
    worst = torch.maximum(kl.mean, kl.mean.flip(0))
    zero = curve.zero
    reach, damage = curve.strengths[zero:], worst[zero:]
    effects = ((curve.values - curve.values.flip(0)) / 2)[zero:]
    over = (damage > budget).nonzero()
    if not len(over):
        place, share, strength = len(reach) - 1, 0.0, float(reach[-1])
    else:
        place = max(1, int(over[0, 0]) - 1)
        low, high = (math.log(float(damage[place + step])) for step in (0, 1))
        share = min(1.0, max(0.0, (math.log(budget) - low) / (high - low)))
        strength = float(reach[place] * (reach[place + 1] / reach[place]) ** share)
    upper = min(place + 1, len(reach) - 1)
    items = effects[place] * (1 - share) + effects[upper] * share
    interval = bootstrap_mean_ci(items, curve.groups)
    return {
        "strength": strength,
        "effect": interval.value,
        "low": interval.low,
        "high": interval.high,
        "within_budget_throughout": not len(over),
    }
