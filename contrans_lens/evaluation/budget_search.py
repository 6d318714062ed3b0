"""The search for the strength at which a measure reaches a budget: one object a vector, all moved together.

The smallest ``s > 0`` with ``measure(s) = budget``. The measure mostly grows like ``s^2`` at first, but nothing forces
it to be monotone. Therefore: grow ``s`` until the budget is crossed, narrow the bracket (secant on the square root of
the measure, with bisection as the safeguard), then look between zero and the answer for an earlier crossing and narrow
that one if there is any.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from contrans_lens.errors import EvaluationError

DamageMeasure = Literal["kl", "perplexity_ratio"]
Key = TypeVar("Key", bound=Hashable)

_LARGEST_GROWTH = 4.0
_MOST_STEPS = 40
_NARROW = 1e-4  # relative width at which a bracket is not narrowed further


@dataclass(frozen=True)
class SolvedStrength:
    """A strength solved for a budget, with what was measured there."""

    strength: float
    """Multiple of the vector that was given; the largest one tried where the budget was not reached."""
    measured: float
    """The measure at that strength."""
    reached: bool
    """Whether the budget was reached; if not, ``measured`` is below it at the largest strength tried."""
    budget: float
    """What was asked for."""
    measure: DamageMeasure
    """``"kl"`` in nats per token, or ``"perplexity_ratio"``."""
    monotone: bool
    """Whether the measure rose with the strength over everything tried up to the answer."""
    trace: tuple[tuple[float, float], ...] = field(repr=False)
    """Every (strength, measured) tried, by strength."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {**vars(self), "trace": [list(point) for point in self.trace]}


def search_together(
    searches: Mapping[Key, "BudgetSearch"], measure: Callable[[dict[Key, list[float]]], dict[Key, list[float]]]
) -> None:
    """Measure what every search asks for in common passes until none asks for more.

    Args:
        searches: by key, the searches.
        measure: gives, for the strengths of each key, the measure there (the excess over one of a ratio).
    """
    for _ in range(_MOST_STEPS):
        asked = {key: wanted for key, search in searches.items() if (wanted := search.ask())}
        if not asked:
            return
        for key, values in measure(asked).items():
            for strength, value in zip(asked[key], values, strict=True):
                searches[key].tell(strength, value)


@dataclass
class BudgetSearch:
    """The search for one vector: asks for strengths, is told the measure, ends with a bracket."""

    target: float
    tolerance: float
    first: float
    largest: float
    checks: int
    tried: dict[float, float] = field(default_factory=dict)
    checked: float = math.inf
    """The answer below which crossings were looked for already."""

    def ask(self) -> list[float]:
        """Strengths to measure next; none when the search is over."""
        if not self.tried:
            return [self.first]
        low, high = self._bracket()
        if high is None:
            return [self._grown(low)] if low < self.largest else []
        if not self._done(low, high):
            return [self._between(low, high)]
        if self.checks and high < self.checked * (1 - self.tolerance):
            self.checked = high
            grid = [high * (i + 1) / (self.checks + 1) for i in range(self.checks)]
            return [strength for strength in grid if strength not in self.tried]
        return []

    def tell(self, strength: float, value: float) -> None:
        """Note a measurement; what is not finite is beyond every budget."""
        self.tried[strength] = value if math.isfinite(value) else math.inf

    def result(self, budget: float, measure: DamageMeasure) -> SolvedStrength:
        """The answer, or the largest strength tried where the budget was not reached."""
        low, high = self._bracket()
        answer = low if high is None else high
        offset = 1.0 if measure == "perplexity_ratio" else 0.0
        if not math.isfinite(self.tried[answer]):
            raise EvaluationError(
                f"the model's logits hold NaN or infinity from strength {answer:.4g} on, and below it the "
                f"budget ({measure} {budget}) is not reached. Use a smaller budget or a wider dtype."
            )
        points = sorted(self.tried.items())
        below = [value for strength, value in points if strength <= answer]
        slack = self.tolerance * self.target
        return SolvedStrength(
            strength=answer,
            measured=self.tried[answer] + offset,
            reached=high is not None,
            budget=budget,
            measure=measure,
            monotone=all(later >= earlier - slack for earlier, later in itertools.pairwise(below)),
            trace=tuple((strength, value + offset) for strength, value in points if math.isfinite(value)),
        )

    def _bracket(self) -> tuple[float, float | None]:
        """Largest strength below the first crossing (0 if none), and the smallest at or above the budget."""
        enough = self.target * (1 - self.tolerance)
        high = min((strength for strength, value in self.tried.items() if value >= enough), default=None)
        low = max((strength for strength in self.tried if high is None or strength < high), default=0.0)
        return low, high

    def _done(self, low: float, high: float) -> bool:
        return self.tried[high] <= self.target * (1 + self.tolerance) or high - low <= _NARROW * high

    def _grown(self, low: float) -> float:
        """The next larger strength, from ``measure ~ s^2``, a little beyond."""
        value = self.tried[low]
        factor = 1.1 * math.sqrt(self.target / value) if value > 0 else _LARGEST_GROWTH
        return min(low * min(max(factor, 1.5), _LARGEST_GROWTH), self.largest)

    def _between(self, low: float, high: float) -> float:
        """Secant on the square root of the measure; every third step, or where that is useless, the midpoint.

        Bisecting now and then bounds the number of steps whatever the shape of the curve.
        """
        root_low, root_high = (math.sqrt(max(self.tried.get(s, 0.0), 0.0)) for s in (low, high))
        if len(self.tried) % 3 == 0 or not math.isfinite(root_high) or root_high <= root_low:
            return (low + high) / 2
        share = (math.sqrt(self.target) - root_low) / (root_high - root_low)
        return low + (high - low) * min(max(share, 0.05), 0.95)
