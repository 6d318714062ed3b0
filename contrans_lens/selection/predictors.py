"""How well each cheap number foretold the causal effect, over the pairs of layers that were measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import SelectionError
from contrans_lens.selection.evidence import Evidence, average_ranks

_MIN_DRAWS = 100  # resamples in which the correlation is defined, for an interval
MIN_CELLS = 5
"""Fewer measured pairs than this say nothing about a rank correlation."""


@dataclass(frozen=True)
class Predictor:
    """The rank correlation of one cheap number with the measured effect."""

    name: str
    rho: float | None
    """Spearman's rho of the oriented evidence with the effect; None where either is constant or pairs are too few."""
    ci: tuple[float, float] | None
    """Interval from resampling source layers and target layers independently (both carry noise; on the wide side)."""
    n_cells: int
    """Measured pairs behind it."""
    needs_target_labels: bool

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {**vars(self), "ci": None if self.ci is None else list(self.ci)}


def spearman(one: Float[Tensor, "*batch item"], other: Float[Tensor, "*batch item"]) -> Float[Tensor, "*batch"]:
    """Spearman's rank correlation along the last axis, ties at their mean rank; NaN where one side is constant."""
    a, b = (ranks - ranks.mean(-1, keepdim=True) for ranks in (average_ranks(one), average_ranks(other)))
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def rank_predictors(
    evidence: Sequence[Evidence],
    effects: Float[Tensor, "source_layer target_layer"],
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[Predictor, ...]:
    """Correlate every evidence with the measured effects, the best predictor first.

    Args:
        evidence: cheap numbers for all pairs.
        effects: measured effects, NaN where a pair was not measured.
        level: coverage of the intervals.
        n_resamples: resamples of layers.
        seed: of the resampling.

    Raises:
        SelectionError: shapes that differ, or a level outside 0 to 1.
    """
    if not 0 < level < 1:
        raise SelectionError(f"level must lie between 0 and 1; got {level}.")
    if any(each.values.shape != effects.shape for each in evidence):
        raise SelectionError("evidence and effects are of different layers; compute both for the same pairs.")
    weights = _layer_weights(effects, n_resamples, seed)
    found = [_predictor(each, effects, weights, level) for each in evidence]
    return tuple(sorted(found, key=lambda each: float("inf") if each.rho is None else -each.rho))


def _predictor(
    evidence: Evidence,
    effects: Float[Tensor, "source target"],
    weights: Float[Tensor, "resample cell"],
    level: float,
) -> Predictor:
    measured = (effects.isfinite() & evidence.values.isfinite()).reshape(-1)
    values, truth = (each.double().reshape(-1)[measured] for each in (evidence.oriented, effects))
    rho = float(spearman(values, truth)) if len(values) >= MIN_CELLS else float("nan")
    kept = weights[:, measured]
    draws = _weighted_spearman(values, truth, kept[(kept > 0).sum(1) >= MIN_CELLS])
    draws = draws[draws.isfinite()]
    ci = None
    if rho == rho and len(draws) >= _MIN_DRAWS:
        tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        low, high = torch.quantile(draws, tail).tolist()
        ci = (low, high)
    return Predictor(evidence.name, None if rho != rho else rho, ci, len(values), evidence.needs_target_labels)


def _layer_weights(
    effects: Float[Tensor, "source target"], n_resamples: int, seed: int
) -> Float[Tensor, "resample cell"]:
    """How often each pair stands in each resample: draws of its source layer times draws of its target layer."""
    generator = torch.Generator().manual_seed(seed)
    counts = []
    for size in effects.shape:
        drawn = torch.randint(size, (n_resamples, size), generator=generator)
        counts.append(
            torch.zeros(n_resamples, size, dtype=torch.float64).scatter_add_(
                1, drawn, torch.ones_like(drawn, dtype=torch.float64)
            )
        )
    return (counts[0][:, :, None] * counts[1][:, None]).flatten(1)


def _weighted_spearman(
    one: Float[Tensor, "cell"], other: Float[Tensor, "cell"], weights: Float[Tensor, "resample cell"]
) -> Float[Tensor, "resample"]:
    """:func:`spearman` of samples in which each cell stands ``weights`` times.

    ``rank_i = sum_j w_j 1[v_j < v_i] + (sum_j w_j 1[v_j = v_i] + 1) / 2``
    """
    total = weights.sum(1, keepdim=True)
    centred = []
    for values in (one, other):
        below = (values[None] < values[:, None]).double()
        equal = (values[None] == values[:, None]).double()
        ranks = weights @ (below + equal / 2).T
        centred.append(ranks - (weights * ranks).sum(1, keepdim=True) / total)
    a, b = centred
    squares = [(weights * each.square()).sum(1) for each in centred]
    return (weights * a * b).sum(1) / (squares[0] * squares[1]).sqrt()
