"""The useful regime straight from the curves, without any law: best grid point, crossings, Pareto front.

Every function works on a batch of curves, the measured ones and their resamples.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_BLOCK_ELEMENTS = 1 << 24  # comparisons held at once


@dataclass(frozen=True)
class FrontierPoint:
    """One strength in the plane of behaviour and helpfulness."""

    strength: float
    """Where it was measured."""
    behaviour: float
    """Mean ``B``."""
    helpfulness: float
    """Mean ``H``."""
    on_front: bool
    """Whether no other strength is at least as good in both and better in one."""
    share: float | None
    """Share of resamples in which it is on the front; None without resamples."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


def pareto_front(
    behaviour: Float[Tensor, "curve strength"], helpfulness: Float[Tensor, "curve strength"]
) -> Bool[Tensor, "curve strength"]:
    """Which strengths no other strength dominates: at least as good in both, better in one."""
    return torch.cat(list(_fronts(behaviour, helpfulness)))


def _fronts(behaviour: Tensor, helpfulness: Tensor) -> Iterator[Tensor]:
    block = max(1, _BLOCK_ELEMENTS // behaviour.shape[1] ** 2)
    for start in range(0, len(behaviour), block):
        b, h = (each[start : start + block] for each in (behaviour, helpfulness))
        no_worse = (b[:, None] >= b[:, :, None]) & (h[:, None] >= h[:, :, None])
        better = (b[:, None] > b[:, :, None]) | (h[:, None] > h[:, :, None])
        yield ~(no_worse & better).any(2)


def best_strength(
    strengths: Float[Tensor, "strength"], utility: Float[Tensor, "curve strength"]
) -> Float[Tensor, "curve"]:
    """Strength of greatest utility; among equals the one nearest to zero."""
    order = strengths.abs().argsort(stable=True)
    return strengths[order][utility[:, order].argmax(1)]


def first_crossing(
    reach: Float[Tensor, "step"], margin: Float[Tensor, "curve step"]
) -> tuple[Float[Tensor, "curve"], Bool[Tensor, "curve"]]:
    """Where each margin first falls below zero on the way out, by linear interpolation.

    Args:
        reach: distances from the unsteered model, ascending from 0.
        margin: what is left at each, not negative at 0.

    Returns:
        The distance, or the last one where the margin never falls below zero; and whether it does.
    """
    below = margin < 0
    crosses = below.any(1)
    return torch.where(crosses, _interpolated(reach, margin, below), reach[-1]), crosses


def return_to_zero(
    reach: Float[Tensor, "step"], gain: Float[Tensor, "curve step"]
) -> tuple[Float[Tensor, "curve"], Bool[Tensor, "curve"], Bool[Tensor, "curve"]]:
    """Where each gain, beyond its largest value, is used up again.

    Args:
        reach: distances from the unsteered model, ascending from 0.
        gain: utility over the unsteered model's, 0 at 0.

    Returns:
        The distance (0 where nothing is ever gained, the last one where the gain lasts), whether something is gained,
        and whether it is used up.
    """
    top, where = gain.max(1)
    gains = top > 0
    spent = (gain <= 0) & (torch.arange(len(reach)) > where[:, None])
    ends = spent.any(1)
    distance = torch.where(ends, _interpolated(reach, gain, spent), reach[-1])
    return torch.where(gains, distance, 0.0), gains, ends


def _interpolated(reach: Tensor, values: Tensor, crossed: Tensor) -> Tensor:
    """The zero between the first marked step and the one before it; anything where no step is marked."""
    after = crossed.int().argmax(1).clamp_min(1)
    before = after - 1
    high, low = (values.gather(1, step[:, None])[:, 0] for step in (before, after))
    share = high / (high - low).clamp_min(1e-300)
    return reach[before] + (reach[after] - reach[before]) * share.clamp(0, 1)
