"""What is swept: directions, strengths, behaviours; cut into units that are computed and kept one by one."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation import Cell, scaled
from contrans_lens.evaluation.behaviours import Behaviour
from contrans_lens.interventions import Intervention

FAMILY_MARK = "/"
SHIFT = " shift"
"""A behaviour with this at the end of its name holds the logit shifts of the behaviour without it."""


def strength_grid(largest: float, n: int = 8, power: float = 1.5) -> tuple[float, ...]:
    """A symmetric grid with zero, dense near zero: ``r_i = largest (i / n)^power`` for i = 0 .. n, and its mirror.

    Args:
        largest: the largest strength.
        n: strengths on each side of zero.
        power: 1 is evenly spaced; more is denser near zero, where slopes and curvatures are read.

    Raises:
        TradeoffError: numbers that make no grid.
    """
    if not (math.isfinite(largest) and largest > 0 and n >= 2 and power > 0):
        raise TradeoffError(
            f"a grid up to {largest} with {n} strengths a side and power {power} is none; give a finite strength above "
            "0, two strengths a side or more, and a power above 0."
        )
    side = [largest * (i / n) ** power for i in range(1, n + 1)]
    return (*(-each for each in reversed(side)), 0.0, *side)


@dataclass(frozen=True)
class Unit:
    """What is computed in one go: one behaviour under one direction at some of the strengths."""

    direction: str
    behaviour: str
    strengths: tuple[float, ...]
    """In units of the direction as given."""

    @property
    def stage(self) -> str:
        """A name good for a file."""
        plain = "".join(
            each if each.isalnum() or each in "-_." else "-" for each in f"{self.behaviour}-{self.direction}"
        )
        return f"{plain[:60]}-{self.strengths[0]:+.4g}"


@dataclass(frozen=True, eq=False)
class SweepPlan:
    """Directions swept over strengths, with everything that is measured at each.

    Raises:
        TradeoffError: nothing to sweep, names that clash, a direction that does nothing, or a grid that is not
            symmetric about an included zero (strengths of one sign say nothing of a linear cost, and leave no
            antisymmetric control).
    """

    directions: Mapping[str, Cell]
    """By name, the interventions that are swept together; strength 1 is the direction as given. Control draws of one
    family are named ``family/0``, ``family/1``, ... (:func:`family`)."""
    behaviours: tuple[Behaviour, ...]
    """What is measured; their names differ."""
    strengths: tuple[float, ...]
    """Ascending, symmetric, zero among them."""
    strengths_per_unit: int | None = None
    """Strengths computed in one go; None: all of a direction. Fewer make units shorter and more of them."""
    token_budget: int | None = None
    """Most tokens in one forward pass; chosen by device if None. It decides what fits into memory."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Which behaviour is ``alignment`` (what is steered) and which ``helpfulness``; may be left out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "behaviours", tuple(self.behaviours))
        object.__setattr__(self, "strengths", tuple(float(each) for each in self.strengths))
        _check_strengths(self.strengths)
        if not self.directions or not self.behaviours:
            raise TradeoffError("a sweep needs at least one direction and one behaviour.")
        names = [each.name for each in self.behaviours]
        if len(set(names)) < len(names):
            raise TradeoffError(f"behaviours of one sweep need different names; got {', '.join(names)}.")
        for name, cell in self.directions.items():
            if not cell or all(each.is_neutral for each in cell):
                raise TradeoffError(f"the direction {name!r} does nothing at any strength; leave it out.")
        unknown = [f"{role}={name}" for role, name in self.roles.items() if name not in names]
        if unknown or not set(self.roles) <= {"alignment", "helpfulness"}:
            raise TradeoffError(
                f"roles are 'alignment' and 'helpfulness' and name behaviours of the sweep ({', '.join(names)}); got "
                f"{dict(self.roles)}."
            )
        if self.strengths_per_unit is not None and self.strengths_per_unit < 1:
            raise TradeoffError(f"strengths_per_unit is {self.strengths_per_unit}; at least 1 was expected.")

    def behaviour(self, name: str) -> Behaviour:
        """A behaviour by name.

        Raises:
            TradeoffError: there is none of that name.
        """
        for each in self.behaviours:
            if each.name == name:
                return each
        raise TradeoffError(
            f"the sweep measures no {name!r}; it measures {', '.join(b.name for b in self.behaviours)}."
        )

    @cached_property
    def _digests(self) -> dict[str, str]:
        """A hash of everything that decides each behaviour's numbers."""
        return {each.name: _digest(json.dumps(each.to_dict(), sort_keys=True).encode()) for each in self.behaviours}

    def units(self) -> Iterator[Unit]:
        """The units, first all of the first behaviour. Logit shifts are not measured under control draws."""
        step = self.strengths_per_unit or len(self.strengths)
        for behaviour in self.behaviours:
            for direction in self.directions:
                if family_of(direction) is not None and behaviour.name.endswith(SHIFT):
                    continue
                for start in range(0, len(self.strengths), step):
                    yield Unit(direction, behaviour.name, self.strengths[start : start + step])

    def cells(self, unit: Unit) -> list[Cell]:
        """The cells of a unit, one a strength; at strength 0 the unsteered model."""
        return [scaled(self.directions[unit.direction], strength) if strength else () for strength in unit.strengths]

    def key(self, unit: Unit) -> dict[str, Any]:
        """Everything besides the model that decides the numbers of a unit, JSON values."""
        direction = [each.to_key() for each in self.directions[unit.direction]]
        return {
            "direction": direction,
            "behaviour": self._digests[unit.behaviour],
            "strengths": list(unit.strengths),
            "token_budget": self.token_budget,
        }

    def described(self) -> dict[str, Any]:
        """The plan for a result: directions without their numbers, behaviours by name and kind."""
        return {
            "directions": {name: [str(each) for each in cell] for name, cell in self.directions.items()},
            "behaviours": {each.name: each.to_dict().get("kind", "own") for each in self.behaviours},
            "chance": {each.name: float(getattr(each, "chance", 0.0)) for each in self.behaviours},
            "strengths": list(self.strengths),
            "roles": dict(self.roles),
        }


def family(name: str, cells: Sequence[Cell]) -> dict[str, Cell]:
    """Control draws as directions of one family, ``name/0``, ``name/1``, ..."""
    return {f"{name}{FAMILY_MARK}{number}": cell for number, cell in enumerate(cells)}


def family_of(direction: str) -> str | None:
    """The family a direction is a draw of, or None."""
    name, mark, number = direction.rpartition(FAMILY_MARK)
    return name if mark and number.isdigit() else None


def direction(
    hook_point: str, vector: Any, *, residual_norm: float | None = None, label: str = "", **options: Any
) -> Cell:
    """A direction of one vector: ``R += r u`` in absolute units with ``||u|| = 1``, or in units of a residual norm.

    Args:
        hook_point: where it is written.
        vector: ``[d_model]``, any length; its direction is what counts.
        residual_norm: mean residual norm at the hook point, the unit of strength; None: absolute units, as Wolf et al.
        label: a name for people.
        options: further fields of :class:`contrans_lens.interventions.Intervention`.

    Raises:
        InterventionError: a vector that has no direction.
    """
    made = Intervention(hook_point, vector, residual_norm=residual_norm or 1.0, label=label, **options)
    return (replace(made, vector=made.direction()),)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_strengths(strengths: tuple[float, ...]) -> None:
    shown = ", ".join(f"{each:g}" for each in strengths[:12])
    if not all(map(math.isfinite, strengths)) or any(b <= a for a, b in itertools.pairwise(strengths)):
        raise TradeoffError(f"strengths must be finite and ascend; got {shown}.")
    if 0.0 not in strengths:
        raise TradeoffError(f"the strengths {shown} leave out 0, the unsteered model; put it in.")
    if not (strengths[0] < 0 < strengths[-1]):
        raise TradeoffError(
            f"the strengths {shown} have one sign only: a cost that is linear in the strength cannot be told from one "
            "that is quadratic, and there is no antisymmetric effect. Give both signs, as strength_grid does."
        )
    mirrored = [-each for each in reversed(strengths)]
    if len(mirrored) != len(strengths) or not all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(strengths, mirrored, strict=True)
    ):
        raise TradeoffError(f"the strengths {shown} are not symmetric about 0; strength_grid makes such a grid.")
