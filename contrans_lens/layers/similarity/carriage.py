"""What a fitted grid of maps carries: held-out R2 of every pair, in all directions and along a concept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import LayerError
from contrans_lens.layers.similarity.carried import (
    carried_concepts,
    closed_form,
    cosine_influence,
    predicted_components,
    predictions,
    shuffled_cosines,
)
from contrans_lens.layers.similarity.grid import SimilarityGrid
from contrans_lens.layers.similarity.inference import assemble, interval
from contrans_lens.layers.similarity.metric import METRICS
from contrans_lens.layers.similarity.resampling import Resampling, plan_resampling, text_units
from contrans_lens.layers.similarity.sides import check_held_out
from contrans_lens.maps import MapGrid


@dataclass(frozen=True, eq=False)
class ConceptCarriage:
    """How well one concept crosses every pair of layers; made by :func:`concept_carriage`."""

    carried_r2: SimilarityGrid
    """Held-out R2 along the carried direction; needs no target labels."""
    concept_cosine: SimilarityGrid | None
    """Cosine with the target's own vector; None where that was not given."""
    relative_length: Float[Tensor, "source_layer target_layer"]
    """``|A v|`` over the mean distance of the held-out target states from their mean."""
    shrinkage: Float[Tensor, "source_layer target_layer"] | None
    """``|A v|`` over the length of the target's own vector: below 1 where ridge and noise shrink it."""
    gain: Float[Tensor, "source_layer target_layer"]
    """Standard deviation of ``u . y`` over the root mean square of those of the target's dimensions: above 1 where the
    carried concept points along something that varies much in the target, near 0 where the target hardly uses it."""

    @property
    def grids(self) -> dict[str, SimilarityGrid]:
        """The grids by metric."""
        found = {"carried_r2": self.carried_r2}
        return found if self.concept_cosine is None else {"concept_cosine": self.concept_cosine, **found}


def affine_r2_grid(
    maps: MapGrid,
    x_test: Float[Tensor, "test source_layer d_source"],
    y_test: Float[Tensor, "rows target_layer d_target"],
    *,
    n_permutations: int = 200,
    n_subsamples: int = 100,
    level: int | float = 0.95,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    keep: int | float = 0.8,
) -> SimilarityGrid:
    """Held-out R2 of every pair with its null: the maps stay and the held-out texts are paired at random.

    ``R2 = 1 - sum |y - A x - b|^2 / sum |y - mean y|^2`` as :meth:`contrans_lens.maps.MapGrid.held_out_r2`, for every
    kind of map. The intervals are over held-out texts; the maps are taken as given.

    Args:
        maps: fitted on other texts.
        x_test: held-out source states, without the first token.
        y_test: held-out target states of the same texts.
        n_permutations: shuffles of the held-out pairing, or 0.
        n_subsamples: subsets of the held-out texts, or 0.
        level: coverage of the intervals.
        seed: of the shuffles and subsets.
        groups: group name per held-out text.
        keep: share of the groups in each subset.

    Raises:
        LayerError: the states do not fit the maps, are not finite or constant, or the numbers are out of range.
        MapError: the maps cannot be applied.
    """
    check_held_out(maps, x_test, y_test)
    plan = _plan(len(x_test), groups, n_permutations, n_subsamples, keep, level, seed)
    truth = y_test.transpose(0, 1).double()
    centre = truth.mean(1, keepdim=True)
    truth = truth - centre
    total = truth.square().sum(2)
    means = _subset_means(plan, truth)
    values, null, replicates = [], [], []
    for predicted in predictions(maps, x_test):
        guess = predicted - centre
        error = (truth - guess).square().sum(2)
        values.append(1 - error.sum(1) / total.sum(1))
        matched = _matched(guess.to(maps.dtype), truth.to(maps.dtype), plan.orders)
        null.append(1 - (total.sum(1) + guess.square().sum((1, 2)) - 2 * matched) / total.sum(1))
        replicates.append(_subset_r2(plan, error, total, means))
    return assemble(
        "affine_r2",
        (maps.source_hook_points, maps.target_hook_points),
        torch.stack(values).cpu(),
        torch.stack(null, 1).cpu(),
        torch.stack(replicates, 1).cpu(),
        plan,
        plan.warnings,
    )


def concept_carriage(
    maps: MapGrid,
    source_vectors: Float[Tensor, "source_vector source_width"],
    target_vectors: Float[Tensor, "target_vector target_width"] | None,
    x_test: Float[Tensor, "test source_layer d_source"],
    y_test: Float[Tensor, "rows target_layer d_target"],
    *,
    n_permutations: int = 200,
    n_subsamples: int = 100,
    level: int | float = 0.95,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    train_groups: Sequence[str] | None = None,
    keep: int | float = 0.8,
) -> ConceptCarriage:
    """Carry a concept across every pair and look at what arrives.

    With ``u = A v / |A v|``:

    * ``carried_r2``: held-out R2 of ``u . y`` given ``u . (A x + b)``. Null: the held-out texts paired at random.
      Needs no labels in the target. Intervals over held-out texts, the maps taken as given.
    * ``concept_cosine``: cosine of ``A v`` with the target's own vector. Null: the maps fitted on shuffled pairs of
      training texts, as :meth:`contrans_lens.maps.MapGrid.shuffled_concepts` at the true map's ridge; it is wide where
      the target moves in few directions, for any vector carried there lies among them. Intervals over
      training texts by leaving each out (closed form, ridge and least squares only), the two vectors taken as given.
    * ``relative_length``, ``shrinkage`` and ``gain`` say how long the carried vector is and how much the target varies
      along it.

    Args:
        maps: fitted on other texts than the held-out ones.
        source_vectors: the concept at every source layer of the grid.
        target_vectors: the target's own at every target layer, or None.
        x_test: held-out source states, without the first token.
        y_test: held-out target states of the same texts.
        n_permutations: shuffles, or 0.
        n_subsamples: subsets of the held-out texts, or 0.
        level: coverage of the intervals.
        seed: of the shuffles and subsets.
        groups: group name per held-out text.
        train_groups: group name per text that the maps were fitted on.
        keep: share of the groups in each subset.

    Raises:
        LayerError: states or vectors do not fit the maps, are not finite or zero, a carried concept is zero, or the
            numbers are out of range.
        MapError: the maps cannot carry a concept.
    """
    check_held_out(maps, x_test, y_test)
    _check_vectors(source_vectors, (maps.shape[0], maps.x.shape[2]), maps.source_hook_points, "source")
    if target_vectors is not None:
        _check_vectors(target_vectors, (maps.shape[1], maps.y.shape[2]), maps.target_hook_points, "target")
    plan = _plan(len(x_test), groups, n_permutations, n_subsamples, keep, level, seed)
    carried = carried_concepts(maps, source_vectors)
    length = carried.norm(dim=2)
    if not bool((length > 0).all()):
        s, t = (length <= 0).nonzero()[0].tolist()
        raise LayerError(
            f"the concept at {maps.source_hook_points[s]} is carried to zero at {maps.target_hook_points[t]}, so it "
            "has no direction there; leave the layer out."
        )
    along = carried / length[..., None]
    centred = y_test.double() - y_test.mean(0, dtype=torch.float64)
    truth = torch.einsum("ntd,std->stn", centred, along)
    offset = torch.einsum("td,std->st", y_test.mean(0, dtype=torch.float64), along)
    guess = predicted_components(maps, x_test, along) - offset[..., None]
    spread = centred.square().mean((0, 2)).sqrt()
    cosine = None
    if target_vectors is not None:
        cosine = _cosine_grid(
            maps, source_vectors, target_vectors.double(), carried, n_permutations, level, seed, train_groups
        )
    return ConceptCarriage(
        _component_r2(maps, truth, guess, plan),
        cosine,
        (length / centred.norm(dim=2).mean(0)).cpu(),
        None if target_vectors is None else (length / target_vectors.double().norm(dim=1)).cpu(),
        (truth.square().mean(2).sqrt() / spread).cpu(),
    )


def _component_r2(
    maps: MapGrid,
    truth: Float[Tensor, "source_layer target_layer test"],
    guess: Float[Tensor, "source_layer target_layer test"],
    plan: Resampling,
) -> SimilarityGrid:
    """R2 of one component per pair; both about the held-out mean."""
    error, total = (truth - guess).square(), truth.square()
    matched = torch.stack([(truth[:, :, order] * guess).sum(2) for order in plan.orders]) if len(plan.orders) else None
    null = None
    if matched is not None:
        null = (1 - (total.sum(2) + guess.square().sum(2) - 2 * matched) / total.sum(2)).cpu()
    mask = plan.members.to(truth)
    count = mask.sum(1)
    sums = [torch.einsum("bn,stn->bst", mask, each) for each in (error, total, truth)]
    replicates = 1 - sums[0] / (sums[1] - sums[2].square() / count[:, None, None])
    hook_points = (maps.source_hook_points, maps.target_hook_points)
    values = (1 - error.sum(2) / total.sum(2)).cpu()
    return assemble("carried_r2", hook_points, values, null, replicates.cpu(), plan, plan.warnings)


def _cosine_grid(
    maps: MapGrid,
    vectors: Float[Tensor, "source_layer d_source"],
    own: Float[Tensor, "target_layer d_target"],
    carried: Float[Tensor, "source_layer target_layer d_target"],
    n_permutations: int,
    level: int | float,
    seed: int,
    groups: Sequence[str] | None,
) -> SimilarityGrid:
    """Cosines with the target's own vectors; the training texts are the unit."""
    plan = _plan(maps.factor.n, groups, n_permutations, 0, 0.5, level, seed)
    values = torch.cosine_similarity(carried, own, dim=2)
    null = None
    if n_permutations and maps.method != "identity":
        null = shuffled_cosines(maps, vectors, own, plan.orders.to(maps.y.device), seed).cpu()
    ends, notes = None, plan.warnings
    if closed_form(maps):
        units = text_units(maps.factor.n, groups)
        single = cosine_influence(maps, vectors, carried, own)
        change = torch.zeros(*values.shape, plan.n_units, dtype=torch.float64, device=single.device)
        change.index_add_(2, units.to(single.device), single)
        error = change.square().sum(2).sqrt() * math.sqrt((plan.n_units - 1) / plan.n_units)
        steep = (1 - values.square()).clamp_min(1e-12)  # of atanh
        ends = interval(METRICS["concept_cosine"], values.cpu(), (error / steep).cpu(), plan.n_units, level)
    else:
        notes += (f"no interval of the cosine: leaving out a text has no closed form for {maps.method!r} maps.",)
    hook_points = (maps.source_hook_points, maps.target_hook_points)
    return assemble("concept_cosine", hook_points, values.cpu(), null, None, plan, notes, ends)


def _matched(
    guess: Float[Tensor, "target_layer test d"],
    truth: Float[Tensor, "target_layer test d"],
    orders: Int[Tensor, "draw test"],
) -> Float[Tensor, "draw target_layer"]:
    """``sum_i guess_i . truth_{order(i)}`` of every shuffle, from all products once."""
    found = torch.zeros(len(orders), len(guess), dtype=torch.float64, device=guess.device)
    if len(orders) == 0:
        return found
    orders = orders.to(guess.device)
    for t, (a, b) in enumerate(zip(guess, truth, strict=True)):
        for start in range(0, len(a), 1024):
            products = a[start : start + 1024] @ b.T
            rows = torch.arange(len(products), device=guess.device)
            found[:, t] += products[rows, orders[:, start : start + 1024]].sum(1, dtype=torch.float64)
    return found


def _subset_means(
    plan: Resampling, truth: Float[Tensor, "target_layer test d"]
) -> Float[Tensor, "subset target_layer"]:
    """``|sum y|^2 / count`` of every subset: what centring it anew takes off."""
    mask = plan.members.to(truth)
    rows = [(mask @ own).square().sum(1) for own in truth]
    return torch.stack(rows, 1) / mask.sum(1, keepdim=True)


def _subset_r2(
    plan: Resampling,
    error: Float[Tensor, "target_layer test"],
    total: Float[Tensor, "target_layer test"],
    means: Float[Tensor, "subset target_layer"],
) -> Float[Tensor, "subset target_layer"]:
    mask = plan.members.to(error)
    return 1 - (mask @ error.T) / (mask @ total.T - means)


def _plan(
    n: int,
    groups: Sequence[str] | None,
    n_permutations: int,
    n_subsamples: int,
    keep: int | float,
    level: int | float,
    seed: int,
) -> Resampling:
    return plan_resampling(
        n, groups, n_permutations=n_permutations, n_subsamples=n_subsamples, keep=keep, level=level, seed=seed
    )


def _check_vectors(
    vectors: Float[Tensor, "layer d"], shape: tuple[int, int], hook_points: tuple[str, ...], side: str
) -> None:
    if vectors.shape != shape:
        raise LayerError(
            f"{side} vectors of shape {tuple(vectors.shape)} do not fit maps with {shape[0]} {side} layers of width "
            f"{shape[1]}; give one vector per layer of the grid."
        )
    bad = ~torch.isfinite(vectors).all(1) | (vectors == 0).all(1)
    if bool(bad.any()):
        names = [hook_points[i] for i in bad.nonzero().flatten().tolist()]
        raise LayerError(f"the {side} vectors at {', '.join(names)} are zero, NaN or infinite; estimate them anew.")
