"""Exact leave-one-out error of ridge regression for a whole path of strengths, from one factorisation.

Allen's PRESS: the residual of text ``i`` under the map fitted without it is ``e_i / (1 - h_i)``, where ``e``
is the ordinary residual and ``h_i`` the leverage. With an intercept the centring is part of the fit, and
exact: ``h_i = 1/n + sum_j u_ij^2 s_j^2 / (s_j^2 + ridge)``, because the column of ones is orthogonal to the
centred states and unpenalised.

The products with the target are taken once and serve every strength. With ``B = U^T Y``, ``C = Y - U B`` and
``g_j = ridge / (s_j^2 + ridge)`` the residual is ``e_i = c_i + sum_j u_ij g_j B_j``, a sum of like signs
without cancellation, so ``|e_i|^2`` needs only ``|c_i|^2``, ``C B^T`` and ``B B^T``.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class RidgePath:
    """Leave-one-out errors of one source layer against several targets, for each ridge strength."""

    ridges: Float[Tensor, " strength"]
    """Strengths tried, ascending: the penalty on the summed squares (scikit-learn's ``alpha``)."""
    press: Float[Tensor, "target strength"]
    """Sum over texts and dimensions of the squared leave-one-out residual."""
    baseline: Float[Tensor, " target"]
    """The same sum when each text is predicted by the mean of the others."""

    @property
    def best(self) -> Int[Tensor, " target"]:
        """Index of the strength with the smallest leave-one-out error, per target."""
        return self.press.argmin(1)

    @property
    def r2(self) -> Float[Tensor, "target strength"]:
        """Leave-one-out R2: 1 is perfect, 0 is the mean of the other texts."""
        return 1 - self.press / self.baseline[:, None].clamp_min(1e-300)

    def chosen(self, target: int = 0) -> float:
        """The best strength for one target."""
        return float(self.ridges[self.best[target]])


def leave_one_out_path(
    left: Float[Tensor, "n rank"],
    singular: Float[Tensor, " rank"],
    y: Float[Tensor, "target n d_target"],
    ridges: Float[Tensor, " strength"],
) -> RidgePath:
    """Exact leave-one-out error of every ridge strength for every target layer.

    The three matrix products with the target run in the dtype of ``y``; leverages and sums run in float64.
    The cost does not grow with the number of strengths except for one ``[rank, n] @ [n, rank]`` product each.

    Args:
        left: ``U`` of the centred source states, float64, zero columns beyond the numerical rank.
        singular: ``s``, float64.
        y: target states, centred over the texts.
        ridges: penalties, ascending; 0 is ordinary least squares.
    """
    n = y.shape[1]
    ridges = ridges.to(torch.float64)
    u = left.to(y.dtype)
    b = u.mT @ y
    gram = b @ b.mT
    gains = residual_gain(singular[:, None], ridges, n)
    weights = one_minus_leverage(left, gains, interpolates(singular, n)) ** -2
    strengths = zip(gains.to(y.dtype).unbind(1), weights.to(y.dtype).unbind(1), strict=True)
    press = torch.stack([_quadratic(u, gram, gain, weight) for gain, weight in strengths], 1)
    if not interpolates(singular, n):  # else the remainder C is zero, and what is left of it is rounding
        c = y - u @ b
        cross = ((c @ b.mT).mul_(u) @ gains.to(y.dtype)).to(torch.float64)
        c_square = torch.linalg.vector_norm(c, dim=2).to(torch.float64).square()
        press = press + ((c_square[..., None] + 2 * cross) * weights).sum(1)
    total = torch.linalg.vector_norm(y, dim=2).to(torch.float64).square().sum(1)
    return RidgePath(ridges, press, total * (n / (n - 1)) ** 2)


def _quadratic(
    u: Float[Tensor, "n rank"],
    gram: Float[Tensor, "target rank rank"],
    gain: Float[Tensor, " rank"],
    weights: Float[Tensor, " n"],
) -> Float[Tensor, " target"]:
    """``sum_i w_i |(u_i g) B|^2`` for one strength: the weighted Gram of the source against ``B B^T`` of the target."""
    shrunk = u * gain
    return (gram * (shrunk.T @ (shrunk * weights[:, None]))).sum((1, 2), dtype=torch.float64)


def interpolates(singular: Float[Tensor, "*rank"], n: int) -> bool:
    """Whether least squares fits every text exactly: as many directions as centred texts."""
    return int((singular > 0).sum()) >= n - 1


def residual_gain(
    singular: Float[Tensor, "rank 1"], ridges: Float[Tensor, " strength"], n: int
) -> Float[Tensor, "rank strength"]:
    """``g_j = ridge / (s_j^2 + ridge)``, the share of each direction that is left unexplained.

    Where every text is fitted exactly, residual and ``1 - h`` both vanish with the ridge and only their ratio
    counts, so ``g / ridge`` is given instead: the limit at ridge 0 is then that of the minimum-norm fit.
    """
    scale = torch.ones_like(ridges) if interpolates(singular, n) else ridges
    return torch.where(singular > 0, scale / (singular.square() + ridges).clamp_min(1e-300), 0.0)


def one_minus_leverage(
    left: Float[Tensor, "n rank"], gains: Float[Tensor, "rank strength"], exact: bool
) -> Float[Tensor, "n strength"]:
    """``1 - h_i`` with the intercept (over the ridge where every text is fitted exactly, as the gain).

    Written as ``(1 - 1/n - sum u^2) + sum u^2 g`` so that nothing cancels when the ridge is small.
    """
    square = left.square()
    moved = square @ gains
    if exact:
        return moved.clamp_min(1e-300)
    free = (1 - 1 / left.shape[0] - square.sum(1)).clamp_min(0)
    return (free[:, None] + moved).clamp_min(1e-10)
