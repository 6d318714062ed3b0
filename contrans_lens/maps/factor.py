"""One factorisation of the source states, reused for every target layer, ridge strength and shuffled copy.

With ``X`` the source states of one layer, centred over the ``n`` texts, ``X = U diag(s) V^T``. Everything
that a linear map needs from the source is in ``V`` and ``s``; the target enters only as ``B = U^T Y``. The
eigenvectors come from the smaller of ``X^T X`` and ``X X^T``, in float64, all layers in one batched call.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import MapError

RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest count as zero. Residuals are captured in float32 or
less, whose own rounding is 1e-7 of the largest direction, so what lies below is noise."""

_CHUNK_ELEMENTS = 2**27
"""Float64 numbers (1 GiB) that the factorisation works on at once; more layers go in several chunks."""


@dataclass(frozen=True)
class SourceFactor:
    """Right singular vectors and singular values of centred source states, one set per layer, in float64."""

    n: int
    """How many texts went in."""
    mean: Float[Tensor, "layer d_source"]
    """Mean state, taken off before factorising."""
    right: Float[Tensor, "layer d_source rank"]
    """``V``; columns beyond the numerical rank are zero."""
    singular: Float[Tensor, "layer rank"]
    """``s``, descending; zero beyond the numerical rank."""

    def numerical_rank(self, layer: int = 0) -> int:
        """How many directions of this layer carry more than rounding noise."""
        return int((self.singular[layer] > 0).sum())

    def left(self, x: Float[Tensor, "n d_source"], layer: int = 0) -> Float[Tensor, "n rank"]:
        """``U = X_c V / s`` of one layer, float64; zero columns beyond the numerical rank."""
        centred = x.to(torch.float64) - self.mean[layer]
        return centred @ (self.right[layer] * reciprocal(self.singular[layer]))

    def text_weights(
        self,
        x: Float[Tensor, "n d_source"],
        vectors: Float[Tensor, "*batch d_source"],
        ridge: int | float | Float[Tensor, "..."],
        layer: int = 0,
    ) -> Float[Tensor, "*batch n"]:
        """``w = X_c V diag(1 / (s^2 + ridge)) V^T v``, float64: one weight per text, so that ``A v = Y^T w``.

        They sum to zero and depend on the source alone. ``ridge`` broadcasts against ``[.., rank]``.
        """
        singular, right = self.singular[layer], self.right[layer]
        scale = inverse_filter(singular, ridge) * reciprocal(singular)
        z = (vectors.to(torch.float64) @ right * scale) @ right.mT
        return z @ x.to(torch.float64).mT - (z @ self.mean[layer])[..., None]

    def default_ridges(self, layer: int = 0) -> Float[Tensor, " strength"]:
        """The path of ridge strengths tried by default: 10^-6 to 10^3 times the mean squared singular value.

        Nineteen half decades. They scale with the data, so the chosen map does not depend on the unit of
        ``X``.
        """
        s = self.singular[layer]
        mean_square = s.square().sum() / max(1, self.numerical_rank(layer))
        exponents = torch.linspace(-6, 3, 19, dtype=torch.float64, device=s.device)
        return mean_square * 10**exponents


def reciprocal(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``1 / values`` where positive, else 0: the pseudo-inverse of a diagonal."""
    return torch.where(values > 0, 1 / values.clamp_min(torch.finfo(values.dtype).tiny), 0.0)


def inverse_filter(
    singular: Float[Tensor, "*layer rank"], ridge: int | float | Float[Tensor, "..."]
) -> Float[Tensor, "... rank"]:
    """``s / (s^2 + ridge)``, zero where ``s`` is zero (the minimum-norm solution when ``ridge`` is zero)."""
    return torch.where(singular > 0, singular / (singular.square() + ridge).clamp_min(1e-300), 0.0)


def factor_source(x: Float[Tensor, "n layer d_source"]) -> SourceFactor:
    """Factorise centred source states, every layer in batched float64 linear algebra.

    Args:
        x: source states, ``[n, layer, d_source]``, any float dtype.

    Raises:
        MapError: fewer than two texts, non-finite values, or a layer whose states are all the same.
    """
    n, layers, width = x.shape
    if n < 2:
        raise MapError(f"a map needs at least 2 texts and {n} was given; capture more generic text.")
    check_finite(x, "source states")
    step = max(1, _CHUNK_ELEMENTS // (n * width + 2 * min(n, width) ** 2))
    parts = [_factor_chunk(x[:, start : start + step]) for start in range(0, layers, step)]
    return SourceFactor(n, *(torch.cat(part) for part in zip(*parts, strict=True)))


def _factor_chunk(x: Float[Tensor, "n layer d_source"]) -> tuple[Tensor, Tensor, Tensor]:
    n, layers, width = x.shape
    # A copy whatever the dtype: it is centred in place, and the caller's states must stay as they are.
    centred = torch.empty(layers, n, width, dtype=torch.float64, device=x.device).copy_(x.transpose(0, 1))
    mean = centred.mean(1)
    centred.sub_(mean[:, None])
    wide = width > n
    gram = centred @ centred.mT if wide else centred.mT @ centred
    _check_varies(gram, mean, n)
    vectors, singular = _eigen(gram)
    if wide:
        return mean, centred.mT @ (vectors * reciprocal(singular)[:, None]), singular
    return mean, vectors, singular


def factor_moments(
    n: int, mean: Float[Tensor, "layer d_source"], scatter: Float[Tensor, "layer d_source d_source"]
) -> SourceFactor:
    """The same from streamed moments: ``scatter`` is the sum of squares about the mean, float64.

    Raises:
        MapError: fewer than two texts, or a layer whose states are all the same.
    """
    if n < 2:
        raise MapError(f"a map needs at least 2 texts and {n} was given; feed the fitter more batches.")
    _check_varies(scatter, mean, n)
    right, singular = _eigen(scatter)
    return SourceFactor(n, mean, right, singular)


def _eigen(gram: Float[Tensor, "layer side side"]) -> tuple[Tensor, Tensor]:
    """Eigenvectors (columns) and square roots of the eigenvalues, descending; zeros below the tolerance."""
    values, vectors = torch.linalg.eigh(gram)
    singular = values.flip(-1).clamp_min(0).sqrt()
    keep = singular > RANK_TOLERANCE * singular[:, :1]
    return vectors.flip(-1) * keep[:, None], singular * keep


def _check_varies(gram: Float[Tensor, "layer side side"], mean: Float[Tensor, "layer d_source"], n: int) -> None:
    spread = gram.diagonal(dim1=1, dim2=2).sum(1).clamp_min(0).sqrt()
    flat = torch.nonzero(spread <= 1e-10 * n**0.5 * mean.norm(dim=1)).flatten().tolist()
    if flat:
        raise MapError(
            f"the source states of layer index {flat} are the same for every text, so nothing can be "
            "mapped from them; use texts that differ at the captured position, or leave the layer out."
        )


def check_finite(values: Float[Tensor, "..."], what: str) -> None:
    """Raise :class:`MapError` when a value is NaN or infinite.

    Raises:
        MapError: with the number of bad rows.
    """
    # One NaN or infinity makes the sum so; a sum that overflows from finite values is looked at again.
    if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
        bad = (~torch.isfinite(values)).reshape(values.shape[0], -1).any(1).sum().item()
        raise MapError(f"the {what} hold NaN or infinity in {bad} of {values.shape[0]} rows; look at their capture.")
