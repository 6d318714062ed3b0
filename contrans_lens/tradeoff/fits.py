"""Fits of the rival laws to behaviour and to helpfulness over strength.

How they are fitted and ranked is said in :mod:`contrans_lens.tradeoff.fitted`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from contrans_lens.errors import TradeoffError
from contrans_lens.tradeoff.curve import Curve
from contrans_lens.tradeoff.estimates import Estimate
from contrans_lens.tradeoff.families import ALIGNMENT_FAMILIES, HELPFULNESS_FAMILIES, Family
from contrans_lens.tradeoff.fitted import Fit, fit_family
from contrans_lens.tradeoff.monotone import isotonic

SATURATED = 0.95
"""Beyond this |B0| the unsteered model stands on a plateau and has no slope to speak of."""
TOP_SHARE = 0.75
"""Share of H(0) above the floor down to which the curve counts as the top of its bell."""

_FEWEST_STRENGTHS = 5  # a law of two parameters then has a finite AICc
_OUTSIDE = 1e-6  # how far means may lie outside their range


@dataclass(frozen=True, eq=False)
class CurveFit:
    """What the fits of either kind of curve have in common."""

    name: str
    """The curve's name."""
    window: tuple[float, float]
    """First and last strength fitted."""
    n_points: int
    """Strengths fitted."""
    n_items: int
    """Items behind every mean."""
    n_groups: int
    """Independent units among them."""
    level: float
    """Nominal coverage of the intervals."""
    n_resamples: int
    """Resamples behind them; 0 where there are none."""
    seed: int
    """Seed of the resamples."""
    criterion: Literal["aic", "aicc"]
    """What the laws are ranked by."""
    fits: dict[str, Fit]
    """The laws by name."""
    measured: float | None
    """Mean of the unsteered model; None where strength 0 was not measured."""

    @classmethod
    def of(
        cls: "type[_Made]",
        curve: Curve,
        window: tuple[float, float],
        families: Sequence[Family],
        *,
        n_resamples: int,
        seed: int,
        level: float,
    ) -> "_Made":
        """Fit every family that has fewer parameters than there are strengths, and rank them.

        The criterion is AICc where there are fewer than 40 strengths for each parameter of the largest law (Burnham
        and Anderson 2002), else AIC.

        Raises:
            TradeoffError: nothing to resample although resamples are wanted, too few resamples, or a level that is
                none.
        """
        if not 0 < level < 1:
            raise TradeoffError(f"a confidence level lies between 0 and 1; got {level}.")
        part = curve.window(*window)
        resampled = part.resampled(n_resamples, seed) if n_resamples else None
        n = len(part.mean)
        fits = [fit_family(part, family, resampled, level) for family in families if len(family.parameters) < n]
        few = n < 40 * max(len(fit.parameters) + 1 for fit in fits)
        criteria = {fit.name: fit.aicc if few else fit.aic for fit in fits}
        best = min(criteria.values())
        return cls(
            name=curve.name,
            window=(float(part.strengths[0]), float(part.strengths[-1])),
            n_points=n,
            n_items=part.n_items,
            n_groups=part.n_groups,
            level=level,
            n_resamples=n_resamples,
            seed=seed,
            criterion="aicc" if few else "aic",
            fits={fit.name: replace(fit, delta=criteria[fit.name] - best) for fit in fits},
            measured=curve.at_zero if curve.has_zero else None,
        )

    @property
    def best(self) -> Fit:
        """The law with the least criterion; among equals the one with fewer parameters."""
        return min(self.fits.values(), key=lambda fit: (fit.delta, len(fit.parameters)))

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        plain = {name: value for name, value in vars(self).items() if name not in ("fits", "window")}
        fits = {name: fit.to_dict() for name, fit in self.fits.items()}
        return {**plain, "window": list(self.window), "best": self.best.name, "fits": fits}


_Made = TypeVar("_Made", bound=CurveFit)


@dataclass(frozen=True, eq=False)
class AlignmentFit(CurveFit):
    """The laws of behaviour ``B(r)``; the quantities below are those of ``B = tanh(a r + b0)``."""

    @property
    def a(self) -> Estimate:
        """Gain ``a``, per unit of strength."""
        return self.fits["tanh"].parameters["a"]

    @property
    def b0(self) -> Estimate:
        """``b0 = artanh B(0)`` of the fit."""
        return self.fits["tanh"].parameters["b0"]

    @property
    def B0(self) -> Estimate:  # the paper's letter; b0 is its artanh
        """Fitted behaviour of the unsteered model."""
        return self.fits["tanh"].derived["B0"]

    @property
    def slope0(self) -> Estimate:
        """Slope at the unsteered model, ``a (1 - B0^2)``."""
        return self.fits["tanh"].derived["slope0"]

    @property
    def r_half(self) -> Estimate:
        """Strength ``-b0 / a`` at which the fitted behaviour crosses zero."""
        return self.fits["tanh"].derived["r_half"]

    @property
    def saturated(self) -> bool:
        """Whether the unsteered model stands on a plateau, ``|B0| > .95``: no linear claim then, only ``r_half``."""
        start = self.B0.value if self.measured is None else self.measured
        return start is not None and abs(start) > SATURATED

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        named = {name: getattr(self, name).to_dict() for name in ("a", "b0", "B0", "slope0", "r_half")}
        return {**super().to_dict(), **named, "saturated": self.saturated}


@dataclass(frozen=True, eq=False)
class HelpfulnessFit(CurveFit):
    """The laws of helpfulness ``H(r)``; the quantities below are those of ``H = H0 + l r - k r^2``."""

    @property
    def H0(self) -> Estimate:
        """Fitted helpfulness of the unsteered model."""
        return self.fits["parabola"].parameters["H0"]

    @property
    def linear(self) -> Estimate:
        """``l``: slope at the unsteered model."""
        return self.fits["parabola"].parameters["l"]

    @property
    def k(self) -> Estimate:
        """Curvature; positive where steering costs helpfulness both ways."""
        return self.fits["parabola"].parameters["k"]

    @property
    def cost_detected(self) -> bool | None:
        """Whether the interval of ``k`` lies above zero; None without an interval."""
        return self.k.above_zero if self.k.has_interval else None

    @property
    def no_cost_detected(self) -> bool:
        """Whether the interval of ``k`` holds zero."""
        return self.k.holds(0.0)

    @property
    def verdict(self) -> str:
        """One sentence on the cost: whether one was detected, and what could have been missed."""
        reach = max(abs(self.window[0]), abs(self.window[1]))
        if self.cost_detected is None:
            return f"k = {self.k}, without an interval: whether there is a cost is not known"
        if self.cost_detected:
            return f"cost detected: k = {self.k}"
        if self.k.below_zero:
            return f"no cost detected: helpfulness rises away from zero, k = {self.k}"
        missed = (self.k.high or 0.0) * reach * reach
        slope = "" if self.linear.holds(0.0) else f"; but it changes in proportion to the strength, l = {self.linear}"
        return (
            f"no cost detected: k = {self.k} holds zero; a loss up to {missed:.3g} at |r| = {reach:g} may be missed"
            + slope
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        named = {"H0": self.H0.to_dict(), "l": self.linear.to_dict(), "k": self.k.to_dict()}
        return {**super().to_dict(), **named, "no_cost_detected": self.no_cost_detected, "verdict": self.verdict}


def fit_alignment(
    curve: Curve,
    *,
    window: tuple[float, float] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> AlignmentFit:
    """Fit constant, line, tanh, and tanh with free plateaus to a behaviour curve.

    Args:
        curve: behaviour in [-1, 1] over strength.
        window: first and last strength to fit; all of them if None. Where the curve turns round, give the part around
            zero on which it is monotone.
        n_resamples: resamples of items behind the intervals; 0 for none, as for a published curve of means.
        seed: seed of the resamples; the same items and seed give the same ones.
        level: nominal coverage.

    Raises:
        TradeoffError: fewer than five strengths, means outside [-1, 1], one group of items although resamples are
            wanted, or too few resamples.
    """
    window = window or (float(curve.strengths[0]), float(curve.strengths[-1]))
    _check_means(curve.window(*window), -1.0, "a behaviour expectation")
    return AlignmentFit.of(curve, window, ALIGNMENT_FAMILIES, n_resamples=n_resamples, seed=seed, level=level)


def fit_helpfulness(
    curve: Curve,
    *,
    window: tuple[float, float] | None = None,
    floor: float = 0.0,
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> HelpfulnessFit:
    """Fit parabolas with and without a linear term, and the two bells, to a helpfulness curve.

    A parabola holds at the top of the bell only, so only that is fitted: ``window``, or :func:`top_of_bell`. Down to
    3/4 of the top the bell is up to a third shallower than its own parabola; the bells' ``derived["k"]`` are free of
    that.

    Args:
        curve: helpfulness in [0, 1] over strength.
        window: first and last strength to fit.
        floor: what guessing earns, e.g. 1/4 for restricted probabilities over four choices; only used for the default
            window.
        n_resamples: resamples of items behind the intervals; 0 for none.
        seed: seed of the resamples.
        level: nominal coverage.

    Raises:
        TradeoffError: as :func:`fit_alignment`, with means outside [0, 1]; or no window where strength 0 was not
            measured.
    """
    window = window or top_of_bell(curve, floor=floor)
    _check_means(curve.window(*window), 0.0, "helpfulness")
    return HelpfulnessFit.of(curve, window, HELPFULNESS_FAMILIES, n_resamples=n_resamples, seed=seed, level=level)


def top_of_bell(curve: Curve, *, share: float = TOP_SHARE, floor: float = 0.0) -> tuple[float, float]:
    """First and last strength of the stretch around zero on which the curve keeps most of its height.

    On each side the curve is first made falling away from zero (isotonic regression), so that one noisy mean does not
    end the window. It holds the strengths where that fit keeps ``fit - floor >= share (fit(0) - floor)``, or the five
    strengths nearest to zero where those are fewer.

    Args:
        curve: helpfulness over strength.
        share: what is to be kept of the height above the floor.
        floor: what guessing earns.

    Raises:
        TradeoffError: strength 0 was not measured.
    """
    zero = curve.zero
    after = -isotonic(-curve.mean[zero:])
    before = isotonic(curve.mean[: zero + 1])
    least = floor + share * ((float(after[0]) + float(before[-1])) / 2 - floor)
    first = min(zero, int((before < least).sum()))
    last = max(zero, zero + int((after >= least).sum()) - 1)
    if last - first + 1 < _FEWEST_STRENGTHS:
        nearest = curve.strengths.abs().argsort(stable=True)[:_FEWEST_STRENGTHS]
        first, last = min(first, int(nearest.min())), max(last, int(nearest.max()))
    return float(curve.strengths[first]), float(curve.strengths[last])


def _check_means(curve: Curve, least: float, what: str) -> None:
    """Refuse windows that are too short and means outside their range."""
    if len(curve.strengths) < _FEWEST_STRENGTHS:
        raise TradeoffError(
            f"{curve.label} has {len(curve.strengths)} strengths in the window; a fit needs {_FEWEST_STRENGTHS} or "
            "more. Sweep a denser grid or widen the window."
        )
    outside = (curve.mean < least - _OUTSIDE) | (curve.mean > 1 + _OUTSIDE)
    if bool(outside.any()):
        where = int(outside.nonzero()[0])
        raise TradeoffError(
            f"the mean of {curve.label} at strength {float(curve.strengths[where]):g} is {float(curve.mean[where]):g}; "
            f"{what} lies in [{least:g}, 1]. Rescale the scores."
        )
