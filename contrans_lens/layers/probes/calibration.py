"""From decision values to probabilities, and how good the probabilities are."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.layers.probes.folds import fold_members

N_BINS = 10
"""Bins of the calibration error."""
_STEPS = 50


def platt_scaling(
    decisions: Float[Tensor, "problem example"], labels: Bool[Tensor, " example"]
) -> tuple[Float[Tensor, " problem"], Float[Tensor, " problem"]]:
    """Slope and offset of ``P(positive | f) = sigmoid(slope f + offset)`` by maximum likelihood.

    Labels are softened to ``(n_1 + 1) / (n_1 + 2)`` and ``1 / (n_0 + 2)``, which keeps the slope finite when the
    classes are apart (Platt 1999). Newton's method in two dimensions, decision values in units of their spread.
    """
    n_positive = int(labels.sum())
    high, low = (n_positive + 1) / (n_positive + 2), 1 / (len(labels) - n_positive + 2)
    target = torch.where(labels.to(decisions.device), high, low).to(torch.float64)
    mean, spread = decisions.mean(1, keepdim=True), decisions.std(1, keepdim=True)
    flat = spread <= 1e-12 * decisions.abs().amax(1, keepdim=True)
    x = torch.where(flat, 0.0, (decisions - mean) / spread.clamp_min(1e-300))
    share = target.mean()
    slope, offset = torch.zeros_like(x[:, 0]), torch.full_like(x[:, 0], float(torch.logit(share)))
    for _ in range(_STEPS):
        p = torch.sigmoid(slope[:, None] * x + offset[:, None])
        g_slope, g_offset = ((p - target) * x).sum(1), (p - target).sum(1)
        weight = p * (1 - p)
        # A little ridge keeps the step defined where decisions do not vary.
        a = (weight * x * x).sum(1) + 1e-10
        b, c = (weight * x).sum(1), weight.sum(1) + 1e-10
        determinant = a * c - b * b
        step_slope, step_offset = (c * g_slope - b * g_offset) / determinant, (a * g_offset - b * g_slope) / determinant
        # Soft targets bound the optimum, a step of more than 4 spreads would overshoot it.
        length = (4 / torch.maximum(step_slope.abs(), step_offset.abs()).clamp_min(1e-300)).clamp(max=1)
        slope, offset = slope - length * step_slope, offset - length * step_offset
        if bool((torch.maximum(step_slope.abs(), step_offset.abs()) < 1e-10).all()):
            break
    slope = torch.where(flat[:, 0], 0.0, slope / spread[:, 0].clamp_min(1e-300))
    return slope, offset - slope * mean[:, 0]


def calibrated(
    decisions: Float[Tensor, "site example"],
    inner: Float[Tensor, "site fold example"],
    labels: Bool[Tensor, " example"],
    folds: Int[Tensor, " example"],
) -> Float[Tensor, "site example"]:
    """Platt-scaled probabilities of out-of-fold decisions.

    The scaling for a test fold is fitted on the decisions that the inner folds of its training part gave, so
    no label of the test fold has a share in it.
    """
    probability = torch.empty_like(decisions)
    for fold, rows in enumerate(fold_members(folds)):
        train = torch.nonzero(folds != fold).flatten()
        slope, offset = platt_scaling(inner[:, fold, train.to(inner.device)], labels[train])
        at = rows.to(decisions.device)
        probability[:, at] = torch.sigmoid(slope[:, None] * decisions[:, at] + offset[:, None])
    return probability


def brier_score(probability: Float[Tensor, "site example"], labels: Bool[Tensor, " example"]) -> Float[Tensor, " site"]:
    """Mean squared difference of probability and label: 0 is perfect, .25 is always saying one half."""
    return (probability - labels.to(probability.device, torch.float64)).square().mean(1)


def calibration_error(
    probability: Float[Tensor, "site example"], labels: Bool[Tensor, " example"]
) -> Float[Tensor, " site"]:
    """Expected calibration error: ``sum_b n_b / n |mean probability - share of positives|`` over ten equal bins.

    Bins are of the probability of the positive class (Naeini, Cooper and Hauskrecht 2015). It is biased upwards
    for few examples: a perfectly calibrated probe on 100 examples has about .1.
    """
    bins = (probability * N_BINS).long().clamp(0, N_BINS - 1)
    gap = probability - labels.to(probability.device, torch.float64)
    sums = torch.zeros(len(probability), N_BINS, dtype=torch.float64, device=probability.device)
    return sums.scatter_add_(1, bins, gap).abs().sum(1) / probability.shape[1]
