"""Which values chance gives: shuffled pairings for the null, subsamples for the intervals.

**Null.** The texts of the target are put in random orders while the source stays: the geometry of both sides is kept
and only the pairing is lost. One order serves every metric and every pair of layers, so the largest value over all
cells under a shuffle is a draw of the maximum that a search over all pairs finds by chance, and the p-value of a cell
corrected for the search is ``(1 + #{max of null >= observed}) / (1 + B)`` (Westfall and Young 1993). Cells have nulls
of different centre and spread (a wide layer, a one-dimensional layer), so each is standardised first by the mean and
the standard deviation of its ``B + 1`` values, the observed one among them: the statistic then treats the observed
pairing as one shuffle among the others, and the test is exact for any ``B``.

**Intervals.** A resample with replacement holds copies of texts, and copies are each other's nearest neighbours and
have perfect correlation: bootstrap values of k-NN overlap and of debiased CKA are too high. Subsamples without
replacement have no copies. With ``c`` of ``g`` units kept, ``sqrt(c / (g - c))`` times the spread of the values over
subsamples estimates the standard error (the delete-d jackknife, Shao and Wu 1989), and the interval is the value plus
or minus Student's t with ``g - 1`` degrees times it, on the ``atanh`` scale for averages of correlations. It covers
the value that as many texts of the same kind give on average; what a metric itself overstates at few texts
(canonical correlations, neighbours among few) is the null's business.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.evaluation.resampling import student_quantile
from contrans_lens.layers.similarity.grid import SimilarityGrid
from contrans_lens.layers.similarity.metric import METRICS, Metric
from contrans_lens.layers.similarity.resampling import Resampling

_TIE = 1e-6
"""Values that agree to this are taken as equal: the null runs in the working dtype."""

_FLAT = 1e-5
"""Cells whose null spreads less than this are constant by construction and can show nothing."""


@dataclass(frozen=True, eq=False)
class NullSummary:
    """What shuffled pairings say about every cell."""

    mean: Float[Tensor, "source_layer target_layer"]
    critical: Float[Tensor, "source_layer target_layer"]
    p: Float[Tensor, "source_layer target_layer"]
    corrected: Float[Tensor, "source_layer target_layer"]
    calibrated: Float[Tensor, "source_layer target_layer"]
    excess: Float[Tensor, "source_layer target_layer"]


def summarise_null(
    metric: Metric,
    values: Float[Tensor, "source_layer target_layer"],
    null: Float[Tensor, "draw source_layer target_layer"],
    alpha: int | float,
) -> NullSummary:
    """P-values per cell and for the search over all, and the value in units of what chance leaves.

    Args:
        metric: which way is closer, and the value of identical layers.
        values: observed.
        null: under shuffled pairings.
        alpha: level of the critical value.
    """
    sign = 1.0 if metric.higher_is_closer else -1.0
    everything = sign * torch.cat([values[None], null])
    draws = len(null)
    p = (1 + (everything[1:] >= everything[0] - _TIE).double().sum(0)) / (1 + draws)
    spread = everything.std(0, correction=0)
    centre = everything.mean(0)
    scores = torch.where(spread > _FLAT, (everything - centre) / spread.clamp_min(_FLAT), 0.0)
    largest = scores[1:].flatten(1).max(1).values
    corrected = (1 + (largest[:, None, None] >= scores[0] - _TIE).double().sum(0)) / (1 + draws)
    rank = math.ceil((1 - alpha) * (draws + 1) - 1e-9)
    critical = everything.sort(0).values[rank - 1]
    best, middle = sign * metric.perfect, sign * null.mean(0)
    span = best - critical
    calibrated = torch.where(span > _TIE, (everything[0] - critical) / span.clamp_min(_TIE), 0.0).clamp_min(0)
    excess = torch.where(best - middle > _TIE, (everything[0] - middle) / (best - middle).clamp_min(_TIE), 0.0)
    return NullSummary(sign * middle, sign * critical, p, corrected, calibrated, excess)


def subsample_interval(
    metric: Metric,
    values: Float[Tensor, "source_layer target_layer"],
    replicates: Float[Tensor, "draw source_layer target_layer"],
    kept: int,
    n_units: int,
    level: int | float,
) -> tuple[Float[Tensor, "source_layer target_layer"], Float[Tensor, "source_layer target_layer"]]:
    """Lower and upper end of every cell by the delete-d jackknife.

    Args:
        metric: its range and the scale on which the interval is symmetric.
        values: observed.
        replicates: values on the subsamples.
        kept: units in each subsample.
        n_units: independent units in all: texts, or groups.
        level: nominal coverage.
    """
    spread = on_scale(metric, replicates).std(0)
    return interval(metric, values, spread * math.sqrt(kept / (n_units - kept)), n_units, level)


def on_scale(metric: Metric, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Values on the scale where intervals of this metric are symmetric."""
    limit = 1 - 1e-12
    return values.clamp(-limit, limit).atanh() if metric.scale == "fisher" else values


def interval(
    metric: Metric,
    values: Float[Tensor, "source_layer target_layer"],
    error: Float[Tensor, "source_layer target_layer"],
    n_units: int,
    level: int | float,
) -> tuple[Float[Tensor, "source_layer target_layer"], Float[Tensor, "source_layer target_layer"]]:
    """Student's interval within the metric's range.

    Args:
        metric: its range and scale.
        values: observed.
        error: standard error on the metric's scale.
        n_units: independent units.
        level: nominal coverage.
    """
    half = student_quantile(0.5 + level / 2, n_units - 1) * error
    ends = [on_scale(metric, values) - half, on_scale(metric, values) + half]
    low, high = (end.tanh() if metric.scale == "fisher" else end for end in ends)
    low, high = low.clamp(metric.low, metric.high), high.clamp(metric.low, metric.high)
    return torch.minimum(low, values), torch.maximum(high, values)


def assemble(
    name: str,
    hook_points: tuple[tuple[str, ...], tuple[str, ...]],
    values: Float[Tensor, "source_layer target_layer"],
    null: Float[Tensor, "draw source_layer target_layer"] | None,
    replicates: Float[Tensor, "subset source_layer target_layer"] | None,
    plan: Resampling,
    warnings: tuple[str, ...],
    ends: tuple[Tensor, Tensor] | None = None,
) -> SimilarityGrid:
    """The grid of one metric from its values, its null and its subsamples (None where there are none).

    Args:
        name: in ``METRICS``.
        hook_points: of source and target.
        values: observed.
        null: under the plan's shuffles.
        replicates: on the plan's subsamples.
        plan: how both were drawn.
        warnings: for the reader.
        ends: an interval that was found in another way than by subsamples.
    """
    metric = METRICS[name]
    low, high = ends or (None, None)
    found = None
    if null is not None and len(null):
        found = summarise_null(metric, values, null, 1 - plan.level)
    if replicates is not None and len(replicates):
        low, high = subsample_interval(metric, values, replicates, plan.kept, plan.n_units, plan.level)
    return SimilarityGrid(
        name,
        *hook_points,
        values,
        low,
        high,
        found.mean if found else None,
        found.critical if found else None,
        found.p if found else None,
        found.corrected if found else None,
        found.calibrated if found else None,
        found.excess if found else None,
        level=plan.level,
        n_texts=plan.n,
        n_units=plan.n_units,
        n_permutations=0 if null is None else len(null),
        n_subsamples=0 if replicates is None else len(replicates),
        seed=plan.seed,
        warnings=warnings,
    )
