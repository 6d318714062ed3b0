"""SVCCA, PWCCA and Procrustes: singular values between the layers' own factorisations.

Every layer is factorised once, ``X = U diag(s) V^T``. With orthonormal bases ``Q_x`` and ``Q_y`` of the kept directions
the canonical correlations are the singular values of ``Q_x^T Q_y``, and the Procrustes distance needs the nuclear norm
of ``(U_x s_x)^T (U_y s_y)``. Shuffling the texts of one side permutes the rows of its basis and nothing else.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from contrans_lens.layers.similarity.options import SimilarityOptions
from contrans_lens.layers.similarity.sides import Side
from contrans_lens.maps.factor import RANK_TOLERANCE, factor_source

_ELEMENTS = 2**23
"""Numbers in the small matrices of all pairs that are decomposed together."""


@dataclass(frozen=True, eq=False)
class Factors:
    """Principal directions of every layer of one model, float64, padded with zeros to one width."""

    states: Float[Tensor, "layer n d"]
    """About their mean."""
    scores: Float[Tensor, "layer n component"]
    """``U diag(s)``, at most ``max_components`` columns, at unit Frobenius norm."""
    kept_share: Float[Tensor, " layer"]
    """Share of the variance that the scores hold."""
    basis: Float[Tensor, "layer n component"]
    """Orthonormal basis of the directions that CCA keeps; further columns are zero."""
    rank: Int[Tensor, " layer"]
    """How many directions CCA keeps."""
    variance_share: int | float
    """The share that they hold at least, where ``max_components`` allows."""


def factorise(side: Side, options: SimilarityOptions) -> Factors:
    """Factorise every layer once."""
    raw = side.raw
    factor = factor_source(raw)
    positive = (factor.singular > 0).sum(1)
    most = int(positive.max())
    most = most if options.max_components is None else min(most, options.max_components)
    energy = factor.singular.square()
    share = energy.cumsum(1) / energy.sum(1, keepdim=True)
    rank = torch.minimum(_cut(share[:, :most], options.variance_share), positive)
    states = raw.transpose(0, 1).double() - factor.mean[:, None]
    scores = states @ factor.right[:, :, :most]
    basis = orthonormal(scores, rank)
    length = torch.linalg.vector_norm(scores.flatten(1), dim=1)
    scores /= length[:, None, None]
    return Factors(states, scores, share[:, most - 1], basis, rank, options.variance_share)


def _cut(share: Float[Tensor, "layer component"], least: int | float) -> Int[Tensor, " layer"]:
    """The fewest leading directions that hold ``least`` of the variance, or all there are."""
    return ((share < least - 1e-12).sum(1) + 1).clamp_max(share.shape[1])


def _refactored(
    factors: Factors, inside: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, "layer kept component"], Int[Tensor, " layer"]]:
    """Basis and rank of a subset of the texts, from its scores: a small eigenproblem per layer."""
    scores = _centred(factors.scores[:, inside])
    values, vectors = torch.linalg.eigh(scores.mT @ scores)
    values = values.flip(1).clamp_min(0)
    share = values.cumsum(1) / values.sum(1, keepdim=True) * factors.kept_share[:, None]
    positive = (values > RANK_TOLERANCE**2 * values[:, :1]).sum(1)
    rank = torch.minimum(_cut(share, factors.variance_share), positive)
    return orthonormal(scores @ vectors.flip(2), rank), rank


def orthonormal(
    columns: Float[Tensor, "*batch n component"], rank: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch n component"]:
    """Orthonormal basis of the first ``rank`` columns by QR; the others become zero."""
    kept = torch.arange(columns.shape[-1], device=columns.device) < rank[..., None]
    basis = torch.linalg.qr(columns).Q
    # With fewer rows than columns (few texts) the basis is narrower; what is missing is beyond the rank anyway.
    return pad(basis, (0, columns.shape[-1] - basis.shape[-1])) * kept[..., None, :]


def _cross(
    x: Float[Tensor, "source_layer n r"], y: Float[Tensor, "target_layer n r_y"]
) -> Float[Tensor, "source_layer target_layer r r_y"]:
    """``X_s^T Y_t`` of all pairs as one product."""
    s, n, r = x.shape
    t, _, r_y = y.shape
    product = x.transpose(1, 2).reshape(s * r, n) @ y.transpose(0, 1).reshape(n, t * r_y)
    return product.reshape(s, r, t, r_y).transpose(1, 2)


class CanonicalCorrelations:
    """SVCCA and PWCCA from the same singular values."""

    def __init__(self, source: Factors, target: Factors, names: tuple[str, ...]) -> None:
        """``names``: ``"svcca"``, ``"pwcca"`` or both."""
        self.names, self.source, self.target = names, source, target
        self.count = torch.minimum(source.rank[:, None], target.rank)

    def values(self) -> Float[Tensor, "metric source_layer target_layer"]:
        """All pairs."""
        return self._measure(
            self.source.basis, self.target.basis, self._neurons(self.source.basis, self.source.states), self.count
        )

    def permuted(self, orders: Int[Tensor, "draw n"]) -> Float[Tensor, "draw metric source_layer target_layer"]:
        """The same with the target's texts in another order."""
        neurons = self._neurons(self.source.basis, self.source.states)
        rows = [self._measure(self.source.basis, self.target.basis[:, order], neurons, self.count) for order in orders]
        return torch.stack(rows)

    def subset(self, members: Bool[Tensor, "draw n"]) -> Float[Tensor, "draw metric source_layer target_layer"]:
        """The same on subsets of the texts; each subset chooses its directions anew, within the scores of all texts."""
        rows = []
        for inside in members:
            (x, ranks), (y, other_ranks) = (_refactored(side, inside) for side in (self.source, self.target))
            neurons = self._neurons(x, _centred(self.source.states[:, inside]))
            rows.append(self._measure(x, y, neurons, torch.minimum(ranks[:, None], other_ranks)))
        return torch.stack(rows)

    def _neurons(
        self, basis: Float[Tensor, "layer n r"], states: Float[Tensor, "layer n d"]
    ) -> Float[Tensor, "layer r d"] | None:
        """The source's neurons in its basis, which the weights of PWCCA need."""
        return basis.mT @ states if "pwcca" in self.names else None

    def _measure(
        self,
        x: Float[Tensor, "source_layer n r"],
        y: Float[Tensor, "target_layer n r_y"],
        neurons: Float[Tensor, "source_layer r d"] | None,
        count: Int[Tensor, "source_layer target_layer"],
    ) -> Float[Tensor, "metric source_layer target_layer"]:
        cross = _cross(x, y)
        if neurons is None:
            return (_singular_values(cross).clamp_max(1).sum(2) / count)[None]
        parts = [self._weighted(own, z, n) for own, z, n in zip(cross, neurons, count, strict=True)]
        both = dict(zip(("svcca", "pwcca"), torch.stack(parts, 1), strict=True))
        return torch.stack([both[name] for name in self.names])

    def _weighted(
        self, cross: Float[Tensor, "target_layer r r_y"], neurons: Float[Tensor, "r d"], count: Int[Tensor, " target"]
    ) -> Float[Tensor, "2 target_layer"]:
        left, rho, _ = torch.linalg.svd(cross, full_matrices=False)
        rho = rho.clamp_max(1)
        real = torch.arange(rho.shape[1], device=rho.device) < count[:, None]
        weights = (left.mT @ neurons).abs().sum(2) * real
        return torch.stack([rho.sum(1) / count, (weights * rho).sum(1) / weights.sum(1).clamp_min(1e-300)])


class Procrustes:
    """The Procrustes distance."""

    names: tuple[str, ...] = ("procrustes",)

    def __init__(self, source: Factors, target: Factors) -> None:
        self.source, self.target = source.scores, target.scores

    def values(self) -> Float[Tensor, "metric source_layer target_layer"]:
        """All pairs."""
        return _distance(self.source, self.target)[None]

    def permuted(self, orders: Int[Tensor, "draw n"]) -> Float[Tensor, "draw metric source_layer target_layer"]:
        """The same with the target's texts in another order."""
        return torch.stack([_distance(self.source, self.target[:, order]) for order in orders])[:, None]

    def subset(self, members: Bool[Tensor, "draw n"]) -> Float[Tensor, "draw metric source_layer target_layer"]:
        """The same on subsets of the texts, in the directions kept on all of them."""
        rows = []
        for inside in members:
            x, y = (_centred(scores[:, inside]) for scores in (self.source, self.target))
            rows.append(_distance(*(z / torch.linalg.vector_norm(z, dim=(1, 2), keepdim=True) for z in (x, y))))
        return torch.stack(rows)[:, None]


def _distance(
    x: Float[Tensor, "source_layer n r"], y: Float[Tensor, "target_layer n r_y"]
) -> Float[Tensor, "source_layer target_layer"]:
    return (2 - 2 * _singular_values(_cross(x, y)).sum(2)).clamp_min(0).sqrt()


def _singular_values(
    cross: Float[Tensor, "source_layer target_layer r r_y"],
) -> Float[Tensor, "source_layer target_layer c"]:
    flat = cross.flatten(0, 1)
    step = max(1, _ELEMENTS // flat[0].numel())
    found = torch.cat([torch.linalg.svdvals(part) for part in flat.split(step)])
    return found.reshape(*cross.shape[:2], -1)


def _centred(states: Float[Tensor, "layer n d"]) -> Float[Tensor, "layer n d"]:
    return states - states.mean(1, keepdim=True)


def spectral_warnings(source: Factors, target: Factors, name: str, n: int) -> list[str]:
    """What the cut to few directions does to the numbers."""
    found = []
    most = int(source.rank.max()) + int(target.rank.max())
    if name in ("svcca", "pwcca"):
        if most >= n:
            found.append(
                f"the kept directions of both sides together ({most}) reach the {n} texts, so canonical correlations "
                "of 1 appear by construction; lower variance_share or max_components, or capture more texts."
            )
        elif most > n / 5:
            found.append(
                f"{most} kept directions of both sides for {n} texts: canonical correlations of independent states are "
                "already large; read SVCCA and PWCCA against their null."
            )
    least = min(float(source.kept_share.min()), float(target.kept_share.min()))
    if name == "procrustes" and least < 0.99:
        found.append(
            f"the Procrustes distance is between the {source.scores.shape[2]} x {target.scores.shape[2]} leading "
            f"directions, which hold at least {least:.0%} of each layer's variance; raise max_components for the rest."
        )
    return found
