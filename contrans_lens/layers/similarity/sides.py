"""The states of one model, ready for every metric: checked, centred once, and warned about."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import LayerError
from contrans_lens.maps import MapGrid

DOUBLE_LIMIT = 2**20
"""Up to so many numbers in all the ``[n, n]`` matrices, or for float64 states, everything runs in float64."""

_DOMINANT = 0.5


@dataclass(frozen=True, eq=False)
class Side:
    """All layers of one model on the texts."""

    hook_points: tuple[str, ...]
    raw: Float[Tensor, "n layer d"]
    """States as given."""
    states: Float[Tensor, "layer n d"]
    """About their mean, with mean squared length 1, in the working dtype."""

    @property
    def n(self) -> int:
        """How many texts."""
        return self.raw.shape[0]

    def directions(self, layer: int) -> Float[Tensor, "n d"]:
        """The centred states of one layer at unit length; a state at the mean stays 0."""
        own = self.states[layer]
        return own / own.norm(dim=1, keepdim=True).clamp_min(torch.finfo(own.dtype).tiny)

    def layers(self, part: slice) -> "Side":
        """Some of the layers."""
        return Side(self.hook_points[part], self.raw[:, part], self.states[part])


def make_sides(
    x: Float[Tensor, "n source_layer d_source"],
    y: Float[Tensor, "rows target_layer d_target"],
    source_hook_points: Sequence[str],
    target_hook_points: Sequence[str],
) -> tuple[Side, Side]:
    """Check and centre both models; the same tensor given twice is prepared once.

    Raises:
        LayerError: counts differ, too few texts, names that do not fit, NaN or infinity, or a constant layer.
    """
    check_paired(x, y)
    check_names(source_hook_points, x.shape[1], "source")
    check_names(target_hook_points, y.shape[1], "target")
    if x.shape[0] < 4:
        raise LayerError(f"{x.shape[0]} texts; the similarities need at least 4, and hundreds to mean something.")
    size = x.shape[0] ** 2 * (x.shape[1] + y.shape[1])
    double = size <= DOUBLE_LIMIT or torch.float64 in (x.dtype, y.dtype)
    dtype = torch.float64 if double else torch.float32
    source = _side(x, source_hook_points, dtype, "source")
    if y is x:
        return source, Side(tuple(target_hook_points), y, source.states)
    return source, _side(y, target_hook_points, dtype, "target")


def check_paired(x: Float[Tensor, "n *source"], y: Float[Tensor, "rows *target"]) -> None:
    """Raise when the two sides are not the same texts.

    Raises:
        LayerError: counts differ.
    """
    if x.shape[0] != y.shape[0]:
        raise LayerError(
            f"{x.shape[0]} source states but {y.shape[0]} target states; capture both models on the same texts in the "
            "same order (residuals.capture_pair does that)."
        )


def check_names(names: Sequence[str], layers: int, side: str) -> None:
    """Raise unless every layer has its own hook point.

    Raises:
        LayerError: counts differ, names repeat, or there is no layer.
    """
    if layers == 0 or len(names) != layers or len(set(names)) != layers:
        raise LayerError(f"{layers} {side} layers need as many different hook points; got {list(names)}.")


def _side(raw: Float[Tensor, "n layer d"], names: Sequence[str], dtype: torch.dtype, side: str) -> Side:
    n, layers, width = raw.shape
    states = torch.empty(layers, n, width, dtype=dtype, device=raw.device)
    flat = []
    for layer, own in enumerate(states):  # one layer at a time stays in cache
        mean = raw[:, layer].mean(0)
        torch.sub(raw[:, layer].to(dtype), mean.to(dtype), out=own)
        own.sub_(own.mean(0))  # what rounding left of a large mean: float32 states need no float64 copy
        size = float(torch.linalg.vector_norm(own))
        if size <= 1e-6 * n**0.5 * float(mean.norm()):
            flat.append(names[layer])
        elif not math.isfinite(size):
            bad = int((~torch.isfinite(raw)).reshape(n, -1).any(1).sum())
            raise LayerError(f"the {side} states of {bad} texts hold NaN or infinity; look at their capture.")
        own.mul_(n**0.5 / max(size, torch.finfo(dtype).tiny))
    if flat:
        raise LayerError(
            f"the {side} states at {', '.join(flat)} are the same for every text, so nothing can be compared there; "
            "use texts that differ at the captured position, or leave the layer out."
        )
    return Side(tuple(names), raw, states)


def check_held_out(
    maps: MapGrid,
    x_test: Float[Tensor, "test source_layer d_source"],
    y_test: Float[Tensor, "rows target_layer d_target"],
) -> None:
    """Raise unless held-out states fit a grid of maps.

    Raises:
        LayerError: counts or shapes differ, fewer than four texts, NaN or infinity, or a constant target layer.
    """
    check_paired(x_test, y_test)
    for given, own, names, side in (
        (x_test, maps.x, maps.source_hook_points, "source"),
        (y_test, maps.y, maps.target_hook_points, "target"),
    ):
        if given.shape[1:] != own.shape[1:]:
            raise LayerError(
                f"held-out {side} states of shape {tuple(given.shape[1:])} [layer, d] do not fit maps fitted on "
                f"{tuple(own.shape[1:])}; capture them at {', '.join(names)}."
            )
        if not bool(torch.isfinite(given).all()):
            raise LayerError(f"the held-out {side} states hold NaN or infinity; look at their capture.")
    if len(x_test) < 4:
        raise LayerError(f"{len(x_test)} held-out texts; give at least 4, and hundreds for the numbers to mean much.")
    flat = (y_test == y_test[:1]).all(0).all(1).nonzero().flatten().tolist()
    if flat:
        where = ", ".join(maps.target_hook_points[t] for t in flat)
        raise LayerError(f"the held-out target states at {where} are the same for every text: nothing to predict.")


def side_warnings(side: Side, which: str) -> list[str]:
    """What a reader must know about these states: few texts, or layers that are one-dimensional."""
    found = []
    n, width = side.n, side.raw.shape[2]
    if n <= width:
        found.append(
            f"{n} texts for {width} {which} dimensions: uncut canonical correlations would be 1 by construction, and "
            "only the cut to the leading directions keeps SVCCA and PWCCA below that; read every metric against its "
            "null, and capture more texts."
        )
    for name, states in zip(side.hook_points, side.states, strict=True):
        lengths = torch.linalg.vector_norm(states, dim=1).square()
        total = float(lengths.sum())
        direction = _leading(states, int(lengths.argmax()))
        share = float((states @ direction).square().sum()) / total
        where = int(direction.abs().argmax())
        one = f"dimension {where}" if float(direction[where]) ** 2 > 0.9 else "one direction"
        for part, what in ((share, one), (float(lengths.max()) / total, f"text {int(lengths.argmax())}")):
            if part > _DOMINANT:
                found.append(
                    f"{what} carries {part:.0%} of the variance of the {which} at {name}: similarities there are close "
                    "to one-dimensional (massive activations do that; was BOS left out?)."
                )
    return found


def _leading(states: Float[Tensor, "n d"], start: int) -> Float[Tensor, " d"]:
    """The first principal direction, by power iteration from one text: good enough to see whether it dominates."""
    direction = states[start]
    for _ in range(3):
        direction = direction / direction.norm()
        direction = (states @ direction) @ states
    return direction / direction.norm()
