"""Monotone fits and how far a curve is from being monotone."""

import torch
from jaxtyping import Float
from torch import Tensor


def isotonic(values: Float[Tensor, "strength"]) -> Float[Tensor, "strength"]:
    """The nondecreasing curve that is nearest in least squares, float64.

    By the min-max formula (Robertson, Wright and Dykstra 1988)::

        g_i = max_{j <= i} min_{k >= i} mean(values_j .. values_k)
    """
    values = values.double()
    n = len(values)
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    first, last = torch.arange(n)[:, None], torch.arange(n)[None]
    means = (sums[1:][None] - sums[:-1][:, None]) / (last - first + 1).clamp_min(1)
    means = torch.where(last >= first, means, torch.inf)
    least = means.flip(1).cummin(1).values.flip(1)
    return torch.where(last >= first, least, -torch.inf).max(0).values


def nearest_monotone(values: Float[Tensor, "strength"]) -> Float[Tensor, "strength"]:
    """The monotone curve, rising or falling, that is nearest in least squares."""
    rising, falling = isotonic(values), -isotonic(-values)
    return min((rising, falling), key=lambda fitted: float((fitted - values.double()).square().sum()))


def largest_reversal(curves: Float[Tensor, "curve strength"]) -> Float[Tensor, "curve"]:
    """How far each curve goes back on itself: 0 exactly where it is monotone.

    The smaller of its largest fall and its largest rise between an earlier and a later strength. A rising curve has
    no fall, a falling one no rise, and one that turns round has both.
    """
    fall = (curves.cummax(1).values - curves).max(1).values
    rise = (curves - curves.cummin(1).values).max(1).values
    return torch.minimum(fall, rise)


def turning_depth(curves: Float[Tensor, "curve strength"]) -> Float[Tensor, "curve"]:
    """Depth of a U or the height of an arch, whichever is larger: how far both ends lie beyond the same inner point.

    ``max_i min(first - v_i, last - v_i)`` for a U, the same of the negated curve for an arch; 0 for a curve between
    its ends.
    """
    ends = curves[:, [0, -1]]
    valley = ends.min(1).values - curves.min(1).values
    hill = curves.max(1).values - ends.max(1).values
    return torch.maximum(valley, hill)


def turning_point(values: Float[Tensor, "strength"]) -> int:
    """Where the U's bottom or the arch's top stands, whichever is further from the nearer end's value."""
    ends = values[[0, -1]]
    valley, hill = ends.min() - values.min(), values.max() - ends.max()
    return int(values.argmin() if valley >= hill else values.argmax())
