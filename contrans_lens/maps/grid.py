"""Maps between all source layers and all target layers, from one factorisation per source layer.

Nothing is done for a pair until it is asked for, and a concept crosses a pair without its map being formed:
with ``X = U diag(s) V^T``,

    A v = Y^T w,    w = X V diag(1 / (s^2 + ridge)) V^T v,

where ``w`` holds one weight per text and depends on the source alone. A map fitted on shuffled pairs only
permutes ``w``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import MapError
from contrans_lens.maps.affine import AffineMap, affine_from_weight
from contrans_lens.maps.factor import SourceFactor, factor_source, inverse_filter
from contrans_lens.maps.fit import check_method, check_pairs, solve, with_diagnostics
from contrans_lens.maps.leave_one_out import RidgePath
from contrans_lens.maps.pair_ridges import PairRidges
from contrans_lens.maps.shuffled import permutations, permuted_product, refitted_concepts, shuffled_ridges
from contrans_lens.models import Fingerprint


@dataclass(frozen=True, eq=False)
class MapGrid:
    """All maps from the source layers to the target layers; made by :func:`fit_map_grid`."""

    source_hook_points: tuple[str, ...]
    target_hook_points: tuple[str, ...]
    method: str
    x: Float[Tensor, "n source_layer d_source"]
    """Source states as given."""
    y: Float[Tensor, "n target_layer d_target"]
    """Target states as given."""
    factor: SourceFactor
    ridge: int | float | str = "loo"
    ridges: tuple[int | float, ...] | None = None
    rank: int | None = None
    source_fingerprint: Fingerprint | None = None
    target_fingerprint: Fingerprint | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Source layers, target layers."""
        return len(self.source_hook_points), len(self.target_hook_points)

    @cached_property
    def _pairs(self) -> PairRidges:
        return PairRidges(self.x, self.y, self.factor, self.method, self.ridge, self.ridges)

    @property
    def dtype(self) -> torch.dtype:
        """Of the products over pairs: float64 for small problems or float64 states, else float32."""
        return self._pairs.dtype

    @property
    def y_mean(self) -> Float[Tensor, "target_layer d_target"]:
        """Mean target states, float64."""
        return self._pairs.y_mean

    def map(
        self,
        source: str,
        target: str,
        *,
        held_out: tuple[Tensor, Tensor] | None = None,
        concept: tuple[Tensor, Tensor | None] | None = None,
    ) -> AffineMap:
        """The map of one pair, formed now in float64; equal to :func:`fit_map` on that pair.

        Args:
            source: source hook point.
            target: target hook point.
            held_out: states of other texts at these two hook points, for the diagnostics.
            concept: source vector and the target's own (or None), for the diagnostics.

        Raises:
            MapError: a hook point is not in the grid, or the widths do not allow the method.
        """
        s, t = self._source(source), self._target(target)
        fitted_path = self._pairs.path(s, t) if self.method in ("ols", "ridge", "reduced_rank") else None
        b = self.factor.left(self.x[:, s], s).mT @ self._pairs.target_states(t)
        chosen = fitted_path.chosen() if fitted_path else None
        solution = solve(self.method, self.factor, s, b, chosen, self.rank)
        moved = 0.0 if self.method == "identity" else 1.0
        weight, bias = affine_from_weight(
            solution.weight,
            self.factor.mean[s] * moved,
            self.y_mean[t] * moved,
            torch.promote_types(self.x.dtype, torch.float32),
        )
        fitted = AffineMap(
            weight,
            bias,
            source,
            target,
            self.method,
            solution.ridge,
            solution.rank,
            self.source_fingerprint,
            self.target_fingerprint,
        )
        return with_diagnostics(fitted, self.factor.n, fitted_path, held_out, concept)

    def ridge_path(self, source: str, target: str) -> RidgePath:
        """Leave-one-out error of every ridge strength for one pair.

        Raises:
            MapError: a hook point is not in the grid, or the method has no ridge.
        """
        self._require_linear("a ridge path")
        return self._pairs.path(self._source(source), self._target(target))

    def chosen_ridges(self) -> Float[Tensor, "source_layer target_layer"]:
        """The ridge of every pair, choosing all that were not chosen yet: three products per source layer.

        Raises:
            MapError: the method has no ridge.
        """
        self._require_linear("a choice of ridge")
        return self._pairs.choose_all()

    def concept(
        self, vector: Float[Tensor, "*batch d_source"], source: str, target: str
    ) -> Float[Tensor, "*batch d_target"]:
        """Carry a concept across one pair, ``A v``, without forming ``A`` where the method allows.

        Raises:
            MapError: a hook point is not in the grid, or the vector has another width than the source.
        """
        s, t = self._source(source), self._target(target)
        self._check_width(vector)
        if self.method not in ("ols", "ridge"):
            return self.map(source, target).concept(vector)
        weights = self.factor.text_weights(self.x[:, s], vector, self._pairs.chosen(s, t), s)
        return (weights.to(self.dtype) @ self.y[:, t].to(self.dtype)).to(vector.dtype)

    def concepts(
        self, vectors: Float[Tensor, "source_layer d_source"]
    ) -> Float[Tensor, "source_layer target_layer d_target"]:
        """Carry each source layer's vector to every target layer: all pairs in one batched product.

        Raises:
            MapError: the vectors' shape does not fit, or the method has no closed form over pairs.
        """
        self._require_linear("carrying all pairs at once")
        self._check_width(vectors)
        if len(vectors) != self.shape[0]:
            raise MapError(f"{len(vectors)} vectors for {self.shape[0]} source layers; give one per source layer.")
        chosen = self._pairs.of_all_pairs()
        weights = torch.stack(
            [
                self.factor.text_weights(self.x[:, s], vectors[s].expand(self.shape[1], -1), chosen[s, :, None], s)
                for s in range(self.shape[0])
            ]
        )
        carried = torch.einsum("stn,ntd->std", weights.to(self.dtype), self.y.to(self.dtype))
        return carried.to(vectors.dtype)

    def weights(self) -> Float[Tensor, "source_layer target_layer d_target d_source"]:
        """Every pair's ``A`` at once, in the dtype of the pair products. Needs memory for all of them.

        Raises:
            MapError: the method is not least squares or ridge.
        """
        self._require_linear("forming all maps at once")
        chosen = self._pairs.of_all_pairs()
        formed = self.y.new_empty(*self.shape, self.y.shape[2], self.x.shape[2], dtype=self.dtype)
        for s, b in self._projected_targets():
            scale = inverse_filter(self.factor.singular[s], chosen[s, :, None]).to(b.dtype)
            torch.matmul(b.mT * scale[:, None], self.factor.right[s].to(b.dtype).mT, out=formed[s])
        return formed

    def held_out_r2(
        self,
        x_test: Float[Tensor, "test source_layer d_source"],
        y_test: Float[Tensor, "test target_layer d_target"],
    ) -> Float[Tensor, "source_layer target_layer"]:
        """Held-out R2 of every pair (dimensions weighted by their variance), without forming the maps.

        Raises:
            MapError: the method is not least squares or ridge, or the held-out states do not fit the grid.
        """
        self._require_linear("R2 of all pairs at once")
        check_pairs(x_test, y_test)
        chosen = self._pairs.of_all_pairs()
        truth = y_test.transpose(0, 1).to(torch.float64)
        total = (truth - truth.mean(1, keepdim=True)).square().sum((1, 2))
        rows = []
        for s, b in self._projected_targets():
            scores = (x_test[:, s].to(torch.float64) - self.factor.mean[s]) @ self.factor.right[s]
            scaled = scores * inverse_filter(self.factor.singular[s], chosen[s, :, None, None])
            predicted = (scaled.to(b.dtype) @ b).to(torch.float64) + self.y_mean[:, None]
            rows.append(1 - (truth - predicted).square().sum((1, 2)) / total)
        return torch.stack(rows)

    def shuffled_concepts(
        self,
        vector: Float[Tensor, " d_source"],
        source: str,
        target: str,
        n_draws: int = 20,
        seed: int = 0,
        ridge: str = "true",
    ) -> Float[Tensor, "draw d_target"]:
        """The null: the concept carried by maps fitted on shuffled pairs (rows of ``Y`` permuted).

        Args:
            vector: the source's concept vector.
            source: source hook point.
            target: target hook point.
            n_draws: how many shuffles.
            seed: of the permutations.
            ridge: ``"true"`` keeps the strength of the true map, so that all draws together cost one product;
                the null then differs from the true map in nothing but the pairing. ``"loo"`` chooses the
                strength anew for every draw, as a fit that knew nothing would (it mostly takes the strongest,
                so these vectors are short and must be brought to equal norm, as every control is).

        Raises:
            MapError: unknown hook point or ridge rule, no draws, or the identity, which has no pairs to
                shuffle.
        """
        s, t = self._source(source), self._target(target)
        self._check_width(vector)
        if n_draws < 1:
            raise MapError(f"{n_draws} draws were asked for; ask for at least 1.")
        if ridge not in ("true", "loo"):
            raise MapError(f"unknown ridge rule {ridge!r} for shuffled pairs; choose 'true' or 'loo'.")
        if self.method == "identity":
            raise MapError("the identity is not fitted, so shuffled pairs mean nothing for it; use another method.")
        orders = permutations(self.factor.n, n_draws, seed).to(self.y.device)
        if self.method not in ("ols", "ridge"):
            strength = self._pairs.chosen(s, t) if self.method == "reduced_rank" else None
            left = self.factor.left(self.x[:, s], s)
            return refitted_concepts(
                self.method, self.factor, s, left, self._pairs.target_states(t), orders, vector, strength, self.rank
            )
        if ridge == "true" or self.method == "ols":
            chosen = torch.full((n_draws, 1), self._pairs.chosen(s, t)).to(self.factor.mean)
        else:
            left = self.factor.left(self.x[:, s], s)
            y = self._pairs.target_states(t).to(self.dtype)
            chosen = shuffled_ridges(left, self.factor.singular[s], y, orders, self._pairs.strengths(s))
        weights = self.factor.text_weights(self.x[:, s], vector.expand(n_draws, -1), chosen, s)
        return permuted_product(weights, orders, self.y[:, t].to(self.dtype)).to(vector.dtype)

    def _projected_targets(self) -> Iterator[tuple[int, Tensor]]:
        """For each source layer, ``B = U^T Y`` of every target layer: ``[target, rank, d_target]``."""
        for s in range(self.shape[0]):
            yield s, self.factor.left(self.x[:, s], s).to(self.dtype).mT @ self._pairs.centred

    def _source(self, name: str) -> int:
        return _position(name, self.source_hook_points, "source")

    def _target(self, name: str) -> int:
        return _position(name, self.target_hook_points, "target")

    def _check_width(self, vectors: Float[Tensor, "..."]) -> None:
        if vectors.shape[-1] != self.x.shape[2]:
            raise MapError(f"a vector of width {vectors.shape[-1]} cannot leave a source of width {self.x.shape[2]}.")

    def _require_linear(self, what: str) -> None:
        if self.method not in ("ols", "ridge"):
            raise MapError(f"{what} is offered for 'ols' and 'ridge', not for {self.method!r}; use grid.map(...).")


def fit_map_grid(
    x: Float[Tensor, "n source_layer d_source"],
    y: Float[Tensor, "rows target_layer d_target"],
    source_hook_points: Sequence[str],
    target_hook_points: Sequence[str],
    *,
    method: str = "ridge",
    ridge: int | float | str = "loo",
    ridges: Sequence[int | float] | None = None,
    rank: int | None = None,
    source_fingerprint: Fingerprint | None = None,
    target_fingerprint: Fingerprint | None = None,
) -> MapGrid:
    """Factorise every source layer once, ready for every target layer, ridge strength and shuffled copy.

    The factorisation is float64. Products with the target run in float64 for small problems or float64
    states, else in float32 on orthonormal coordinates, where rounding is not amplified.

    Args:
        x: source states, ``[n, source_layer, d_source]``.
        y: target states of the same texts, ``[n, target_layer, d_target]``.
        source_hook_points: one name per source layer.
        target_hook_points: one name per target layer.
        method: one of ``MAP_METHODS``.
        ridge: strength for every pair, or ``"loo"``: each pair's own exact leave-one-out choice, made when
            needed.
        ridges: strengths to try; None takes nineteen half decades around each source layer's own scale.
        rank: of reduced-rank maps.
        source_fingerprint: of the source model.
        target_fingerprint: of the target model.

    Raises:
        MapError: as :func:`fit_map`, or hook points that do not match the layers.
    """
    check_method(method)
    check_pairs(x, y)
    for names, layers, side in (
        (source_hook_points, x.shape[1], "source"),
        (target_hook_points, y.shape[1], "target"),
    ):
        if len(names) != layers or len(set(names)) != layers:
            raise MapError(f"{layers} {side} layers need as many different hook points; got {list(names)}.")
    grid = MapGrid(
        tuple(source_hook_points),
        tuple(target_hook_points),
        method,
        x,
        y,
        factor_source(x),
        ridge,
        None if ridges is None else tuple(ridges),
        rank,
        source_fingerprint,
        target_fingerprint,
    )
    if method in ("ridge", "reduced_rank"):
        grid._pairs.strengths(0)  # a bad strength is an error now, not when the first pair is asked for
    return grid


def _position(name: str, names: tuple[str, ...], side: str) -> int:
    if name not in names:
        raise MapError(f"{name!r} is not a {side} hook point of this grid; it has {', '.join(names)}.")
    return names.index(name)
