"""The rule that says whether a pair of layers works, in four gates that must all be passed.

1. ``readable``: in the source, the best layer's probe beats the best layer under permuted labels.
2. ``carried``: at the chosen pair, what the map predicts along the carried concept belongs to the texts: its R2 on
   held-out texts beats that with the texts re-paired, corrected for the search over all pairs.
3. ``causal``: on validation items, the best pair's effect beats the best pair of every family of control vectors at
   the same damage.
4. ``confirmed``: on test items, which chose nothing, the effect's interval at the chosen pair lies above zero and the
   effect beats every family of controls again.

Every gate is a test at level alpha, and passing all is asked for. Where one gate's null is true, the chance of
"a pair works" is therefore at most alpha, whatever the other gates do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contrans_lens.selection.causal import CausalCell, corrected_p_values


@dataclass(frozen=True)
class Gate:
    """One condition of the rule."""

    name: str
    passed: bool
    p_value: float
    """The largest p-value among its tests."""
    reason: str
    """What was found, with the numbers."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return dict(vars(self))


def readable(p_value: float, hook_point: str, auroc: float, alpha: float) -> Gate:
    """Gate 1.

    Args:
        p_value: of the best source layer's probe, corrected for the search over layers.
        hook_point: that layer.
        auroc: its AUROC on held-out folds.
        alpha: level.
    """
    found = f"best source probe at {hook_point}: AUROC {auroc:.2f}, corrected p = {p_value:.3f}"
    return Gate("readable", p_value <= alpha, p_value, found)


def carried(p_value: float, r2: float, pair: tuple[str, str], alpha: float) -> Gate:
    """Gate 2.

    Args:
        p_value: of the R2 along the carried concept at the chosen pair, corrected for all pairs.
        r2: that R2 on held-out texts.
        pair: the chosen pair.
        alpha: level.
    """
    found = f"held-out R2 along the carried concept at {pair[0]} -> {pair[1]}: {r2:.2f}, corrected p = {p_value:.3f}"
    return Gate("carried", p_value <= alpha, p_value, found)


def causal(cells: Sequence[CausalCell], best: CausalCell, alpha: float) -> Gate:
    """Gate 3, over all pairs that were tested with controls.

    Raises:
        SelectionError: no cells, or cells with different controls.
    """
    p_values = corrected_p_values(cells)
    where = f"best of {len(cells)} pairs on validation items: {best.effect:+.3f} at {best.source} -> {best.target}"
    return Gate("causal", max(p_values.values()) <= alpha, max(p_values.values()), f"{where}; {_shown(p_values)}")


def confirmed(cell: CausalCell, alpha: float) -> Gate:
    """Gate 4, on the test items at the chosen pair.

    Raises:
        SelectionError: the cell has no controls.
    """
    p_values = corrected_p_values([cell])
    low, high = cell.effect_ci
    found = f"test items: {cell.effect:+.3f} [{low:+.3f}, {high:+.3f}]; {_shown(p_values)}"
    worst = max(p_values.values())
    return Gate("confirmed", low > 0 and worst <= alpha, worst, found)


def works(gates: Sequence[Gate]) -> tuple[bool, str]:
    """Whether all gates are passed, and the reason in words: the first that was not, or all of them."""
    for gate in gates:
        if not gate.passed:
            return False, f"no pair works: not {gate.name} ({gate.reason})"
    return True, "; ".join(gate.reason for gate in gates)


def _shown(p_values: Mapping[str, float]) -> str:
    return "p " + ", ".join(f"{value:.3f} against {name}" for name, value in p_values.items())
