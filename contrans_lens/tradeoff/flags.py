"""The flags of the guards, and the tests of shape behind them.

A test of shape is calibrated by resampling: the statistic of the measured curve is held against the same statistic of
resamples centred on the nearest curve that has the harmless shape, so the noise of items, and what they share across
strengths, is in the null::

    null curves = nearest harmless curve + sqrt(g / (g - 1)) (resampled means - measured means),   g groups
    p = (1 + #{statistic of a null curve >= measured}) / (1 + resamples)

Curves without per-item values have no such null. There a fixed tolerance stands in, and the text says so.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.tradeoff.curve import Curve
from contrans_lens.tradeoff.monotone import largest_reversal, nearest_monotone, turning_depth

ALPHA = 0.025
"""p-value below which a test of shape fires: the two of them together raise 5 % false alarms."""
FLAT_ALPHA = 0.05
"""p-value above which a curve counts as flat."""
TOLERANCE = 0.1
"""What counts as a change, in the curve's units, where there are no per-item values to calibrate a test."""
LEAST_SHARE = 0.05
"""Reversals below this share of the curve's range do not matter, however certain they are."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Flag:
    """One thing that was looked for in a curve."""

    name: str
    """What was looked for, e.g. ``"u_shaped"``."""
    fired: bool
    """Whether it was found."""
    text: str
    """One sentence with the numbers."""
    statistic: float | None = None
    """What was tested; None where nothing was."""
    p_value: float | None = None
    """Its p-value under the harmless shape; None where there is no null."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class ShapeTest:
    """A statistic of the mean curve with its p-value."""

    statistic: float
    """Of the measured curve, in its units."""
    p_value: float | None
    """Against the harmless shape; None without per-item values."""

    @property
    def told(self) -> str:
        """The p-value in words."""
        return "not calibrated: no per-item values" if self.p_value is None else f"p = {self.p_value:.3g}"

    def significant(self, alpha: float) -> bool:
        """Whether the statistic is more than noise; against the tolerance where there is no null."""
        return self.statistic > TOLERANCE if self.p_value is None else self.p_value < alpha


def reversal_test(curve: Curve, n_resamples: int, seed: int) -> ShapeTest:
    """How far the curve goes back on itself, against the nearest monotone curve."""
    return _tested(curve, largest_reversal, nearest_monotone, n_resamples, seed)


def turning_test(curve: Curve, n_resamples: int, seed: int) -> ShapeTest:
    """How far both ends lie beyond the same inner point, against the nearest monotone curve."""
    return _tested(curve, turning_depth, nearest_monotone, n_resamples, seed)


def range_test(curve: Curve, n_resamples: int, seed: int) -> ShapeTest:
    """Greatest less smallest mean, against a flat curve."""
    return _tested(curve, _range, lambda means: means.mean().expand_as(means), n_resamples, seed)


def lack_of_fit_test(
    curve: Curve, design: Float[Tensor, "strength parameter"], n_resamples: int, seed: int
) -> ShapeTest:
    """Residual sum of squares of a law that is linear in its parameters, against that law being true."""
    onto = design @ torch.linalg.pinv(design)

    def residual(curves: Tensor) -> Tensor:
        return (curves - curves @ onto).square().sum(1)

    return _tested(curve, residual, lambda means: onto @ means, n_resamples, seed)


def _range(curves: Tensor) -> Tensor:
    return curves.max(1).values - curves.min(1).values


def _tested(
    curve: Curve,
    statistic: Callable[[Tensor], Tensor],
    nearest: Callable[[Tensor], Tensor],
    n_resamples: int,
    seed: int,
) -> ShapeTest:
    measured = float(statistic(curve.mean[None]))
    if not curve.resamples:
        return ShapeTest(measured, None)
    widened = math.sqrt(curve.n_groups / (curve.n_groups - 1))  # a resample varies about its own sample's mean
    noise = widened * (curve.resampled(n_resamples, seed) - curve.mean)
    null = statistic(nearest(curve.mean) + noise)
    beyond = int((null >= measured - _ROUNDING).sum())
    return ShapeTest(measured, (1 + beyond) / (1 + n_resamples))
