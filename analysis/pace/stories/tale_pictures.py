"""Figures of the study, from its numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tale_methods import METHODS, PACE

from contrans_lens.reports.html import png_bytes

DPI = 80
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"
Numbers = Mapping[str, Any]


def write_pictures(result: Numbers, folder: Path) -> None:
    """Effects, topics and paths; those without numbers are left out."""
    setups = {
        f"{name}\n{setup}": numbers
        for name, model in result["models"].items()
        for setup, numbers in model["setups"].items()
    }
    pictures = {}
    if setups:
        pictures["effects.png"] = _effects(setups, f"{result['main_budget']:g}")
    measured = {name: model["quality"] for name, model in result["models"].items() if model["quality"]}
    if measured:
        pictures["atoms.png"] = _atoms(measured)
    for name, figure in pictures.items():
        (folder / name).write_bytes(png_bytes(figure, DPI))


def _effects(setups: Mapping[str, Numbers], budget: str) -> Figure:
    """A column a setup: the fall of the unwanted continuations, and of the context effect, with control draws."""
    figure = Figure(figsize=(2.6 * len(setups) + 1.2, 5.2), layout="constrained")
    axes = figure.subplots(2, len(setups), squeeze=False, sharey=True)
    for column, (name, numbers) in enumerate(setups.items()):
        axes[0, column].set_title(name, fontsize=8)
        for row, (key, draws) in enumerate((("effect", "draws"), ("shrink", "shrink_draws"))):
            axis = axes[row, column]
            _bars(axis, numbers["budgets"][budget], key)
            for place, method in enumerate(PACE):
                for family, mark, shift in (("shuffled", "|", 0.2), ("random", "x", 0.36)):
                    spots = numbers["controls"].get(method, {}).get(family, {}).get(draws, [])
                    if spots:
                        axis.plot(spots, [place + shift] * len(spots), mark, color=GREY, ms=5, alpha=0.7)
            for place, method in enumerate(METHODS):
                if "prompted" in numbers:
                    axis.plot(numbers["prompted"][method][key][0], place - 0.2, "o", mfc="none", color="black", ms=4)
            axis.axvline(0, color="black", lw=0.5)
            axis.tick_params(labelsize=7)
    axes[0, 0].set_ylabel("effect on log-odds, nats", fontsize=8)
    axes[1, 0].set_ylabel("fall of the context effect, nats", fontsize=8)
    return figure


def _bars(axis: Axes, rows: Numbers, key: str) -> None:
    for place, method in enumerate(METHODS):
        value, low, high = rows[method][key]
        colour = BLUE if method in PACE else ORANGE
        axis.errorbar(value, place, xerr=[[max(value - low, 0)], [max(high - value, 0)]], fmt="o", color=colour, ms=4)
    axis.set_yticks(range(len(METHODS)), METHODS)
    axis.set_ylim(len(METHODS) - 0.5, -0.5)


def _atoms(measured: Mapping[str, Numbers]) -> Figure:
    """Same-topic AUC by block, and error against the number of atoms."""
    figure = Figure(figsize=(8, 2.8 * len(measured)), layout="constrained")
    axes = figure.subplots(len(measured), 2, squeeze=False)
    for row, (name, numbers) in enumerate(measured.items()):
        _topics(axes[row, 0], numbers["topics"])
        _path(axes[row, 1], numbers["path"])
        axes[row, 0].set_title(f"{name}: do atoms know their topic?", fontsize=9)
        axes[row, 1].set_title(
            f"{name}: atoms and error, {numbers['path']['hook_point'].removesuffix('.hook_resid_post')}", fontsize=9
        )
    for axis in axes.flat:
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6, frameon=False, ncols=2, loc="upper right")
    return figure


def _topics(axis: Axes, topics: Numbers) -> None:
    for kind, colour in (("trained", BLUE), ("untrained", GREY)):
        for reading, style in (("word", "-"), ("stop", "--")):
            rows = topics[kind][reading]
            for pairs, marker in (("all", "o"), ("things", "^")):
                values = [each[pairs]["auc"] for each in rows]
                label = f"{kind}, {reading}, {pairs}"
                axis.plot(range(len(rows)), values, style, marker=marker, ms=4, lw=1, color=colour, label=label)
    axis.axhline(0.5, color="black", lw=0.5)
    axis.set_ylim(0.4, 1)
    axis.set_xlabel("block", fontsize=8)
    axis.set_ylabel("same-topic AUC", fontsize=8)


def _path(axis: Axes, path: Numbers) -> None:
    for solver, colour in (("OMP", BLUE), ("elastic net", ORANGE)):
        points = [each for each in path["points"] if each["solver"] == solver]
        counts, errors = ([each[key][0] for each in points] for key in ("count", "error"))
        axis.plot(counts, errors, "o-", ms=4, lw=1, color=colour, label=solver)
    axis.set_xlabel("atoms with a coefficient, mean", fontsize=8)
    axis.set_ylabel("relative error", fontsize=8)
    axis.set_ylim(0, 1)
