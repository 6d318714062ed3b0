"""Predicting the laws' constants from what a direction does to the logits at small strengths.

With the quantities of :class:`contrans_lens.evaluation.behaviours.LogitShift` and their slopes in r near zero::

    lambda = d||delta|| / d|r|                     how fast the final state moves
    Delta  = (1/2) d gap / dr / lambda             half the gap between good and bad answers, per unit of ||delta||
    a      = Delta lambda                          predicted gain of  B = tanh(a r + artanh B0)
    slope0 = mean of each item's a (1 - B0^2)      predicted slope of the mean curve at r = 0
    mu, b  = d mu / dr, d sigma / d|r|             shift and spread of wrong answers against the right ones
    H      = P0 / (P0 + (1 - P0) E_w exp(s r)),  E_w exp(s r) ~ 1 + mu r + (b^2 + mu^2) r^2 / 2
    l      = -P0 (1 - P0) mu
    k      = P0 (1 - P0) [(b^2 + mu^2) / 2 - (1 - P0) mu^2]      (the law of the paper has mu = 0: P0 (1 - P0) b^2 / 2)
    k_even = k + P0 (1 - P0) m      where the mean shift is mu r + m r^2: what both signs do alike, which no law has

(Wolf et al. 2024, arXiv 2401.16332, theorems 1 and 2.) Theorem 1 speaks of the gap between sets of good and bad tokens
and bounds B with its least value; here each item has its own gap and the prediction is their mean. ``P0`` of many items
differs, so l and k are means of each item's own.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation.resampling import group_table, resampled_sums
from contrans_lens.tradeoff.curve import Curve
from contrans_lens.tradeoff.estimates import Estimate, estimate

NEAR = 0.35
"""Slopes are read off the strengths up to this share of the largest, or the two nearest to zero on each side."""


@dataclass(frozen=True)
class Mechanism:
    """Measured slopes and the constants that follow from them; intervals resample items."""

    window: float
    """Slopes were read off ``|r|`` up to here."""
    constants: dict[str, Estimate]
    """``lambda``, ``Delta``, ``a`` and ``slope0`` of alignment; of helpfulness ``mu``, ``sigma``, ``p0``, ``l``, ``k``,
    ``k_law`` (the curvature with mu = 0), ``mu_even`` and ``k_even`` (with what the mean shift has in ``r^2``)."""
    linearity: dict[str, float]
    """R^2 of each straight line through zero, over all items: how linear the quantity is in the window."""
    measured: dict[str, Estimate] = field(default_factory=dict)
    """The same constants measured on the behaviour itself in the same window, without any law: ``slope0`` (straight
    line), ``l`` and ``k`` (parabola)."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {
            "window": self.window,
            "constants": {name: each.to_dict() for name, each in self.constants.items()},
            "linearity": self.linearity,
            "measured": {name: each.to_dict() for name, each in self.measured.items()},
        }


def alignment_mechanism(
    delta: Curve,
    gap: Curve,
    p0: Float[Tensor, " item"],
    *,
    behaviour: Curve | None = None,
    window: float | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Mechanism:
    """``lambda``, ``Delta`` and the predicted gain ``a`` from the columns ``delta`` and ``gap``.

    Args:
        delta: ``||delta||`` over strengths, item by item.
        gap: change of the log-odds of good over bad answers, nats.
        p0: unsteered probability of the good answers among the offered ones, item by item.
        behaviour: the behaviour itself on the same items, to measure its slope in the window.
        window: largest ``|r|`` used; None: :data:`NEAR` of the grid.
        n_resamples: resamples behind the intervals.
        seed: their seed.
        level: nominal coverage.

    Raises:
        TradeoffError: too few strengths in the window, or a single group of items.
    """
    near = _near(delta, window)
    rate, gain = _slope(delta, near, absolute=True), _slope(gap, near) / 2
    # Items start at different heights, so the slope of their mean is not a (1 - B0^2) of the mean B0.
    slope = gain * 4 * p0.double() * (1 - p0.double())
    means = _means([rate, gain, slope], delta, n_resamples, seed)
    constants = {
        "lambda": _estimated(means[:, 0], delta, level),
        "Delta": _estimated(means[:, 1] / means[:, 0], delta, level),
        "a": _estimated(means[:, 1], delta, level),
        "slope0": _estimated(means[:, 2], delta, level),
    }
    linearity = {"delta": _linearity(delta, near, absolute=True), "gap": _linearity(gap, near)}
    measured = {} if behaviour is None else _terms(behaviour, near, {"slope0": 1}, 1, n_resamples, seed, level)
    return Mechanism(near, constants, linearity, measured)


def helpfulness_mechanism(
    mu: Curve,
    sigma: Curve,
    p0: Float[Tensor, " item"],
    *,
    helpfulness: Curve | None = None,
    window: float | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Mechanism:
    """``mu``, ``sigma`` and the predicted terms ``l`` and ``k`` of ``H = H0 + l r - k r^2``.

    Args:
        mu: mean change of wrong answers against the right ones over strengths, nats, item by item.
        sigma: its spread over wrong answers, nats.
        p0: the unsteered probability of the right answers, item by item.
        helpfulness: helpfulness itself on the same items, to measure its terms in the window.
        window: largest ``|r|`` used; None: :data:`NEAR` of the grid.
        n_resamples: resamples behind the intervals.
        seed: their seed.
        level: nominal coverage.

    Raises:
        TradeoffError: too few strengths in the window, or a single group of items.
    """
    near = _near(mu, window)
    shift, spread = _slope(mu, near), _slope(sigma, near, absolute=True)
    p0 = p0.double()
    weight = p0 * (1 - p0)
    linear = -weight * shift
    law = weight * spread.square() / 2
    curvature = weight * ((spread.square() + shift.square()) / 2 - (1 - p0) * shift.square())
    both = _even(mu, near)
    columns = {"mu": shift, "sigma": spread, "p0": p0, "l": linear, "k": curvature, "k_law": law}
    columns |= {"mu_even": both, "k_even": curvature + weight * both}
    means = _means(list(columns.values()), mu, n_resamples, seed)
    constants = {name: _estimated(means[:, place], mu, level) for place, name in enumerate(columns)}
    linearity = {"mu": _linearity(mu, near), "sigma": _linearity(sigma, near, absolute=True)}
    measured = {} if helpfulness is None else _terms(helpfulness, near, {"l": 1, "k": 2}, 2, n_resamples, seed, level)
    return Mechanism(near, constants, linearity, measured)


def _terms(
    curve: Curve, window: float, wanted: dict[str, int], degree: int, n_resamples: int, seed: int, level: float
) -> dict[str, Estimate]:
    """Coefficients of a polynomial fitted in the window (the quadratic one with its sign turned), by name and power."""
    strengths, values = _inside(curve, window, absolute=False)
    powers = torch.stack(
        [-(strengths**power) if power == 2 else strengths**power for power in range(degree + 1)], dim=1
    )
    coefficients = torch.linalg.pinv(powers) @ values
    columns = [coefficients[power] for power in wanted.values()]
    means = _means(columns, curve, n_resamples, seed)
    return {name: _estimated(means[:, place], curve, level) for place, name in enumerate(wanted)}


def _near(curve: Curve, window: float | None) -> float:
    reach = curve.strengths.abs().unique()
    reach = reach[reach > 0]
    if len(reach) < 2:
        raise TradeoffError(f"{curve.label} has fewer than two strengths besides 0; slopes need a denser grid.")
    chosen = max(NEAR * float(reach[-1]), float(reach[1])) if window is None else window
    if int((reach <= chosen).sum()) < 2:
        raise TradeoffError(f"{curve.label} has fewer than two strengths within {chosen:g}; widen the window.")
    return chosen


def _inside(curve: Curve, window: float, absolute: bool) -> tuple[Float[Tensor, " near"], Float[Tensor, "near item"]]:
    inside = curve.strengths.abs() <= window
    strengths = curve.strengths[inside]
    return strengths.abs() if absolute else strengths, curve.values[inside]


def _slope(curve: Curve, window: float, *, absolute: bool = False) -> Float[Tensor, " item"]:
    """Least-squares slope through the origin of every item; of ``|r|`` for what is a size."""
    strengths, values = _inside(curve, window, absolute)
    return (strengths @ values) / strengths.square().sum()


def _even(curve: Curve, window: float) -> Float[Tensor, " item"]:
    """The coefficient of ``r^2`` of every item, beside a straight line through the origin."""
    strengths, values = _inside(curve, window, absolute=False)
    powers = torch.stack([strengths, strengths.square()], dim=1)
    return (torch.linalg.pinv(powers) @ values)[1]


def _linearity(curve: Curve, window: float, *, absolute: bool = False) -> float:
    strengths, values = _inside(curve, window, absolute)
    residual = values - strengths[:, None] * _slope(curve, window, absolute=absolute)
    total = float(values.square().sum())
    return 1 - float(residual.square().sum()) / total if total else 1.0


def _means(
    columns: list[Float[Tensor, " item"]], curve: Curve, n_resamples: int, seed: int
) -> Float[Tensor, "resample column"]:
    """Mean over items of each column: the items themselves first, then resamples of their groups."""
    values = torch.stack(columns, dim=1)
    if not curve.resamples:
        raise TradeoffError(f"{curve.label} has one group of items, so its constants have no intervals; give more.")
    table, counts = group_table(values, curve.groups)
    sums = resampled_sums(torch.cat([table, counts[:, None]], dim=1), n_resamples, seed)
    return torch.cat([values.mean(0, keepdim=True), sums[:, :-1] / sums[:, -1:]])


def _estimated(means: Float[Tensor, " resample"], curve: Curve, level: float) -> Estimate:
    return estimate(float(means[0]), means[1:], curve.n_groups, level)
