"""One law fitted to one curve: parameters with intervals over items, and how well it does.

The mean at each strength counts as one observation of equal weight: ``n`` below is the number of strengths, not of
items. Means at different strengths come from the same items, so their errors are not independent and the criterion
is only a ranking of shapes; what the data leave open is said by the intervals, which resample items::

    AIC  = n ln(RSS / n) + 2 (p + 1)              p parameters of the law, and one for the variance
    AICc = AIC + 2 (p + 1)(p + 2) / (n - p - 2)   for few strengths (Hurvich and Tsai 1989)
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation.resampling import expanded_percentiles
from contrans_lens.tradeoff.curve import Curve
from contrans_lens.tradeoff.estimates import Estimate, estimate, undefined
from contrans_lens.tradeoff.families import Family

_ROUNDING = 1e-9  # residuals below this share of the curve's size are rounding: exact data must not rank by them
_UNMOVED = 1e-6  # a parameter that moves the curve by less than this share of its size is not determined by it


@dataclass(frozen=True, eq=False)
class Fit:
    """One law fitted to one curve by least squares."""

    name: str
    """The law's name."""
    equation: str
    """The law."""
    parameters: dict[str, Estimate]
    """Its parameters."""
    derived: dict[str, Estimate]
    """Quantities that follow from them, e.g. the slope at zero."""
    rss: float
    """Residual sum of squares of the means."""
    r_squared: float
    """``1 - RSS / TSS``; 0 for a curve that is exactly flat."""
    aic: float
    """Akaike's criterion; less is better."""
    aicc: float
    """The same corrected for few strengths; infinite where they are too few for this law."""
    delta: float
    """How far the criterion in use lies above the best law's."""
    n_points: int
    """Strengths fitted."""
    converged: bool
    """Whether the search on the curve itself ended by itself."""
    converged_share: float | None
    """Share of resamples on which it did; None without resamples."""
    family: Family = field(repr=False)
    """The law's code."""
    inner: Float[Tensor, "1 parameter"] = field(repr=False)
    """The family's inner parameters."""
    inner_draws: Float[Tensor, "resample parameter"] | None = field(repr=False)
    """Inner parameters of every resample; None without resamples."""
    n_groups: int = field(repr=False)
    """Independent units that were resampled."""

    def predict(self, r: Float[Tensor, "strength"]) -> Float[Tensor, "strength"]:
        """The fitted law at strengths ``r``, float64."""
        return self.family.values(r.double(), self.inner)[0]

    def band(
        self, r: Float[Tensor, "strength"], level: float = 0.95
    ) -> tuple[Float[Tensor, "strength"], Float[Tensor, "strength"]]:
        """Pointwise interval of the fitted law at strengths ``r``.

        Raises:
            TradeoffError: the fit was made without resamples.
            EvaluationError: a level that is none.
        """
        if self.inner_draws is None:
            raise TradeoffError(f"the fit {self.name!r} has no resamples, so no band; fit with n_resamples.")
        return expanded_percentiles(self.family.values(r.double(), self.inner_draws), self.n_groups, level)

    def design(self, r: Float[Tensor, "strength"]) -> Float[Tensor, "strength parameter"]:
        """Derivatives of the fitted law by its inner parameters; the design matrix of a law that is linear in them."""
        return self.family.evaluate(r.double(), self.inner)[1][0]

    def draws(self, name: str) -> Float[Tensor, "resample"] | None:
        """A parameter or derived quantity on every resample; None without resamples.

        Raises:
            TradeoffError: the law has no such quantity.
        """
        if self.inner_draws is None:
            return None
        if name in self.parameters:
            return self.family.report(self.inner_draws)[:, self.family.parameters.index(name)]
        derived = self.family.derive(self.inner_draws)
        if name not in derived:
            known = ", ".join([*self.parameters, *derived])
            raise TradeoffError(f"the law {self.name!r} has no {name!r}; it has {known}.")
        return derived[name]

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON values; an infinite AICc is None."""
        return {
            "name": self.name,
            "equation": self.equation,
            "parameters": {name: each.to_dict() for name, each in self.parameters.items()},
            "derived": {name: each.to_dict() for name, each in self.derived.items()},
            "rss": self.rss,
            "r_squared": self.r_squared,
            "aic": self.aic,
            "aicc": self.aicc if math.isfinite(self.aicc) else None,
            "delta": self.delta if math.isfinite(self.delta) else None,
            "n_points": self.n_points,
            "converged": self.converged,
            "converged_share": self.converged_share,
        }


def fit_family(curve: Curve, family: Family, resampled: Float[Tensor, "resample strength"] | None, level: float) -> Fit:
    """Fit one law to the mean curve and to its resamples.

    Args:
        curve: what is fitted, all of its strengths.
        family: the law.
        resampled: mean curves of resamples, or None for no intervals.
        level: nominal coverage.
    """
    found = family.fit(curve.strengths, curve.mean[None])
    drawn = None if resampled is None else family.fit(curve.strengths, resampled, near=found.parameters[0])
    draws = None if drawn is None else drawn.parameters
    parameters, derived = _quantities(curve, family, found.parameters, draws, level)
    n, p, rss = len(curve.mean), len(family.parameters), float(found.rss)
    floor = n * (_ROUNDING * (float(curve.mean.abs().max()) or 1.0)) ** 2
    total = float((curve.mean - curve.mean.mean()).square().sum())
    aic = n * math.log(max(rss, floor) / n) + 2 * (p + 1)
    return Fit(
        name=family.name,
        equation=family.equation,
        parameters=parameters,
        derived=derived,
        rss=rss,
        r_squared=1 - rss / total if total > floor else 0.0,
        aic=aic,
        aicc=aic + 2 * (p + 1) * (p + 2) / (n - p - 2) if n > p + 2 else math.inf,
        delta=0.0,
        n_points=n,
        converged=bool(found.converged[0]),
        converged_share=None if drawn is None else float(drawn.converged.double().mean()),
        family=family,
        inner=found.parameters,
        inner_draws=draws,
        n_groups=curve.n_groups,
    )


def _quantities(
    curve: Curve, family: Family, inner: Tensor, draws: Tensor | None, level: float
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Parameters and what follows from them, each with its interval."""

    def named(at: Tensor) -> dict[str, Tensor]:
        return {**family.derive(at), **dict(zip(family.parameters, family.report(at).T, strict=True))}

    values, columns = named(inner), {} if draws is None else named(draws)
    loose = _undetermined(curve, family, inner)
    gain = next((name for name in family.parameters if name in ("a", "s")), "")
    found: dict[str, Estimate] = {}
    for name, value in sorted(values.items(), key=lambda item: item[0] == "r_half"):  # r_half needs the gain
        if name == "r_half" and (found[gain].holds(0.0) or found[gain].value == 0):
            found[name] = undefined("the gain's interval holds zero: the curve may never cross zero", level)
        else:
            found[name] = estimate(float(value), columns.get(name), curve.n_groups, level)
    if "r_half" in found and gain in loose:
        found["r_half"] = _bracketed(curve, family.values(curve.strengths, inner)[0], found["r_half"])
    if loose:
        loose += [name for name in ("b0", "slope0", "k", "l") if name in found]
    for name in loose:
        found[name] = undefined("the measured strengths do not determine it: other values fit as well", level)
    parameters = {name: found.pop(name) for name in family.parameters}
    return parameters, found


def _bracketed(curve: Curve, fitted: Tensor, r_half: Estimate) -> Estimate:
    """Where a step crosses zero: anywhere between two strengths, so the interval holds at least both of them."""
    crossed = (fitted[:-1] * fitted[1:] <= 0).nonzero()[:, 0]
    if not len(crossed) or fitted[0] * fitted[-1] >= 0:
        return undefined("the curve does not cross zero, and its gain is not determined", r_half.level)
    first, last = float(curve.strengths[crossed[0]]), float(curve.strengths[crossed[-1] + 1])
    low = first if r_half.low is None else min(first, r_half.low)
    high = last if r_half.high is None else max(last, r_half.high)
    return Estimate((first + last) / 2, low, high, r_half.level)


def _undetermined(curve: Curve, family: Family, inner: Tensor) -> list[str]:
    """Parameters that can move by their own size, others making up for it, without moving the curve.

    What is left of a column of the Jacobian after projecting out the others says how far the curve moves at least.
    """
    jacobian = family.evaluate(curve.strengths, inner)[1][0]
    size = float(curve.mean.abs().max()) or 1.0
    loose = []
    for number, name in enumerate(family.parameters):
        column, others = jacobian[:, number], jacobian[:, torch.arange(jacobian.shape[1]) != number]
        left = column - others @ (torch.linalg.pinv(others) @ column)
        if float(left.norm()) * max(1.0, abs(float(inner[0, number]))) < _UNMOVED * size:
            loose.append(name)
    return loose
