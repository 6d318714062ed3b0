"""What every behaviour has in common: a name, items in groups, and one value per cell and item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.cells import Cell
from contrans_lens.evaluation.intervals import Interval, bootstrap_mean_cis, weighted_mean_cis
from contrans_lens.models import HookedModel
from contrans_lens.texts import ChoiceItem, EvaluationItem

Item = TypeVar("Item", EvaluationItem, ChoiceItem)


@dataclass(frozen=True, eq=False)
class Measurement:
    """A behaviour measured: per-item values of several columns under several cells."""

    behaviour: str
    """The behaviour's name."""
    columns: Mapping[str, Float[Tensor, "cell item"]]
    """By name, float64."""
    primary: str
    """The column that stands for the behaviour where only one is wanted."""
    groups: tuple[str, ...]
    """Group of each item, resampled together; the empty name makes an item its own group."""
    weights: Float[Tensor, " item"] | None = None
    """What an item counts for in means (tokens of a text); None: all alike."""
    whole: Mapping[str, Float[Tensor, " cell"]] = field(default_factory=dict)
    """Numbers of a cell that are no mean over items, such as a percentile over tokens."""

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.groups)

    def column(self, name: str | None = None) -> Float[Tensor, "cell item"]:
        """A column by name; the primary one if None.

        Raises:
            EvaluationError: there is no such column.
        """
        chosen = self.primary if name is None else name
        if chosen not in self.columns:
            raise EvaluationError(f"{self.behaviour} has no column {chosen!r}; it has {', '.join(self.columns)}.")
        return self.columns[chosen]

    def means(self, name: str | None = None) -> Float[Tensor, " cell"]:
        """Mean over items of each cell, weighted where items have weights."""
        values = self.column(name)
        if self.weights is None:
            return values.mean(1)
        return (values * self.weights).sum(1) / self.weights.sum()

    def intervals(self, name: str | None = None, *, level: float = 0.95, seed: int = 0) -> list[Interval]:
        """Mean of each cell with its interval over groups of items.

        Raises:
            EvaluationError: no such column, or fewer than two groups.
        """
        values = self.column(name)
        if self.weights is not None:
            return weighted_mean_cis((values * self.weights).T, self.weights, level=level, seed=seed)
        return bootstrap_mean_cis(values.T, self.groups, level=level, seed=seed)

    def difference(
        self, cell: int, reference: int, name: str | None = None, *, level: float = 0.95, seed: int = 0
    ) -> Interval:
        """Paired difference of two cells over the same items, with its interval.

        Raises:
            EvaluationError: no such column, or fewer than two groups.
        """
        values = self.column(name)
        change = values[cell] - values[reference]
        if self.weights is not None:
            return weighted_mean_cis((change * self.weights)[:, None], self.weights, level=level, seed=seed)[0]
        return bootstrap_mean_cis(change[:, None], self.groups, level=level, seed=seed)[0]

    def of(self, cells: Sequence[int]) -> "Measurement":
        """The same for some of the cells."""
        index = list(cells)
        return Measurement(
            self.behaviour,
            {name: values[index] for name, values in self.columns.items()},
            self.primary,
            self.groups,
            self.weights,
            {name: values[index] for name, values in self.whole.items()},
        )


@runtime_checkable
class Behaviour(Protocol):
    """Something a model does, that can be measured under cells. What every class of this room is.

    A class of your own needs these members and nothing else; ``measure`` must give the same numbers for the same
    model, cells and items, whatever else was measured before.
    """

    @property
    def name(self) -> str:
        """Its name in tables and files; different behaviours of one study have different names."""
        ...

    @property
    def primary(self) -> str:
        """The column that stands for it."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """Group of each item; the empty name makes an item its own group."""
        ...

    def measure(self, model: HookedModel, cells: Sequence[Cell], *, token_budget: int | None = None) -> Measurement:
        """Measure every item under every cell."""
        ...

    def with_prefix(self, prefix: str) -> "Behaviour":
        """The same items asked after a piece of text: the prompt-only control."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides its numbers besides model and cells, as JSON values: the key of kept results."""
        ...


@dataclass(frozen=True)
class ItemBehaviour(Generic[Item]):
    """What behaviours over items with prompts and groups have in common."""

    items: tuple[Item, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        if not self.items:
            raise EvaluationError("there are no items: give at least one prompt with its answers.")

    @property
    def groups(self) -> tuple[str, ...]:
        """Group of each item."""
        return tuple(item.group for item in self.items)

    def _after(self, prefix: str) -> tuple[Item, ...]:
        """The items asked after a piece of text."""
        return tuple(replace(item, prompt=prefix + item.prompt) for item in self.items)

    def _described(self, kind: str, **more: Any) -> dict[str, Any]:
        """What decides the numbers, as JSON values."""
        return {"kind": kind, **more, "items": [item.to_dict() for item in self.items]}


def check_finite(values: Float[Tensor, "cell item"], names: Sequence[str], behaviour: str) -> None:
    """Check that every value is a number.

    Raises:
        EvaluationError: names the first item and cell where it is not.
    """
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        cell, item = (~finite).nonzero()[0].tolist()
        raise EvaluationError(
            f"{behaviour}: item {item} ({names[item][-40:]!r}) has no finite log-probability under cell {cell}: the "
            "model's logits hold NaN or infinity. Lower the strength or use a wider dtype."
        )
