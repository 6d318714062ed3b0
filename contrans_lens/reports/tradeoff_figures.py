"""Figures of a tradeoff between behaviour and cost, put together from panels."""

import math
from collections.abc import Callable, Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contrans_lens.errors import TradeoffError
from contrans_lens.reports.tradeoff_panels import (
    Constant,
    alignment_panel,
    column_panel,
    damage_panel,
    helpfulness_panel,
    pareto_panel,
    prediction_panel,
    regime_panel,
)
from contrans_lens.tradeoff import DirectionAnalysis, Mechanism, TradeoffResult
from contrans_lens.tradeoff.estimates import Estimate
from contrans_lens.tradeoff.plan import SHIFT

Panel = Callable[[Axes, TradeoffResult], None]


def tradeoff_figure(result: TradeoffResult) -> Figure:
    """The overview: behaviour, helpfulness, the two against each other, and damage, over strengths.

    Panels of what was not measured are left out.
    """
    panels: list[Panel] = [alignment_panel]
    if result.sweep.role("helpfulness") is not None:
        panels += [helpfulness_panel, pareto_panel]
    measures = damage_measures(result)
    if measures:
        panels.append(lambda axis, shown: damage_panel(axis, shown, *measures[0]))
    columns = 1 if len(panels) == 1 else 2
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(6.4 * columns, 4.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        panel(axis, result)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(f"{result.sweep.model['name']}: {result.sweep.role('alignment')}", fontsize=11)
    return figure


def alignment_figure(result: TradeoffResult) -> Figure:
    """Behaviour over strength with the tanh law, the control draws, and where the law crosses zero."""
    return _single(alignment_panel, result)


def helpfulness_figure(result: TradeoffResult) -> Figure:
    """Helpfulness over strength with the parabola over its window, and below it the strengths of the useful regime.

    Raises:
        TradeoffError: no behaviour has the role ``helpfulness``.
    """
    figure = Figure(figsize=(6.4, 6.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.5))
    helpfulness_panel(upper, result)
    upper.set_xlabel("")
    regime_panel(lower, result)
    return figure


def pareto_figure(result: TradeoffResult) -> Figure:
    """Behaviour against helpfulness, one point a strength.

    Raises:
        TradeoffError: no behaviour has the role ``helpfulness``.
    """
    return _single(pareto_panel, result)


def damage_figure(result: TradeoffResult) -> Figure:
    """What steering does to text: KL and perplexity on neutral text, repetition of what is written.

    Raises:
        TradeoffError: none of these was measured.
    """
    measures = damage_measures(result)
    if not measures:
        raise TradeoffError("the sweep measured neither neutral text nor generations, so there is no damage to draw.")
    return _grid(result, measures, damage_panel)


def readings_figure(result: TradeoffResult) -> Figure:
    """Every column of the behaviours with a role and of the others: accuracy beside probability beside format."""
    return _grid(result, reading_columns(result), column_panel)


def prediction_figure(result: TradeoffResult) -> Figure:
    """The laws' constants, a panel each: fitted to the curve, measured near zero, and predicted from logit shifts.

    Raises:
        TradeoffError: no logit shifts were measured.
    """
    rows = {name: list(predictions(each)) for name, each in result.directions.items()}
    constants = list(dict.fromkeys(each.name for found in rows.values() for each in found))
    if not constants:
        raise TradeoffError("the sweep measured no logit shifts, so nothing was predicted.")
    height = 1.5 + 0.6 * len(rows)
    figure = Figure(figsize=(3.1 * len(constants), height), layout="constrained")
    axes = figure.subplots(1, len(constants), squeeze=False, sharey=True)[0]
    for axis, constant in zip(axes, constants, strict=True):
        found = {name: each for name, known in rows.items() for each in known if each.name == constant}
        prediction_panel(axis, result, constant, found)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def damage_measures(result: TradeoffResult) -> list[tuple[str, str]]:
    """Behaviour and column of every measure of damage in a sweep, neutral text first."""
    wanted = {"neutral": ("kl", "nll"), "generations": ("repetition", "loop", "compression", "kl_along")}
    first = next(iter(result.directions))
    found = []
    for kind, columns in wanted.items():
        for behaviour, its_kind in result.sweep.plan["behaviours"].items():
            measured = result.sweep.measurement(first, behaviour).columns
            found += [(behaviour, column) for column in columns if its_kind == kind and column in measured]
    return found


def reading_columns(result: TradeoffResult) -> list[tuple[str, str]]:
    """Behaviour and column of what no other figure shows: no damage, no logit shifts, no column with a law."""
    skipped = {"mc2", "probability", "distinct", "longest_loop", "loop", "compression", "repetition"}
    roles = {result.sweep.role(role) for role in ("alignment", "helpfulness")}
    first = next(iter(result.directions))
    found = []
    for behaviour, kind in result.sweep.plan["behaviours"].items():
        if kind != "neutral" and not behaviour.endswith(SHIFT):
            measured = result.sweep.measurement(first, behaviour)
            drift = {column for column in measured.columns if column.endswith(("_first", "_along"))}
            drawn = {measured.primary} if behaviour in roles else set()
            found += [(behaviour, column) for column in measured.columns if column not in skipped | drift | drawn]
    return found


def predictions(each: DirectionAnalysis) -> Iterator[Constant]:
    """Constants of a direction that were both fitted and predicted."""
    known: list[tuple[str, Estimate | None, Mechanism | None]] = [
        ("a", each.alignment.a, each.mechanism),
        ("slope0", each.alignment.slope0, each.mechanism),
        ("l", None if each.helpfulness is None else each.helpfulness.linear, each.cost_mechanism),
        ("k", None if each.helpfulness is None else each.helpfulness.k, each.cost_mechanism),
    ]
    for name, fitted, mechanism in known:
        if fitted is not None and mechanism is not None:
            yield Constant(name, fitted, mechanism.measured.get(name), mechanism.constants[name])


def _single(panel: Panel, result: TradeoffResult) -> Figure:
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    panel(figure.subplots(), result)
    return figure


def _grid(
    result: TradeoffResult,
    shown: Sequence[tuple[str, str]],
    panel: Callable[[Axes, TradeoffResult, str, str], None],
) -> Figure:
    """A panel for each behaviour and column, three in a row; the first has the legend."""
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.3 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for number, (axis, (behaviour, column)) in enumerate(zip(axes, shown, strict=False)):
        panel(axis, result, behaviour, column)
        legend = axis.get_legend()
        if number and legend is not None:
            legend.remove()
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    return figure
