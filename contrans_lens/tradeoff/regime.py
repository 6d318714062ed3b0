"""The strengths at which steering is worth its cost.

Near the unsteered model behaviour is a line and helpfulness a parabola, so the utility ``B + w H`` gains::

    U(r) - U(0) = s r + w (l r - k r^2)

    r*          = (s + w l) / (2 w k)      greatest gain
    break-even  = (s + w l) / (w k)        the gain is used up
    budget      = (l +- sqrt(l^2 + 4 k eps H0)) / (2 k)      last strengths with H >= (1 - eps) H0

The same is read off the measured curves without any law. Positive strengths are those toward the behaviour. What does
not exist is None with its reason: without a cost there is no optimum, without a slope there is nothing to gain.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contrans_lens.errors import TradeoffError
from contrans_lens.tradeoff.curve import Curve, shared_strengths
from contrans_lens.tradeoff.estimates import Estimate, estimate, undefined
from contrans_lens.tradeoff.fits import SATURATED, AlignmentFit, HelpfulnessFit
from contrans_lens.tradeoff.frontier import FrontierPoint, best_strength, first_crossing, pareto_front, return_to_zero

_FINE = 401
_OVERSTATED = 1.25  # a line that promises this many times the tanh law's gain is said to overstate it


@dataclass(frozen=True)
class UsefulRegime:
    """Optimum, break-even and budget, by the laws and by the measured curves."""

    weight: float
    """``w``: what a unit of helpfulness is worth in units of behaviour."""
    epsilon: float
    """Share of the unsteered helpfulness that may be lost."""
    level: float
    """Nominal coverage of the intervals."""
    optimum: Estimate
    """``r*`` by the laws."""
    break_even: Estimate
    """Where the gain is used up, by the laws."""
    law_optimum: Estimate
    """Where ``tanh(a r + b0) + w (H0 + l r - k r^2)`` is greatest: r* of laws that know that behaviour saturates."""
    budget_up: Estimate
    """Largest positive strength within the budget, by the parabola."""
    budget_down: Estimate
    """The same for negative strengths; a negative number."""
    raw_optimum: Estimate
    """Measured strength with the greatest mean ``B + w H``."""
    raw_break_even: Estimate
    """Where the measured gain, beyond its greatest value, is used up; interpolated between strengths."""
    raw_budget_up: Estimate
    """First positive crossing of the budget by the measured helpfulness, interpolated."""
    raw_budget_down: Estimate
    """First negative crossing; a negative number."""
    front: tuple[FrontierPoint, ...]
    """Every strength where both were measured, with its place on the Pareto front."""
    warnings: tuple[str, ...]
    """What to beware of: extrapolations, an optimum at the grid's end."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        plain = {name: each.to_dict() if isinstance(each, Estimate) else each for name, each in vars(self).items()}
        return {**plain, "front": [point.to_dict() for point in self.front], "warnings": list(self.warnings)}


def useful_regime(
    alignment_curve: Curve,
    alignment_fit: AlignmentFit,
    helpfulness_curve: Curve,
    helpfulness_fit: HelpfulnessFit,
    *,
    weight: float = 1.0,
    epsilon: float = 0.05,
    paired: bool = False,
) -> UsefulRegime:
    """Where steering is worth its cost, with intervals over items.

    Intervals of what is read off the curves end at the grid's end where a resample does not cross before it, so an
    upper end that equals the last strength means "at least".

    Args:
        alignment_curve: behaviour over strength.
        alignment_fit: its fit.
        helpfulness_curve: helpfulness over strength, at the same strengths or at least three of them including 0.
        helpfulness_fit: its fit.
        weight: ``w`` above 0.
        epsilon: between 0 and 1.
        paired: both were measured on the same items in the same order, so they are resampled together; else they are
            independent.

    Raises:
        TradeoffError: weight or epsilon out of range; fewer than three shared strengths, or none of them 0; fits with
            different levels or numbers of resamples; ``paired`` for fits that cannot be paired.
    """
    if not weight > 0 or not 0 < epsilon < 1:
        raise TradeoffError(f"weight must be above 0 and epsilon in (0, 1); got {weight} and {epsilon}.")
    _check_fits(alignment_fit, helpfulness_fit, paired)
    case = _Case(alignment_curve, alignment_fit, helpfulness_curve, helpfulness_fit, weight, epsilon, paired)
    optimum, break_even = case.optima()
    budget_up, budget_down = case.budgets()
    raw_optimum, raw_break_even = case.raw_optima()
    return UsefulRegime(
        weight=weight,
        epsilon=epsilon,
        level=alignment_fit.level,
        optimum=optimum,
        break_even=break_even,
        law_optimum=case.law_optimum(optimum),
        budget_up=budget_up,
        budget_down=budget_down,
        raw_optimum=raw_optimum,
        raw_break_even=raw_break_even,
        raw_budget_up=case.raw_budget(1.0),
        raw_budget_down=case.raw_budget(-1.0),
        front=case.front(),
        warnings=case.warnings(optimum, raw_optimum),
    )


def _check_fits(alignment: AlignmentFit, helpfulness: HelpfulnessFit, paired: bool) -> None:
    same = (alignment.n_resamples, alignment.level) == (helpfulness.n_resamples, helpfulness.level)
    if not same:
        raise TradeoffError(
            "both fits need the same n_resamples and level; got "
            f"{alignment.n_resamples} at {alignment.level} and {helpfulness.n_resamples} at {helpfulness.level}."
        )
    alike = (alignment.n_items, alignment.n_groups, alignment.seed)
    if paired and alike != (helpfulness.n_items, helpfulness.n_groups, helpfulness.seed):
        raise TradeoffError("paired=True needs fits on the same items with the same groups and seed.")


class _Case:
    """Both curves and fits with their resamples brought side by side."""

    def __init__(
        self,
        alignment_curve: Curve,
        alignment: AlignmentFit,
        helpfulness_curve: Curve,
        helpfulness: HelpfulnessFit,
        weight: float,
        epsilon: float,
        paired: bool,
    ) -> None:
        self._alignment, self._helpfulness, self._helpfulness_curve = alignment, helpfulness, helpfulness_curve
        self._weight, self._epsilon = weight, epsilon
        # Resamples are exchangeable: matching each with the other curve's next one makes the two independent, also
        # where both were drawn with one seed and would else follow each other.
        self._offset = 0 if paired else 1
        self._shared = shared_strengths(alignment_curve, helpfulness_curve)
        if len(self._shared) < 3 or not bool((self._shared == 0).any()):
            raise TradeoffError(
                f"behaviour and helpfulness share {len(self._shared)} strengths; at least three with 0 among them are "
                "needed. Sweep both on one grid."
            )
        self._b, self._b_drawn = self._table(alignment_curve.at(self._shared), alignment, 0)
        self._h, self._h_drawn = self._table(helpfulness_curve.at(self._shared), helpfulness, self._offset)

    @staticmethod
    def _table(curve: Curve, fit: AlignmentFit | HelpfulnessFit, offset: int) -> tuple[Tensor, Tensor | None]:
        """Mean curve ``[1, strength]`` and its resamples."""
        drawn = curve.resampled(fit.n_resamples, fit.seed).roll(offset, 0) if fit.n_resamples else None
        return curve.mean[None], drawn

    def _estimate(self, value: Tensor, draws: Tensor | None, *, helpfulness_only: bool = False) -> Estimate:
        groups = self._helpfulness.n_groups
        if not helpfulness_only:
            groups = min(groups, self._alignment.n_groups)
        return estimate(float(value), draws, groups, self._alignment.level)

    def optima(self) -> tuple[Estimate, Estimate]:
        """``r*`` and break-even by the laws."""
        reason = self._no_slope() or self._no_cost()
        if reason:
            return (undefined(reason, self._alignment.level),) * 2
        tanh, parabola = self._alignment.fits["tanh"], self._helpfulness.fits["parabola"]
        s, linear, k = (
            torch.tensor(each.value, dtype=torch.float64)
            for each in (self._alignment.slope0, self._helpfulness.linear, self._helpfulness.k)
        )
        gain, ratio = s + self._weight * linear, (s + self._weight * linear) / (self._weight * k)
        slopes, linears, curvatures = tanh.draws("slope0"), parabola.draws("l"), parabola.draws("k")
        gains = ratios = None
        if slopes is not None and linears is not None and curvatures is not None:
            linears, curvatures = (each.roll(self._offset, 0) for each in (linears, curvatures))
            gains = slopes + self._weight * linears
            ratios = _costly(gains / (self._weight * curvatures), curvatures, 1.0)
        worth = self._estimate(gain, gains)
        if not worth.above_zero:
            reason = f"s + w l = {worth} is not above zero: the linear loss of helpfulness outweighs the gain"
            return (undefined(reason, self._alignment.level),) * 2
        return self._estimate(ratio / 2, None if ratios is None else ratios / 2), self._estimate(ratio, ratios)

    def law_optimum(self, optimum: Estimate) -> Estimate:
        """The optimum of the tanh and the parabola, on a fine grid up to twice the optimum of the line."""
        if optimum.value is None:
            return undefined(optimum.reason, self._alignment.level)
        reach = torch.linspace(0, 2 * optimum.value, _FINE, dtype=torch.float64)
        tanh, parabola = self._alignment.fits["tanh"], self._helpfulness.fits["parabola"]
        value = reach[(tanh.predict(reach) + self._weight * parabola.predict(reach)).argmax()]
        draws = None
        if tanh.inner_draws is not None and parabola.inner_draws is not None:
            behaviour = tanh.family.values(reach, tanh.inner_draws)
            helpful = parabola.family.values(reach, parabola.inner_draws).roll(self._offset, 0)
            draws = reach[(behaviour + self._weight * helpful).argmax(1)]
        return self._estimate(value, draws)

    def budgets(self) -> tuple[Estimate, Estimate]:
        """Largest strengths of either sign within the budget, by the parabola."""
        reason = self._no_cost()
        if reason:
            return (undefined(reason, self._alignment.level),) * 2
        fit = self._helpfulness.fits["parabola"]
        top, linear, k = (torch.tensor(fit.parameters[name].value, dtype=torch.float64) for name in ("H0", "l", "k"))
        tops, linears, curvatures = (fit.draws(name) for name in ("H0", "l", "k"))
        found = []
        for sign in (1.0, -1.0):
            value, draws = _within_budget(top, linear, k, self._epsilon, sign), None
            if tops is not None and linears is not None and curvatures is not None:
                draws = _within_budget(tops, linears, curvatures, self._epsilon, sign)
                draws = _costly(draws, curvatures, sign)
            found.append(self._estimate(value, draws, helpfulness_only=True))
        return found[0], found[1]

    def raw_optima(self) -> tuple[Estimate, Estimate]:
        """Best strength and break-even of the measured curves."""
        utility = self._b + self._weight * self._h
        drawn = None
        if self._b_drawn is not None and self._h_drawn is not None:
            drawn = self._b_drawn + self._weight * self._h_drawn
        best = self._estimate(
            best_strength(self._shared, utility), None if drawn is None else best_strength(self._shared, drawn)
        )
        zero = int((self._shared == 0).nonzero()[0])
        reach = self._shared[zero:]
        if len(reach) < 2:
            return best, undefined("no positive strength was measured", self._alignment.level)
        value, gains, ends = return_to_zero(reach, (utility - utility[:, [zero]])[:, zero:])
        if not bool(gains):
            return best, undefined("no positive strength is better than the unsteered model", self._alignment.level)
        if not bool(ends):
            reason = f"the gain is not used up at {float(reach[-1]):g}, the last strength"
            return best, undefined(reason, self._alignment.level)
        draws = None if drawn is None else return_to_zero(reach, (drawn - drawn[:, [zero]])[:, zero:])[0]
        return best, self._estimate(value, draws)

    def raw_budget(self, sign: float) -> Estimate:
        """First strength of one sign at which the measured helpfulness leaves the budget."""
        curve, fit = self._helpfulness_curve, self._helpfulness
        side = (sign * curve.strengths) >= 0
        if int(side.sum()) < 2:
            return undefined(f"no {'positive' if sign > 0 else 'negative'} strength was measured", fit.level)
        order = curve.strengths[side].abs().argsort()
        reach = curve.strengths[side].abs()[order]

        def crossing(means: Tensor) -> tuple[Tensor, Tensor]:
            outward = means[:, side][:, order]
            return first_crossing(reach, outward - (1 - self._epsilon) * outward[:, :1])

        value, crosses = crossing(curve.mean[None])
        if not bool(crosses):
            reason = f"helpfulness stays within the budget up to {sign * float(reach[-1]):g}, the last strength"
            return undefined(reason, fit.level)
        draws = sign * crossing(curve.resampled(fit.n_resamples, fit.seed))[0] if fit.n_resamples else None
        return self._estimate(sign * value, draws, helpfulness_only=True)

    def front(self) -> tuple[FrontierPoint, ...]:
        """All shared strengths with their place on the Pareto front."""
        on_front = pareto_front(self._b, self._h)[0].tolist()
        shares: list[float | None] = [None] * len(on_front)
        if self._b_drawn is not None and self._h_drawn is not None:
            shares = list(pareto_front(self._b_drawn, self._h_drawn).double().mean(0).tolist())
        columns = (self._shared.tolist(), self._b[0].tolist(), self._h[0].tolist(), on_front, shares)
        return tuple(FrontierPoint(*row) for row in zip(*columns, strict=True))

    def warnings(self, optimum: Estimate, raw_optimum: Estimate) -> tuple[str, ...]:
        """What to beware of."""
        found = []
        if raw_optimum.value in (float(self._shared[0]), float(self._shared[-1])):
            found.append(f"the best measured strength, {raw_optimum.value:g}, is the grid's end; sweep further")
        if optimum.value is None:
            return tuple(found)
        for fit, what in ((self._alignment, "behaviour"), (self._helpfulness, "helpfulness")):
            low, high = fit.window
            if not low <= optimum.value <= high:
                fitted = f"[{low:g}, {high:g}], on which {what} was fitted"
                found.append(f"r* = {optimum.value:.3g} lies outside {fitted}: extrapolated")
        line = (self._alignment.slope0.value or 0.0) * optimum.value
        law = self._alignment.fits["tanh"].predict(torch.tensor([0.0, optimum.value], dtype=torch.float64))
        gain = float(law[1] - law[0])
        if line > _OVERSTATED * gain:
            found.append(f"at r* the line promises a gain of {line:.3g}, the tanh law {gain:.3g}: behaviour saturates")
        return tuple(found)

    def _no_slope(self) -> str:
        """Why the slope of behaviour cannot be used; empty where it can."""
        fit = self._alignment
        if fit.saturated:
            return f"the unsteered behaviour is saturated (|B0| > {SATURATED}): no slope; r_half = {fit.r_half}"
        if not fit.slope0.above_zero:
            return f"the slope s = {fit.slope0} is not above zero: nothing to gain at positive strengths"
        return ""

    def _no_cost(self) -> str:
        """Why the curvature of helpfulness cannot be used; empty where it can."""
        k = self._helpfulness.k
        if k.above_zero:
            return ""
        return self._helpfulness.verdict if k.has_interval else f"k = {k} is not above zero: no cost to weigh"


def _within_budget(top: Tensor, linear: Tensor, k: Tensor, epsilon: float, sign: float) -> Tensor:
    """Root of ``eps H0 + l r - k r^2`` on one side of zero."""
    return (linear + sign * (linear.square() + 4 * k * epsilon * top).clamp_min(0).sqrt()) / (2 * k)


def _costly(draws: Tensor, k: Tensor, sign: float) -> Tensor:
    """Draws in which resamples without a cost (``k <= 0``, no finite end) stand at the far end of the others."""
    return torch.where(k > 0, draws, sign * (sign * draws[k > 0]).max())
