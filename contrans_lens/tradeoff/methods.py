"""What is compared: directions, families of control draws and words, sorted into numbered cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation import Cell
from contrans_lens.evaluation.behaviours import Behaviour
from contrans_lens.texts import PromptCue
from contrans_lens.tradeoff.comparison_result import UNSTEERED_ROW

Method = Cell | Sequence[Cell] | PromptCue
"""A direction, a family of control draws, or words."""


@dataclass(frozen=True)
class Methods:
    """Methods sorted: directions and draws as numbered cells, words apart."""

    cells: list[Cell]
    numbers: dict[str, list[int]]
    """Cells of each method that has cells."""
    cues: dict[str, PromptCue]
    reference: str

    @classmethod
    def of(cls, methods: Mapping[str, Method], behaviours: Sequence[Behaviour], reference: str | None) -> "Methods":
        """Sort methods and choose the reference.

        Raises:
            TradeoffError: no behaviours, a family of one draw, a name that is taken, or a reference that is none.
        """
        if not behaviours:
            raise TradeoffError("a comparison needs at least one behaviour.")
        if UNSTEERED_ROW in methods:
            raise TradeoffError(f"the name {UNSTEERED_ROW!r} is that of the unsteered model; choose another.")
        cells: list[Cell] = []
        numbers: dict[str, list[int]] = {}
        cues: dict[str, PromptCue] = {}
        for name, method in methods.items():
            if isinstance(method, PromptCue):
                cues[name] = method
                continue
            draws = _draws(name, method)
            numbers[name] = list(range(len(cells), len(cells) + len(draws)))
            cells += draws
        single = [name for name, each in numbers.items() if len(each) == 1]
        chosen = reference if reference is not None else next(iter(single), UNSTEERED_ROW)
        if chosen not in (*single, UNSTEERED_ROW):
            raise TradeoffError(
                f"the reference is {chosen!r}; one of the single directions ({', '.join(single) or 'there are none'}) "
                f"or {UNSTEERED_ROW!r} was expected."
            )
        return cls(cells, numbers, cues, chosen)


def _draws(name: str, method: Cell | Sequence[Cell]) -> list[Cell]:
    """The cells of a method: one, or the draws of a family."""
    if isinstance(method, tuple) and not any(isinstance(each, tuple) for each in method):
        return [method]
    draws = [cell for cell in method if isinstance(cell, tuple)]
    if len(draws) < 2:
        raise TradeoffError(f"the family {name!r} has {len(draws)} draws; give two or more, twenty are advised.")
    return draws
