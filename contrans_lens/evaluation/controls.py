"""Control directions of a given norm, to stand beside a concept vector.

A score means little alone: any push of equal size moves some items. Three nulls, from blunt to sharp:

- isotropic: ``x ~ N(0, I)``;
- covariance-shaped: ``x ~ N(0, C)`` with the target's residual covariance, so the push points where activity
  lies;
- source directions through the true map: ``A x`` with x random in the source model, so whatever the map does
  to any direction is part of the null.

Every draw is scaled to the same norm as the vector it controls for. One draw is no control: use twenty or
more. Draws are made on the CPU in float64 from a seed, so the same seed gives the same directions on every
device.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError


def random_directions(d_model: int, n: int, norm: float, seed: int = 0) -> Float[Tensor, "draw d_model"]:
    """Isotropic Gaussian directions scaled to ``norm``, float32.

    Args:
        d_model: width of the residual stream.
        n: number of draws.
        norm: Euclidean norm of every draw, in the units of the residual stream.
        seed: seed of the draws.

    Raises:
        EvaluationError: a width or number below one, or a norm that is not positive and finite.
    """
    return _scaled(_gaussian(d_model, n, seed), norm).float()


def covariance_directions(
    covariance: Float[Tensor, "d_model d_model"], n: int, norm: float, seed: int = 0
) -> Float[Tensor, "draw d_model"]:
    """Directions with the shape of ``covariance``, ``C^{1/2} z`` z isotropic, scaled to ``norm``, float32.

    The covariance may be singular (fewer texts than dimensions); draws then stay in its span.

    Raises:
        EvaluationError: a matrix that is not finite, not symmetric, has negative eigenvalues or is zero.
    """
    matrix = covariance.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(matrix).all()):
        raise EvaluationError("the covariance holds NaN or infinity; look at the states it was made of.")
    scale = float(matrix.abs().max())
    if scale == 0:
        raise EvaluationError("the covariance is zero: all states are equal, so they have no directions.")
    if not torch.allclose(matrix, matrix.T, rtol=0, atol=1e-5 * scale):
        raise EvaluationError(
            "the covariance is not symmetric; pass second moments about the mean, [d_model, d_model]."
        )
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    if float(values[0]) < -1e-5 * float(values[-1].clamp_min(0)) - 1e-12 * scale:
        raise EvaluationError(f"the covariance has a negative eigenvalue ({float(values[0]):.3g}): it is not one.")
    shaped = (_gaussian(len(matrix), n, seed) * values.clamp_min(0).sqrt()) @ vectors.T
    return _scaled(shaped, norm).float()


def mapped_directions(
    carry: Callable[[Tensor], Tensor],
    d_source: int,
    n: int,
    norm: float,
    seed: int = 0,
    *,
    covariance: Float[Tensor, "d_source d_source"] | None = None,
) -> Float[Tensor, "draw d_target"]:
    """Random source directions carried by the map under test, then scaled to ``norm``, float32.

    Args:
        carry: the linear part of a map, ``[draw, d_source] -> [draw, d_target]``, e.g. ``AffineMap.concept``.
        d_source: width of the source's residual stream.
        n: number of draws.
        norm: Euclidean norm of every draw after the map.
        seed: seed of the draws.
        covariance: shape the source directions by this covariance instead of drawing them isotropically.

    Raises:
        EvaluationError: the map returns another shape than ``[draw, d_target]``, or a draw that is zero or
        not finite.
    """
    if covariance is None:
        source = random_directions(d_source, n, 1.0, seed)
    else:
        source = covariance_directions(covariance, n, 1.0, seed)
    carried = carry(source)
    if carried.ndim != 2 or len(carried) != n:
        raise EvaluationError(
            f"the map turned [{n}, {d_source}] into {list(carried.shape)}; [{n}, d_target] was expected."
        )
    return _scaled(carried.detach().to("cpu", torch.float64), norm).float()


def scale_to_norm(vectors: Float[Tensor, "*batch d_model"], norm: float) -> Float[Tensor, "*batch d_model"]:
    """Each vector scaled to the Euclidean norm ``norm``, dtype and device kept.

    Raises:
        EvaluationError: a vector that is zero or not finite, or a norm that is not positive and finite.
    """
    wide = vectors if vectors.dtype == torch.float64 else vectors.float()
    return _scaled(wide, norm).to(vectors.dtype)


def rank_p_value(draws: Sequence[float], value: float, *, two_sided: bool = False) -> float:
    """Rank p-value of ``value`` among control draws: (1 + #{draw >= value}) / (1 + #draws).

    Args:
        draws: what each draw did.
        value: what is compared with them.
        two_sided: compare sizes, where the sign of a draw is arbitrary, as that of a random direction is.
    """
    size = abs if two_sided else float
    return (1 + sum(size(draw) >= size(value) for draw in draws)) / (1 + len(draws))


def _gaussian(d_model: int, n: int, seed: int) -> Float[Tensor, "draw d_model"]:
    if d_model < 1 or n < 1:
        raise EvaluationError(f"{n} directions of width {d_model} were asked for; both must be at least one.")
    return torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _scaled(vectors: Float[Tensor, "*batch d_model"], norm: float) -> Float[Tensor, "*batch d_model"]:
    if not 0 < norm < float("inf"):
        raise EvaluationError(f"controls need a positive, finite norm; got {norm}.")
    lengths = vectors.norm(dim=-1, keepdim=True)
    if not bool(torch.isfinite(lengths).all()) or not bool((lengths > 0).all()):
        raise EvaluationError("a direction is zero or not finite and cannot be scaled; look at the map or covariance.")
    return vectors / lengths * norm
