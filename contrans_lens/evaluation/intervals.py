"""Confidence intervals: bootstrap over items or groups of items, ratios of paired effects, proportions.

Items that share a group (a template, an entity) are not independent, so the unit that is resampled is the
group. A resample draws groups with replacement; its mean is the sum over the drawn items divided by their
number, so groups of unequal size are treated as a ratio estimator. Resampled sums of all columns come from
one matrix product of multinomial counts ``[resample, group]`` with group sums ``[group, column]``.

The plain percentile bootstrap is too narrow for few groups. The percentiles used here are widened so that for
a normal mean the interval equals Student's (Hesterberg 2015, "expanded percentile" interval)::

    alpha' = Phi(-sqrt(g / (g - 1)) * t_{1 - alpha/2, g - 1}),   g groups
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.resampling import (
    block_size,
    checked_level,
    expanded_percentiles,
    group_table,
    resample_counts,
    resampled_sums,
    student_quantile,
)


@dataclass(frozen=True)
class Interval:
    """A point estimate with its confidence interval."""

    value: float
    """The estimate on the data themselves."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    level: float
    """Nominal coverage, e.g. 0.95."""
    n: int
    """Items behind the estimate."""
    n_groups: int
    """Independent units behind it: what was resampled."""

    def contains(self, value: float) -> bool:
        """Whether ``value`` lies in the closed interval."""
        return self.low <= value <= self.high

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class RatioInterval:
    """A ratio of two paired means with its interval, or the reason why there is none."""

    value: float | None
    """``mean(numerator) / mean(denominator)``; None where the denominator may be zero."""
    low: float | None
    """Lower end, or None."""
    high: float | None
    """Upper end, or None."""
    level: float
    """Nominal coverage."""
    method: str
    """``"bootstrap"`` or ``"fieller"``."""
    numerator: Interval
    """The numerator's own mean and interval."""
    denominator: Interval
    """The denominator's own mean and interval."""
    reason: str = ""
    """Why the ratio is undefined; empty where it is defined."""

    @property
    def defined(self) -> bool:
        """Whether the denominator's interval stays away from zero."""
        return self.value is not None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values (None where undefined)."""
        return asdict(self)


def bootstrap_mean_ci(
    values: Float[Tensor, "item"],
    groups: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean over items with a (cluster) bootstrap interval.

    Args:
        values: one finite value per item, ``[item]``.
        groups: group name per item; the empty name, or None for all, makes an item its own group.
        level: nominal coverage.
        n_resamples: bootstrap resamples.
        seed: seed of the resampling; the same seed and groups give the same resamples.

    Raises:
        EvaluationError: no items, non-finite values, fewer than two groups, or lengths that do not fit.
    """
    return bootstrap_mean_cis(values[:, None], groups, level=level, n_resamples=n_resamples, seed=seed)[0]


def bootstrap_mean_cis(
    values: Float[Tensor, "item column"],
    groups: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Interval]:
    """Means of many columns over the same items, from the same resamples: ``[item, column]`` to one each.

    Raises:
        EvaluationError: as :func:`bootstrap_mean_ci`.
    """
    table, counts = group_table(values, groups)
    sums = resampled_sums(torch.cat([table, counts[:, None]], dim=1), n_resamples, seed)
    means = sums[:, :-1] / sums[:, -1:]
    low, high = expanded_percentiles(means, len(counts), level)
    centre = table.sum(0) / counts.sum()
    return [
        Interval(float(c), float(lo), float(hi), level, len(values), len(counts))
        for c, lo, hi in zip(centre, low, high, strict=True)
    ]


def weighted_mean_cis(
    sums: Float[Tensor, "item column"],
    weights: Float[Tensor, "other_item"],
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Interval]:
    """Pooled means ``sum(sums) / sum(weights)``, resampling items: means per token with texts as the unit.

    Args:
        sums: totals per item and column, e.g. summed KL of every text, ``[item, column]``.
        weights: what the totals are divided by, e.g. tokens per text, ``[item]``, positive.
        level: nominal coverage.
        n_resamples: bootstrap resamples.
        seed: seed of the resampling.

    Raises:
        EvaluationError: fewer than two items, non-finite sums, weights that are not positive.
    """
    if len(sums) != len(weights) or not bool((weights > 0).all()):
        raise EvaluationError("every item needs one positive weight; drop items that hold nothing to average.")
    table, counts = group_table(torch.cat([sums.double(), weights.double()[:, None]], dim=1), None)
    draws = resampled_sums(table, n_resamples, seed)
    low, high = expanded_percentiles(draws[:, :-1] / draws[:, -1:], len(counts), level)
    centre = table[:, :-1].sum(0) / table[:, -1].sum()
    return [
        Interval(float(c), float(lo), float(hi), level, len(sums), len(counts))
        for c, lo, hi in zip(centre, low, high, strict=True)
    ]


def paired_difference_ci(
    first: Float[Tensor, "item"],
    second: Float[Tensor, "other_item"],
    groups: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of ``first - second`` over the same items, with a (cluster) bootstrap interval.

    Raises:
        EvaluationError: unequal lengths, or as :func:`bootstrap_mean_ci`.
    """
    if len(first) != len(second):
        raise EvaluationError(f"paired values need the same items; got {len(first)} and {len(second)}.")
    return bootstrap_mean_ci(first - second, groups, level=level, n_resamples=n_resamples, seed=seed)


def bootstrap_draws_ci(
    values: Float[Tensor, "draw item"],
    groups: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean over control draws and items, both resampled: the interval of a control row.

    One random direction is scored on every item, so neither the draws nor the items alone carry the noise.
    Draws and groups are resampled independently of each other (the "pigeonhole" bootstrap, Owen 2007), which
    errs on the wide side. ``n`` of the result counts items, ``n_groups`` the smaller of draws and groups.

    Raises:
        EvaluationError: fewer than two draws or groups, non-finite values, lengths that do not fit.
    """
    table, counts = group_table(values.T, groups)
    n_groups, n_draws = table.shape
    if n_draws < 2:
        raise EvaluationError("a control needs at least two draws for an interval; twenty or more are advised.")
    means = []
    block = block_size(max(n_groups, n_draws))  # one size, so that both streams keep step
    drawn = resample_counts(n_draws, n_resamples, seed + 1, block)
    for group_weights in resample_counts(n_groups, n_resamples, seed, block):
        draw_weights = next(drawn)
        total = ((group_weights @ table) * draw_weights).sum(1)
        means.append(total / (n_draws * (group_weights @ counts)))
    units = min(n_groups, n_draws)
    low, high = expanded_percentiles(torch.cat(means)[:, None], units, level)
    centre = float(table.sum() / (n_draws * counts.sum()))
    return Interval(centre, float(low[0]), float(high[0]), level, values.shape[1], units)


def ratio_ci(
    numerator: Float[Tensor, "item"],
    denominator: Float[Tensor, "other_item"],
    groups: Sequence[str] | None = None,
    *,
    method: Literal["bootstrap", "fieller"] = "bootstrap",
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> RatioInterval:
    """Share of a ceiling: ``mean(numerator) / mean(denominator)``, paired by item and clustered by group.

    The transplanted vector's effect over the native vector's effect on the same items. Both means are taken
    on the same resample, so what is common to both cancels. ``"fieller"`` solves ``(a - theta b)^2 <= t^2
    var(a - theta b)`` for theta with cluster variances; ``"bootstrap"`` takes expanded percentiles of the
    resampled ratio.

    Where the denominator's own interval holds zero, any ratio fits the data: the result is undefined and says
    so (Fieller's set is then unbounded). It is not an error, for "there is no ceiling to share" is a valid
    finding.

    Raises:
        EvaluationError: unequal lengths, or as :func:`bootstrap_mean_ci`.
    """
    if len(numerator) != len(denominator):
        raise EvaluationError(
            f"a ratio is paired by item; got {len(numerator)} numerators and {len(denominator)} denominators."
        )
    pair = torch.stack([numerator.double(), denominator.double()], dim=1)
    table, counts = group_table(pair, groups)
    draws = resampled_sums(torch.cat([table, counts[:, None]], dim=1), n_resamples, seed)
    means = draws[:, :2] / draws[:, 2:]
    low, high = expanded_percentiles(means, len(counts), level)
    centre = table.sum(0) / counts.sum()
    above, below = (
        Interval(float(centre[i]), float(low[i]), float(high[i]), level, len(pair), len(counts)) for i in range(2)
    )
    if method == "fieller":
        ends = _fieller(table, counts, level)
        if ends is None:
            return RatioInterval(None, None, None, level, method, above, below, _UNDEFINED)
    elif below.contains(0.0):
        return RatioInterval(None, None, None, level, method, above, below, _UNDEFINED)
    else:
        # Resamples whose denominator crosses zero are rarer than the interval's tail, else `below` held zero;
        # they stand at the far ends of the ratio's distribution and are left where they fall.
        ratio_low, ratio_high = expanded_percentiles(means[:, :1] / means[:, 1:], len(counts), level)
        ends = float(ratio_low[0]), float(ratio_high[0])
    return RatioInterval(above.value / below.value, *ends, level, method, above, below)


_UNDEFINED = "the denominator's interval holds zero: there is no effect to take a share of"


def wilson_ci(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Proportion of ``n`` independent trials with Wilson's score interval.

    Raises:
        EvaluationError: no trials, or a count outside ``0..n``.
    """
    if n < 1 or not 0 <= successes <= n:
        raise EvaluationError(f"{successes} successes in {n} trials is not a proportion.")
    z = NormalDist().inv_cdf(0.5 + checked_level(level) / 2)
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half  # exact at the ends, where rounding would leave -1e-18
    high = 1.0 if successes == n else centre + half
    return Interval(share, low, high, level, n, n)


def _fieller(
    table: Float[Tensor, "group 2"], counts: Float[Tensor, "group"], level: float
) -> tuple[float, float] | None:
    """Fieller's limits from cluster totals, or None where the set is unbounded."""
    n_groups = len(counts)
    mean = table.sum(0) / counts.sum()
    residual = (table - counts[:, None] * mean) / counts.mean()
    covariance = residual.T @ residual / (n_groups * (n_groups - 1))
    t2 = student_quantile(0.5 + checked_level(level) / 2, n_groups - 1) ** 2
    a, b = float(mean[0]), float(mean[1])
    quadratic = b * b - t2 * float(covariance[1, 1])
    linear = a * b - t2 * float(covariance[0, 1])
    constant = a * a - t2 * float(covariance[0, 0])
    if quadratic <= 0:
        return None
    root = math.sqrt(max(linear * linear - quadratic * constant, 0.0))
    return (linear - root) / quadratic, (linear + root) / quadratic
