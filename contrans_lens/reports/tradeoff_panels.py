"""Panels of a tradeoff between behaviour and cost, each a function on an ``Axes``.

Where a law is fitted, measured means are dots with bars for their intervals over items, and the law is a line with its
band; where none is, means are joined and have a band. Control draws are grey bands from the least to the greatest mean
curve of a family.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes

from contrans_lens.errors import TradeoffError
from contrans_lens.reports.figures import COLOURS
from contrans_lens.tradeoff import Curve, DirectionAnalysis, TradeoffResult
from contrans_lens.tradeoff.analysis import family_band
from contrans_lens.tradeoff.estimates import Estimate
from contrans_lens.tradeoff.fits import SATURATED
from contrans_lens.tradeoff.fitted import Fit

# Okabe and Ito, without the yellow that is faint on white; controls have the grey of the other figures.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = COLOURS["random"]
_FAMILY_LINES = ("--", ":", "-.")
_SMOOTH = 201  # strengths at which a law is drawn
_NEAR_SATURATION = 0.8  # from this |B| on the figure shows where saturation begins
_LABEL_APART = 0.09  # of the panel's width; labels of strengths nearer than this are left out
REGIME = {
    "optimum": "r*",
    "break_even": "break-even",
    "budget_up": "budget, +",
    "budget_down": "budget, −",
}
"""Names of the strengths of the useful regime; ``raw_`` before one is the same off the measured curves."""


@dataclass(frozen=True)
class Constant:
    """A constant of a law, as it was found in three ways."""

    name: str
    fitted: Estimate
    """From the law, fitted to the curve over its window."""
    near: Estimate | None
    """Measured on the curve near zero without any law; None for the gain, which is no slope."""
    predicted: Estimate
    """From what the direction does to logits near zero."""


def alignment_panel(axis: Axes, result: TradeoffResult) -> None:
    """Draw behaviour over strength."""
    behaviour = str(result.sweep.role("alignment"))
    _families(axis, result, behaviour)
    several = len(result.directions) > 1
    for colour, (name, each) in zip(_colours(result), result.directions.items(), strict=False):
        curve = result.sweep.curve(name, behaviour)
        _points(axis, curve, colour, name)
        law = f"tanh law, {name}" if several else "tanh law"
        _law(axis, each.alignment.fits["tanh"], each.alignment.window, colour, None if several else law)
        half = each.alignment.r_half
        if half.value is not None and curve.strengths[0] <= half.value <= curve.strengths[-1]:
            axis.plot(
                half.value, 0, "D", ms=7, mfc="none", mec=colour, label="" if several else f"r½ = {half.value:.3g}"
            )
    means = [result.sweep.curve(name, behaviour).mean for name in result.directions]
    if max(float(mean.abs().max()) for mean in means) > _NEAR_SATURATION:
        axis.axhspan(SATURATED, 1.0, color=GREY, alpha=0.15, lw=0)
        axis.axhspan(-1.0, -SATURATED, color=GREY, alpha=0.15, lw=0, label=f"saturated, |B| > {SATURATED:g}")
    axis.axhline(0, color="black", lw=0.6)
    _finish(axis, f"{behaviour}: B(r)", f"Behaviour: {behaviour}")


def helpfulness_panel(axis: Axes, result: TradeoffResult) -> None:
    """Draw helpfulness over strength."""
    behaviour = _helpfulness(result)
    _families(axis, result, behaviour)
    several = len(result.directions) > 1
    for colour, (name, each) in zip(_colours(result), result.directions.items(), strict=False):
        curve = result.sweep.curve(name, behaviour)
        _points(axis, curve, colour, name)
        if each.helpfulness is not None:
            label = None if several else "parabola over its window"
            _law(axis, each.helpfulness.fits["parabola"], each.helpfulness.window, colour, label)
        if each.regime is not None:
            inside = [(style, getattr(each.regime, key)) for key, style in (("optimum", "--"), ("break_even", "-."))]
            for style, strength in inside:
                if strength.value is not None and curve.strengths[0] <= strength.value <= curve.strengths[-1]:
                    mark = "r*" if style == "--" else "break-even"
                    axis.axvline(
                        strength.value, color=colour, lw=1, ls=style, label="" if several else f"{mark}, by the laws"
                    )
    start = result.sweep.curve(next(iter(result.directions)), behaviour).at_zero  # the unsteered model of all of them
    share = 1 - result.settings.epsilon
    axis.axhline(share * start, color="black", lw=0.8, ls=":", label=f"budget: {share:.0%} of H(0)")
    _finish(axis, f"{behaviour}: H(r)", f"Helpfulness: {behaviour}")


def regime_panel(axis: Axes, result: TradeoffResult) -> None:
    """Draw the strengths of the useful regime with their intervals: by the laws filled, off the curves hollow."""
    low, high = result.sweep.strengths[0], result.sweep.strengths[-1]
    names = list(REGIME)
    shown = [(name, each.regime) for name, each in result.directions.items() if each.regime is not None]
    marked = False
    for place, (colour, (_, regime)) in enumerate(zip(_colours(result), shown, strict=False)):
        for row, name in enumerate(reversed(names)):
            for raw in (False, True):
                strength: Estimate = getattr(regime, f"raw_{name}" if raw else name)
                height = row + 0.5 - (place + 0.5 + 0.4 * raw) / (len(shown) + 0.4)
                if strength.value is not None:
                    _strength(axis, strength, height, (low, high), colour, hollow=raw)
                    marked = True
    axis.set_yticks(range(len(names)), [REGIME[name] for name in reversed(names)], fontsize=8)
    axis.set_ylim(-0.6, len(names) - 0.4)
    span = high - low
    axis.set_xlim(low - 0.06 * span, high + 0.06 * span)
    axis.set_xlabel("strength r")
    note = "by the laws ●, off the curves ○, beyond the grid ▸" if marked else "none of them exists; see the table"
    axis.set_title(f"Useful regime: {note}", fontsize=9)
    axis.grid(axis="y", color="#eeeeee")


def pareto_panel(axis: Axes, result: TradeoffResult) -> None:
    """Draw helpfulness against behaviour, with the strengths that no other one beats filled."""
    behaviour = _helpfulness(result)
    taken: list[tuple[float, float]] = []
    for colour, (name, each) in zip(_colours(result), result.directions.items(), strict=False):
        if each.regime is None:
            continue
        points = sorted(each.regime.front, key=lambda point: point.strength)
        axis.plot([p.behaviour for p in points], [p.helpfulness for p in points], color=colour, lw=1, alpha=0.6)
        for front in (False, True):
            part = [p for p in points if p.on_front is front]
            axis.plot(
                [p.behaviour for p in part],
                [p.helpfulness for p in part],
                "o",
                color=colour,
                mfc=colour if front else "white",
                ms=7 if front else 4,
                label=f"{name}: on the front" if front else "",
            )
        if each is _first(result):
            [zero] = [p for p in points if p.strength == 0]
            axis.plot(
                zero.behaviour, zero.helpfulness, "s", ms=11, mfc="none", mec="black", label="unsteered", zorder=4
            )
    axis.margins(0.1)
    for colour, each in zip(_colours(result), result.directions.values(), strict=False):
        if each.regime is not None:
            taken += _strength_labels(axis, each, colour, taken)
    axis.set_xlabel(f"{result.sweep.role('alignment')}: B")
    axis.set_ylabel(f"{behaviour}: H")
    axis.set_title("Behaviour against helpfulness; numbers are strengths", fontsize=10)
    axis.legend(fontsize=8, frameon=False)


def damage_panel(axis: Axes, result: TradeoffResult, behaviour: str, column: str) -> None:
    """Draw one measure of damage over strength; KL on a logarithmic axis, negative log-likelihood as perplexity."""
    transform = math.exp if column == "nll" else float
    _families(axis, result, behaviour, column, transform, skip_zero=column == "kl")
    for colour, name in zip(_colours(result), result.directions, strict=False):
        _band(axis, result.sweep.curve(name, behaviour, column), colour, name, transform, skip_zero=column == "kl")
    if column == "kl" or (column == "nll" and axis.get_ylim()[1] > 10 * axis.get_ylim()[0] > 0):
        axis.set_yscale("log")
    labels = {"kl": "nats per token", "nll": "perplexity", "compression": "times smaller", "kl_along": "nats per token"}
    titles = {"kl": "KL(unsteered || steered)", "nll": "perplexity", "kl_along": "KL along what is written"}
    plain = column.replace("_", " ")
    _finish(axis, labels.get(column, plain), f"{behaviour}: {titles.get(column, plain)}")


def column_panel(axis: Axes, result: TradeoffResult, behaviour: str, column: str) -> None:
    """Draw one column of a behaviour over strength."""
    _families(axis, result, behaviour, column)
    for colour, name in zip(_colours(result), result.directions, strict=False):
        _band(axis, result.sweep.curve(name, behaviour, column), colour, name)
    _finish(axis, column.replace("_", " "), f"{behaviour}: {column.replace('_', ' ')}")


def prediction_panel(axis: Axes, result: TradeoffResult, constant: str, found: dict[str, Constant]) -> None:
    """Draw one constant of every direction: fitted, below it measured near zero, below that predicted."""
    names = list(result.directions)
    kinds = (("fitted", "o", 0.2), ("near", "D", 0.0), ("predicted", "s", -0.2))
    for height, (colour, name) in enumerate(zip(_colours(result), names, strict=False)):
        for field, marker, shift in kinds:
            each: Estimate | None = getattr(found[name], field) if name in found else None
            if each is None or each.value is None:
                continue
            place = len(names) - 1 - height + shift
            if each.low is not None and each.high is not None:
                axis.plot([each.low, each.high], [place, place], color=colour, lw=2, alpha=0.6)
            axis.plot(each.value, place, marker, color=colour, mfc="white" if marker == "s" else colour, ms=5)
    # Empty ones carry the legend, so that it does not take the colour of one direction.
    labels = {"o": "fitted to the curve", "D": "measured near zero", "s": "predicted from logit shifts near zero"}
    for marker, label in labels.items():
        axis.plot([], [], marker, color="black", mfc="white" if marker == "s" else "black", ms=5, label=label)
    axis.axvline(0, color="black", lw=0.6)
    axis.set_yticks(range(len(names)), list(reversed(names)), fontsize=8)
    axis.set_ylim(-0.6, len(names) - 0.4)
    titles = {"a": "gain a", "slope0": "slope at 0", "l": "linear cost l", "k": "curvature k"}
    axis.set_title(titles[constant], fontsize=10)
    axis.tick_params(axis="x", labelsize=8)
    axis.locator_params(axis="x", nbins=5)


def _points(axis: Axes, curve: Curve, colour: str, name: str) -> None:
    """Means of a curve as dots, with their pointwise intervals where items can be resampled."""
    strengths = curve.strengths.tolist()
    axis.plot(strengths, curve.mean.tolist(), "o", ms=4, color=colour, label=name)
    if curve.resamples:
        for r, each in zip(strengths, curve.intervals(), strict=True):
            axis.plot([r, r], [each.low, each.high], color=colour, lw=1.2, alpha=0.7)


def _band(
    axis: Axes,
    curve: Curve,
    colour: str,
    name: str,
    transform: Callable[[float], float] = float,
    *,
    skip_zero: bool = False,
) -> None:
    """Means of a curve joined, with the band of their pointwise intervals where items can be resampled."""
    kept = [i for i, r in enumerate(curve.strengths.tolist()) if not (skip_zero and r == 0)]
    strengths = [float(curve.strengths[i]) for i in kept]
    axis.plot(
        strengths, [transform(float(curve.mean[i])) for i in kept], "o-", ms=3.5, lw=1.2, color=colour, label=name
    )
    if curve.resamples:
        intervals = curve.intervals()
        low, high = ([transform(getattr(intervals[i], end)) for i in kept] for end in ("low", "high"))
        axis.fill_between(strengths, low, high, color=colour, alpha=0.18, lw=0)


def _law(axis: Axes, fit: Fit, window: tuple[float, float], colour: str, label: str | None) -> None:
    strengths = torch.linspace(*window, _SMOOTH, dtype=torch.float64)
    axis.plot(strengths.tolist(), fit.predict(strengths).tolist(), color=colour, lw=1.6, label=label)
    if fit.inner_draws is not None:
        low, high = fit.band(strengths)
        axis.fill_between(strengths.tolist(), low.tolist(), high.tolist(), color=colour, alpha=0.15, lw=0)


def _families(
    axis: Axes,
    result: TradeoffResult,
    behaviour: str,
    column: str | None = None,
    transform: Callable[[float], float] = float,
    *,
    skip_zero: bool = False,
) -> None:
    for number, (name, draws) in enumerate(result.sweep.families.items()):
        if column is None:
            band = family_band(result.sweep, name, behaviour)
        else:
            means = torch.stack([result.sweep.curve(draw, behaviour, column).mean for draw in draws])
            band = torch.stack([means.mean(0), means.amin(0), means.amax(0)])
        kept = [i for i, r in enumerate(result.sweep.strengths) if not (skip_zero and r == 0)]
        strengths = [result.sweep.strengths[i] for i in kept]
        middle, low, high = ([transform(float(row[i])) for i in kept] for row in band)
        style = _FAMILY_LINES[number % len(_FAMILY_LINES)]
        axis.fill_between(strengths, low, high, color=GREY, alpha=0.25, lw=0)
        axis.plot(strengths, middle, color=GREY, lw=1.2, ls=style, label=f"{name} (×{len(draws)})")


def _strength(
    axis: Axes, strength: Estimate, height: float, grid: tuple[float, float], colour: str, *, hollow: bool
) -> None:
    """One strength with its interval; an arrow at the grid's end where it lies beyond."""
    low, high = grid
    value = float(strength.value or 0.0)
    ends = (strength.low, strength.high) if strength.low is not None and strength.high is not None else (value, value)
    axis.plot([min(max(end, low), high) for end in ends], [height, height], color=colour, lw=1.5, alpha=0.6)
    beyond = ">" if value > high else "<" if value < low else "o"
    axis.plot(min(max(value, low), high), height, beyond, color=colour, mfc="white" if hollow else colour, ms=5)


def _strength_labels(
    axis: Axes, each: DirectionAnalysis, colour: str, taken: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Label points by their strengths where there is room; the front comes first, then 0 and the ends."""
    points = list(each.regime.front) if each.regime is not None else []
    ends = {points[0].strength, points[-1].strength, 0.0} if points else set()
    order = sorted(points, key=lambda p: (not p.on_front, p.strength not in ends, abs(p.strength)))
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    placed = list(taken)
    for point in order:
        place = (point.behaviour - left) / (right - left), (point.helpfulness - bottom) / (top - bottom)
        if all(math.dist(place, other) > _LABEL_APART for other in placed):
            placed.append(place)
            axis.annotate(
                f"{point.strength:.2g}",
                (point.behaviour, point.helpfulness),
                xytext=(6, -10),
                textcoords="offset points",
                fontsize=7,
                color=colour,
            )
    return placed[len(taken) :]


def _finish(axis: Axes, label: str, title: str) -> None:
    axis.set_xlabel("strength r")
    axis.set_ylabel(label)
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8, framealpha=0.8, edgecolor="none")


def _colours(result: TradeoffResult) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(len(result.directions))]


def _first(result: TradeoffResult) -> DirectionAnalysis:
    return next(iter(result.directions.values()))


def _helpfulness(result: TradeoffResult) -> str:
    name = result.sweep.role("helpfulness")
    if name is None:
        raise TradeoffError("no behaviour of the sweep has the role 'helpfulness', so there is no cost to draw.")
    return name
