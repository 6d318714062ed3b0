"""Figures of activity differences and of trainings. Each panel is a function on an ``Axes``."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from contrans_lens.errors import RahfError
from contrans_lens.evaluation import Interval
from contrans_lens.models import layer_of
from contrans_lens.rahf.norms import DifferenceNorms
from contrans_lens.reports.figures import COLOURS
from contrans_lens.reports.tradeoff_panels import PALETTE

_UNITS = {"absolute": "mean norm of v", "residual norm": "mean norm of v / mean residual norm"}
_TOKENS = {"answer": "token of the answer", "predicting": "token of the answer that is predicted"}


@runtime_checkable
class Curve(Protocol):
    """What is drawn of a training: a loss, and other numbers, at some of its steps."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps at which the loss was noted."""
        ...

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss at each of them."""
        ...

    @property
    def columns(self) -> Mapping[str, tuple[float, ...]]:
        """Other numbers at each of them, by name."""
        ...


def norms_figure(norms: DifferenceNorms) -> Figure:
    """How large activity differences are: by layer and token as a heat map, by token as lines, and by layer.

    Bands are 95 % intervals over groups of pairs.
    """
    figure = Figure(figsize=(13.2, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    norms_map_panel(left, norms)
    norms_token_panel(middle, norms)
    norms_layer_panel(right, norms)
    return figure


def curves_figure(curves: Mapping[str, Curve]) -> Figure:
    """Loss curves of trainings, and a panel for each other number that any of them noted.

    Args:
        curves: trainings by name, at least one.

    Raises:
        RahfError: there are none.
    """
    if not curves:
        raise RahfError("there are no curves to draw; give at least one training by its name.")
    columns = list(dict.fromkeys(name for curve in curves.values() for name in curve.columns))
    figure = Figure(figsize=(4.6 * (1 + len(columns)), 3.8), layout="constrained")
    axes = figure.subplots(1, 1 + len(columns), squeeze=False)[0]
    curve_panel(axes[0], {name: (curve.steps, curve.losses) for name, curve in curves.items()}, "loss")
    for axis, column in zip(axes[1:], columns, strict=True):
        drawn = {
            name: (curve.steps, curve.columns[column]) for name, curve in curves.items() if column in curve.columns
        }
        # Colours stand for trainings, also where some of them lack the number.
        curve_panel(axis, drawn, column.replace("_", " "), order=list(curves))
    return figure


def norms_map_panel(axis: Axes, norms: DifferenceNorms) -> None:
    """Draw the mean norm of v by layer (upwards) and token of the answer."""
    image = axis.imshow(norms.offsets, cmap="viridis", aspect="auto", origin="lower", vmin=0)
    axis.set_yticks(range(len(norms.hook_points)), _layer_names(norms))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel(_TOKENS[norms.where])
    axis.set_ylabel(_layer_axis(norms))
    axis.set_title(_UNITS[norms.unit], fontsize=10)
    axis.figure.colorbar(image, ax=axis, shrink=0.85)


def norms_token_panel(axis: Axes, norms: DifferenceNorms) -> None:
    """Draw the mean norm of v along the answer, a line for each layer, with how many answers there are below."""
    places = list(range(len(norms.counts)))
    colours = colormaps["viridis"].resampled(len(norms.hook_points) + 1)
    rows = zip(_layer_names(norms), norms.offsets, norms.offset_intervals, strict=True)
    for number, (name, values, intervals) in enumerate(rows):
        axis.plot(places, values, marker="o", ms=3, lw=1.4, color=colours(number), label=name)
        _band(axis, intervals, colours(number))
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel(_TOKENS[norms.where])
    axis.set_title(f"Along the answer ({norms.counts[0]} answers, {norms.counts[-1]} at the last token)", fontsize=10)
    axis.legend(fontsize=7, frameon=False, title=_layer_axis(norms), title_fontsize=7, ncols=2)


def norms_layer_panel(axis: Axes, norms: DifferenceNorms) -> None:
    """Draw the mean norm of v over all tokens by layer, with its interval."""
    places = list(range(len(norms.hook_points)))
    axis.plot(places, norms.layers, marker="o", ms=4, color=COLOURS["transplanted"])
    _band(axis, norms.layer_intervals, COLOURS["transplanted"])
    axis.set_ylim(bottom=0)
    axis.set_xticks(places, _layer_names(norms))
    axis.set_xlabel(_layer_axis(norms))
    axis.set_title("Over all tokens, with 95 % intervals", fontsize=10)


def curve_panel(
    axis: Axes,
    curves: Mapping[str, tuple[tuple[int, ...], tuple[float, ...]]],
    what: str,
    *,
    order: list[str] | None = None,
) -> None:
    """Draw numbers by step of a training, a line for each training.

    Args:
        axis: where to draw.
        curves: steps and values by name.
        what: what the numbers are.
        order: names in the order of their colours; None: that of ``curves``.
    """
    names = list(curves) if order is None else order
    for name, (steps, values) in curves.items():
        axis.plot(
            steps, values, lw=1.5, color=PALETTE[names.index(name) % len(PALETTE)], label=name.replace("$", r"\$")
        )
    axis.set_xlabel("step")
    axis.set_title(what.replace("$", r"\$"), fontsize=10)
    axis.legend(fontsize=8, frameon=False)


def _band(axis: Axes, intervals: Sequence[Interval | None], colour: Any) -> None:
    """Draw the intervals of the places that have one."""
    known = [(place, each) for place, each in enumerate(intervals) if each is not None]
    if known:
        low, high = [each.low for _, each in known], [each.high for _, each in known]
        axis.fill_between([place for place, _ in known], low, high, color=colour, alpha=0.18, lw=0)


def _layer_names(norms: DifferenceNorms) -> list[str]:
    """Block numbers, with the site where there are several sites."""
    sites = {_site(name) for name in norms.hook_points}
    return [f"{layer_of(name)}" + (f" {_site(name)}" if len(sites) > 1 else "") for name in norms.hook_points]


def _layer_axis(norms: DifferenceNorms) -> str:
    sites = {_site(name) for name in norms.hook_points}
    return "block" if len(sites) > 1 else f"block ({sites.pop()})"


def _site(hook_point: str) -> str:
    return hook_point.rsplit("hook_", maxsplit=1)[-1]
