"""A quantity measured item by item at every steering strength.

Everything in this room starts from such a table. Its mean over items is the curve that is drawn and fitted; its
noise is had by drawing groups of items with replacement, the same groups at every strength, so what items share
across strengths is kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError, TradeoffError
from contrans_lens.evaluation.intervals import Interval, bootstrap_mean_cis
from contrans_lens.evaluation.resampling import group_table, resampled_sums

_SAME = 1e-6  # strengths closer than this share of the grid's reach are one: grids may have been float32


@dataclass(frozen=True, eq=False)
class Curve:
    """Per-item values over strengths, float64 on the CPU."""

    strengths: Float[Tensor, "strength"]
    """Coefficients of the unit direction, ascending; positive ones are toward the behaviour."""
    values: Float[Tensor, "strength item"]
    """What was measured on each item at each strength, finite. A published curve of means has one item."""
    groups: tuple[str, ...] | None = None
    """Group name of every item; items of one group are drawn together, an empty name is a group of its own."""
    name: str = ""
    """What was measured, for tables, figures and messages."""

    def __post_init__(self) -> None:
        """Bring everything to float64 on the CPU and refuse tables that cannot be fitted.

        Raises:
            TradeoffError: shapes that do not fit, strengths that do not ascend, values or strengths that are not
                finite, or group names that do not fit the items.
        """
        strengths = self.strengths.detach().to("cpu", torch.float64).clone()
        values = self.values.detach().to("cpu", torch.float64)
        self._check_shapes(strengths, values)
        strengths[strengths.abs() <= _SAME * strengths.abs().max()] = 0.0  # linspace misses zero by a rounding
        object.__setattr__(self, "strengths", strengths)
        object.__setattr__(self, "values", values)

    @classmethod
    def from_means(cls, strengths: Sequence[float], means: Sequence[float], name: str = "") -> "Curve":
        """A curve of which only the means are known, as read off a published figure: one item, no intervals.

        Raises:
            TradeoffError: as the constructor.
        """
        values = torch.tensor(means, dtype=torch.float64)[:, None]
        return cls(torch.tensor(strengths, dtype=torch.float64), values, name=name)

    @property
    def label(self) -> str:
        """The name for messages, or "the curve" where there is none."""
        return repr(self.name) if self.name else "the curve"

    @property
    def n_items(self) -> int:
        """How many items were measured."""
        return self.values.shape[1]

    @cached_property
    def n_groups(self) -> int:
        """Independent units: distinct group names, with every empty name its own."""
        if self.groups is None:
            return self.n_items
        return len({name for name in self.groups if name}) + sum(not name for name in self.groups)

    @property
    def resamples(self) -> bool:
        """Whether there are at least two groups, so that noise can be estimated at all."""
        return self.n_groups >= 2

    @cached_property
    def mean(self) -> Float[Tensor, "strength"]:
        """Mean over items at every strength."""
        return self.values.mean(1)

    @property
    def has_zero(self) -> bool:
        """Whether the unsteered model, strength 0, is on the grid."""
        return bool((self.strengths == 0).any())

    @property
    def zero(self) -> int:
        """Where strength 0 stands on the grid.

        Raises:
            TradeoffError: it is not on the grid.
        """
        if not self.has_zero:
            low, high = float(self.strengths[0]), float(self.strengths[-1])
            raise TradeoffError(
                f"strength 0 is not on the grid of {self.label} ({low:g} .. {high:g}); measure the unsteered model too."
            )
        return int((self.strengths == 0).nonzero()[0])

    @property
    def at_zero(self) -> float:
        """Mean of the unsteered model.

        Raises:
            TradeoffError: strength 0 is not on the grid.
        """
        return float(self.mean[self.zero])

    def resampled(self, n: int, seed: int) -> Float[Tensor, "resample strength"]:
        """Mean curves of ``n`` resamples, groups drawn with replacement and the same ones at every strength.

        Two curves with equally many groups in the same order are resampled alike under one seed, so differences
        between directions measured on the same items are paired.

        Args:
            n: resamples, 100 or more.
            seed: seed of the draws.

        Raises:
            TradeoffError: a single item or group, or too few resamples.
        """
        self._check_resampling()
        try:
            table, counts = group_table(self.values.T, self.groups)
            sums = resampled_sums(torch.cat([table, counts[:, None]], dim=1), n, seed)
        except EvaluationError as error:
            raise TradeoffError(f"{self.label} cannot be resampled: {error}") from error
        return sums[:, :-1] / sums[:, -1:]

    def intervals(self, level: float = 0.95, *, n_resamples: int = 2000, seed: int = 0) -> list[Interval]:
        """Mean and pointwise bootstrap interval at every strength.

        Raises:
            TradeoffError: a single item or group, too few resamples, or a level that is none.
        """
        self._check_resampling()
        try:
            return bootstrap_mean_cis(self.values.T, self.groups, level=level, n_resamples=n_resamples, seed=seed)
        except EvaluationError as error:
            raise TradeoffError(f"{self.label} has no intervals: {error}") from error

    def window(self, low: float, high: float) -> "Curve":
        """The part with ``low <= strength <= high``.

        Raises:
            TradeoffError: no strength lies there.
        """
        slack = _SAME * float(self.strengths.abs().max())
        inside = (self.strengths >= low - slack) & (self.strengths <= high + slack)
        if not bool(inside.any()):
            raise TradeoffError(f"no strength of {self.label} lies in [{low:g}, {high:g}]; widen the window.")
        return Curve(self.strengths[inside], self.values[inside], self.groups, self.name)

    def at(self, strengths: Float[Tensor, "wanted"]) -> "Curve":
        """The same items at some of the strengths.

        Raises:
            TradeoffError: one of them was not measured.
        """
        apart = (self.strengths[:, None] - strengths.to(self.strengths)).abs()
        nearest, where = apart.min(0)
        missing = nearest > _SAME * float(self.strengths.abs().max())
        if bool(missing.any()):
            raise TradeoffError(f"{self.label} was not measured at strength {float(strengths[missing][0]):g}.")
        return Curve(self.strengths[where], self.values[where], self.groups, self.name)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {
            "name": self.name,
            "strengths": self.strengths.tolist(),
            "values": self.values.tolist(),
            "groups": None if self.groups is None else list(self.groups),
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Curve":
        """What :meth:`to_dict` wrote.

        Raises:
            TradeoffError: a field is missing, or the constructor refuses the values.
        """
        try:
            strengths, values = (torch.tensor(record[key], dtype=torch.float64) for key in ("strengths", "values"))
        except (KeyError, TypeError, ValueError) as error:
            raise TradeoffError(f"a record of a curve needs 'strengths' and 'values' as numbers: {error}.") from error
        groups = record.get("groups")
        return cls(strengths, values, None if groups is None else tuple(groups), record.get("name", ""))

    def _check_shapes(self, strengths: Tensor, values: Tensor) -> None:
        if strengths.ndim != 1 or values.ndim != 2 or len(strengths) != len(values) or 0 in values.shape:
            raise TradeoffError(
                f"{self.label} needs strengths [strength] and values [strength, item] with at least one of each; got "
                f"{list(strengths.shape)} and {list(values.shape)}."
            )
        if not bool(strengths.isfinite().all()) or not bool((strengths.diff() > 0).all()):
            raise TradeoffError(f"the strengths of {self.label} must be finite, ascend and not repeat; sort them.")
        if not bool(values.isfinite().all()):
            place, item = (~values.isfinite()).nonzero()[0].tolist()
            raise TradeoffError(
                f"the value of item {item} at strength {float(strengths[place]):g} of {self.label} is "
                f"{float(values[place, item])}; look at what produced it, or sweep over smaller strengths."
            )
        if self.groups is not None and len(self.groups) != values.shape[1]:
            raise TradeoffError(f"{values.shape[1]} items of {self.label} need as many groups; got {len(self.groups)}.")

    def _check_resampling(self) -> None:
        if not self.resamples:
            what = "one item" if self.n_items == 1 else f"{self.n_items} items, all in one group"
            raise TradeoffError(
                f"{self.label} has {what}: nothing can be resampled. Give per-item values in two groups or more, or "
                "ask for no resamples (n_resamples=0) to have estimates without intervals."
            )


def shared_strengths(one: Curve, other: Curve) -> Float[Tensor, "strength"]:
    """Strengths at which both curves were measured, ascending."""
    apart = (one.strengths[:, None] - other.strengths).abs().min(1).values
    reach = max(float(one.strengths.abs().max()), float(other.strengths.abs().max()), math.ulp(0.0))
    return one.strengths[apart <= _SAME * reach]
