"""The maps by which activity differences go from a source model to a target: which layers, and fitted on what."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from contrans_lens.errors import MapError
from contrans_lens.maps import AffineMap, fit_map
from contrans_lens.models import HookedModel, residual_hook_points
from contrans_lens.models.hook_points import resid_post, resid_pre
from contrans_lens.models.plain import place_of
from contrans_lens.residuals import PairedResiduals, capture_pair


def proportional_points(target_points: Sequence[str], n_source: int, n_target: int) -> dict[str, str]:
    """For each of the target's hook points the source's at the same share of its depth.

    After ``k`` of the target's blocks stands the source after the nearest whole number to ``k n_source / n_target``,
    at least one (halves go up); before all blocks stands before all blocks.

    Args:
        target_points: points of the residual stream.
        n_source: blocks of the source.
        n_target: blocks of the target.

    Raises:
        HookPointError: a point is not between blocks.
        MapError: a point is above the target's last block, or there are no blocks.
    """
    points = {}
    for name in target_points:
        layer, side = place_of(name)
        depth = layer + (side == "post")
        if not (n_source >= 1 and layer < n_target):
            raise MapError(f"{name!r} of a target of {n_target} blocks has no place in a source of {n_source}.")
        nearest = (2 * depth * n_source + n_target) // (2 * n_target)
        points[name] = resid_post(max(1, nearest) - 1) if depth else resid_pre(0)
    return points


def fit_maps(
    source: HookedModel,
    target: HookedModel,
    texts: Sequence[str],
    points: Mapping[str, str] | None = None,
    *,
    pairing: Literal["token_ends", "text_end"] = "text_end",
    per_text: int | None = None,
    method: str = "ridge",
    ridge: float | int | str = "loo",
    rank: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = False,
) -> tuple[AffineMap, ...]:
    """Read both models on generic texts and fit one affine map for each pair of layers.

    To fit several kinds of map on one reading, call :func:`~contrans_lens.residuals.capture_pair` and
    :func:`maps_from_pairs`.

    Args:
        source: the model that the differences are read in.
        target: the model that they are carried to.
        texts: generic texts in which what is to be carried varies.
        points: the source's hook point for each of the target's; None: after each of the target's blocks, at the same
            share of the depth.
        pairing: ``"token_ends"``: wherever a token ends in both models, the first of a text left out. ``"text_end"``:
            the last token of each text.
        per_text: most pairs taken of a text with ``"token_ends"``; None takes all.
        method: of :func:`~contrans_lens.maps.fit_map`.
        ridge: penalty, or ``"loo"``.
        rank: of a reduced-rank map.
        seed: of the draw of pairs.
        batch_size: texts in a batch; None finds it.
        progress: whether to show progress bars.

    Returns:
        The maps, in the order of ``points``; each names its two hook points and both models.

    Raises:
        HookPointError: a model has no such hook point.
        CaptureError: nothing could be paired, or a capture fails.
        TextError: a text is empty or too long.
        MapError: the map cannot be fitted.
    """
    if points is None:
        n_blocks = int(source.cfg.n_layers), int(target.cfg.n_layers)
        points = proportional_points(residual_hook_points(target), *n_blocks)
    paired = capture_pair(
        source,
        target,
        texts,
        source_hook_points=list(dict.fromkeys(points.values())),
        target_hook_points=list(points),
        pairing=pairing,
        per_text=per_text,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    return maps_from_pairs(paired, points, method=method, ridge=ridge, rank=rank)


def maps_from_pairs(
    paired: PairedResiduals,
    points: Mapping[str, str],
    *,
    method: str = "ridge",
    ridge: float | int | str = "loo",
    rank: int | None = None,
) -> tuple[AffineMap, ...]:
    """Fit one affine map for each pair of layers of two models that were read at the same places.

    Args:
        paired: residuals of both.
        points: the source's hook point for each of the target's.
        method: of :func:`~contrans_lens.maps.fit_map`.
        ridge: penalty, or ``"loo"``.
        rank: of a reduced-rank map.

    Raises:
        HookPointError: a hook point was not read.
        MapError: there are no pairs of layers, or the map cannot be fitted.
    """
    if not points:
        raise MapError("no hook points were given; name at least one of the target's and the source's for it.")
    return tuple(
        fit_map(
            paired.source.tensor(source),
            paired.target.tensor(target),
            method=method,
            ridge=ridge,
            rank=rank,
            source_hook_point=source,
            target_hook_point=target,
            source_fingerprint=paired.source.fingerprint,
            target_fingerprint=paired.target.fingerprint,
        )
        for target, source in points.items()
    )


def shuffled_maps(paired: PairedResiduals, maps: Sequence[AffineMap], seed: int = 0) -> tuple[AffineMap, ...]:
    """The null: the same maps fitted on the source's states and the target's of other places, drawn at random.

    One order serves all layers, and each map keeps the penalty of its true one, so that nothing but the pairing
    differs.

    Args:
        paired: residuals that the maps were fitted on.
        maps: the true maps.
        seed: of the order.

    Raises:
        HookPointError: a hook point was not read.
        MapError: there are no maps, or an identity among them, which is not fitted on pairs.
    """
    if not maps or any(each.method == "identity" for each in maps):
        raise MapError("there are no maps fitted on pairs among those given; shuffled pairs mean nothing here.")
    order = torch.randperm(paired.n_examples, generator=torch.Generator().manual_seed(seed))
    return tuple(
        fit_map(
            paired.source.tensor(each.source_hook_point),
            paired.target.tensor(each.target_hook_point)[order],
            method=each.method,
            ridge="loo" if each.ridge is None else each.ridge,
            rank=each.rank,
            source_hook_point=each.source_hook_point,
            target_hook_point=each.target_hook_point,
            source_fingerprint=each.source_fingerprint,
            target_fingerprint=each.target_fingerprint,
        )
        for each in maps
    )
