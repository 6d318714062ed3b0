"""The causal test over several pairs of layers: the best pair against the best that control vectors reach.

Taking the best of many pairs flatters it. Therefore every control is given the same freedom: draw k of a family is
written at every pair too, its best pair is taken, and the transplanted concept's best effect must stand out among
those. With observed effects e_c and control effects n_kc over pairs c,

    p = (1 + #{k : max_c n_kc >= max_c e_c}) / (1 + K)

which corrects for the search over pairs (max statistic; Westfall and Young 1993), whatever their dependence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import SelectionError

Interval = tuple[float, float]


@dataclass(frozen=True)
class CausalCell:
    """What the concept did when it was carried across one pair of layers and written, at the damage budget."""

    source: str
    """Hook point it was read at."""
    target: str
    """Hook point it was written at."""
    strength: float
    """Norm of the added vector over the mean residual norm at ``target``."""
    effect: float
    """Mean score(+) - score(-) over the items."""
    effect_ci: Interval
    """Its interval, clustered by item group."""
    score_plus: float
    """Mean score(+)."""
    score_minus: float
    """Mean score(-)."""
    controls: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Effects of the control draws by family, in the order of the draws; empty where none were measured."""

    @property
    def pair(self) -> tuple[str, str]:
        """Source and target hook point."""
        return self.source, self.target

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {
            "source": self.source,
            "target": self.target,
            "strength": self.strength,
            "effect": self.effect,
            "effect_ci": list(self.effect_ci),
            "score_plus": self.score_plus,
            "score_minus": self.score_minus,
            "controls": {name: list(draws) for name, draws in self.controls.items()},
        }


def max_statistic_p(observed: Float[Tensor, "cell"], null: Float[Tensor, "draw other_cell"]) -> float:
    """p-value of the largest observed value against the largest of each null draw (module docstring).

    Args:
        observed: one value per cell.
        null: the same cells under each draw; a draw must be one and the same control in all cells.

    Raises:
        SelectionError: no cells or draws, numbers of cells that differ, or values that are not finite.
    """
    if null.ndim != 2 or null.shape[1] != len(observed) or min(null.shape) < 1:
        raise SelectionError(
            f"{len(observed)} observed cells and a null of shape {tuple(null.shape)} do not fit; the null is "
            "[draw, cell] with at least one of each."
        )
    if not bool(observed.isfinite().all() and null.isfinite().all()):
        raise SelectionError("observed or null values hold NaN or infinity; nothing can be ranked.")
    reached = int((null.max(dim=1).values >= observed.max()).sum())
    return (1 + reached) / (1 + len(null))


def corrected_p_values(cells: Sequence[CausalCell]) -> dict[str, float]:
    """:func:`max_statistic_p` of the best cell for each family of controls.

    Raises:
        SelectionError: no cells, or cells with different controls.
    """
    if not cells:
        raise SelectionError("no pair of layers was tested; there is nothing to choose from.")
    families = list(cells[0].controls)
    if any(list(cell.controls) != families for cell in cells):
        raise SelectionError("the cells have different controls; measure all of them with the same families.")
    observed = torch.tensor([cell.effect for cell in cells], dtype=torch.float64)
    return {
        family: max_statistic_p(
            observed, torch.tensor([cell.controls[family] for cell in cells], dtype=torch.float64).T.contiguous()
        )
        for family in families
    }
