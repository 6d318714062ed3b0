"""How well a direction separates held-out texts, per layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import ConceptError


@dataclass(frozen=True)
class LayerQuality:
    """Quality of one direction."""

    auroc: float | None
    """Held-out AUROC of the states' component along the direction; None when no held-out texts were given."""
    auroc_low: float | None
    auroc_high: float | None
    """95 % interval (texts taken as independent)."""
    relative_norm: float | None
    """Norm of the vector over the mean norm of the residual there."""
    n_positive: int = 0
    n_negative: int = 0

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "LayerQuality":
        """Rebuild from a manifest."""
        return cls(**value)


def auroc(
    positives: Float[Tensor, "positive layer"], negatives: Float[Tensor, "negative layer"]
) -> Float[Tensor, " layer"]:
    """Area under the ROC curve of the scores, per layer: P(positive > negative), ties counted half. Float64.

    Raises:
        ConceptError: one side is empty.
    """
    if min(positives.shape[0], negatives.shape[0]) < 1:
        raise ConceptError("AUROC needs at least one positive and one negative held-out text.")
    low = negatives.T.to(torch.float64).sort(dim=1).values.contiguous()
    scores = positives.T.to(torch.float64).contiguous()
    below = torch.searchsorted(low, scores, right=False)
    not_above = torch.searchsorted(low, scores, right=True)
    return (below + not_above).to(torch.float64).mean(1) / (2 * negatives.shape[0])


def auroc_interval(
    area: Float[Tensor, " layer"], n_positive: int, n_negative: int, level: float = 0.95
) -> tuple[Float[Tensor, " layer"], Float[Tensor, " layer"]]:
    """Confidence interval of an AUROC by Newcombe's method 5 (Statistics in Medicine 25, 2006).

    The ends solve ``(t - A)^2 = z^2 V(t)`` with the Hanley-McNeil variance at ``t`` itself, so the interval
    has width even at ``A = 1``, where the usual ones collapse. Texts are taken as independent: with groups of
    near-copies the interval is too narrow.

    Raises:
        ConceptError: a count below one or a level outside 0 to 1.
    """
    if min(n_positive, n_negative) < 1 or not 0 < level < 1:
        raise ConceptError("an AUROC interval needs texts on both sides and a level between 0 and 1.")
    z_square = NormalDist().inv_cdf((1 + level) / 2) ** 2
    extra = (n_positive + n_negative) / 2 - 1

    def excess(t: Tensor) -> Tensor:
        variance = t * (1 - t) * (1 + extra * ((1 - t) / (2 - t) + t / (1 + t))) / (n_positive * n_negative)
        return (t - area).square() - z_square * variance

    def end(outer: Tensor) -> Tensor:
        """Bisect between ``area``, where the excess is at most 0, and the end of the scale."""
        inner, outer = area.clone(), outer.clone()
        for _ in range(60):
            middle = (inner + outer) / 2
            inside = excess(middle) <= 0
            inner, outer = torch.where(inside, middle, inner), torch.where(inside, outer, middle)
        return (inner + outer) / 2

    area = area.to(torch.float64)
    return end(torch.zeros_like(area)), end(torch.ones_like(area))


def measure_quality(
    vectors: Float[Tensor, "layer d_model"],
    residual_norms: Float[Tensor, " layer"] | None,
    held_out: tuple[Tensor, Tensor] | None,
) -> tuple[LayerQuality, ...]:
    """Quality of each layer's direction: AUROC on held-out states, norm relative to the residual.

    Args:
        vectors: ``[layer, d_model]``.
        residual_norms: mean residual norm per layer.
        held_out: positive and negative states ``[example, layer, d_model]`` of texts that were not used to
            estimate.

    Raises:
        ConceptError: the held-out states do not fit the vectors.
    """
    relative: list[float | None] = [None] * len(vectors)
    if residual_norms is not None:
        relative = [float(value) for value in vectors.norm(dim=1) / residual_norms.to(vectors).clamp_min(1e-30)]
    if held_out is None:
        return tuple(LayerQuality(None, None, None, norm) for norm in relative)
    scores = []
    for states in held_out:
        if states.ndim != 3 or states.shape[1:] != vectors.shape:
            raise ConceptError(
                f"held-out states of shape {tuple(states.shape)} do not fit vectors of shape "
                f"{tuple(vectors.shape)}; capture them at the same hook points."
            )
        scores.append(torch.einsum("nld,ld->nl", states.to(torch.float64), vectors.to(states.device, torch.float64)))
    area = auroc(scores[0], scores[1])
    counts = (scores[0].shape[0], scores[1].shape[0])
    low, high = auroc_interval(area, *counts)
    rows = zip(area.tolist(), low.tolist(), high.tolist(), relative, strict=True)
    return tuple(LayerQuality(*row, *counts) for row in rows)
