"""Random orders of the texts and random subsets of them; what and why is told in ``inference``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from contrans_lens.errors import LayerError

_WAYS = 2000
"""Fewer ways than this to trade groups are worth a warning."""


@dataclass(frozen=True, eq=False)
class Resampling:
    """One set of shuffles and subsets, the same for all metrics and pairs."""

    orders: Int[Tensor, "draw n"]
    """Shuffle ``b`` pairs source text ``i`` with target text ``orders[b, i]``."""
    members: Bool[Tensor, "subset n"]
    """Which texts each subset holds."""
    kept: int
    """Units in each subset."""
    n_units: int
    """Independent units: groups, or texts."""
    level: int | float
    seed: int
    warnings: tuple[str, ...]

    @property
    def n(self) -> int:
        """How many texts."""
        return self.orders.shape[1]

    def smallest(self) -> int:
        """Texts in the smallest subset; all of them where there are no subsets."""
        return int(self.members.sum(1).min()) if len(self.members) else self.n


def plan_resampling(
    n: int,
    groups: Sequence[str] | None,
    *,
    n_permutations: int,
    n_subsamples: int,
    keep: int | float,
    level: int | float,
    seed: int,
) -> Resampling:
    """Draw the shuffles and subsets.

    Args:
        n: texts.
        groups: group name per text, or None.
        n_permutations: shuffles, or 0.
        n_subsamples: subsets, 20 or more, or 0.
        keep: share of the units in each subset.
        level: coverage of the intervals.
        seed: of both.

    Raises:
        LayerError: a number is out of range, or the groups do not fit.
    """
    if not 0 < level < 1:
        raise LayerError(f"a level lies between 0 and 1; got {level}.")
    if n_permutations < 0 or (n_permutations and (n_permutations + 1) * (1 - level) < 1 - 1e-9):
        raise LayerError(
            f"{n_permutations} shuffles cannot give a p-value of {1 - level:.3g}; give at least "
            f"{math.ceil(1 / (1 - level) - 1e-9) - 1}, better 200, or 0 for no null."
        )
    if n_subsamples < 0 or 0 < n_subsamples < 20:
        raise LayerError(f"{n_subsamples} subsamples are too few for an interval; give 20 or more, or 0 for none.")
    units = text_units(n, groups)
    orders, notes = shuffles(units, n_permutations, seed)
    members, kept = subsamples(units, n_subsamples, keep, seed + 1)
    return Resampling(orders, members, kept, int(units.max()) + 1, level, seed, tuple(notes))


def text_units(n: int, groups: Sequence[str] | None) -> Int[Tensor, " n"]:
    """Number of the group of every text; the empty name, or None for all, makes a text its own group.

    Args:
        n: texts.
        groups: their group names.

    Raises:
        LayerError: the names do not fit the texts, or there are fewer than three groups.
    """
    if groups is None:
        return torch.arange(n)
    if len(groups) != n:
        raise LayerError(f"{n} texts need {n} group names; got {len(groups)}.")
    seen: dict[str | int, int] = {}
    units = torch.tensor([seen.setdefault(name or text, len(seen)) for text, name in enumerate(groups)])
    if len(seen) < 3:
        raise LayerError(f"all texts are in {len(seen)} groups; resampling needs at least 3. Give finer groups.")
    return units


def shuffles(units: Int[Tensor, " n"], draws: int, seed: int) -> tuple[Int[Tensor, "draw n"], list[str]]:
    """Random orders of the texts, and what limits them.

    Texts of one group are alike, so they are not exchangeable one by one: whole groups trade places with groups of
    the same size, and the order within a group stays.
    """
    n = len(units)
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.bincount(units)
    if int(sizes.max()) == 1:
        rows = [torch.randperm(n, generator=generator) for _ in range(draws)]
        return torch.stack(rows) if rows else torch.empty(0, n, dtype=torch.int64), []
    by_group = torch.argsort(units, stable=True)
    starts = sizes.cumsum(0) - sizes
    blocks = []
    for size in sizes.unique().tolist():
        which = (sizes == size).nonzero().flatten()
        blocks.append(by_group[starts[which][:, None] + torch.arange(size)])
    orders = torch.arange(n).repeat(draws, 1)
    for order in orders:
        for block in blocks:
            order[block] = block[torch.randperm(len(block), generator=generator)]
    ways = sum(math.lgamma(len(block) + 1) for block in blocks)
    if ways >= math.log(_WAYS):
        return orders, []
    return orders, [
        f"only {math.exp(ways):.0f} ways to trade groups of the same size: p-values cannot be trusted below "
        f"{max(1 / math.exp(ways), 1 / (draws + 1)):.2g}; give more groups, of equal sizes."
    ]


def subsamples(
    units: Int[Tensor, " n"], draws: int, keep: int | float, seed: int
) -> tuple[Bool[Tensor, "draw n"], int]:
    """Random subsets of the groups without replacement, as masks of texts; and how many groups each keeps."""
    n_units = int(units.max()) + 1
    kept = min(max(round(keep * n_units), 2), n_units - 1)
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(draws, n_units, dtype=torch.bool)
    for mask in masks:
        mask[torch.randperm(n_units, generator=generator)[:kept]] = True
    return masks[:, units], kept
