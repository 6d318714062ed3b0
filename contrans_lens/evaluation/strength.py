"""The strength at which a vector reaches a damage budget on neutral text.

Comparing vectors is fair at equal damage, so the strength is solved for: the smallest ``s > 0`` with
``measure(s * vector) = budget``. The measure mostly grows like ``s^2`` at first, but nothing forces it to be
monotone. Therefore: grow ``s`` until the budget is crossed, narrow the bracket (secant on the square root of
the measure, with bisection as the safeguard), then look between zero and the answer for an earlier crossing
and narrow that one if there is any. All vectors move together, stacked as batch rows.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.damage import DamageMeter
from contrans_lens.evaluation.scores import check_cells
from contrans_lens.evaluation.stacked import mean_norms
from contrans_lens.models import HookedModel, tokenize

DamageMeasure = Literal["kl", "perplexity_ratio"]

_FIRST_SHARE = 0.25  # first try: this share of the mean residual norm, where useful budgets mostly lie
_LARGEST_SHARE = 32.0  # where the search ends if no other end is given
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


def solve_strength(
    model: HookedModel,
    texts: Sequence[str],
    hook_point: str,
    vector: Float[Tensor, " d_model"],
    *,
    budget: float,
    measure: DamageMeasure = "kl",
    tolerance: float = 0.02,
    max_strength: float | None = None,
    checks: int = 4,
    max_tokens: int | None = None,
    token_budget: int | None = None,
) -> SolvedStrength:
    """Smallest strength at which ``strength * vector``, added at every position, reaches a damage budget.

    Args:
        model: the target model.
        texts: neutral texts.
        hook_point: where the vector is added.
        vector: the vector for strength 1, in the residual's own units (``v / ||v||`` times the mean residual
            norm makes strengths come out in units of that norm). For the minus direction pass ``-vector``.
        budget: KL in nats per token above 0, or a ratio of perplexities above 1.
        measure: what the budget is in.
        tolerance: relative; the measure (its excess over 1 for a ratio) ends this close to the budget.
        max_strength: largest strength tried; where the vector has 32 mean residual norms if None.
        checks: evenly spaced strengths tried between zero and the answer in search of an earlier crossing; one that
            none of them hits goes unnoticed.
        max_tokens: use at most this many tokens of each text.
        token_budget: most tokens in one forward pass; chosen by device if None.

    Raises:
        EvaluationError: a budget that is no damage, a zero vector, or logits that are not finite even where
            the budget should be reached.
        HookPointError: the model has no such hook point.
    """
    return solve_strengths(
        model,
        texts,
        hook_point,
        vector[None],
        budget=budget,
        measure=measure,
        tolerance=tolerance,
        max_strength=max_strength,
        checks=checks,
        max_tokens=max_tokens,
        token_budget=token_budget,
    )[0]


def solve_strengths(
    model: HookedModel,
    texts: Sequence[str],
    hook_point: str,
    vectors: Float[Tensor, "vector d_model"],
    *,
    budget: float,
    measure: DamageMeasure = "kl",
    tolerance: float = 0.02,
    max_strength: float | None = None,
    checks: int = 4,
    max_tokens: int | None = None,
    token_budget: int | None = None,
) -> list[SolvedStrength]:
    """:func:`solve_strength` for several vectors at once, ``[vector, d_model]``, measured in the same passes.

    Raises:
        EvaluationError: as :func:`solve_strength`.
        HookPointError: the model has no such hook point.
    """
    return solve_cell_strengths(
        model,
        texts,
        {hook_point: vectors},
        budget=budget,
        measure=measure,
        tolerance=tolerance,
        max_strength=max_strength,
        checks=checks,
        max_tokens=max_tokens,
        token_budget=token_budget,
    )[hook_point]


def solve_cell_strengths(
    model: HookedModel,
    texts: Sequence[str],
    vectors: Mapping[str, Float[Tensor, "_ d_model"]],
    *,
    budget: float,
    measure: DamageMeasure = "kl",
    tolerance: float = 0.02,
    max_strength: float | None = None,
    checks: int = 4,
    max_tokens: int | None = None,
    token_budget: int | None = None,
) -> dict[str, list[SolvedStrength]]:
    """:func:`solve_strengths` at several hook points: texts are tokenised and run unsteered once, for all of them.

    Args:
        model: the target model.
        texts: neutral texts.
        vectors: by hook point, vectors for strength 1, ``[vector, d_model]``.
        budget: as in :func:`solve_strength`, like all that follow.
        measure: what the budget is in.
        tolerance: relative.
        max_strength: largest strength tried.
        checks: strengths tried in search of an earlier crossing.
        max_tokens: use at most this many tokens of each text.
        token_budget: most tokens in one forward pass.

    Returns:
        By hook point, one :class:`SolvedStrength` per vector.

    Raises:
        EvaluationError: no cells; or as :func:`solve_strength`.
        HookPointError: the model has no such hook point.
    """
    if not (math.isfinite(budget) and budget > (1.0 if measure == "perplexity_ratio" else 0.0)):
        raise EvaluationError(
            f"a {measure} budget of {budget} is no damage; give a KL above 0 or a perplexity ratio above 1."
        )
    if max_strength is not None and not (math.isfinite(max_strength) and max_strength > 0):
        raise EvaluationError(f"max_strength is {max_strength}; a finite number above 0 was expected.")
    check_cells(model, vectors)
    wide = {name: each.detach().to("cpu", torch.float64) for name, each in vectors.items()}
    names = list(wide)
    meter = DamageMeter(model, texts, names, max_tokens=max_tokens, token_budget=token_budget)
    batch = tokenize(model, list(texts), truncate="right", max_length=max_tokens)
    residuals = mean_norms(model, [batch], names)
    searches: dict[str, list[_Search]] = {}
    for name, cells in wide.items():
        norms, residual = cells.norm(dim=1).tolist(), residuals[name]
        if 0.0 in norms:
            raise EvaluationError(f"vector {norms.index(0.0)} at {name} is zero: no strength of it does anything.")
        searches[name] = [
            _Search(
                target=budget - 1 if measure == "perplexity_ratio" else budget,
                tolerance=tolerance,
                first=min(_FIRST_SHARE * residual / norm, max_strength or math.inf),
                largest=max_strength or _LARGEST_SHARE * residual / norm,
                checks=checks,
            )
            for norm in norms
        ]
    _search_together(searches, meter, wide, measure)
    return {name: [search.result(budget, measure) for search in each] for name, each in searches.items()}


def _search_together(
    searches: dict[str, list["_Search"]],
    meter: DamageMeter,
    vectors: dict[str, Float[Tensor, "_ d_model"]],
    measure: DamageMeasure,
) -> None:
    """Measure what every search asks for in common passes until none asks for more."""
    for _ in range(_MOST_STEPS):
        asked = {
            name: [(number, strength) for number, search in enumerate(each) for strength in search.ask()]
            for name, each in searches.items()
        }
        rows = {
            name: torch.stack([strength * vectors[name][number] for number, strength in wanted]).float()
            for name, wanted in asked.items()
            if wanted
        }
        if not rows:
            return
        for name, totals in meter.cell_totals(rows).items():
            sums = totals.kl if measure == "kl" else totals.nll
            values = (sums.sum(1) / meter.counts.sum()).tolist()
            for (number, strength), value in zip(asked[name], values, strict=True):
                if measure == "perplexity_ratio":
                    # The excess over one, which like the KL starts at zero.
                    value = math.expm1(min(value - meter.unsteered_nll, 700.0))
                searches[name][number].tell(strength, value)


@dataclass
class _Search:
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
