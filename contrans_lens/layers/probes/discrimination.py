"""Accuracy and AUROC of out-of-fold decisions, with intervals that resample whole groups.

Decisions of different folds come from different fits and are not on one scale, so the AUROC here compares a
positive only with the negatives of its own test fold: ``sum_f U_f / sum_f n_f1 n_f0``, the mean of the folds'
AUROCs weighted by their pairs. Pooling all folds mixes fits and is biased downwards without a signal (Forman
and Scholz 2010).

Resamples draw groups with replacement and keep the decisions as they are, so an interval speaks of these
fitted probes on other groups of the same kind, not of probes fitted again. Percentiles are widened for few
groups (Hesterberg 2015). Where nothing varies between resamples, because every group is right, the score
intervals of Wilson and Newcombe over groups are taken: the bootstrap would claim certainty.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.concepts.quality import auroc_interval
from contrans_lens.evaluation.intervals import Interval, wilson_ci
from contrans_lens.evaluation.resampling import block_size, expanded_percentiles, resample_counts
from contrans_lens.layers.probes.folds import class_counts, fold_members

_COMPARED = 1 << 24
"""Pairs of examples that are compared at once, over sites."""


def fold_auroc(
    decisions: Float[Tensor, "site example column"],
    labels: Bool[Tensor, "example column"],
    folds: Int[Tensor, " example"],
) -> Float[Tensor, "site column"]:
    """AUROC over the pairs of a positive and a negative in the same fold; ties count half. NaN without a pair."""
    wins = decisions.new_zeros(decisions.shape[0], decisions.shape[2])
    pairs = decisions.new_zeros(decisions.shape[2])
    labels = labels.to(decisions.device)
    for rows in fold_members(folds):
        rows = rows.to(decisions.device)
        held = labels[rows].T.contiguous()
        values, order = decisions[:, rows].mT.contiguous().sort(-1)
        sorted_labels = held.expand(len(values), -1, -1).gather(2, order)
        positives = held.sum(1).double()
        rank_sum = (_midranks(values) * sorted_labels).sum(-1)
        wins += rank_sum - positives * (positives + 1) / 2
        pairs += positives * (len(rows) - positives)
    return wins / torch.where(pairs > 0, pairs, torch.nan)


def _midranks(values: Float[Tensor, "*batch example"]) -> Float[Tensor, "*#batch example"]:
    """Ranks from 1 of ascending values; ties share their mean rank."""
    n = values.shape[-1]
    ranks = torch.arange(1, n + 1, dtype=values.dtype, device=values.device)
    if not bool((values[..., 1:] == values[..., :-1]).any()):
        return ranks.expand(*[1] * (values.ndim - 1), n)
    first = torch.searchsorted(values, values, right=False)
    last = torch.searchsorted(values, values, right=True)
    return (first + last + 1).to(values.dtype) / 2


@dataclass(frozen=True)
class Resampling:
    """How groups are drawn for intervals: the same draws for every site and measure."""

    codes: Int[Tensor, " example"]
    """Group of every example."""
    level: float
    """Nominal coverage."""
    n_resamples: int
    """How many draws."""
    seed: int
    """Of the draws."""

    @property
    def n_groups(self) -> int:
        """Independent units."""
        return int(self.codes.max()) + 1

    def draws(self) -> Iterator[Float[Tensor, "resample group"]]:
        """How often each group is drawn, in blocks of resamples."""
        return resample_counts(self.n_groups, self.n_resamples, self.seed, block_size(self.n_groups))

    def sums(self, values: Float[Tensor, "example column"]) -> Float[Tensor, "group column"]:
        """Sums of every column per group."""
        table = torch.zeros(self.n_groups, values.shape[1], dtype=torch.float64)
        return table.index_add_(0, self.codes, values.to("cpu", torch.float64))

    def intervals(
        self, values: Float[Tensor, " site"], draws: Float[Tensor, "resample site"], n_units: int | None = None
    ) -> list[Interval]:
        """Expanded percentiles of the draws, around the values."""
        low, high = expanded_percentiles(draws, n_units or self.n_groups, self.level)
        ends = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
        return [Interval(v, lo, hi, self.level, len(self.codes), n_units or self.n_groups) for v, lo, hi in ends]


def accuracy_intervals(correct: Float[Tensor, "example site"], resampling: Resampling) -> list[Interval]:
    """Share of correct examples per site."""
    table = resampling.sums(torch.cat([correct, torch.ones(len(correct), 1).to(correct)], 1))
    sums = torch.cat([counts @ table for counts in resampling.draws()])
    found = resampling.intervals(correct.double().mean(0).cpu(), sums[:, :-1] / sums[:, -1:])
    return [_wide(interval) for interval in found]


def _wide(interval: Interval) -> Interval:
    """Wilson's interval over groups where the resamples do not differ."""
    if interval.high > interval.low or interval.value not in (0.0, 1.0):
        return interval
    ends = wilson_ci(int(interval.value) * interval.n_groups, interval.n_groups, level=interval.level)
    return replace(interval, low=ends.low, high=ends.high)


def control_intervals(
    correct: Float[Tensor, "example site"],
    control: Float[Tensor, "control example site"],
    scored: Bool[Tensor, " example"],
    resampling: Resampling,
) -> tuple[list[Interval], list[Interval]]:
    """Control accuracy and selectivity per site, groups and control labelings both resampled.

    As the interval of any control here: draws and groups are resampled independently of each other (Owen 2007),
    which errs on the wide side.

    Args:
        correct: whether the true label was decided rightly.
        control: the same for every control labeling.
        scored: examples on which controls are scored; the others do not count for them.
        resampling: how groups are drawn.
    """
    n_controls, n, sites = control.shape
    mask = scored.to(torch.float64)[:, None]
    cells = control.permute(1, 0, 2).reshape(n, -1).cpu() * mask
    table = resampling.sums(torch.cat([cells, mask, correct.cpu(), torch.ones(n, 1, dtype=torch.float64)], 1))
    block = block_size(resampling.n_groups)
    drawn = resample_counts(n_controls, resampling.n_resamples, resampling.seed + 1, block)
    controls, truths = [], []
    for counts, weights in zip(resampling.draws(), drawn, strict=True):
        sums = counts @ table
        cell = sums[:, : n_controls * sites].view(-1, n_controls, sites)
        controls.append((cell * weights[..., None]).sum(1) / (n_controls * sums[:, n_controls * sites, None]))
        truths.append(sums[:, -1 - sites : -1] / sums[:, -1:])
    control_draws = torch.nan_to_num(torch.cat(controls), nan=0.5)
    value = cells.sum(0).view(n_controls, sites).mean(0) / mask.sum()
    n_units = min(resampling.n_groups, n_controls) if n_controls > 1 else resampling.n_groups
    selectivity = correct.double().mean(0).cpu() - value
    return (
        resampling.intervals(value, control_draws, n_units),
        resampling.intervals(selectivity, torch.cat(truths) - control_draws, n_units),
    )


def auroc_intervals(
    values: Float[Tensor, " site"],
    decisions: Float[Tensor, "site example"],
    labels: Bool[Tensor, " example"],
    folds: Int[Tensor, " example"],
    resampling: Resampling,
) -> list[Interval]:
    """AUROC per site with its interval: a group that is drawn twice counts twice in every pair."""
    members = fold_members(folds)
    step = max(1, _COMPARED // max(len(rows) ** 2 for rows in members))
    draws = [
        _auroc_draws(decisions[start : start + step], labels, members, resampling)
        for start in range(0, len(decisions), step)
    ]
    found = resampling.intervals(values.cpu(), torch.cat(draws, 1))
    held = class_counts(labels, resampling.codes, resampling.n_groups) > 0
    n_negative, n_positive = held.sum(0).tolist()
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    low, high = (end.tolist() for end in auroc_interval(ends, n_positive, n_negative, resampling.level))
    for site, interval in enumerate(found):
        if interval.high <= interval.low and interval.value in (0.0, 1.0):
            at = int(interval.value)
            found[site] = replace(interval, low=low[at], high=high[at])
    return found


def _auroc_draws(
    decisions: Float[Tensor, "site example"],
    labels: Bool[Tensor, " example"],
    members: list[Int[Tensor, "_"]],
    resampling: Resampling,
) -> Float[Tensor, "resample site"]:
    """AUROC of every resample: weighted wins of the fold's positives over its negatives, as matrix products."""
    device = decisions.device
    comparisons = []
    for rows in members:
        positive, negative = rows[labels[rows]].to(device), rows[~labels[rows]].to(device)
        gap = decisions[:, positive, None] - decisions[:, None, negative]
        comparisons.append((positive, negative, (torch.sign(gap) + 1).to(torch.float32) / 2))
    draws = []
    for counts in resampling.draws():
        weights = counts[:, resampling.codes].to(device, torch.float32)  # halves and small counts: exact
        wins = torch.zeros(len(weights), len(decisions), dtype=torch.float64, device=device)
        pairs = torch.zeros(len(weights), 1, dtype=torch.float64, device=device)
        for positive, negative, above in comparisons:
            one, other = weights[:, positive], weights[:, negative]
            wins += ((one @ above) * other).sum(2, dtype=torch.float64).T
            pairs += (one.sum(1) * other.sum(1)).double()[:, None]
        draws.append(torch.where(pairs > 0, wins / pairs.clamp_min(1), 0.5).cpu())
    return torch.cat(draws)
