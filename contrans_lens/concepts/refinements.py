"""Refinements of concept vectors: take out what is not the concept, shrink noise, set the length."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.concepts.estimate import check_states
from contrans_lens.concepts.estimators.covariance import within_class
from contrans_lens.concepts.vectors import ConceptVectors
from contrans_lens.errors import ConceptError
from contrans_lens.models import Fingerprint


@runtime_checkable
class GenericMoments(Protocol):
    """What is needed of streamed moments of generic text: hook points, covariance and model."""

    @property
    def hook_points(self) -> tuple[str, ...]:
        """Names, in the order of the covariances."""
        ...

    @property
    def covariance(self) -> Float[Tensor, "layer d_model d_model"] | None:
        """Covariance of the states at each hook point."""
        ...

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The model."""
        ...


def remove_component(concept: ConceptVectors, others: ConceptVectors | Sequence[ConceptVectors]) -> ConceptVectors:
    """Remove, at every layer, the component along other concepts: ``v - Q Q^T v`` with ``Q`` spanning them.

    Raises:
        ConceptError: no others, or other hook points; nothing left of the vector.
        FingerprintMismatchError: another model.
    """
    listed = [others] if isinstance(others, ConceptVectors) else list(others)
    if not listed:
        raise ConceptError("give at least one concept whose component is to be removed.")
    for other in listed:
        concept.require_same_stream(other)
    span = torch.stack([other.vectors.to(torch.float64) for other in listed], 2)
    basis, singular, _ = torch.linalg.svd(span, full_matrices=False)
    basis = basis * (singular > 1e-6 * singular[:, :1])[:, None]  # concepts that lie along one another count once
    without = ", ".join(other.name for other in listed)
    return _without(concept, basis, f"{concept.name} without {without}")


def remove_variance(concept: ConceptVectors, moments: GenericMoments, k: int = 1) -> ConceptVectors:
    """Remove the first ``k`` principal directions of generic text: what varies most and is about no concept.

    Args:
        concept: the vectors.
        moments: of generic text in the same model, with covariance; more hook points than the concept's are
            fine.
        k: directions to remove.

    Raises:
        ConceptError: no covariance, a hook point without moments, or ``k`` out of range; nothing left of the
            vector.
        FingerprintMismatchError: another model.
    """
    if moments.covariance is None:
        raise ConceptError("these moments have no covariance; capture them with covariance=True.")
    if concept.fingerprint is not None and moments.fingerprint is not None:
        moments.fingerprint.require(concept.fingerprint, "the moments")
    missing = [name for name in concept.hook_points if name not in moments.hook_points]
    if missing:
        raise ConceptError(
            f"the moments have nothing at {', '.join(missing)}; capture them at the concept's hook points."
        )
    if not 1 <= k < concept.d_model:
        raise ConceptError(f"k must be between 1 and {concept.d_model - 1}; got {k}.")
    rows = [moments.hook_points.index(name) for name in concept.hook_points]
    covariance = moments.covariance[rows].to("cpu", torch.float64)
    if covariance.shape[1] != concept.d_model:
        raise ConceptError(f"moments of width {covariance.shape[1]} do not fit vectors of width {concept.d_model}.")
    basis = torch.linalg.eigh(covariance).eigenvectors[..., -k:]
    return _without(concept, basis, f"{concept.name} without {k} generic")


def _without(concept: ConceptVectors, basis: Float[Tensor, "layer d_model k"], name: str) -> ConceptVectors:
    vectors = concept.vectors.to(basis)
    kept = vectors - (basis @ (basis.mT @ vectors[..., None]))[..., 0]
    gone = kept.norm(dim=1) <= 1e-6 * vectors.norm(dim=1)
    if bool(gone.any()):
        where = [point for point, lost in zip(concept.hook_points, gone.tolist(), strict=True) if lost]
        raise ConceptError(f"nothing is left of {concept.name!r} at {', '.join(where)}: it lies in what was removed.")
    return replace(concept, name=name, vectors=kept.to(concept.vectors.dtype), quality=())


def shrink(
    concept: ConceptVectors,
    positives: Float[Tensor, "positive layer d_model"],
    negatives: Float[Tensor, "negative layer d_model"],
    *,
    by: str = "layer",
) -> ConceptVectors:
    """Shrink a mean difference by its own sampling noise (positive-part James-Stein).

    The noise of a mean difference has variance ``sigma_j^2 (1/n_P + 1/n_N)`` in coordinate ``j``, ``sigma^2``
    pooled within classes. ``"layer"`` multiplies the vector by ``max(0, 1 - sum_j noise_j / |v|^2)``: the
    direction stays and layers where the classes hardly differ are turned down. ``"coordinate"`` multiplies
    each coordinate by ``max(0, 1 - noise_j / v_j^2)``: coordinates that are noise go to zero.

    Args:
        concept: a mean difference of these states.
        positives: the states it was estimated from.
        negatives: the same.
        by: ``"layer"`` or ``"coordinate"``.

    Raises:
        ConceptError: states that do not fit, fewer than two of either, or an unknown ``by``.
    """
    check_states(positives, negatives, concept.hook_points, least=2)
    if positives.shape[2] != concept.d_model:
        raise ConceptError(f"states of width {positives.shape[2]} do not fit vectors of width {concept.d_model}.")
    if by not in ("layer", "coordinate"):
        raise ConceptError(f"cannot shrink by {by!r}; choose 'layer' or 'coordinate'.")
    n_positive, n_negative = positives.shape[0], negatives.shape[0]
    pooled = within_class(positives, negatives).square().sum(1) / (n_positive + n_negative - 2)
    noise = pooled.to("cpu") * (1 / n_positive + 1 / n_negative)
    square = concept.vectors.to(torch.float64).square()
    if by == "layer":
        noise, square = noise.sum(1, keepdim=True), square.sum(1, keepdim=True)
    factor = (1 - noise / square.clamp_min(1e-300)).clamp_min(0)
    vectors = (concept.vectors.to(torch.float64) * factor).to(concept.vectors.dtype)
    return replace(concept, name=f"{concept.name} shrunk", vectors=vectors, quality=())


def scale_to_residual(concept: ConceptVectors, strength: int | float = 1.0) -> ConceptVectors:
    """Give every vector the length ``strength`` times the mean residual norm at its hook point.

    Raises:
        ConceptError: no residual norms, or a zero vector.
    """
    if concept.residual_norms is None:
        raise ConceptError(f"concept {concept.name!r} has no residual norms to scale to; estimate it from states.")
    unit = concept.normalised()
    vectors = unit.vectors * (strength * concept.residual_norms.to(unit.vectors))[:, None]
    return replace(concept, vectors=vectors, quality=())
