"""The elastic net on few atoms with known signs: exact steps that never raise the objective."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_DAMPING = 1e-5


def descend(
    quadratic: Float[Tensor, "row k k"],
    linear: Float[Tensor, "row k"],
    level: Float[Tensor, " row"],
    sign: Float[Tensor, "row k"],
    values: Float[Tensor, "row k"],
) -> Float[Tensor, "row k"]:
    """Minimise ``1/2 c^T Q c - b^T c + level ||c||_1`` among ``c`` with the given signs; 0 where one would turn.

    With the signs given the objective is a parabola, and Cholesky finds its lowest point. Where this keeps all
    signs, it is the solution. Where it does not, coefficients of the wrong sign are set to 0 and leave, if that
    lowers the objective; if not, the step ends where the first coefficient meets 0, and that one leaves. An
    atom that left stays out, so this takes at most ``k`` steps.

    Args:
        quadratic: ``Q``, positive definite, float64; unit rows for missing atoms.
        linear: ``b``; 0 for missing atoms.
        level: the penalty of each row.
        sign: of each coefficient, 0 for missing atoms.
        values: coefficients to start from, of these signs or 0.
    """
    values, sign = values.clone(), sign.clone()
    open_rows = torch.arange(len(values), device=values.device)
    while len(open_rows):
        q, b, s, start = quadratic[open_rows], linear[open_rows], sign[open_rows], values[open_rows]
        penalty = level[open_rows, None]
        lowest = _lowest(q, b - penalty * s, s != 0)
        wrong = (s != 0) & (lowest * s <= 0)
        clipped = torch.where(wrong, 0, lowest)
        lower = _objective(q, b, penalty, clipped) < _objective(q, b, penalty, start)
        stopped, met = _first_zero(start, lowest, wrong)
        values[open_rows] = torch.where(lower[:, None] | ~wrong.any(1, keepdim=True), clipped, stopped)
        sign[open_rows] = torch.where(torch.where(lower[:, None], wrong, met), 0, s)
        open_rows = open_rows[wrong.any(1)]
    return values


def _lowest(
    quadratic: Float[Tensor, "row k k"], linear: Float[Tensor, "row k"], used: Bool[Tensor, "row k"]
) -> Float[Tensor, "row k"]:
    """``Q_UU^-1 b_U`` on the atoms in use, 0 elsewhere."""
    matrix = torch.where(used[:, :, None] & used[:, None, :], quadratic, 0)
    matrix.diagonal(dim1=1, dim2=2).add_((~used).double())
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed.any()):
        # Dependent atoms whose inner products rounded to an indefinite matrix: such a row steps more carefully.
        matrix.diagonal(dim1=1, dim2=2).add_((failed > 0).double()[:, None] * _DAMPING)
        factor = torch.linalg.cholesky_ex(matrix).L
    return torch.cholesky_solve(torch.where(used, linear, 0)[:, :, None], factor)[:, :, 0]


def _objective(
    quadratic: Float[Tensor, "row k k"],
    linear: Float[Tensor, "row k"],
    penalty: Float[Tensor, "row 1"],
    values: Float[Tensor, "row k"],
) -> Float[Tensor, " row"]:
    bent = (quadratic @ values[:, :, None])[:, :, 0]
    return (values * (bent / 2 - linear) + penalty * values.abs()).sum(1)


def _first_zero(
    start: Float[Tensor, "row k"], end: Float[Tensor, "row k"], wrong: Bool[Tensor, "row k"]
) -> tuple[Float[Tensor, "row k"], Bool[Tensor, "row k"]]:
    """The point between two where the first of the ``wrong`` coefficients meets 0, and which ones do."""
    step = torch.where(wrong, start / torch.where(wrong, start - end, 1), torch.inf)
    first = step.amin(1, keepdim=True).clamp(max=1)
    met = wrong & (step <= first)
    return torch.where(met, 0, start + first * (end - start)), met
