"""Exact coefficients on known atoms: what rounding in the Gram matrix took is given back."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.pace.solvers.prepared import PreparedAtoms

_STEPS = 4
_ROWS = 4
_SETTLED = 1e-6
"""Size of a correction after which no other is worth its time."""


def refine(
    atoms: PreparedAtoms,
    targets: Float[Tensor, "row d_model"],
    index: Int[Tensor, "row k"],
    values: Float[Tensor, "row k"],
    factor: Float[Tensor, "row k k"],
    ridge: float | int,
    shift: Float[Tensor, "row k"],
) -> Float[Tensor, "row k"]:
    """Solve ``D_S^T (z - D_S c) = ridge c + shift`` in float64 by iterative refinement.

    The factor comes from inner products in float32. Its error moves each correction a little and not the
    point where they stop: the solution for the atoms themselves. One is nearly always enough.

    Args:
        atoms: the atoms.
        targets: ``z``, float64.
        index: the atoms in use, -1 where a row has fewer.
        values: the coefficients found so far, float64; 0 where a row has fewer.
        factor: lower Cholesky factor of ``D_S^T D_S + ridge``, float64, with unit rows for missing atoms.
        ridge: weight of ``||c||^2 / 2``.
        shift: what the correlation must keep, such as ``l1 sign(c)``; 0 for least squares.
    """
    used = index >= 0
    refined = values.clone()
    # A few rows at a time: their atoms in float64 stay in the cache between the products.
    for start in range(0, len(index), _ROWS):
        rows = slice(start, start + _ROWS)
        held = atoms.atoms[index[rows].clamp(min=0)].double()
        for _ in range(_STEPS):
            residual = targets[rows] - (refined[rows, None] @ held)[:, 0]
            gradient = (held @ residual[:, :, None])[:, :, 0] - ridge * refined[rows] - shift[rows]
            gradient = torch.where(used[rows], gradient, 0)
            correction = torch.cholesky_solve(gradient[:, :, None], factor[rows])[:, :, 0]
            refined[rows] += correction
            # The next one would be smaller by the factor's error, 1e-7 times its condition number.
            if float(correction.abs().max()) <= _SETTLED:
                break
    return refined
