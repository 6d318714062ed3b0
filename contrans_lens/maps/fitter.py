"""Fit a map from a stream of paired residuals, holding only their moments."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import MapError
from contrans_lens.maps.affine import AffineMap, affine_from_weight
from contrans_lens.maps.diagnostics import MapDiagnostics, fit_warnings
from contrans_lens.maps.factor import SourceFactor, check_finite, factor_moments, inverse_filter, reciprocal
from contrans_lens.maps.fit import check_method, ridge_strengths, solve
from contrans_lens.models import Fingerprint


class AffineFitter:
    """Accumulates the moments of paired states in float64; :meth:`fit` gives the frozen :class:`AffineMap`.

    The result equals :func:`fit_map` on all batches at once. What moments cannot give is the exact
    leave-one-out error, which needs every text again; ``ridge="gcv"`` chooses by generalised cross-validation
    instead, which replaces each leverage by their mean and needs moments only (Golub, Heath and Wahba 1979).
    """

    def __init__(self, d_source: int, d_target: int) -> None:
        if d_source < 1 or d_target < 1:
            raise MapError(f"widths must be at least 1; got {d_source} -> {d_target}.")
        self.n = 0
        self._x_mean = torch.zeros(d_source, dtype=torch.float64)
        self._y_mean = torch.zeros(d_target, dtype=torch.float64)
        self._xx = torch.zeros(d_source, d_source, dtype=torch.float64)
        self._xy = torch.zeros(d_source, d_target, dtype=torch.float64)
        self._yy = 0.0

    def update(self, x: Float[Tensor, "batch d_source"], y: Float[Tensor, "rows d_target"]) -> "AffineFitter":
        """Take in one batch of paired states, any dtype and device.

        Raises:
            MapError: counts or widths do not fit, or values are not finite.
        """
        widths = (len(self._x_mean), len(self._y_mean))
        if (x.shape[1], y.shape[1]) != widths or x.shape[0] != y.shape[0]:
            raise MapError(
                f"a batch of {tuple(x.shape)} and {tuple(y.shape)} does not fit a fitter of widths "
                f"{widths[0]} -> {widths[1]}; both sides need the same rows."
            )
        if x.shape[0] == 0:
            return self
        check_finite(x, "source states")
        check_finite(y, "target states")
        batch = AffineFitter(*widths)
        x64, y64 = x.to("cpu", torch.float64), y.to("cpu", torch.float64)
        batch.n, batch._x_mean, batch._y_mean = x.shape[0], x64.mean(0), y64.mean(0)
        x64, y64 = x64 - batch._x_mean, y64 - batch._y_mean
        batch._xx, batch._xy, batch._yy = x64.mT @ x64, x64.mT @ y64, float(y64.square().sum())
        return self.merge(batch)

    def merge(self, other: "AffineFitter") -> "AffineFitter":
        """Take in all that another fitter has seen (exact update of Chan, Golub and LeVeque 1983).

        Raises:
            MapError: the widths differ.
        """
        if (other._x_mean.shape, other._y_mean.shape) != (self._x_mean.shape, self._y_mean.shape):
            raise MapError("two fitters of different widths cannot be merged.")
        if other.n == 0:
            return self
        n = self.n + other.n
        x_step, y_step = other._x_mean - self._x_mean, other._y_mean - self._y_mean
        share = self.n * other.n / n
        self._xx = self._xx + other._xx + share * torch.outer(x_step, x_step)
        self._xy = self._xy + other._xy + share * torch.outer(x_step, y_step)
        self._yy = self._yy + other._yy + share * float(y_step.square().sum())
        self._x_mean = self._x_mean + x_step * (other.n / n)
        self._y_mean = self._y_mean + y_step * (other.n / n)
        self.n = n
        return self

    def fit(
        self,
        method: str = "ridge",
        ridge: int | float | str = "gcv",
        *,
        ridges: Sequence[int | float] | None = None,
        rank: int | None = None,
        source_hook_point: str = "",
        target_hook_point: str = "",
        source_fingerprint: Fingerprint | None = None,
        target_fingerprint: Fingerprint | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> AffineMap:
        """The map of everything seen so far; more batches may follow.

        Args:
            method: one of ``MAP_METHODS``.
            ridge: penalty, or ``"gcv"``.
            ridges: strengths for ``"gcv"``; None takes the default path.
            rank: of a reduced-rank map.
            source_hook_point: name of the source's hook point.
            target_hook_point: name of the target's hook point.
            source_fingerprint: of the source model.
            target_fingerprint: of the target model.
            dtype: of the result.

        Raises:
            MapError: unknown method, fewer than two texts, constant source states, or ``ridge="loo"``.
        """
        check_method(method)
        if isinstance(ridge, str) and ridge != "gcv":
            raise MapError(
                f"ridge {ridge!r} is not possible from moments alone: leave-one-out needs every text. Use "
                "'gcv' or a number here, or fit_map(x, y, ridge='loo') on stored states."
            )
        factor = factor_moments(self.n, self._x_mean[None], self._xx[None])
        b = reciprocal(factor.singular[0])[:, None] * (factor.right[0].mT @ self._xy)
        strengths = ridge_strengths(method, "loo" if ridge == "gcv" else ridge, ridges, factor, 0)
        chosen = float(strengths[self._gcv(factor, b, strengths).argmin()])
        solution = solve(method, factor, 0, b, chosen, rank)
        moved = 0.0 if method == "identity" else 1.0
        weight, bias = affine_from_weight(solution.weight, self._x_mean * moved, self._y_mean * moved, dtype)
        warnings = fit_warnings(self.n, len(self._x_mean), method, solution.ridge, strengths)
        return AffineMap(
            weight,
            bias,
            source_hook_point,
            target_hook_point,
            method,
            solution.ridge,
            solution.rank,
            source_fingerprint,
            target_fingerprint,
            MapDiagnostics(self.n, warnings=warnings),
        )

    def _gcv(
        self, factor: SourceFactor, b: Float[Tensor, "rank d_target"], strengths: Float[Tensor, " strength"]
    ) -> Float[Tensor, " strength"]:
        """``RSS / (1 - mean leverage)^2`` for every strength, the intercept counted in the leverage."""
        s = factor.singular[0]
        shrink = inverse_filter(s, strengths[:, None]) * s
        energy = b.square().sum(1)
        remainder = max(0.0, self._yy - float(energy.sum()))
        residual = remainder + ((1 - shrink).square() * energy).sum(1)
        free = (1 - (1 + shrink.sum(1)) / self.n).clamp_min(1e-10)
        return residual / free.square()
