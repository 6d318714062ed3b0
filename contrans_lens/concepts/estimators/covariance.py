"""Shrunk covariance: what LDA and whitening stand on when there are fewer states than dimensions."""

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import ConceptError

Shrinkage = int | float | str
"""A share between 0 and 1, or the rule that estimates it: ``"oas"`` or ``"ledoit_wolf"``."""


def shrinkage_share(
    rule: Shrinkage,
    n: int,
    trace: Float[Tensor, " layer"],
    trace_of_square: Float[Tensor, " layer"],
    width: int,
    fourth: Float[Tensor, " layer"] | None = None,
) -> Float[Tensor, " layer"]:
    """Share ``a`` of the scaled identity in ``(1 - a) S + a tr(S)/d I``, per layer.

    ``"oas"`` is the oracle approximating shrinkage (Chen et al. 2010), which needs ``tr S`` and ``tr S^2``
    only and so is the same streamed and in batch; ``"ledoit_wolf"`` (2004) also needs the states' fourth
    moments.

    Args:
        rule: a number or the name of a rule.
        n: states behind ``S``.
        trace: ``tr S``, with ``S`` divided by ``n``.
        trace_of_square: ``tr S^2``.
        width: ``d``.
        fourth: ``sum_i |x_i|^4`` of the centred states, for Ledoit-Wolf.

    Raises:
        ConceptError: a share outside 0 to 1, an unknown rule, or Ledoit-Wolf without the states.
    """
    if isinstance(rule, (int, float)):
        if not 0 <= rule <= 1:
            raise ConceptError(f"shrinkage must be between 0 and 1, or 'oas' or 'ledoit_wolf'; got {rule}.")
        return torch.full_like(trace, float(rule))
    if rule == "oas":
        alpha, mu_square = trace_of_square / width**2, (trace / width).square()
        denominator = (n + 1) * (alpha - mu_square / width)
        share = (alpha + mu_square) / denominator.clamp_min(torch.finfo(trace.dtype).tiny)
        return torch.where(denominator > 0, share.clamp(max=1.0), torch.ones_like(share))
    if rule == "ledoit_wolf":
        if fourth is None:
            raise ConceptError("Ledoit-Wolf shrinkage needs the states themselves; use 'oas' or a number here.")
        beta = (fourth / n - trace_of_square) / (width * n)
        delta = (trace_of_square - trace.square() / width) / width
        return torch.where(delta > 0, (beta / delta.clamp_min(1e-300)).clamp(0, 1), torch.zeros_like(delta))
    raise ConceptError(f"unknown shrinkage {rule!r}; give a number between 0 and 1, 'oas' or 'ledoit_wolf'.")


def within_class(
    positives: Float[Tensor, "positive layer d_model"], negatives: Float[Tensor, "negative layer d_model"]
) -> Float[Tensor, "layer example d_model"]:
    """All states about the mean of their own class, float64."""
    parts = []
    for states in (positives, negatives):
        rows = states.transpose(0, 1).to(torch.float64)
        parts.append(rows - rows.mean(1, keepdim=True))
    return torch.cat(parts, 1)


def apply_power(
    rows: Float[Tensor, "layer example d_model"],
    vectors: Float[Tensor, "layer d_model"],
    power: float,
    shrinkage: Shrinkage = "oas",
) -> Float[Tensor, "layer d_model"]:
    """``Sigma^power v`` with ``Sigma`` the shrunk covariance of centred rows; no ``[d, d]`` when ``n < d``.

    Raises:
        ConceptError: a layer has no variance, or ``Sigma`` is singular and ``power`` negative (give more
            shrinkage).
    """
    n, width = rows.shape[1:]
    small = width > n
    gram = (rows @ rows.mT if small else rows.mT @ rows) / n
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    share = shrinkage_share(shrinkage, n, trace, gram.square().sum((1, 2)), width, rows.square().sum(2).square().sum(1))
    values, basis = torch.linalg.eigh(gram)
    values = torch.where(values > 1e-12 * values[:, -1:], values, 0.0)
    if small:
        scale = torch.where(values > 0, (values * n).clamp_min(1e-300).rsqrt(), 0.0)
        basis = rows.mT @ (basis * scale[:, None])
    return power_in_basis(values, basis, vectors, power, share, trace / width)


def apply_power_to_covariance(
    covariance: Float[Tensor, "layer d_model d_model"],
    n: int,
    vectors: Float[Tensor, "layer d_model"],
    power: float,
    shrinkage: Shrinkage = "oas",
) -> Float[Tensor, "layer d_model"]:
    """The same from a covariance that was streamed (divided by ``n``, float64).

    Raises:
        ConceptError: as :func:`apply_power`; Ledoit-Wolf is not possible here.
    """
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    width = covariance.shape[-1]
    share = shrinkage_share(shrinkage, n, trace, covariance.square().sum((1, 2)), width)
    values, basis = torch.linalg.eigh(covariance)
    values = torch.where(values > 1e-12 * values[:, -1:], values, 0.0)
    return power_in_basis(values, basis, vectors, power, share, trace / width)


def power_in_basis(
    values: Float[Tensor, "layer side"],
    basis: Float[Tensor, "layer d_model side"],
    vectors: Float[Tensor, "layer d_model"],
    power: float,
    share: Float[Tensor, " layer"],
    mean_variance: Float[Tensor, " layer"],
) -> Float[Tensor, "layer d_model"]:
    """Apply ``((1 - a) S + a m I)^power`` given eigenpairs of ``S``; outside the basis it is ``(a m)^power``.

    Raises:
        ConceptError: no variance, or a zero eigenvalue to a negative power.
    """
    if bool((mean_variance <= 0).any()):
        flat = torch.nonzero(mean_variance <= 0).flatten().tolist()
        raise ConceptError(f"the states of layer index {flat} do not vary within their class; use another method.")
    floor = (share * mean_variance)[:, None]
    inside = (1 - share)[:, None] * values + floor
    deficient = bool((values <= 0).any()) or basis.shape[2] < basis.shape[1]
    if power < 0 and deficient and bool((floor <= 0).any()):
        raise ConceptError(
            "the within-class covariance is singular (constant features, or fewer states than "
            "dimensions); use a shrinkage above 0, such as 'oas'."
        )
    inside_power = torch.where(inside > 0, inside.clamp_min(1e-300) ** power, 0.0)
    outside_power = torch.where(floor > 0, floor.clamp_min(1e-300) ** power, 0.0)
    # Columns of the basis with eigenvalue 0 may be zero vectors (n < d): the complement treats them the same.
    coordinates = (basis.mT @ vectors[..., None])[..., 0]
    change = (basis @ (coordinates * (inside_power - outside_power))[..., None])[..., 0]
    return vectors * outside_power + change
