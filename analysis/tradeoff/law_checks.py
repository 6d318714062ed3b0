"""How far the laws reach: log-odds item by item, and curves extrapolated from small strengths."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.tradeoff import Curve, helpfulness_mechanism

TOLERANCE, COST_TOLERANCE = 0.05, 0.025
"""A prediction counts as right while it is off by less than this: in behaviour (its range is 2), in helpfulness (1)."""


def linearity_by_reach(odds: Curve, reaches: Sequence[float]) -> list[dict[str, float]]:
    """R^2 of a straight line through every item's own start, log-odds over |r| up to each reach, over all items.

    The law says that log-odds are linear in r: ``log odds = 2 (a r + b0)``. It is asked here of single items, before
    anything is averaged.

    Args:
        odds: log-odds item by item.
        reaches: ends of windows.
    """
    change = odds.values - odds.values[odds.zero]
    found = []
    for reach in reaches:
        inside = odds.strengths.abs() <= reach + 1e-9
        r, values = odds.strengths[inside], change[inside]
        slopes = (r @ values) / r.square().sum()
        left = float((values - r[:, None] * slopes).square().sum())
        found.append({"reach": reach, "r_squared": 1 - left / max(float(values.square().sum()), 1e-300)})
    return found


def extrapolation(curve: Curve, odds: Curve, known: float, reaches: Sequence[float]) -> dict[str, Any]:
    """The curve predicted from log-odds at |r| up to ``known``, and how far from it the measured one lies.

    - ``mean_law``: ``tanh(a r + artanh B0)`` with the mean a of the items and the mean B0;
    - ``shared_gain``: mean over items of ``tanh(a r + artanh B0_i)``: items start where they start, one gain for all;
    - ``item_law``: mean over items of ``tanh(a_i r + artanh B0_i)``.

    Args:
        curve: behaviour, item by item.
        odds: its log-odds.
        known: largest strength that the gains are read from.
        reaches: where R^2 and the largest error are given.

    Returns:
        For each law the predicted means, R^2 and largest error by reach, and ``holds_up_to``: the largest strength up
        to which every prediction, both signs, is within ``TOLERANCE``.
    """
    r = curve.strengths
    start = odds.values[odds.zero] / 2
    gains = _gains(odds, known)
    laws = {
        "mean_law": torch.tanh(gains.mean() * r + torch.atanh(curve.values[curve.zero].mean())),
        "shared_gain": torch.tanh(gains.mean() * r[:, None] + start).mean(1),
        "item_law": torch.tanh(gains * r[:, None] + start).mean(1),
    }
    return {name: _compared(curve, predicted, reaches) for name, predicted in laws.items()}


def cost_extrapolation(
    cost: Curve, mu: Curve, sigma: Curve, p0: Float[Tensor, " item"], known: float, reaches: Sequence[float]
) -> dict[str, Any]:
    """Helpfulness predicted from the shifts of wrong answers at |r| up to ``known``; as :func:`extrapolation`.

    - ``parabola``: ``H0 + l r - k r^2`` with the terms of :mod:`contrans_lens.tradeoff.mechanism`;
    - ``item_bell``: mean over items of ``sigmoid(logit P0_i - mu_i r - sigma_i^2 r^2 / 2)``;
    - ``item_bell_even``: the same with the part of the mean shift that both signs share, ``m_i r^2``, which the theory
      leaves out: it takes logits to be linear in r.

    Args:
        cost: helpfulness, item by item.
        mu: mean shift of wrong answers.
        sigma: their spread.
        p0: unsteered probability of the right answer.
        known: largest strength that the shifts are read from.
        reaches: where R^2 and the largest error are given.
    """
    r = cost.strengths
    inside = r.abs() <= known
    size = r[inside].square().sum()
    shift, spread = (r[inside] @ mu.values[inside]) / size, (r[inside].abs() @ sigma.values[inside]) / size
    terms = helpfulness_mechanism(mu, sigma, p0, window=known, n_resamples=100).constants
    linear, k = terms["l"].value or 0.0, terms["k"].value or 0.0
    even = (r[inside].square() @ mu.values[inside]) / r[inside].pow(4).sum()
    start = p0.double().clamp(1e-12, 1 - 1e-12).logit()
    laws = {
        "parabola": cost.at_zero + linear * r - k * r.square(),
        "item_bell": torch.sigmoid(start - shift * r[:, None] - (spread * r[:, None]).square() / 2).mean(1),
    }
    laws["item_bell_even"] = torch.sigmoid(
        start - shift * r[:, None] - (even + spread.square() / 2) * r[:, None].square()
    ).mean(1)
    found: dict[str, Any] = {
        name: _compared(cost, predicted, reaches, COST_TOLERANCE) for name, predicted in laws.items()
    }
    found["item_bell_even"]["k_of_even_part"] = float((p0 * (1 - p0) * even).mean())
    return found


def local_powers(kl: Curve) -> list[dict[str, float]]:
    """With which power of r the KL (mean of both signs) grows between neighbouring strengths; near zero it is 2."""
    mean = ((kl.mean + kl.mean.flip(0)) / 2)[kl.zero + 1 :]
    reach = kl.strengths[kl.zero + 1 :]
    powers = mean.log().diff() / reach.log().diff()
    return [
        {"from": float(low), "to": float(high), "power": float(power)}
        for low, high, power in zip(reach[:-1], reach[1:], powers, strict=True)
    ]


def _gains(odds: Curve, known: float) -> Float[Tensor, " item"]:
    inside = odds.strengths.abs() <= known
    r = odds.strengths[inside]
    change = odds.values[inside] - odds.values[odds.zero]
    return (r @ change) / r.square().sum() / 2


def _compared(
    curve: Curve, predicted: Float[Tensor, " strength"], reaches: Sequence[float], tolerance: float = TOLERANCE
) -> dict[str, Any]:
    off = (predicted - curve.mean).abs()
    rows = []
    for reach in reaches:
        inside = curve.strengths.abs() <= reach + 1e-9
        mean = curve.mean[inside]
        total = float((mean - mean.mean()).square().sum())
        rss = float(off[inside].square().sum())
        rows.append({"reach": reach, "r_squared": 1 - rss / total if total else 0.0, "off": float(off[inside].max())})
    wrong = curve.strengths.abs()[off > tolerance]
    right = curve.strengths.abs()[curve.strengths.abs() < wrong.min()] if len(wrong) else curve.strengths.abs()
    return {"predicted": predicted.tolist(), "by_reach": rows, "holds_up_to": float(right.max())}
