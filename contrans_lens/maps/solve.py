"""The linear part of each kind of map, from the factorised source and ``B = U^T Y``. All in float64.

Notation: ``X = U diag(s) V^T`` and ``Y`` are centred; ``A`` is ``[d_target, d_source]`` with ``Y ~ X A^T``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import MapError
from contrans_lens.maps.factor import inverse_filter


def ridge_weight(
    right: Float[Tensor, "d_source rank"],
    singular: Float[Tensor, " rank"],
    b: Float[Tensor, "rank d_target"],
    ridge: float,
) -> Float[Tensor, "d_target d_source"]:
    """Ridge regression ``A^T = V diag(s / (s^2 + ridge)) B``; ``ridge = 0`` is minimum-norm least squares."""
    scale = inverse_filter(singular, ridge).to(b.dtype)
    return (b.mT * scale) @ right.to(b.dtype).mT


def reduced_rank_weight(
    right: Float[Tensor, "d_source rank"],
    singular: Float[Tensor, " rank"],
    b: Float[Tensor, "rank d_target"],
    ridge: float,
    rank: int | None,
) -> tuple[Float[Tensor, "d_target d_source"], int]:
    """Reduced-rank (ridge) regression: the ridge map projected on the leading directions of its own fit.

    ``A_k = P_k A`` where ``P_k`` projects on the first ``k`` eigenvectors of ``B^T diag(s^2 / (s^2 + ridge))
    B``; this is the best map of rank ``k`` under the same penalty (Izenman 1975; Mukherjee and Zhu 2011).

    Args:
        right: ``V``.
        singular: ``s``.
        b: ``U^T Y``.
        ridge: penalty of the ridge map.
        rank: ``k``; None takes the smallest that keeps 99 % of the fit's sum of squares.

    Returns:
        The map and its rank.

    Raises:
        MapError: the rank is not between 1 and what the data allow.
    """
    fitted = b * (inverse_filter(singular, ridge) * singular).sqrt()[:, None]
    _, values, directions = torch.linalg.svd(fitted, full_matrices=False)
    energy = values.square()
    possible = max(1, int((values > 1e-9 * values[0]).sum()))
    if rank is None:
        share = energy.cumsum(0) / energy.sum().clamp_min(1e-300)
        rank = min(possible, int((share < 0.99).sum()) + 1)
    if not 1 <= rank <= min(b.shape[1], right.shape[0]):
        raise MapError(
            f"rank {rank} was asked for; between 1 and {min(b.shape[1], right.shape[0])} is possible at these widths."
        )
    top = directions[:rank]
    full = ridge_weight(right, singular, b, ridge)
    return top.mT @ (top @ full), rank


def procrustes_weight(
    right: Float[Tensor, "d_source rank"],
    singular: Float[Tensor, " rank"],
    b: Float[Tensor, "rank d_target"],
    scale: bool = True,
) -> Float[Tensor, "d_target d_source"]:
    """Orthogonal Procrustes with scale, for equal or unequal widths.

    ``A = c Q`` with ``Q = P W^T`` from the singular vectors of ``Y^T X = P S W^T``. For unequal widths this
    is the square problem after the narrower space is padded with zeros, cut back: ``Q`` has orthonormal
    columns when the target is wider (lengths and angles are kept) and orthonormal rows when it is narrower
    (some source directions are dropped). ``c = tr(S) / |X Q^T|^2`` is the least-squares scale given ``Q``, or
    1 without ``scale``.
    """
    cross = (b.mT * singular) @ right.mT
    p, values, w = torch.linalg.svd(cross, full_matrices=False)
    q = (p * (values > 1e-10 * values[0])) @ w
    if not scale:
        return q
    moved = (q @ right) * singular
    return q * (values.sum() / moved.square().sum().clamp_min(1e-300))


def identity_weight(d_target: int, d_source: int) -> Float[Tensor, "d_target d_source"]:
    """The control that copies coordinates and pads with zeros: ones on the diagonal.

    Raises:
        MapError: the target is narrower than the source.
    """
    if d_target < d_source:
        raise MapError(
            f"the identity pads with zeros, so the target must be at least as wide as the source; widths are "
            f"{d_source} -> {d_target}. Leave this control out, or use 'procrustes'."
        )
    return torch.eye(d_target, d_source, dtype=torch.float64)
