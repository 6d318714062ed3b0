"""The plain validation sweep: write every candidate vector at its hook point, score it, keep the best.

All candidates are compared at equal damage: either each at the same strength in units of the residual norm, or each
at the strength that the same KL budget allows. The items that choose are never the items that are reported.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import SelectionError
from contrans_lens.evaluation import score_cells
from contrans_lens.models import HookedModel
from contrans_lens.texts import EvaluationItem


@dataclass(frozen=True)
class Candidate:
    """A direction that could be written at a hook point."""

    source: str
    """Hook point it was read at (in the source, or in the target itself for a native vector)."""
    target: str
    """Hook point it would be written at."""
    direction: Float[Tensor, "d_model"]
    """Any length; it is scaled to the strength that is tried."""


@dataclass(frozen=True)
class SweepCell:
    """What one candidate did on the validation items."""

    source: str
    target: str
    strength: float
    """Norm of the added vector over the mean residual norm at ``target``."""
    effect: float
    """Mean score(+) - score(-)."""
    score_plus: float
    score_minus: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable values."""
        return asdict(self)


StrengthRule = Callable[[str, Float[Tensor, "vector d_model"]], list[float]]
"""Strengths, in units of the residual norm, for unit vectors at a hook point."""


def sweep(
    model: HookedModel,
    items: Sequence[EvaluationItem],
    candidates: Sequence[Candidate],
    residual_norms: dict[str, float],
    strengths: StrengthRule,
) -> list[SweepCell]:
    """Score every candidate on validation items, all of them in one call of :func:`score_cells`.

    Args:
        model: the target.
        items: validation items.
        candidates: directions with their hook points.
        residual_norms: mean residual norm by target hook point, the unit of strength.
        strengths: how strongly each unit vector at a hook point is written.

    Raises:
        SelectionError: there are no candidates, or one of them is zero.
    """
    if not candidates:
        raise SelectionError("there are no candidate vectors to sweep over.")
    places: dict[str, list[int]] = {}
    for i, candidate in enumerate(candidates):
        places.setdefault(candidate.target, []).append(i)
    chosen: dict[str, list[float]] = {}
    additions: dict[str, Tensor] = {}
    for target, indices in places.items():
        directions = torch.stack([candidates[i].direction.float() for i in indices])
        lengths = directions.norm(dim=-1, keepdim=True)
        if not (lengths > 0).all():
            raise SelectionError(f"a candidate for {target} is zero: nothing of the concept arrives there.")
        unit = directions / lengths
        chosen[target] = strengths(target, unit)
        scaled = unit * torch.tensor(chosen[target])[:, None] * residual_norms[target]
        additions[target] = torch.cat([scaled, -scaled])
    scores = score_cells(model, items, additions)
    cells: dict[int, SweepCell] = {}
    for target, indices in places.items():
        plus, minus = (part.mean(dim=1).tolist() for part in scores[target].chunk(2))
        for i, strength, high, low in zip(indices, chosen[target], plus, minus, strict=True):
            cells[i] = SweepCell(candidates[i].source, target, strength, high - low, high, low)
    return [cells[i] for i in range(len(candidates))]


def best_cell(cells: Sequence[SweepCell]) -> SweepCell:
    """The cell with the largest validation effect; of equals, the first.

    Raises:
        SelectionError: there are none.
    """
    if not cells:
        raise SelectionError("the sweep is empty; there is no layer to choose.")
    return max(cells, key=lambda cell: cell.effect)
