"""All pairs of layers, all metrics, their null and their intervals, in one call."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.errors import LayerError
from contrans_lens.layers.similarity.grid import SimilarityGrid
from contrans_lens.layers.similarity.inference import assemble
from contrans_lens.layers.similarity.matrices import Matrices, MatrixCosine, RankCosine, centred_distances, gram
from contrans_lens.layers.similarity.neighbours import MutualNeighbours, check_k, list_length, nearest_neighbours
from contrans_lens.layers.similarity.options import SimilarityOptions
from contrans_lens.layers.similarity.resampling import Resampling, plan_resampling
from contrans_lens.layers.similarity.sides import Side, make_sides, side_warnings
from contrans_lens.layers.similarity.spectral import CanonicalCorrelations, Procrustes, factorise, spectral_warnings

STATE_METRICS = ("cka", "mutual_knn", "rsa", "svcca", "pwcca", "procrustes")
"""The metrics that compare states alone, without a fitted map."""

_ELEMENTS = 2**29
"""Entries of ``[n, n]`` matrices held at once; more layers are compared in several blocks."""


class _Engine(Protocol):
    """What each kind of metric offers for one block of layers."""

    names: tuple[str, ...]

    def values(self) -> Float[Tensor, "metric source_layer target_layer"]: ...

    def permuted(self, orders: Int[Tensor, "draw n"]) -> Float[Tensor, "draw metric source_layer target_layer"]: ...

    def subset(self, members: Bool[Tensor, "draw n"]) -> Float[Tensor, "draw metric source_layer target_layer"]: ...


def similarity_grid(
    x: Float[Tensor, "n source_layer d_source"],
    y: Float[Tensor, "rows target_layer d_target"],
    source_hook_points: Sequence[str],
    target_hook_points: Sequence[str],
    *,
    metrics: Sequence[str] = STATE_METRICS,
    n_permutations: int = 200,
    n_subsamples: int = 100,
    level: int | float = 0.95,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    options: SimilarityOptions | None = None,
) -> dict[str, SimilarityGrid]:
    """Compare every source layer with every target layer on the same texts.

    Each layer is centred, and its Gram matrix, neighbours or factorisation computed, once; all pairs then cost one
    contraction, and a shuffle of the pairing only moves rows. One shuffle serves all metrics and pairs, which is what
    makes the p-value of the best pair honest; see :mod:`contrans_lens.layers.similarity.inference`.

    Pool the states without the first token: its massive activations (Sun et al. 2024) put most of the variance on one
    dimension that says nothing about the text, and every metric that weighs by variance then sees only that. Layers
    where one dimension or one text still carries more than half of the variance are named in the warnings.

    Args:
        x: source states, ``[n, source_layer, d_source]``, any float dtype.
        y: target states of the same texts, ``[n, target_layer, d_target]``; may be ``x`` itself.
        source_hook_points: one name per source layer.
        target_hook_points: one name per target layer.
        metrics: names among ``STATE_METRICS``.
        n_permutations: shuffles of the pairing; 0 leaves the null out. The smallest p-value is ``1 / (1 + B)``.
        n_subsamples: subsamples behind the intervals, 20 or more; 0 leaves them out.
        level: coverage of the intervals, and one minus the level of the critical values.
        seed: of the shuffles and subsamples.
        groups: group name per text (a template, an entity): groups and not texts are resampled and shuffled.
        options: settings of the metrics.

    Returns:
        One grid per metric, in the order asked for.

    Raises:
        LayerError: texts, hook points, groups or settings do not fit, values are not finite, or a layer is constant.
    """
    options = options or SimilarityOptions()
    _check_metrics(metrics)
    source, target = make_sides(x, y, source_hook_points, target_hook_points)
    plan = plan_resampling(
        source.n,
        groups,
        n_permutations=n_permutations,
        n_subsamples=n_subsamples,
        keep=options.keep,
        level=level,
        seed=seed,
    )
    _check_counts(plan, metrics, options)
    notes = [*plan.warnings, *side_warnings(source, "source")]
    notes += [] if target.raw is source.raw else side_warnings(target, "target")
    own_notes: dict[str, list[str]] = {name: [] for name in metrics}
    shape = (len(source.hook_points), len(target.hook_points))
    values = {name: torch.empty(shape, dtype=torch.float64) for name in metrics}
    null = {name: torch.empty(n_permutations, *shape, dtype=torch.float64) for name in metrics}
    replicates = {name: torch.empty(n_subsamples, *shape, dtype=torch.float64) for name in metrics}
    for rows, columns, engine in _engines(source, target, tuple(metrics), options, n_subsamples > 0, own_notes):
        found = engine.values()
        shuffled = engine.permuted(plan.orders.to(x.device)) if n_permutations else None
        subset = engine.subset(plan.members.to(x.device)) if n_subsamples else None
        for place, name in enumerate(engine.names):
            values[name][rows, columns] = found[place].cpu()
            if shuffled is not None:
                null[name][:, rows, columns] = shuffled[:, place].cpu()
            if subset is not None:
                replicates[name][:, rows, columns] = subset[:, place].cpu()
    hook_points = (source.hook_points, target.hook_points)
    return {
        name: assemble(name, hook_points, values[name], null[name], replicates[name], plan, (*notes, *own_notes[name]))
        for name in metrics
    }


def _engines(
    source: Side,
    target: Side,
    metrics: tuple[str, ...],
    options: SimilarityOptions,
    subsets: bool,
    notes: dict[str, list[str]],
) -> Iterator[tuple[slice, slice, _Engine]]:
    """Everything that measures, with the layers that it measures; few enough at a time to fit in memory."""
    if {"cka", "mutual_knn", "rsa"} & set(metrics):
        count = max(1, _ELEMENTS // (source.n**2 * _matrices(metrics)))  # layers that may be held, of both sides
        for rows in _parts(len(source.hook_points), max(1, count // 2)):
            own = _geometry(source.layers(rows), metrics, options, subsets)
            for columns in _parts(len(target.hook_points), max(1, count // 2)):
                same = target.raw is source.raw and rows == columns
                other = own if same else _geometry(target.layers(columns), metrics, options, subsets)
                for engine in _pair(own, other, options):
                    yield rows, columns, engine
    factors = None
    names = tuple(name for name in ("svcca", "pwcca") if name in metrics)
    everything = slice(0, len(source.hook_points)), slice(0, len(target.hook_points))
    if names or "procrustes" in metrics:
        own_factors = factorise(source, options)
        factors = own_factors, own_factors if target.raw is source.raw else factorise(target, options)
        for name in {*names, "procrustes"} & set(metrics):
            notes[name] += spectral_warnings(*factors, name, source.n)
        if names:
            yield *everything, CanonicalCorrelations(*factors, names)
        if "procrustes" in metrics:
            yield *everything, Procrustes(*factors)


@dataclass(frozen=True, eq=False)
class _Geometry:
    """Text-by-text matrices and neighbours of some layers of one side."""

    cka: Matrices | None
    rsa: Matrices | None
    neighbours: Int[Tensor, "layer n reach"] | None


def _geometry(side: Side, metrics: tuple[str, ...], options: SimilarityOptions, subsets: bool) -> _Geometry:
    """One Gram per layer serves all three metrics; a layer at a time, which stays in cache."""
    layers, n = side.states.shape[:2]
    cka = side.states.new_empty(layers, n, n) if "cka" in metrics else None
    rsa = side.states.new_empty(layers, n, n) if "rsa" in metrics else None
    length = list_length(n, options.k, subsets)
    angles = {"rsa": options.rsa_distance == "cosine", "mutual_knn": options.knn_distance == "cosine", "cka": False}
    kinds = {angles[name] for name in angles if name in metrics and name != "cka"}
    products = {cosine: side.states.new_empty(n, n) for cosine in kinds}
    rows = side.states.new_empty(layers, n, dtype=torch.float64)
    lists = []
    for layer in range(layers):
        if cka is not None:
            products[False] = cka[layer]
        for cosine, out in products.items():
            gram(side.directions(layer) if cosine else side.states[layer], out)
        if rsa is not None:
            centred_distances(products[angles["rsa"]], rsa[layer], options.rsa_distance, options.rsa_correlation)
        if "mutual_knn" in metrics:
            own, cosine = products[angles["mutual_knn"]], angles["mutual_knn"]
            lists.append(nearest_neighbours(own, side.raw[:, layer], options.k, length, cosine))
        if cka is not None:  # last, for the others need the diagonal
            rows[layer] = -cka[layer].diagonal().double()  # of centred states: with the diagonal, rows sum to zero
            cka[layer].fill_diagonal_(0)
    return _Geometry(
        None if cka is None else Matrices(cka, rows),
        None if rsa is None else Matrices(rsa),
        torch.stack(lists) if lists else None,
    )


def _pair(own: _Geometry, other: _Geometry, options: SimilarityOptions) -> Iterator[_Engine]:
    if own.cka is not None and other.cka is not None:
        yield MatrixCosine("cka", own.cka, other.cka)
    if own.rsa is not None and other.rsa is not None:
        kind = RankCosine if options.rsa_correlation == "spearman" else MatrixCosine
        yield kind("rsa", own.rsa, other.rsa)
    if own.neighbours is not None and other.neighbours is not None:
        yield MutualNeighbours(own.neighbours, other.neighbours, options.k)


def _matrices(metrics: tuple[str, ...]) -> int:
    """How many matrices a layer keeps."""
    return max(1, ("cka" in metrics) + ("rsa" in metrics))


def _parts(layers: int, step: int) -> Iterator[slice]:
    for start in range(0, layers, step):
        yield slice(start, min(start + step, layers))


def _check_metrics(metrics: Sequence[str]) -> None:
    unknown = [name for name in metrics if name not in STATE_METRICS]
    if unknown or not metrics or len(set(metrics)) != len(metrics):
        raise LayerError(
            f"metrics {list(metrics)}: name each of {', '.join(STATE_METRICS)} at most once, and at least one "
            "(affine_r2_grid and concept_carriage offer those that need a fitted map)."
        )


def _check_counts(plan: Resampling, metrics: Sequence[str], options: SimilarityOptions) -> None:
    if "mutual_knn" in metrics:
        check_k(plan.n, options.k)
    needed = max(4, options.k + 2) if "mutual_knn" in metrics else 4
    if plan.smallest() < needed:
        raise LayerError(
            f"subsamples of {plan.smallest()} texts are too small for these metrics, which need {needed}; give more "
            "texts or groups, or n_subsamples=0 for no intervals."
        )
