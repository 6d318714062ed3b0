"""A number with its bootstrap interval, or the reason why there is none."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation.resampling import expanded_percentiles


@dataclass(frozen=True)
class Estimate:
    """A point estimate, its interval where items could be resampled, and the reason where it is undefined."""

    value: float | None
    """The estimate; None where it is undefined."""
    low: float | None = None
    """Lower end of the interval; None without one."""
    high: float | None = None
    """Upper end of the interval; None without one."""
    level: float = 0.95
    """Nominal coverage of the interval."""
    reason: str = ""
    """Why there is no value; empty where there is one."""

    @property
    def defined(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None and self.high is not None

    def holds(self, value: float) -> bool:
        """Whether the closed interval holds ``value``; False without an interval."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above zero; without an interval, whether the value does."""
        bound = self.low if self.has_interval else self.value
        return bound is not None and bound > 0

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval lies below zero; without an interval, whether the value does."""
        bound = self.high if self.has_interval else self.value
        return bound is not None and bound < 0

    def __str__(self) -> str:
        """The number with its interval, or "undefined" with the reason."""
        if self.value is None:
            return f"undefined ({self.reason})"
        return f"{self.value:.4g}" + (f" [{self.low:.4g}, {self.high:.4g}]" if self.has_interval else "")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


def undefined(reason: str, level: float = 0.95) -> Estimate:
    """The estimate that is none, with its reason."""
    return Estimate(None, None, None, level, reason)


def estimate(value: float, draws: Float[Tensor, "resample"] | None, n_groups: int, level: float) -> Estimate:
    """A value with the percentile interval of its resamples, widened for few groups.

    Args:
        value: the estimate on the data themselves.
        draws: the same number on every resample; None for no interval.
        n_groups: independent units that were resampled.
        level: nominal coverage.

    Raises:
        TradeoffError: draws that are not finite.
    """
    if draws is None:
        return Estimate(value, level=level)
    if not bool(draws.isfinite().all()):
        bad = int((~draws.isfinite()).sum())
        raise TradeoffError(f"{bad} of {len(draws)} resampled estimates are not finite; look at the curve.")
    low, high = expanded_percentiles(draws[:, None].to(torch.float64), n_groups, level)
    return Estimate(value, float(low[0]), float(high[0]), level)
