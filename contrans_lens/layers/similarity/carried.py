"""What the maps of a grid make of texts and concepts, for all pairs, without forming the maps where that is possible.

Notation of ``maps.grid``: ``X = U diag(s) V^T`` and ``Y`` are centred training states, ``A v = Y^T w`` with one weight
per text. A component ``u . y`` is predicted from ``U^T (Y u)`` alone.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.maps import MapGrid
from contrans_lens.maps.factor import inverse_filter
from contrans_lens.maps.leave_one_out import interpolates, one_minus_leverage, residual_gain

_ELEMENTS = 2**24
"""Numbers that the weights of shuffled maps may hold at once."""


def closed_form(maps: MapGrid) -> bool:
    """Whether every pair is a ridge or least-squares map, so that no map need be formed."""
    return maps.method in ("ols", "ridge")


def pair_ridges(maps: MapGrid) -> Float[Tensor, "source_layer target_layer"]:
    """The ridge of every pair of a closed-form grid; 0 for least squares."""
    if maps.method == "ridge" and isinstance(maps.ridge, str):
        return maps.chosen_ridges().to(maps.factor.mean)
    value = 0.0 if maps.method == "ols" else float(maps.ridge)
    return torch.full(maps.shape, value, dtype=torch.float64, device=maps.factor.mean.device)


def predictions(
    maps: MapGrid, x: Float[Tensor, "text source_layer d_source"]
) -> Iterator[Float[Tensor, "target_layer text d_target"]]:
    """For each source layer, what its maps predict at every target layer, float64."""
    if not closed_form(maps):
        for s, source in enumerate(maps.source_hook_points):
            states = x[:, s].double()
            yield torch.stack([maps.map(source, target)(states) for target in maps.target_hook_points])
        return
    ridges = pair_ridges(maps)
    y = torch.stack([(maps.y[:, t].double() - maps.y_mean[t]).to(maps.dtype) for t in range(maps.shape[1])])
    for s in range(maps.shape[0]):
        b = maps.factor.left(maps.x[:, s], s).to(maps.dtype).mT @ y
        scores = (x[:, s].double() - maps.factor.mean[s]) @ maps.factor.right[s]
        scaled = scores * inverse_filter(maps.factor.singular[s], ridges[s, :, None, None])
        yield (scaled.to(maps.dtype) @ b).double() + maps.y_mean[:, None]


def carried_concepts(
    maps: MapGrid, vectors: Float[Tensor, "source_layer d_source"]
) -> Float[Tensor, "source_layer target_layer d_target"]:
    """``A v`` of every pair, float64."""
    vectors = vectors.double()
    if closed_form(maps):
        return maps.concepts(vectors)
    rows = [
        [maps.concept(v, source, target) for target in maps.target_hook_points]
        for v, source in zip(vectors, maps.source_hook_points, strict=True)
    ]
    return torch.stack([torch.stack(row) for row in rows]).double()


def predicted_components(
    maps: MapGrid,
    x: Float[Tensor, "text source_layer d_source"],
    directions: Float[Tensor, "source_layer target_layer d_target"],
) -> Float[Tensor, "source_layer target_layer text"]:
    """``u . (A x + b)`` of every pair, float64."""
    if not closed_form(maps):
        parts = zip(predictions(maps, x), directions, strict=True)
        return torch.stack([torch.einsum("tnd,td->tn", predicted, u) for predicted, u in parts])
    ridges = pair_ridges(maps)
    offset = torch.einsum("std,td->st", directions, maps.y_mean)
    found = []
    for s, u in enumerate(directions):
        trained = _components(maps, u)
        b = trained @ maps.factor.left(maps.x[:, s], s)
        scores = (x[:, s].double() - maps.factor.mean[s]) @ maps.factor.right[s]
        found.append((b * inverse_filter(maps.factor.singular[s], ridges[s, :, None])) @ scores.mT)
    return torch.stack(found) + offset[..., None]


def shuffled_cosines(
    maps: MapGrid,
    vectors: Float[Tensor, "source_layer d_source"],
    own: Float[Tensor, "target_layer d_target"],
    orders: Int[Tensor, "draw n"],
    seed: int,
) -> Float[Tensor, "draw source_layer target_layer"]:
    """Cosine of the target's own vectors with concepts carried by maps that were fitted on shuffled pairs.

    Each shuffle moves the text weights of every pair to other texts; the ridge stays that of the true map. Methods
    without such weights are fitted anew for every pair and shuffle, with shuffles of whole texts from ``seed``.
    """
    if not closed_form(maps):
        rows = []
        for v, source in zip(vectors, maps.source_hook_points, strict=True):
            drawn = [maps.shuffled_concepts(v, source, target, len(orders), seed) for target in maps.target_hook_points]
            rows.append(torch.cosine_similarity(torch.stack(drawn).double(), own[:, None], dim=2).T)
        return torch.stack(rows, 1)
    weights = text_weights(maps, vectors).to(maps.dtype)
    sources, n = maps.shape[0], orders.shape[1]
    found = torch.empty(len(orders), *maps.shape, dtype=torch.float64)
    step = max(1, _ELEMENTS // (sources * n))
    inverse = torch.argsort(orders, dim=1)
    for t in range(maps.shape[1]):
        states = (maps.y[:, t].double() - maps.y_mean[t]).to(maps.dtype)
        direction = own[t].to(states)
        for start in range(0, len(orders), step):
            moved = weights[:, t][:, inverse[start : start + step]] @ states
            found[start : start + step, :, t] = torch.cosine_similarity(moved, direction, dim=2).T.double()
    return found


def text_weights(
    maps: MapGrid, vectors: Float[Tensor, "source_layer d_source"]
) -> Float[Tensor, "source_layer target_layer n"]:
    """``w`` of every pair, float64: ``A v = Y^T w``."""
    ridges, targets = pair_ridges(maps), maps.shape[1]
    return torch.stack(
        [
            maps.factor.text_weights(maps.x[:, s], v.expand(targets, -1), ridges[s, :, None], s)
            for s, v in enumerate(vectors)
        ]
    )


def cosine_influence(
    maps: MapGrid,
    vectors: Float[Tensor, "source_layer d_source"],
    carried: Float[Tensor, "source_layer target_layer d_target"],
    own: Float[Tensor, "target_layer d_target"],
) -> Float[Tensor, "source_layer target_layer n"]:
    """How much the cosine with the target's own vector changes, to first order, when a training text is left out.

    Leaving out text ``i`` moves a ridge map by ``A_(i) v = A v - w_i e_i / (1 - h_i)`` with the residual ``e_i`` and
    the leverage ``h_i`` (Cook and Weisberg 1982), so only two components of the residuals are needed.
    """
    weights, ridges = text_weights(maps, vectors), pair_ridges(maps)
    norm, goal = carried.norm(dim=2), own.norm(dim=1)
    cosine = torch.einsum("std,td->st", carried, own) / (norm * goal)
    found = []
    for s in range(maps.shape[0]):
        left, singular = maps.factor.left(maps.x[:, s], s), maps.factor.singular[s]
        exact = interpolates(singular, len(left))
        gains = residual_gain(singular[:, None], ridges[s], len(left))
        room = one_minus_leverage(left, gains, exact).T
        along = torch.stack([_components(maps, direction) for direction in (own, carried[s])])
        inside = along @ left
        residual = (inside * gains.T) @ left.mT
        if not exact:
            residual = residual + (along - inside @ left.mT)
        gradient = residual[0] / (norm[s] * goal)[:, None] - residual[1] * (cosine[s] / norm[s].square())[:, None]
        found.append(-weights[s] / room * gradient)
    return torch.stack(found)


def _components(maps: MapGrid, directions: Float[Tensor, "target_layer d_target"]) -> Float[Tensor, "target_layer n"]:
    """Centred training states along one direction per target layer, float64."""
    rows = [(maps.y[:, t].double() - maps.y_mean[t]) @ u for t, u in enumerate(directions)]
    return torch.stack(rows)
