"""Out-of-fold decision values with the strength chosen inside each training part.

For test fold ``o`` the inner folds are the other folds: the probe fitted without ``o`` and ``i`` is judged on
``i``, for every ``i``, and the strength with the least loss over them is used to fit on all but ``o``. The
folds are grouped, so the inner ones are, and no choice has seen its test fold. A fit without ``o`` and ``i``
serves both as the inner fold of the other, so ``k`` folds take ``k (k - 1) / 2 + k`` fits per strength, not
``k^2``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.layers.probes.folds import fold_members, fold_pairs


@runtime_checkable
class Solver(Protocol):
    """Probes of many sites, strengths and label columns, fitted on all but some examples."""

    @property
    def strengths(self) -> Float[Tensor, " strength"]:
        """Penalties that are tried, ascending; one for methods that have none."""
        ...

    @property
    def n_sites(self) -> int:
        """Sites that are probed together."""
        ...

    def left_out(
        self, parts: Sequence[Int[Tensor, "_"]], labels: Bool[Tensor, "example column"]
    ) -> list[Float[Tensor, "site strength _ column"]]:
        """Decision values of the removed examples of each part by probes fitted on all other examples."""
        ...

    def left_out_at(
        self,
        parts: Sequence[Int[Tensor, "_"]],
        labels: Bool[Tensor, "example column"],
        chosen: Int[Tensor, "site part column"],
    ) -> list[Float[Tensor, "site _ column"]]:
        """The same at one strength for each site, part and column, by its index."""
        ...

    def loss(
        self, decisions: Float[Tensor, "*batch example column"], labels: Bool[Tensor, "example column"]
    ) -> Float[Tensor, "*batch column"]:
        """Loss summed over examples, by which strengths are compared."""
        ...


@dataclass(frozen=True)
class NestedScores:
    """Out-of-fold decisions of every site and label column."""

    decisions: Float[Tensor, "site example decided"]
    """Of the columns and then of the followers; above 0 is positive."""
    chosen: Int[Tensor, "site fold column"]
    """Index of the strength chosen for each test fold."""
    inner: Float[Tensor, "site fold example"] | None
    """For the first column and each test fold: decisions of the inner folds at the chosen strength, what a
    calibration inside the training part is fitted on; NaN on the test fold. None without inner folds."""


def nested_scores(
    solver: Solver,
    labels: Bool[Tensor, "example column"],
    folds: Int[Tensor, " example"],
    inner_folds: bool = True,
    followers: Bool[Tensor, "example follower"] | None = None,
) -> NestedScores:
    """Choose strengths on inner folds and decide the outer ones, for every site and column at once.

    Args:
        solver: fits the probes.
        labels: label columns, ``[example, column]``.
        folds: fold of every example, three folds or more.
        inner_folds: False skips the inner folds; there must then be nothing to choose.
        followers: further label columns, decided at the strengths of the first column. They come after the others in
            ``decisions``.
    """
    members = fold_members(folds)
    shape = (len(members), solver.n_sites, len(solver.strengths), labels.shape[1])
    if not inner_folds:
        chosen = torch.zeros(shape[1], shape[0], shape[3], dtype=torch.int64, device=solver.strengths.device)
        return NestedScores(_outer(solver, labels, folds, chosen, followers), chosen, None)
    loss = torch.zeros(shape, dtype=torch.float64, device=solver.strengths.device)
    inner = loss.new_full((*shape[:3], len(labels)), torch.nan)
    pairs = list(fold_pairs(len(members)))
    both = [torch.cat([members[one], members[other]]) for one, other in pairs]
    for (one, other), decided in zip(pairs, solver.left_out(both, labels), strict=True):
        split = len(members[one])
        for tested, judged, part in ((one, other, decided[:, :, split:]), (other, one, decided[:, :, :split])):
            loss[tested] += solver.loss(part, labels[members[judged]])
            inner[tested][:, :, members[judged]] = part[..., 0]
    # Ties go to the stronger penalty: the last minimum.
    chosen = shape[2] - 1 - loss.flip(2).argmin(2)
    pick = chosen[:, :, :1, None].expand(-1, -1, 1, len(labels))
    inner = inner.gather(2, pick)[:, :, 0].transpose(0, 1)
    chosen = chosen.transpose(0, 1)
    return NestedScores(_outer(solver, labels, folds, chosen, followers), chosen, inner)


def _outer(
    solver: Solver,
    labels: Bool[Tensor, "example column"],
    folds: Int[Tensor, " example"],
    chosen: Int[Tensor, "site fold column"],
    followers: Bool[Tensor, "example follower"] | None,
) -> Float[Tensor, "site example all_column"]:
    """Decisions of the test folds, of the columns and of what follows the first."""
    if followers is not None:
        labels = torch.cat([labels, followers], 1)
        chosen = torch.cat([chosen, chosen[..., :1].expand(-1, -1, followers.shape[1])], 2)
    return scores_at(solver, labels, folds, chosen)


def scores_at(
    solver: Solver,
    labels: Bool[Tensor, "example column"],
    folds: Int[Tensor, " example"],
    chosen: Int[Tensor, "site fold column"],
) -> Float[Tensor, "site example column"]:
    """Out-of-fold decisions at strengths that are already chosen."""
    members = fold_members(folds)
    decisions = torch.empty(len(chosen), *labels.shape, dtype=torch.float64, device=chosen.device)
    for rows, decided in zip(members, solver.left_out_at(members, labels, chosen), strict=True):
        decisions[:, rows] = decided
    return decisions


def at_strength(
    decided: Float[Tensor, "site strength removed column"], chosen: Int[Tensor, "site column"]
) -> Float[Tensor, "site removed column"]:
    """From the whole path, the chosen strength of every site and column."""
    pick = chosen[:, None, None].expand(-1, 1, decided.shape[2], -1)
    return decided.gather(1, pick)[:, 0]


def squared_loss(
    decisions: Float[Tensor, "*batch example column"], labels: Bool[Tensor, "example column"]
) -> Float[Tensor, "*batch column"]:
    """``sum (f - y)^2`` with ``y`` in -1, +1."""
    return (decisions - signs(labels).to(decisions.device)).square().sum(-2)


def log_loss(
    decisions: Float[Tensor, "*batch example column"], labels: Bool[Tensor, "example column"]
) -> Float[Tensor, "*batch column"]:
    """``sum log(1 + exp(-y f))`` with ``y`` in -1, +1."""
    return torch.nn.functional.softplus(-signs(labels).to(decisions.device) * decisions).sum(-2)


def signs(labels: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Labels as -1 and +1, float64."""
    return labels.to(torch.float64) * 2 - 1
