"""Cells: what is done to a model in one measurement, many of them run side by side.

A cell is a tuple of interventions that act together: a direction written at one or several hook points at one strength.
Cells whose interventions all add a vector at every position are stacked as batch rows and share what lies before the
first of their hook points (:mod:`contrans_lens.evaluation.stacked`). A cell that does anything else (projects out,
clamps, acts at some positions only) is run by itself. The numbers are the same; a test says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError, HookPointError, InterventionError
from contrans_lens.evaluation.continuations import TokenRow
from contrans_lens.evaluation.resuming import pass_order
from contrans_lens.evaluation.stacked import StackedRuns, Within
from contrans_lens.interventions import All, Edit, Intervention, steer
from contrans_lens.models import HookedModel, TokenBatch, check_hook_points, layer_of

Cell = tuple[Edit, ...]
"""Interventions that act together; none is the unsteered model."""

UNSTEERED: Cell = ()


@dataclass(frozen=True)
class CellStack:
    """Cells that are run in the same passes."""

    numbers: tuple[int, ...]
    """Which of the given cells they are."""
    additions: Mapping[str, Float[Tensor, "_ d_model"]]
    """By hook point, in the order of a pass, what each cell adds at every position; empty: nothing is added."""
    within: Within | None = None
    """What opens the steering context of a cell that cannot be stacked."""


class Cells:
    """Cells made ready to be run on one model: checked, and sorted into stacks."""

    def __init__(self, model: HookedModel, cells: Sequence[Cell]) -> None:
        """Check the cells against the model.

        Args:
            model: the model that is steered.
            cells: what is done to it, cell by cell.

        Raises:
            EvaluationError: there are no cells, a cell is not a tuple of interventions, or a vector has another width
                than the residual stream.
            FingerprintMismatchError: an intervention was made for another model.
            HookPointError: the model has no such hook point.
        """
        if not cells:
            raise EvaluationError("there are no cells: give at least one tuple of interventions (empty: unsteered).")
        self.cells = tuple(_checked(model, cells))
        self.stacks = tuple(_stacks(model, self.cells))
        """The cells in the order in which they are run."""

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def first_hook_points(self) -> list[str]:
        """Where stacked passes are resumed."""
        return list(dict.fromkeys(next(iter(stack.additions)) for stack in self.stacks if stack.additions))

    @property
    def widest(self) -> int:
        """Cells of the largest stack."""
        return max(len(stack.numbers) for stack in self.stacks)

    def runs(self, model: HookedModel, rows: Sequence[TokenRow], *, token_budget: int | None = None) -> StackedRuns:
        """Token rows made ready to be run under these cells.

        Raises:
            EvaluationError: a token budget below one.
        """
        return StackedRuns(model, rows, self.first_hook_points, token_budget=token_budget)


def stack_logits(
    runs: StackedRuns, group: Sequence[int], stacks: Sequence[CellStack]
) -> Iterator[tuple[list[int], Float[Tensor, "cell row read vocab"]]]:
    """Logits of a group of rows under every cell, some cells at a time.

    Args:
        runs: the rows, made ready for the stacks' first hook points.
        group: row indices, as ``runs.groups`` gave them.
        stacks: the cells.

    Yields:
        Numbers of the cells, and their logits at the positions that are read.
    """
    for stack in stacks:
        if not stack.additions:
            for _, logits in runs.logits(group, within=stack.within):
                yield list(stack.numbers), logits.expand(len(stack.numbers), -1, -1, -1)
            continue
        (first, vectors), *later = stack.additions.items()
        for part, logits in runs.logits(group, vectors, first, also=dict(later)):
            yield list(stack.numbers[part]), logits


def scaled(cell: Cell, strength: float) -> Cell:
    """The cell with the strength of every intervention multiplied; negative is the other way."""
    return tuple(each.with_strength(strength * each.strength) for each in cell)


def stacks_as_rows(cell: Cell) -> bool:
    """Whether a cell only adds vectors at every position inside blocks, so that it can be a batch row among others."""
    return all(_is_addition(each) for each in cell)


def cell_additions(cell: Cell) -> dict[str, Float[Tensor, " d_model"]]:
    """What a cell adds at each hook point, float64, in the order of a pass; several at one hook point are summed.

    Raises:
        InterventionError: an intervention is no addition.
        HookPointError: a hook point lies in no block.
    """
    summed: dict[str, Tensor] = {}
    for each in sorted(written_vectors(cell), key=lambda one: pass_order(one.hook_point)):
        if not each.is_neutral:
            summed[each.hook_point] = summed.get(each.hook_point, 0) + each.delta()
    return summed


def written_vectors(cell: Cell) -> list[Intervention]:
    """The cell as interventions, each of which has a vector.

    Raises:
        InterventionError: it holds an edit that has none, such as a removal of dictionary concepts.
    """
    vectors = [each for each in cell if isinstance(each, Intervention)]
    if len(vectors) < len(cell):
        other = next(each for each in cell if not isinstance(each, Intervention))
        raise InterventionError(f"{other} writes no vector of its own; an intervention with one was expected here.")
    return vectors


def _is_addition(each: Edit) -> bool:
    try:
        layer_of(each.hook_point)
    except HookPointError:
        return False
    return isinstance(each, Intervention) and each.op == "add" and isinstance(each.positions, All)


def _checked(model: HookedModel, cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells without their fingerprints, each of which was compared with the model once.

    A fingerprint reads the weights, which is too much for every cell and batch.
    """
    seen: set[int] = set()
    names: dict[str, None] = {}
    for number, cell in enumerate(cells):
        if not isinstance(cell, tuple) or not all(isinstance(each, Edit) for each in cell):
            raise EvaluationError(f"cell {number} is {cell!r}; a tuple of interventions was expected.")
        for each in cell:
            if id(each.fingerprint) not in seen:
                each.require_model(model)
                seen.add(id(each.fingerprint))
            names[each.hook_point] = None
            if each.d_model != model.cfg.d_model:
                raise EvaluationError(
                    f"the vector of cell {number} for {each.hook_point} has width {each.d_model}, but the model has "
                    f"d_model {model.cfg.d_model}. A vector of another model is carried over by a map first."
                )
        yield tuple(each.unchecked() for each in cell)
    check_hook_points(model, list(names))


def _stacks(model: HookedModel, cells: Sequence[Cell]) -> Iterator[CellStack]:
    together: dict[tuple[str, ...], list[int]] = {}
    vectors: dict[int, dict[str, Tensor]] = {}
    alone: list[int] = []
    for number, cell in enumerate(cells):
        if not stacks_as_rows(cell):
            alone.append(number)
            continue
        vectors[number] = cell_additions(cell)
        together.setdefault(tuple(vectors[number]), []).append(number)
    for names, numbers in together.items():
        yield CellStack(
            tuple(numbers), {name: torch.stack([vectors[number][name] for number in numbers]) for name in names}
        )
    for number in alone:
        yield CellStack((number,), {}, steering(model, cells[number]))


def steering(model: HookedModel, interventions: Edit | Sequence[Edit]) -> Within:
    """What opens the steering context of one batch of token rows, with the models checked once.

    It is opened batch by batch, because positions depend on the rows and the unsteered model is run in between.
    """
    chosen = (interventions,) if isinstance(interventions, Edit) else tuple(interventions)
    for each in chosen:
        each.require_model(model)
    unchecked = [each.unchecked() for each in chosen]

    def within(batch: TokenBatch, rows: list[TokenRow]) -> AbstractContextManager[object]:
        return steer(
            model,
            unchecked,
            batch=batch,
            texts=[row.text for row in rows],
            prompt_lengths=[row.prompt_length for row in rows],
        )

    return within
