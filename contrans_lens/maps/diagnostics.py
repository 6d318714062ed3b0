"""How well a map does on texts it was not fitted on, in all directions and along the concept."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import MapError
from contrans_lens.maps.factor import check_finite


@dataclass(frozen=True)
class MapDiagnostics:
    """Held-out quality of a map. A number is None where what it needs was not given."""

    n_train: int
    n_test: int = 0
    r2: float | None = None
    """Held-out R2, dimensions weighted by their variance: ``1 - sum |y - y^|^2 / sum |y - mean y|^2``."""
    cosine: float | None = None
    """Mean over held-out texts of the cosine between prediction and truth, both about the held-out mean."""
    concept_r2: float | None = None
    """Held-out R2 of the component along the concept: the target's own vector, else the mapped one."""
    concept_cosine: float | None = None
    """Cosine between the mapped concept and the target's own."""
    shrinkage: float | None = None
    """Norm of the mapped concept over that of the target's own: below 1 where ridge and noise shrink it."""
    loo_r2: float | None = None
    """Leave-one-out R2 on the training texts (ridge and least squares), from the exact PRESS."""
    warnings: tuple[str, ...] = ()
    """What a reader of these numbers must know: too few texts, a ridge at the end of its path."""

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "MapDiagnostics":
        """Rebuild from a manifest, ignoring fields of later versions."""
        known = {field.name for field in fields(cls)}
        kept = {name: item for name, item in value.items() if name in known}
        return cls(**{**kept, "warnings": tuple(kept.get("warnings", ()))})


def r2_score(truth: Float[Tensor, "n width"], predicted: Float[Tensor, "n width"]) -> float:
    """R2 with dimensions weighted by their variance, in float64; 0 is the mean of ``truth``.

    Raises:
        MapError: fewer than two rows, or no variance to explain.
    """
    truth, predicted = truth.to(torch.float64), predicted.to(torch.float64)
    if truth.shape[0] < 2:
        raise MapError("R2 needs at least 2 held-out texts; give more.")
    total = (truth - truth.mean(0)).square().sum()
    if total == 0:
        raise MapError("the held-out target states are the same for every text, so R2 has no meaning.")
    return float(1 - (truth - predicted).square().sum() / total)


def mean_cosine(truth: Float[Tensor, "n width"], predicted: Float[Tensor, "n width"]) -> float:
    """Mean cosine between rows, both about the mean of ``truth`` (the shared mean would hide the rest)."""
    truth, predicted = truth.to(torch.float64), predicted.to(torch.float64)
    centre = truth.mean(0)
    return float(torch.cosine_similarity(truth - centre, predicted - centre, dim=1).mean())


def diagnose(
    predict: Callable[[Tensor], Tensor],
    carry: Callable[[Tensor], Tensor],
    x_test: Float[Tensor, "n d_source"],
    y_test: Float[Tensor, "rows d_target"],
    *,
    n_train: int,
    source_concept: Float[Tensor, " d_source"] | None = None,
    target_concept: Float[Tensor, " d_target"] | None = None,
    loo_r2: float | None = None,
    warnings: tuple[str, ...] = (),
) -> MapDiagnostics:
    """Score a map on held-out texts.

    Args:
        predict: states to states, an :class:`AffineMap` or an autoencoder.
        carry: concept to concept (``map.concept``).
        x_test: held-out source states.
        y_test: held-out target states of the same texts.
        n_train: how many texts the map was fitted on.
        source_concept: the source's concept vector at the source hook point.
        target_concept: the target's own vector, where known.
        loo_r2: passed through.
        warnings: passed through.

    Raises:
        MapError: counts differ, values are not finite, or there is nothing to explain.
    """
    if x_test.shape[0] != y_test.shape[0]:
        raise MapError(f"{x_test.shape[0]} held-out source rows but {y_test.shape[0]} target rows; pair the texts.")
    check_finite(x_test, "held-out source states")
    check_finite(y_test, "held-out target states")
    predicted = predict(x_test)
    mapped = None if source_concept is None else carry(source_concept).to(torch.float64)
    along = mapped if target_concept is None else target_concept.to(torch.float64)
    concept_r2 = cosine = shrinkage = None
    if along is not None and along.norm() > 0:
        truth, guess = (values.to(torch.float64) @ along / along.norm() for values in (y_test, predicted))
        concept_r2 = r2_score(truth[:, None], guess[:, None])
    if mapped is not None and target_concept is not None and along is not None and along.norm() > 0:
        cosine = float(torch.cosine_similarity(mapped, along, dim=0))
        shrinkage = float(mapped.norm() / along.norm())
    return MapDiagnostics(
        n_train=n_train,
        n_test=x_test.shape[0],
        r2=r2_score(y_test, predicted),
        cosine=mean_cosine(y_test, predicted),
        concept_r2=concept_r2,
        concept_cosine=cosine,
        shrinkage=shrinkage,
        loo_r2=loo_r2,
        warnings=warnings,
    )


def fit_warnings(n: int, d_source: int, method: str, ridge: float | None, ridges: Tensor | None) -> tuple[str, ...]:
    """What the numbers of a fit alone make doubtful: few texts, or a ridge at the end of the path."""
    found = []
    if method != "identity" and n <= 1.5 * d_source:
        found.append(
            f"{n} texts for {d_source} source dimensions: a linear map can fit the training texts almost "
            "exactly, so training R2 means nothing; read the held-out or leave-one-out R2, and capture "
            "more texts."
        )
    if ridge is not None and ridges is not None and len(ridges) > 1:
        if ridge >= float(ridges.max()):
            found.append(
                "the strongest ridge of the path was chosen: little of the target can be predicted, or "
                "the path ends too early."
            )
        elif ridge <= float(ridges.min()) and ridge > 0:
            found.append("the weakest ridge of the path was chosen: plain least squares would do as well.")
    return tuple(found)
