"""What a sweep says: laws fitted, useful regime, guards, prediction beside fit, and control draws beside everything."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.artifacts import write_json
from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation import rank_p_value
from contrans_lens.tradeoff.curve import Curve
from contrans_lens.tradeoff.fits import AlignmentFit, HelpfulnessFit, fit_alignment, fit_helpfulness
from contrans_lens.tradeoff.flags import Flag
from contrans_lens.tradeoff.guards import guard_alignment, guard_degeneration, guard_helpfulness
from contrans_lens.tradeoff.mechanism import Mechanism, alignment_mechanism, helpfulness_mechanism
from contrans_lens.tradeoff.plan import SHIFT
from contrans_lens.tradeoff.regime import UsefulRegime, useful_regime
from contrans_lens.tradeoff.result import SweepResult

if TYPE_CHECKING:
    import matplotlib.figure

ANALYSIS_SCHEMA = "contrans-lens/tradeoff/1"

# Columns that get larger as text falls apart, by kind of behaviour, and how much worse is worse than noise: text that
# loses a tenth of its length to repetition, or compresses half again as well, is no longer fluent.
_DEGENERATION: dict[str, dict[str, float | None]] = {
    "neutral": {"nll": None},
    "generations": {"repetition": 0.1, "loop": 0.1, "compression": 0.5},
}

# Readings of helpfulness that logit shifts predict: probabilities among the offered choices, or in the full vocabulary
# (of answers of one token). A count of right answers has no such law.
_PREDICTED = {"p_restricted": "", "mc2": "", "p_mean": "_full"}


@dataclass(frozen=True)
class AnalysisSettings:
    """How a sweep is analysed; all of it goes into the result."""

    weight: float = 1.0
    """What a unit of helpfulness is worth in units of behaviour."""
    epsilon: float = 0.05
    """Share of the unsteered helpfulness that may be lost."""
    window: tuple[float, float] | None = None
    """First and last strength of the alignment fit; None: the whole grid."""
    helpfulness_window: tuple[float, float] | None = None
    """First and last strength of the helpfulness fit; None: the top of the bell."""
    floor: float | None = None
    """What guessing earns in helpfulness; None: what the behaviour says of itself (one over the offered choices)."""
    near: float | None = None
    """Largest ``|r|`` from which constants are predicted; None: :data:`contrans_lens.tradeoff.mechanism.NEAR` of the
    grid."""
    n_resamples: int = 2000
    seed: int = 0
    level: float = 0.95

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


@dataclass(frozen=True, eq=False)
class DirectionAnalysis:
    """What one direction does."""

    direction: str
    alignment: AlignmentFit
    swing: float
    """``B(r) - B(-r)`` where it is largest in size."""
    flags: tuple[Flag, ...]
    """What was looked for in the curves, fired or not; ``helpfulness:`` marks those of the helpfulness curve."""
    helpfulness: HelpfulnessFit | None = None
    regime: UsefulRegime | None = None
    mechanism: Mechanism | None = None
    """Predicted gain of alignment, where logit shifts were measured."""
    cost_mechanism: Mechanism | None = None
    """Predicted terms of helpfulness, likewise."""

    @property
    def fired(self) -> tuple[Flag, ...]:
        """The flags that fired."""
        return tuple(flag for flag in self.flags if flag.fired)

    @property
    def claim(self) -> str:
        """One line: what may be said of the alignment curve."""
        names = {flag.name for flag in self.fired}
        if names & {"flat", "constant"}:
            return "no effect on the behaviour detected"
        fit = self.alignment
        if "saturated" in names:
            return f"starts on a plateau, so no linear claim; crosses zero at r = {fit.r_half}"
        if names & {"not_monotone", "u_shaped"}:
            return "does not rise monotonically, so the tanh law does not hold on this grid"
        text = f"slope {fit.slope0} at r = 0, gain a = {fit.a}"
        degenerate = [name for name in names if name.startswith("degenerates")]
        return f"{text}; but {', '.join(degenerate)}" if degenerate else text

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        optional = {
            "helpfulness": self.helpfulness,
            "regime": self.regime,
            "mechanism": self.mechanism,
            "cost_mechanism": self.cost_mechanism,
        }
        derived = {name: getattr(self.alignment, name).to_dict() for name in ("a", "b0", "B0", "slope0", "r_half")}
        return {
            "direction": self.direction,
            "claim": self.claim,
            "alignment": {**self.alignment.to_dict(), "tanh": derived},
            "swing": self.swing,
            "flags": [flag.to_dict() for flag in self.flags],
            **{name: None if each is None else each.to_dict() for name, each in optional.items()},
        }


@dataclass(frozen=True)
class FamilyAnalysis:
    """What the draws of a control family do."""

    name: str
    slopes: tuple[float, ...]
    """Slope of each draw's tanh fit at zero."""
    swings: tuple[float, ...]
    """``B(r) - B(-r)`` of each draw where it is largest in size."""
    p_slope: dict[str, float]
    """By direction: (1 + #{draws whose slope is as large, either sign}) / (1 + #draws)."""
    p_swing: dict[str, float]
    """The same for the swing."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


@dataclass(frozen=True, eq=False, repr=False)
class TradeoffResult:
    """A sweep and what it says. It prints, plots and saves."""

    sweep: SweepResult
    settings: AnalysisSettings
    directions: dict[str, DirectionAnalysis]
    families: dict[str, FamilyAnalysis] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The content of ``result.json``: no times in it, so that equal sweeps give equal bytes."""
        return {
            "schema": ANALYSIS_SCHEMA,
            "model": self.sweep.model,
            "plan": self.sweep.plan,
            "settings": self.settings.to_dict(),
            "directions": {name: each.to_dict() for name, each in self.directions.items()},
            "families": {name: each.to_dict() for name, each in self.families.items()},
            "command": self.sweep.command,
        }

    def plot(self) -> "matplotlib.figure.Figure":
        """The overview: alignment, helpfulness, the two against each other, and damage, over strengths."""
        from contrans_lens.reports import tradeoff_figure

        return tradeoff_figure(self)

    def save(self, folder: Path | str) -> Path:
        """Write result.json, curves.csv, per-item values, figures and report.html into ``folder``.

        Raises:
            ArtifactError: the folder cannot be written; what was complete there stays.
        """
        from contrans_lens.reports import write_tradeoff_report

        folder = Path(folder)
        self.sweep.save(folder)
        write_tradeoff_report(self, folder)
        write_json(folder / "result.json", self.summary())
        return folder

    def __repr__(self) -> str:
        return f"TradeoffResult({self.sweep.model['name']}: {', '.join(self.directions)})"

    def __str__(self) -> str:
        swept = f"{self.sweep.role('alignment')} over {len(self.sweep.strengths)} strengths"
        lines = [f"{self.sweep.model['name']}: {swept}"]
        for name, each in self.directions.items():
            lines.append(f"{name}: {each.claim}")
            if each.helpfulness is not None:
                lines.append(f"  cost: {each.helpfulness.verdict}")
            if each.regime is not None:
                best = each.regime
                lines.append(f"  optimum r* = {best.raw_optimum} measured, {best.law_optimum} by tanh and parabola")
                lines += [f"  beware: {warning}" for warning in each.regime.warnings]
            lines += [f"  flag {flag.name}: {flag.text}" for flag in each.fired]
        for family in self.families.values():
            reached = ", ".join(f"{name} p = {value:.3f}" for name, value in family.p_slope.items())
            lines.append(f"{family.name} ({len(family.slopes)} draws): slopes reach {reached}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from contrans_lens.reports import tradeoff_html

        return tradeoff_html(self)


def analyse(result: SweepResult, settings: AnalysisSettings | None = None) -> TradeoffResult:
    """Fit the laws to every direction of a sweep, find the useful regime, and look for what is wrong.

    Args:
        result: a sweep with the role ``alignment``; ``helpfulness`` adds cost and regime, logit shifts the mechanism,
            neutral text and generations the degeneration guard, families the controls.
        settings: windows, weights and resamples.

    Raises:
        TradeoffError: no behaviour has the role ``alignment``, or its curves cannot be fitted.
    """
    settings = settings or AnalysisSettings()
    alignment = result.role("alignment")
    if alignment is None:
        raise TradeoffError("no behaviour of the sweep has the role 'alignment'; name one in SweepPlan(roles=...).")
    if not result.directions:
        raise TradeoffError("the sweep has control draws only; add a direction that is no draw of a family.")
    directions = {name: _direction(result, name, alignment, settings) for name in result.directions}
    families = {
        name: _family(result, name, draws, alignment, directions, settings) for name, draws in result.families.items()
    }
    return TradeoffResult(result, settings, directions, families)


def swing(curve: Curve) -> float:
    """``B(r) - B(-r)`` at the positive strength where it is largest in size; what either sign does alike cancels."""
    apart = (curve.mean - curve.mean.flip(0))[curve.strengths > 0]
    return float(apart[apart.abs().argmax()])


def degeneration_curves(result: SweepResult, direction: str) -> tuple[dict[str, Curve], dict[str, float]]:
    """Measures of text falling apart, by name, and how much worse each may get (where that is not a share)."""
    curves: dict[str, Curve] = {}
    margins: dict[str, float] = {}
    for behaviour, kind in result.plan["behaviours"].items():
        for column, margin in _DEGENERATION.get(kind, {}).items():
            name = f"{behaviour} {column}"
            curves[name] = result.curve(direction, behaviour, column)
            if margin is not None:
                margins[name] = margin
    return curves, margins


def _direction(result: SweepResult, name: str, alignment: str, settings: AnalysisSettings) -> DirectionAnalysis:
    common: dict[str, Any] = {"n_resamples": settings.n_resamples, "seed": settings.seed, "level": settings.level}
    curve = result.curve(name, alignment)
    fit = fit_alignment(curve, window=settings.window, **common)
    flags = list(guard_alignment(curve, fit, seed=settings.seed))
    measures, margins = degeneration_curves(result, name)
    flags += guard_degeneration(curve, measures, margins=margins, level=settings.level, seed=settings.seed)
    near = {**common, "window": settings.near}
    helpful = regime = None
    helpfulness = result.role("helpfulness")
    if helpfulness is not None:
        cost = result.curve(name, helpfulness)
        floor = result.plan["chance"].get(helpfulness, 0.0) if settings.floor is None else settings.floor
        helpful = fit_helpfulness(cost, window=settings.helpfulness_window, floor=floor, **common)
        found = guard_helpfulness(cost, helpful, floor=floor, seed=settings.seed)
        flags += [replace(flag, name=f"helpfulness:{flag.name}") for flag in found]
        regime = useful_regime(curve, fit, cost, helpful, weight=settings.weight, epsilon=settings.epsilon)
    return DirectionAnalysis(
        name,
        fit,
        swing(curve),
        tuple(flags),
        helpful,
        regime,
        _alignment_mechanism(result, name, alignment, near),
        None if helpfulness is None else _cost_mechanism(result, name, helpfulness, near),
    )


def _alignment_mechanism(result: SweepResult, name: str, behaviour: str, common: dict[str, Any]) -> Mechanism | None:
    if behaviour + SHIFT not in result.plan["behaviours"]:
        return None
    delta, gap = (result.curve(name, behaviour + SHIFT, column) for column in ("delta", "gap"))
    unsteered = result.measurement(name, behaviour + SHIFT).column("p0")[0]
    found = result.measurement(name, behaviour)
    expectation = result.curve(name, behaviour, "expectation") if "expectation" in found.columns else None
    return alignment_mechanism(delta, gap, unsteered, behaviour=expectation, **common)


def _cost_mechanism(result: SweepResult, name: str, behaviour: str, common: dict[str, Any]) -> Mechanism | None:
    fitted = result.measurement(name, behaviour).primary
    if behaviour + SHIFT not in result.plan["behaviours"] or fitted not in _PREDICTED:
        return None
    suffix = _PREDICTED[fitted]
    mu, sigma = (result.curve(name, behaviour + SHIFT, column + suffix) for column in ("mu", "sigma"))
    unsteered = result.measurement(name, behaviour + SHIFT).column(f"p0{suffix}")[0]
    measured = result.curve(name, behaviour)
    return helpfulness_mechanism(mu, sigma, unsteered, helpfulness=measured, **common)


def _family(
    result: SweepResult,
    name: str,
    draws: Sequence[str],
    alignment: str,
    directions: dict[str, DirectionAnalysis],
    settings: AnalysisSettings,
) -> FamilyAnalysis:
    curves = [result.curve(draw, alignment) for draw in draws]
    fits = [fit_alignment(curve, window=settings.window, n_resamples=0) for curve in curves]
    slopes = [fit.slope0.value or 0.0 for fit in fits]
    swings = [swing(curve) for curve in curves]
    own = {each: (found.alignment.slope0.value or 0.0, found.swing) for each, found in directions.items()}
    return FamilyAnalysis(
        name,
        tuple(slopes),
        tuple(swings),
        {each: rank_p_value(slopes, slope, two_sided=True) for each, (slope, _) in own.items()},
        {each: rank_p_value(swings, largest, two_sided=True) for each, (_, largest) in own.items()},
    )


def family_band(result: SweepResult, name: str, behaviour: str) -> Float[Tensor, "3 strength"]:
    """Mean, smallest and largest mean curve of a family's draws, for figures.

    Raises:
        TradeoffError: there is no such family, or the behaviour was not measured under it.
    """
    if name not in result.families:
        raise TradeoffError(f"the sweep has no family {name!r}; it has {', '.join(result.families) or 'none'}.")
    means = torch.stack([result.curve(draw, behaviour).mean for draw in result.families[name]])
    return torch.stack([means.mean(0), means.amin(0), means.amax(0)])
