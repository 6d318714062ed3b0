"""Estimate a concept from a stream of states, holding only class moments."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.concepts.estimate import check_states, finish
from contrans_lens.concepts.estimators import Shrinkage, random_direction
from contrans_lens.concepts.estimators.covariance import apply_power_to_covariance
from contrans_lens.concepts.vectors import ConceptVectors
from contrans_lens.errors import ConceptError
from contrans_lens.models import Fingerprint

STREAMED_METHODS = ("mean_difference", "lda", "whitened", "principal_component", "random")
"""What class moments are enough for."""


@dataclass
class _ClassMoments:
    """Count, mean, sum of norms and, where asked for, sum of squares about the mean; float64 on the CPU."""

    n: int
    mean: Tensor
    norms: Tensor
    scatter: Tensor | None

    @classmethod
    def of(cls, states: Tensor, scatter: bool) -> "_ClassMoments":
        rows = states.transpose(0, 1).to("cpu", torch.float64)
        mean = rows.mean(1)
        centred = rows - mean[:, None]
        return cls(rows.shape[1], mean, rows.norm(dim=2).sum(1), centred.mT @ centred if scatter else None)

    def merged(self, other: "_ClassMoments") -> "_ClassMoments":
        """Chan, Golub and LeVeque's exact update."""
        n = self.n + other.n
        step = other.mean - self.mean
        scatter = None
        if self.scatter is not None and other.scatter is not None:
            between = step[:, :, None] * step[:, None, :] * (self.n * other.n / n)
            scatter = self.scatter + other.scatter + between
        return _ClassMoments(n, self.mean + step * (other.n / n), self.norms + other.norms, scatter)


class ConceptFitter:
    """Accumulates class moments in float64; :meth:`fit` equals :func:`estimate_concept` on all at once.

    Args:
        hook_points: one name per layer of the batches.
        covariance: also keep ``[layer, d_model, d_model]`` sums of squares, which ``lda``, ``whitened`` and
            ``principal_component`` need.
    """

    def __init__(self, hook_points: Sequence[str], *, covariance: bool = False) -> None:
        self.hook_points = tuple(hook_points)
        self._with_covariance = covariance
        self._classes: dict[str, _ClassMoments] = {}

    @property
    def counts(self) -> tuple[int, int]:
        """Positives and negatives seen so far."""
        positive, negative = (self._classes.get(side) for side in ("positive", "negative"))
        return (positive.n if positive else 0, negative.n if negative else 0)

    def update(
        self,
        positives: Float[Tensor, "positive layer d_model"],
        negatives: Float[Tensor, "negative layer d_model"],
    ) -> "ConceptFitter":
        """Take in a batch; either side may be empty.

        Raises:
            ConceptError: shapes that do not fit, or values that are not finite.
        """
        check_states(positives, negatives, self.hook_points, least=0)
        for side, states in (("positive", positives), ("negative", negatives)):
            if states.shape[0]:
                self._take(side, _ClassMoments.of(states, self._with_covariance))
        return self

    def merge(self, other: "ConceptFitter") -> "ConceptFitter":
        """Take in all that another fitter has seen.

        Raises:
            ConceptError: other hook points, width or second moments.
        """
        if (other.hook_points, other._with_covariance) != (self.hook_points, self._with_covariance):
            raise ConceptError("fitters of different hook points, or with and without covariance, cannot be merged.")
        for side, moments in other._classes.items():
            self._take(side, moments)
        return self

    def _take(self, side: str, moments: _ClassMoments) -> None:
        for known in self._classes.values():
            if known.mean.shape != moments.mean.shape:
                raise ConceptError(
                    f"a batch of width {moments.mean.shape[1]} does not fit what was seen so far "
                    f"({known.mean.shape[1]})."
                )
        self._classes[side] = self._classes[side].merged(moments) if side in self._classes else moments

    def fit(
        self,
        method: str = "mean_difference",
        *,
        name: str = "concept",
        held_out: tuple[Tensor, Tensor] | None = None,
        residual_norms: Float[Tensor, " layer"] | None = None,
        fingerprint: Fingerprint | None = None,
        shrinkage: Shrinkage = "oas",
        seed: int = 0,
    ) -> ConceptVectors:
        """The concept of all seen so far; more may follow. Arguments as :func:`estimate_concept`.

        Raises:
            ConceptError: a method that moments are not enough for, too few states, or classes with the same
                mean.
        """
        if method not in STREAMED_METHODS:
            raise ConceptError(
                f"method {method!r} cannot be streamed; choose one of {', '.join(STREAMED_METHODS)}, or use "
                "estimate_concept on stored states."
            )
        needs_covariance = method in ("lda", "whitened", "principal_component")
        if needs_covariance and not self._with_covariance:
            raise ConceptError(f"method {method!r} needs second moments; make the fitter with covariance=True.")
        least = 2 if needs_covariance else 1
        if min(self.counts) < least:
            raise ConceptError(
                f"{self.counts} positive and negative texts were seen; at least {least} of each are needed."
            )
        positive, negative = self._classes["positive"], self._classes["negative"]
        difference = positive.mean - negative.mean
        if residual_norms is None:
            residual_norms = (positive.norms + negative.norms) / sum(self.counts)
        direction = difference
        if method == "random":
            direction = random_direction(difference.shape[0], difference.shape[1], seed)
        elif positive.scatter is not None and negative.scatter is not None and needs_covariance:
            direction = _from_scatter(positive, negative, positive.scatter + negative.scatter, method, shrinkage)
        return finish(
            direction,
            difference,
            residual_norms,
            self.hook_points,
            method=method,
            name=name,
            held_out=held_out,
            fingerprint=fingerprint,
        )


def _from_scatter(
    positive: _ClassMoments,
    negative: _ClassMoments,
    within: Float[Tensor, "layer d_model d_model"],
    method: str,
    shrinkage: Shrinkage,
) -> Float[Tensor, "layer d_model"]:
    n = positive.n + negative.n
    if method == "principal_component":
        total = positive.merged(negative).scatter
        return torch.linalg.eigh(within if total is None else total).eigenvectors[..., -1]
    power = -1.0 if method == "lda" else -0.5
    return apply_power_to_covariance(within / n, n, positive.mean - negative.mean, power, shrinkage)
