"""Figures of the tradeoff study, from its numbers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contrans_lens.reports.html import png_bytes

Numbers = Mapping[str, Any]
COLOURS = {"native": "#0072B2", "transplanted": "#D55E00", "native-layers": "#009E73"}
GREY = "#999999"
DPI = 68
COST_NAMES = ("capability", "cloze")


def write_pictures(setups: Mapping[str, Numbers], out: Path) -> None:
    """Three figures into a folder."""
    pictures = {
        "alignment.png": _grid(setups, _alignment_panel, "behaviour expectation B"),
        "helpfulness.png": _grid(setups, _helpfulness_panel, "P(right answer), among the offered"),
        "prediction.png": _prediction(setups),
    }
    for name, figure in pictures.items():
        (out / name).write_bytes(png_bytes(figure, DPI))


def _grid(setups: Mapping[str, Numbers], draw: Callable[[Axes, Numbers], None], label: str) -> Figure:
    columns = 4
    rows = -(-len(setups) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.5 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (name, numbers) in zip(axes.flat, setups.items(), strict=False):
        draw(axis, numbers)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("strength r, residual norms", fontsize=7)
    for axis in list(axes.flat)[len(setups) :]:
        axis.axis("off")
    for axis in axes[:, 0]:
        axis.set_ylabel(label, fontsize=8)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, frameon=False, loc="outside lower center", ncols=len(labels))
    return figure


def _alignment_panel(axis: Axes, numbers: Numbers) -> None:
    r = numbers["strengths"]
    band = numbers["bands"]["random"]["answers"]
    axis.fill_between(r, band["least"], band["most"], color=GREY, alpha=0.35, lw=0, label="random draws, range")
    for name in ("native", "transplanted"):
        curve = numbers["directions"][name]["curves"]["answers"]["expectation"]
        _line(axis, r, curve, COLOURS[name], f"{name}, measured")
    laws = numbers["directions"]["native"]["extrapolated"]
    axis.plot(r, laws["mean_law"]["predicted"], "k:", lw=1, label="tanh law from |r| ≤ .25")
    axis.plot(r, laws["item_law"]["predicted"], "k--", lw=1, label="the same item by item")
    axis.set_ylim(-1.03, 1.03)
    axis.axhline(0, color="black", lw=0.4)


def _helpfulness_panel(axis: Axes, numbers: Numbers) -> None:
    r = numbers["strengths"]
    cost = next(name for name in COST_NAMES if name in numbers["directions"]["native"]["helpfulness"])
    band = numbers["bands"]["random"].get(cost)
    if band:
        axis.fill_between(r, band["least"], band["most"], color=GREY, alpha=0.35, lw=0, label="random draws, range")
    for name, colour in COLOURS.items():
        _line(axis, r, numbers["directions"][name]["curves"][cost]["p_restricted"], colour, name)
    mean = numbers["directions"]["native"]["curves"][cost]["p_mean"]
    axis.plot(r, mean["value"], color=COLOURS["native"], lw=0.9, ls="-.", label="native, full vocabulary")
    terms = numbers["directions"]["native"]["helpfulness"][cost]["predicted"]["constants"]
    place = r.index(0.0)
    top = numbers["directions"]["native"]["curves"][cost]["p_restricted"]["value"][place]
    parabola = [top + terms["l"]["value"] * x - terms["k"]["value"] * x * x for x in r]
    axis.plot(r, parabola, "k:", lw=1, label="native, parabola predicted from |r| ≤ .25")
    axis.set_ylim(0, 1.03)


def _line(axis: Axes, r: Sequence[float], curve: Numbers, colour: str, label: str) -> None:
    axis.plot(r, curve["value"], color=colour, lw=1.4, marker=".", ms=3, label=label)
    axis.fill_between(r, curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)


def _prediction(setups: Mapping[str, Numbers]) -> Figure:
    """Predicted slope and curvature beside the fitted ones."""
    figure = Figure(figsize=(8.4, 3.9), layout="constrained")
    slopes, curvatures = figure.subplots(1, 2)
    for numbers in setups.values():
        drawn = numbers["families"]["random"] + numbers["families"]["shuffled"]
        slopes.plot([d["predicted_slope0"] for d in drawn], [d["slope0"] for d in drawn], ".", color=GREY, ms=3)
        for name, colour in COLOURS.items():
            found = numbers["directions"][name]
            _cross(slopes, found["predicted"]["constants"]["slope0"], found["near"]["slope0"], colour)
            for cost, each in found["helpfulness"].items():
                if "predicted" in each:
                    marker = "o" if cost in COST_NAMES else "s"
                    _cross(curvatures, each["predicted"]["constants"]["k"], each["near"]["k"], colour, marker)
    curvatures.set(xscale="log", yscale="log", xlim=(0.002, 10), ylim=(0.02, 5))
    for axis, what in ((slopes, "slope of B at 0"), (curvatures, "curvature k of H")):
        low, high = axis.get_xlim()
        axis.plot([low, high], [low, high], color="black", lw=0.6)
        axis.set_xlabel(f"{what}, predicted from |r| ≤ .25", fontsize=8)
        axis.set_ylabel("fitted on |r| ≤ .6", fontsize=8)
        axis.tick_params(labelsize=7)
    for name, colour in COLOURS.items():
        slopes.plot([], [], "o", color=colour, ms=4, label=name)
    slopes.plot([], [], ".", color=GREY, label="random and shuffled draws")
    slopes.legend(fontsize=7, frameon=False)
    return figure


def _cross(axis: Axes, predicted: Numbers, fitted: Numbers, colour: str, marker: str = "o") -> None:
    if predicted["value"] is None or fitted["value"] is None:
        return
    x, y = predicted["value"], fitted["value"]
    axis.plot([predicted["low"], predicted["high"]], [y, y], color=colour, lw=0.7)
    axis.plot([x, x], [fitted["low"], fitted["high"]], color=colour, lw=0.7)
    axis.plot(x, y, marker, color=colour, ms=4)
