"""Figures of a comparison of methods at equal damage. Each panel is a function on an ``Axes``; methods are its rows."""

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contrans_lens.evaluation import Interval
from contrans_lens.reports.figures import COLOURS
from contrans_lens.reports.tradeoff_panels import GREY, PALETTE
from contrans_lens.tradeoff.comparison_result import UNSTEERED_ROW, Comparison, ComparisonRow

_MOST_IN_A_ROW = 4

RowPanel = Callable[[Axes, Comparison, str], None]


def comparison_figure(comparison: Comparison) -> Figure:
    """Effects of every method with their intervals, a panel a behaviour, and the damage that they do."""
    panels = _panels(comparison, effect_panel)
    figure = _figure(comparison, [*panels, lambda axis: damage_panel(axis, comparison)])
    figure.suptitle(title(comparison), fontsize=10)
    return figure


def change_figure(comparison: Comparison) -> Figure:
    """What both signs of each method do alike, against the unsteered model: the cost, for helpfulness."""
    return _figure(comparison, _panels(comparison, change_panel))


def difference_figure(comparison: Comparison) -> Figure:
    """Effects less the reference's, paired by item, a panel a behaviour."""
    return _figure(comparison, _panels(comparison, difference_panel))


def sign_figure(comparison: Comparison) -> Figure:
    """What each method makes of each behaviour with either sign, beside the unsteered model."""
    return _figure(comparison, _panels(comparison, sign_panel))


def effect_panel(axis: Axes, comparison: Comparison, behaviour: str) -> None:
    """Draw the effect of every method on one behaviour; control draws as dots."""
    for height, row in _placed(comparison, behaviour):
        colour = _colour(comparison, row.method)
        axis.plot(row.draws, [height] * len(row.draws), ".", color=colour, alpha=0.35, ms=5)
        _interval(axis, row.effect, height, colour)
    axis.axvline(0, color="black", lw=0.6)
    effect = "effect: value(+) − value(−)" if comparison.signs == "both" else "effect: value − unsteered"
    _finish(axis, comparison, effect, f"{behaviour} ({_column(comparison, behaviour)})")


def change_panel(axis: Axes, comparison: Comparison, behaviour: str) -> None:
    """Draw the mean of both signs less the unsteered model."""
    for height, row in _placed(comparison, behaviour):
        _interval(axis, row.change, height, _colour(comparison, row.method))
    axis.axvline(0, color="black", lw=0.6)
    _finish(axis, comparison, "(value(+) + value(−)) / 2 − unsteered", behaviour)


def difference_panel(axis: Axes, comparison: Comparison, behaviour: str) -> None:
    """Draw each method's effect less the reference's."""
    for height, row in _placed(comparison, behaviour):
        if row.difference is None:
            axis.plot(0, height, "D", color=_colour(comparison, row.method), mfc="white", ms=7)
        else:
            _interval(axis, row.difference, height, _colour(comparison, row.method))
    axis.axvline(0, color="black", lw=0.6)
    _finish(axis, comparison, f"effect less that of {comparison.reference}", behaviour)


def sign_panel(axis: Axes, comparison: Comparison, behaviour: str) -> None:
    """Draw the value with either sign of every method, and the unsteered model as a line."""
    unsteered = comparison.row(UNSTEERED_ROW, behaviour).plus
    axis.axvspan(unsteered.low, unsteered.high, color=GREY, alpha=0.2, lw=0)
    axis.axvline(unsteered.value, color="black", lw=0.8, ls=":")
    for height, row in _placed(comparison, behaviour):
        colour = _colour(comparison, row.method)
        sides = [(row.plus, ">", 0.14), (row.minus, "<", -0.14)]
        for each, marker, shift in sides if comparison.signs == "both" else [(row.plus, "o", 0.0)]:
            _interval(axis, each, height + shift, colour, marker)
    shown = ": ▸ with +, ◂ with −" if comparison.signs == "both" else ""
    _finish(axis, comparison, f"{_column(comparison, behaviour)}{shown}", behaviour)


def damage_panel(axis: Axes, comparison: Comparison) -> None:
    """Draw the KL of every method on neutral text, with its interval where texts were resampled."""
    names = methods(comparison)
    for place, name in enumerate(reversed(names)):
        found = comparison.damage(name)
        if found.kl_ci is not None and found.kl_ci[0] > 0:
            axis.plot(found.kl_ci, [place, place], color=_colour(comparison, name), lw=2)
        axis.plot(max(found.kl, 1e-9), place, "o", color=_colour(comparison, name), ms=6)
    if comparison.budget is not None and comparison.measure == "kl":
        axis.axvline(comparison.budget, color="black", lw=0.8, ls=":", label="budget")
        axis.legend(fontsize=8, frameon=False)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))  # decades have readable ticks
    _finish(axis, comparison, "KL(unsteered || steered), nats per token", "Damage on neutral text")


def behaviours(comparison: Comparison) -> list[str]:
    """What was measured, in the order of the rows."""
    return list(dict.fromkeys(row.behaviour for row in comparison.rows))


def methods(comparison: Comparison) -> list[str]:
    """The methods that do something, in the order of the damages."""
    return [row.method for row in comparison.damages if row.method != UNSTEERED_ROW]


def title(comparison: Comparison) -> str:
    """One line: the model, and at what the methods are compared."""
    named = {"kl": "KL", "perplexity_ratio": "perplexity ratio"}.get(comparison.measure, comparison.measure)
    at = "at the strengths given" if comparison.budget is None else f"at a {named} of {comparison.budget:.3g}"
    return f"{comparison.model['name']}: methods {at}"


def label(comparison: Comparison, method: str) -> str:
    """A method's name, with the number of draws of a family."""
    [draws] = {row.n_draws for row in comparison.rows if row.method == method} or {1}
    return f"{method} (×{draws})" if draws > 1 else method


def _placed(comparison: Comparison, behaviour: str) -> list[tuple[float, ComparisonRow]]:
    names = list(reversed(methods(comparison)))
    rows = [r for r in comparison.rows if r.behaviour == behaviour and r.is_primary and r.method in names]
    return [(float(names.index(row.method)), row) for row in rows]


def _column(comparison: Comparison, behaviour: str) -> str:
    return comparison.row(comparison.reference, behaviour).column.replace("_", " ")


def _colour(comparison: Comparison, method: str) -> str:
    """Families are grey; the reference has the first colour."""
    families = {row.method for row in comparison.rows if row.n_draws > 1}
    if method in families:
        return GREY
    single = [name for name in methods(comparison) if name not in families and name != comparison.reference]
    return COLOURS["transplanted"] if method == comparison.reference else PALETTE[1 + single.index(method) % 6]


def _interval(axis: Axes, each: Interval, height: float, colour: str, marker: str = "o") -> None:
    axis.plot([each.low, each.high], [height, height], color=colour, lw=2)
    axis.plot(each.value, height, marker, color=colour, ms=6)


def _finish(axis: Axes, comparison: Comparison, label_x: str, heading: str) -> None:
    names = methods(comparison)
    axis.set_yticks(range(len(names)), [label(comparison, name) for name in reversed(names)], fontsize=8)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.grid(axis="y", color="#eeeeee")
    axis.set_axisbelow(True)
    axis.set_xlabel(label_x, fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    if axis.get_xscale() == "linear":
        axis.locator_params(axis="x", nbins=5)
    axis.set_title(heading, fontsize=10)


def _panels(comparison: Comparison, panel: RowPanel) -> list[Callable[[Axes], None]]:
    def drawn(name: str) -> Callable[[Axes], None]:
        return lambda axis: panel(axis, comparison, name)

    return [drawn(name) for name in behaviours(comparison)]


def _figure(comparison: Comparison, panels: Sequence[Callable[[Axes], None]]) -> Figure:
    columns = min(_MOST_IN_A_ROW, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = 1.2 + 0.42 * len(methods(comparison))
    figure = Figure(figsize=(max(6.0, 3.7 * columns), height * rows + 0.4), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure
