"""The elastic net by an active set: which atoms are in use, grown along a falling penalty, exact at the end."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.pace.solvers.orthant import descend
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.refinement import refine

_FALL = 0.6
"""The penalty falls by this factor a round, down to ``l1``."""
_FALLEN = 1e-3
"""Share of its start at which the penalty goes to a smaller ``l1`` at once."""
_ADDED = 16
"""Atoms that may enter in one round, at least; half as many as are in use where that is more."""
_ROUNDING = {torch.float32: 2e-7, torch.float64: 1e-13}
"""Excess of a correlation over the penalty that rounding in the products can make up."""
_RIDGE = {torch.float32: 1e-7, torch.float64: 1e-13}
"""Least ridge, which keeps dependent atoms solvable; corrections on the final support take it back."""
_ROUNDS = 500
_BLOCK = 2**24
"""Entries of the matrices that are factored together."""


@dataclass(frozen=True, eq=False)
class ActiveSet:
    """Atoms in use in some rows of a batch, with their signs, coefficients and inner products."""

    index: Int[Tensor, "row k"]
    """-1 where a row uses fewer."""
    sign: Float[Tensor, "row k"]
    values: Float[Tensor, "row k"]
    gram: Float[Tensor, "row k k"]
    """``G[A, A]`` of each row in the atoms' dtype, kept from round to round; any value where an atom is missing."""

    @classmethod
    def empty(cls, rows: int, device: torch.device, dtype: torch.dtype) -> "ActiveSet":
        """No atoms in any row."""
        none = torch.zeros(rows, 0, dtype=torch.float64, device=device)
        return cls(none.long(), none, none, torch.zeros(rows, 0, 0, dtype=dtype, device=device))

    def take(self, rows: Tensor | slice) -> "ActiveSet":
        """Some of the rows."""
        return ActiveSet(self.index[rows], self.sign[rows], self.values[rows], self.gram[rows])

    def packed(self) -> "ActiveSet":
        """The same atoms, no columns wasted."""
        used = self.index >= 0
        width = int(used.sum(1).max()) if used.numel() else 0
        order = (~used).to(torch.int8).argsort(dim=1, stable=True)[:, :width]
        gram = self.gram.gather(1, order[:, :, None].expand(-1, -1, self.gram.shape[2]))
        gram = gram.gather(2, order[:, None, :].expand(-1, width, -1))
        index, sign, values = (each.gather(1, order) for each in (self.index, self.sign, self.values))
        return ActiveSet(index, sign, values, gram)

    def joined(self, atoms: PreparedAtoms, index: Int[Tensor, "row j"], sign: Float[Tensor, "row j"]) -> "ActiveSet":
        """With more atoms, which enter at 0."""
        every = torch.cat([self.index, index], 1)
        block = atoms.inner(every, index)
        old = self.index.shape[1]
        gram = torch.cat([torch.cat([self.gram, block[:, :old]], 2), block.mT], 1)
        values = torch.cat([self.values, torch.zeros_like(sign)], 1)
        return ActiveSet(every, torch.cat([self.sign, sign], 1), values, gram).packed()

    def without(self, gone: Bool[Tensor, "row k"]) -> "ActiveSet":
        """Some atoms dropped."""
        index = torch.where(gone, -1, self.index)
        return ActiveSet(index, self.sign.masked_fill(gone, 0), self.values.masked_fill(gone, 0), self.gram).packed()


def solve_active_set(
    atoms: PreparedAtoms,
    targets: Float[Tensor, "row d_model"],
    correlations: Float[Tensor, "row atom"],
    l1: float | int,
    l2: float | int,
) -> tuple[Int[Tensor, "row k"], Float[Tensor, "row k"]]:
    """Atoms and coefficients of ``argmin_c 1/2||z - D c||^2 + l1 ||c||_1 + l2/2 ||c||^2``.

    A round compares ``D^T r`` of the whole dictionary with the penalty, lets the worst offenders in and solves
    exactly on the atoms in use (:func:`~contrans_lens.pace.solvers.orthant.descend`). The penalty starts below
    ``max |D^T z|`` and falls to ``l1`` round by round: atoms that only answer to the direction that all concept
    atoms share are explained away by the first few, and never enter. At ``l1`` every round lowers the
    objective, so it ends; a row whose rounding keeps it from ending is left to the certificate.

    Args:
        atoms: the atoms.
        targets: ``z`` at unit length, float64.
        correlations: ``D^T z``, in the atoms' dtype.
        l1: weight of ``||c||_1``.
        l2: weight of ``||c||^2 / 2``.
    """
    found: list[tuple[Tensor, ActiveSet]] = []
    rows = torch.arange(len(targets), device=atoms.device)
    active, level = ActiveSet.empty(len(rows), atoms.device, correlations.dtype), correlations.abs().amax(1).double()
    lowest = (level * _FALLEN).clamp(min=l1)
    stalled = torch.zeros_like(rows, dtype=torch.bool)
    for _ in range(_ROUNDS):
        final = level <= l1
        level = torch.where(level * _FALL > lowest[rows], level * _FALL, l1)
        index, sign = _offers(atoms, correlations[rows], active, level)
        done = final & (stalled | ~(sign != 0).any(1))
        if bool(done.any()):
            found.append((rows[done], active.take(done)))
            rows, level, final, active = rows[~done], level[~done], final[~done], active.take(~done)
            index, sign = index[~done], sign[~done]
        if not len(rows):
            break
        active, gained = _settle(correlations[rows], active.joined(atoms, index, sign), level, l2)
        # Atoms that are let in for a rounding error are sent away again, and nothing has changed.
        stalled = final & ~gained
    else:
        found.append((rows, active))
    return _polished(atoms, targets, found, l1, l2)


def _offers(
    atoms: PreparedAtoms, correlations: Float[Tensor, "row atom"], active: ActiveSet, level: Float[Tensor, " row"]
) -> tuple[Int[Tensor, "row j"], Float[Tensor, "row j"]]:
    """The atoms outside the active set whose correlation with the residual most exceeds the penalty; its sign."""
    used = active.index.shape[1]
    left = correlations
    if used:
        left = correlations - atoms.explained(active.index, active.values)
        rows, columns = (active.index >= 0).nonzero(as_tuple=True)
        left[rows, active.index[rows, columns]] = 0
    size = left.abs()
    size[:, atoms.copies] = 0
    largest, index = size.topk(min(max(_ADDED, used // 2), atoms.n_atoms), dim=1)
    over = largest > (level + _ROUNDING[correlations.dtype])[:, None]
    sign = torch.where(over, left.gather(1, index).sign(), 0).double()
    width = int(over.sum(1).max()) if over.numel() else 0
    return torch.where(over, index, -1)[:, :width], sign[:, :width]


def _settle(
    correlations: Float[Tensor, "row atom"], active: ActiveSet, level: Float[Tensor, " row"], l2: float | int
) -> tuple[ActiveSet, Bool[Tensor, " row"]]:
    """The exact solution on the atoms in use, those that end at 0 dropped; whether a new one stayed."""
    used = active.index >= 0
    linear = torch.where(used, correlations.gather(1, active.index.clamp(min=0)), 0).double()
    values = torch.empty_like(active.values)
    step = max(1, _BLOCK // max(used.shape[1], 1) ** 2)
    for start in range(0, len(used), step):
        rows = slice(start, start + step)
        quadratic = _quadratic(active.index[rows], active.gram[rows], l2)
        values[rows] = descend(quadratic, linear[rows], level[rows], active.sign[rows], active.values[rows])
    gained = (used & (active.values == 0) & (values != 0)).any(1)
    return ActiveSet(active.index, active.sign, values, active.gram).without(values == 0), gained


def _quadratic(
    index: Int[Tensor, "row k"], gram: Float[Tensor, "row k k"], l2: float | int
) -> Float[Tensor, "row k k"]:
    """``D_A^T D_A + l2`` in float64, with unit rows for missing atoms."""
    used = index >= 0
    matrix = torch.where(used[:, :, None] & used[:, None, :], gram, 0).double()
    matrix.diagonal(dim1=1, dim2=2).add_(torch.where(used, max(l2, _RIDGE[gram.dtype]), 1))
    return matrix


def _polished(
    atoms: PreparedAtoms, targets: Tensor, found: list[tuple[Tensor, ActiveSet]], l1: float | int, l2: float | int
) -> tuple[Int[Tensor, "row k"], Float[Tensor, "row k"]]:
    """All rows in order, their coefficients solved in float64 on the final support and signs."""
    width = max((active.index.shape[1] for _, active in found), default=0)
    index = torch.full((len(targets), width), -1, device=atoms.device)
    values = torch.zeros(len(targets), width, dtype=torch.float64, device=atoms.device)
    for rows, active in found:
        columns = active.index.shape[1]
        step = max(1, _BLOCK // max(columns, 1) ** 2)
        for start in range(0, len(rows) if columns else 0, step):
            part = active.take(slice(start, start + step))
            into = rows[start : start + step]
            factor = torch.linalg.cholesky_ex(_quadratic(part.index, part.gram, l2)).L
            shift = l1 * part.values.sign()
            index[into, :columns] = part.index
            values[into, :columns] = refine(atoms, targets[into], part.index, part.values, factor, l2, shift)
    return index, values
