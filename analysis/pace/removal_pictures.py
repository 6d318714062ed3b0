"""Figures of the removal study, from its numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from removal_choice import BUDGETS

from contrans_lens.reports.html import png_bytes

Numbers = Mapping[str, Any]
COLOURS = {
    "elastic net": "#0072B2",
    "OMP": "#56B4E9",
    "paper": "#009E73",
    "projection": "#D55E00",
    "addition": "#CC79A7",
    "mean difference": "#E69F00",
}
GREY = "#999999"
DPI = 75
MIDDLE = f"{BUDGETS[1]:g}"
LEAST_KL = 1e-6


def write_pictures(result: Numbers, out: Path) -> None:
    """Three figures into a folder; those whose numbers are not there yet are left out."""
    setups = {name: each for name, each in result["setups"].items() if "methods" in each}
    pictures: dict[str, Figure] = {}
    if setups:
        pictures = {"effect.png": effect_figure(setups), "leak.png": leak_figure(setups)}
    if result["quality"]:
        pictures["quality.png"] = quality_figure(result["quality"])
    for name, figure in pictures.items():
        (out / name).write_bytes(png_bytes(figure, DPI))


def effect_figure(setups: Numbers) -> Figure:
    """P(good answer) under the bad cue against the KL that it costs on neutral text."""
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    axes = figure.subplots(2, -(-len(setups) // 2), squeeze=False).flat
    for axis, (name, setup) in zip(axes, setups.items(), strict=False):
        for method, colour in COLOURS.items():
            _curve(axis, setup["methods"], method, colour)
        if "controls" in setup:
            for family, marker in (("shuffled partition", "x"), ("random vector", "+")):
                found = setup["controls"][family]
                plain = setup["methods"][MIDDLE]["methods"]["unsteered"]["unwanted"]["probability"]["value"][0]
                heights = [plain + draw for draw in found["draws"]]
                axis.plot(
                    [found["kl"]] * len(heights), heights, marker, color=GREY, ms=5, ls="", label=f"{family}, draws"
                )
        axis.set_xscale("log")
        axis.set_ylim(-0.03, 1.03)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("KL on neutral text, nats a token", fontsize=8)
    figure.axes[0].set_ylabel("P(good answer) under the bad cue", fontsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside lower center", ncols=8)
    return figure


def _curve(axis: Axes, labelled: Numbers, method: str, colour: str) -> None:
    """A method at its budgets as a line, and at strength 1 as a ring."""
    points = sorted(_point(labelled[label]["methods"][method]) for label in labelled if label != "strength 1")
    axis.plot(*zip(*points, strict=True), "o-", color=colour, ms=4, lw=1.2, label=method)
    one = _point(labelled["strength 1"]["methods"][method])
    axis.plot(*one, "o", mfc="none", mec=colour, ms=10, label=None)


def _point(found: Numbers) -> tuple[float, float]:
    return max(found["kl"], LEAST_KL), found["unwanted"]["probability"]["value"][0]


def leak_figure(setups: Numbers) -> Figure:
    """What else changes at the middle budget."""
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    axes = figure.subplots(2, -(-len(setups) // 2), squeeze=False).flat
    for axis, (name, setup) in zip(axes, setups.items(), strict=False):
        methods = setup["methods"][MIDDLE]["methods"]
        first = next(iter(methods.values()))
        things = [
            key for key, each in first.items() if isinstance(each, Mapping) and key not in ("unwanted", "cued text")
        ]
        for place, (method, colour) in enumerate(COLOURS.items()):
            effects = [_effect(methods[method][thing]) for thing in things]
            heights = [each[0] for each in effects]
            errors = [[max(each[0] - each[1], 0) for each in effects], [max(each[2] - each[0], 0) for each in effects]]
            at = [index + (place - 2.5) * 0.13 for index in range(len(things))]
            axis.bar(at, heights, 0.13, color=colour, yerr=errors, error_kw={"lw": 0.6}, label=method)
        axis.axhline(0, color="black", lw=0.5)
        axis.set_ylim(-0.62, 0.62)
        axis.set_xticks(
            range(len(things)), [thing.replace("leak into", "leak:") for thing in things], fontsize=7, rotation=20
        )
        axis.set_title(name, fontsize=10)
    figure.axes[0].set_ylabel(f"change of P(good answer) at KL {MIDDLE}", fontsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside lower center", ncols=6)
    return figure


def _effect(found: Numbers) -> Sequence[float]:
    effect: Sequence[float] = found["probability" if "probability" in found else "p_restricted"]["effect"]
    return effect


def quality_figure(quality: Numbers) -> Figure:
    """Planted recovery, topics by block, and sparsity paths, a row a target."""
    figure = Figure(figsize=(12, 3.4 * len(quality)), layout="constrained")
    axes = figure.subplots(len(quality), 3, squeeze=False)
    for row, (target, found) in zip(axes, quality.items(), strict=True):
        _planted_panel(row[0], found["planted"])
        _topics_panel(row[1], found["topics"])
        _paths_panel(row[2], found["paths"])
        row[0].set_ylabel(target, fontsize=9)
    return figure


def _planted_panel(axis: Axes, planted: Numbers) -> None:
    styles = {"concepts": "-", "isotropic": ":", "random differences": "--"}
    colours = {
        "OMP, k = planted": COLOURS["OMP"],
        "elastic net 0.01": COLOURS["elastic net"],
        "projection": COLOURS["projection"],
    }
    for name, style in styles.items():
        for solver, colour in colours.items():
            rows = [row for row in planted[name] if row["solver"] == solver]
            label = solver if name == "concepts" else None
            axis.plot(
                [row["planted"] for row in rows],
                [row["removal_error"] for row in rows],
                style,
                color=colour,
                label=label,
            )
    axis.set_title("planted: error of what is removed\n(dotted isotropic, dashed random differences)", fontsize=9)
    axis.set_xlabel("atoms planted", fontsize=8)
    axis.set_ylim(0, 2.5)
    axis.legend(fontsize=7, frameon=False)


def _topics_panel(axis: Axes, topics: Numbers) -> None:
    for model, colour in (("trained", COLOURS["elastic net"]), ("untrained", GREY)):
        for pairs, style in (("all", "-"), ("one form", "--")):
            rows = [row for row in topics[model] if row["pairs"] == pairs and row["measure"] == "|cos|"]
            axis.plot([row["auc"] for row in rows], style, marker="o", ms=3, color=colour, label=f"{model}, {pairs}")
            axis.plot([row["null_highest"] for row in rows], ":", lw=0.8, color=colour)
    axis.set_title("same-topic AUC of |cos|\n(thin dots: highest of shuffled topics)", fontsize=9)
    axis.set_xlabel("block", fontsize=8)
    axis.set_ylim(0.3, 1.02)
    axis.legend(fontsize=7, frameon=False, loc="lower left", ncols=2)


def _paths_panel(axis: Axes, paths: Numbers) -> None:
    colours = {"concepts": COLOURS["elastic net"], "isotropic": GREY, "random differences": COLOURS["projection"]}
    for name, colour in colours.items():
        for solver, style in (("elastic net", "-"), ("OMP", "--")):
            rows = sorted((row for row in paths[name] if row["solver"] == solver), key=lambda row: row["count"])
            axis.plot(
                [r["count"] for r in rows],
                [r["error"][0] for r in rows],
                style,
                color=colour,
                label=f"{name}, {solver}",
            )
    axis.set_title("error against number of concepts", fontsize=9)
    axis.set_xlabel("atoms with a coefficient", fontsize=8)
    axis.set_ylim(0, 1)
    axis.legend(fontsize=6, frameon=False)
