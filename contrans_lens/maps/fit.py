"""Fit one affine map between one source layer and one target layer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import MapError
from contrans_lens.maps.affine import AffineMap, affine_from_weight
from contrans_lens.maps.diagnostics import MapDiagnostics, diagnose, fit_warnings
from contrans_lens.maps.factor import SourceFactor, check_finite, factor_source
from contrans_lens.maps.leave_one_out import RidgePath, leave_one_out_path
from contrans_lens.maps.solve import identity_weight, procrustes_weight, reduced_rank_weight, ridge_weight
from contrans_lens.models import Fingerprint

MapMethod = Literal["ols", "ridge", "reduced_rank", "procrustes", "identity"]
MAP_METHODS: tuple[str, ...] = get_args(MapMethod)
"""The affine maps that can be fitted."""


class Solution(NamedTuple):
    """The linear part of a fitted map and what was chosen on the way."""

    weight: Tensor
    ridge: float | None
    rank: int | None


def fit_map(
    x: Float[Tensor, "n d_source"],
    y: Float[Tensor, "rows d_target"],
    *,
    method: str = "ridge",
    ridge: int | float | str = "loo",
    ridges: Sequence[int | float] | None = None,
    rank: int | None = None,
    source_hook_point: str = "",
    target_hook_point: str = "",
    source_fingerprint: Fingerprint | None = None,
    target_fingerprint: Fingerprint | None = None,
    held_out: tuple[Tensor, Tensor] | None = None,
    concept: tuple[Tensor, Tensor | None] | None = None,
) -> AffineMap:
    """Fit ``Y ~ X A^T + b`` on paired residuals. Float64 inside; the result has ``x``'s dtype.

    ``ridge`` minimises ``|Y - X A^T - b|^2 + ridge |A|^2`` with a free intercept; ``"loo"`` takes the
    strength with the smallest exact leave-one-out error over ``ridges``.

    Args:
        x: source states at one hook point.
        y: target states at one hook point, the same texts in the same order.
        method: ``ols``, ``ridge``, ``reduced_rank``, ``procrustes`` or ``identity`` (zero padding, nothing
            fitted).
        ridge: penalty for ``ridge`` and ``reduced_rank``, or ``"loo"``.
        ridges: strengths to try; None takes nineteen half decades around the data's own scale.
        rank: of a reduced-rank map; None keeps 99 % of the fit.
        source_hook_point: name of the hook point ``x`` was read at.
        target_hook_point: name of the hook point ``y`` was read at.
        source_fingerprint: of the source model.
        target_fingerprint: of the target model.
        held_out: source and target states of other texts; fills the diagnostics.
        concept: the source's vector and the target's own (or None), for the diagnostics along the concept.

    Raises:
        MapError: unknown method, counts or widths that do not fit, fewer than two texts, non-finite or
            constant states, or a negative ridge.
    """
    check_method(method)
    check_pairs(x, y)
    factor = factor_source(x[:, None])
    y_centred, y_mean = centre(y)
    left = factor.left(x)
    path = None
    if method in ("ols", "ridge", "reduced_rank"):
        strengths = ridge_strengths(method, ridge, ridges, factor, 0)
        path = leave_one_out_path(left, factor.singular[0], y_centred[None], strengths)
    solution = solve(method, factor, 0, left.mT @ y_centred, path.chosen() if path else None, rank)
    dtype = torch.promote_types(x.dtype, torch.float32)
    x_mean = factor.mean[0] if method != "identity" else torch.zeros_like(factor.mean[0])
    weight, bias = affine_from_weight(solution.weight, x_mean, y_mean if method != "identity" else y_mean * 0, dtype)
    fitted = AffineMap(
        weight,
        bias,
        source_hook_point,
        target_hook_point,
        method,
        solution.ridge,
        solution.rank,
        source_fingerprint,
        target_fingerprint,
    )
    return with_diagnostics(fitted, factor.n, path, held_out, concept)


def with_diagnostics(
    fitted: AffineMap,
    n_train: int,
    path: RidgePath | None,
    held_out: tuple[Tensor, Tensor] | None,
    concept: tuple[Tensor, Tensor | None] | None,
    target: int = 0,
) -> AffineMap:
    """The same map with its diagnostics: held-out where held-out texts are given, else counts and warnings.

    Raises:
        MapError: the held-out states do not fit the map.
    """
    warnings = fit_warnings(n_train, fitted.d_source, fitted.method, fitted.ridge, path.ridges if path else None)
    loo_r2 = None
    if path is not None and fitted.method != "reduced_rank" and path.baseline[target] > 0:
        loo_r2 = float(path.r2[target, path.best[target]])
    if held_out is None:
        return replace(fitted, diagnostics=MapDiagnostics(n_train, loo_r2=loo_r2, warnings=warnings))
    source_concept, target_concept = concept if concept is not None else (None, None)
    scores = diagnose(
        fitted,
        fitted.concept,
        *held_out,
        n_train=n_train,
        source_concept=source_concept,
        target_concept=target_concept,
        loo_r2=loo_r2,
        warnings=warnings,
    )
    return replace(fitted, diagnostics=scores)


def solve(
    method: str,
    factor: SourceFactor,
    layer: int,
    b: Float[Tensor, "rank d_target"],
    ridge: float | None,
    rank: int | None,
) -> Solution:
    """The linear part of one map from the factorised source layer and ``B = U^T Y``.

    Raises:
        MapError: the rank or the widths do not allow the method.
    """
    right, singular = factor.right[layer], factor.singular[layer]
    if method == "identity":
        return Solution(identity_weight(b.shape[1], right.shape[0]).to(b.device), None, None)
    if method == "procrustes":
        return Solution(procrustes_weight(right, singular, b), None, None)
    strength = 0.0 if ridge is None else ridge
    if method == "reduced_rank":
        weight, chosen = reduced_rank_weight(right, singular, b, strength, rank)
        return Solution(weight, strength, chosen)
    return Solution(ridge_weight(right, singular, b, strength), strength if method == "ridge" else None, None)


def ridge_strengths(
    method: str,
    ridge: int | float | str,
    ridges: Sequence[int | float] | None,
    factor: SourceFactor,
    layer: int,
) -> Float[Tensor, " strength"]:
    """The strengths to try, ascending and in float64: the given one, the given path, or the default path.

    Raises:
        MapError: a strength is negative or not finite, or the path is empty.
    """
    if method == "ols":
        values: Sequence[float] = [0.0]
    elif not isinstance(ridge, str):
        values = [float(ridge)]
    elif ridge != "loo":
        raise MapError(f"unknown ridge rule {ridge!r}; give a number, or 'loo' for leave-one-out.")
    elif ridges is None:
        return factor.default_ridges(layer)
    else:
        values = sorted(float(value) for value in ridges)
    strengths = torch.tensor(values, dtype=torch.float64, device=factor.singular.device)
    if len(strengths) == 0 or not torch.isfinite(strengths).all() or (strengths < 0).any():
        raise MapError(f"ridge strengths must be finite and at least 0, at least one of them; got {list(values)}.")
    return strengths


def centre(y: Float[Tensor, "n *rest"]) -> tuple[Float[Tensor, "n *rest"], Float[Tensor, "*rest"]]:
    """Float64 target states about their mean over texts, and that mean."""
    values = y.to(torch.float64)
    mean = values.mean(0)
    return values - mean, mean


def check_method(method: str) -> None:
    """Raise when ``method`` names no affine map.

    Raises:
        MapError: with the choices.
    """
    if method not in MAP_METHODS:
        raise MapError(f"unknown map {method!r}; choose one of {', '.join(MAP_METHODS)}.")


def check_pairs(x: Float[Tensor, "n *source"], y: Float[Tensor, "rows *target"]) -> None:
    """Raise when the two sides are not the same texts, or the target is unusable.

    Raises:
        MapError: counts differ, fewer than two texts, or non-finite target states.
    """
    if x.shape[0] != y.shape[0]:
        raise MapError(
            f"{x.shape[0]} source states but {y.shape[0]} target states; both models must be captured on "
            "the same texts in the same order (residuals.capture_pair does that)."
        )
    if x.shape[0] < 2:
        raise MapError(f"a map needs at least 2 texts and {x.shape[0]} was given; capture more generic text.")
    check_finite(y, "target states")
