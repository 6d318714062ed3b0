"""Figures of the preference study, from its numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from preference_numbers import CONTRANS, LABELS
from preference_setups import SOURCES
from preference_units import TRAINED

from contrans_lens.reports.html import png_bytes

Numbers = Mapping[str, Any]
COLOURS = {
    "RAHF-SCIT": "#0072B2",
    "RAHF-cues": "#56B4E9",
    "RAHF-Dual": "#009E73",
    "preferred-SFT": "#E69F00",
    "DPO": "#D55E00",
    "carried, fitted": "#000000",
    CONTRANS: "#CC79A7",
    "native vector": "#882255",
}
GREY = "#999999"
DPI = 75
MAIN = LABELS[-1]
LEAST_KL = 1e-5


def write_pictures(result: Numbers, out: Path) -> None:
    """Three figures into a folder."""
    setups = result["setups"]
    pictures = {
        "effect.png": effect_figure(setups),
        "damage.png": damage_figure(setups),
        "cost.png": cost_figure(setups),
    }
    for name, figure in pictures.items():
        (out / name).write_bytes(png_bytes(figure, DPI))


def effect_figure(setups: Numbers) -> Figure:
    """P(chosen) within the main budget, with controls: a point a seed, intervals over groups and seeds."""
    figure = Figure(figsize=(3.6 * len(setups), 4.6), layout="constrained")
    axes = figure.subplots(1, len(setups), sharey=True, squeeze=False)[0]
    for axis, (name, each) in zip(axes, setups.items(), strict=True):
        rows: list[tuple[str, Numbers, str]] = []
        for method in TRAINED:
            rows.append((method, each["methods"][method][f"within {MAIN}"], COLOURS[method]))
        for source in SOURCES:
            row = each["transfer"][f"{source} carried"][f"within {MAIN}"]
            rows.append((f"carried from {source}, fitted", row, COLOURS["carried, fitted"]))
        for kind, colour in (
            *((f"{CONTRANS} from {source}", COLOURS[CONTRANS]) for source in SOURCES),
            ("native mean difference", COLOURS["native vector"]),
            ("native SCIT mean", COLOURS["native vector"]),
        ):
            rows.append((kind, each["vectors"][kind][MAIN], colour))
        for kind, row in each["controls"].items():
            rows.append((f"control: {kind}", row[f"within {MAIN}"], GREY))
        for kind, row in each["transfer"].items():
            if not kind.endswith("carried"):
                rows.append((f"control: {kind}", row[f"within {MAIN}"], GREY))
        _points(axis, rows)
        base = each["references"]["base"]["probability"][0]
        axis.axvline(base, color="black", lw=0.6, ls=":")
        draws = each["random"]["draws"][each["random"]["ranked"][f"{CONTRANS} from {each['best_source']}"]["draws"]]
        axis.axvspan(min(draws), max(draws), color=GREY, alpha=0.2, lw=0)
        axis.set_title(name, fontsize=9)
    return figure


def _points(axis: Axes, rows: list[tuple[str, Numbers, str]]) -> None:
    for place, (_, row, colour) in enumerate(rows):
        value, low, high = row["probability"]
        axis.plot([low, high], [place, place], color=colour, lw=1.4)
        axis.plot(value, place, "|", color=colour, ms=9)
        seeds = row["seeds"]["probability"]
        axis.plot(seeds, [place] * len(seeds), "o", color=colour, ms=3, alpha=0.7)
    axis.set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=7)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(-0.02, 1.02)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_xlabel(f"P(chosen), KL at most {MAIN}", fontsize=8)


def damage_figure(setups: Numbers) -> Figure:
    """P(chosen) against KL on neutral text: full strength, and rescaled; vectors at their strengths."""
    figure = Figure(figsize=(3.4 * len(setups), 3.5), layout="constrained")
    axes = figure.subplots(1, len(setups), sharey=True, squeeze=False)[0]
    for axis, (name, each) in zip(axes, setups.items(), strict=True):
        for method in TRAINED:
            row = each["methods"][method]
            _path(axis, [row[label] for label in (f"within {LABELS[0]}", MAIN, "full")], COLOURS[method], method)
            axis.plot(max(row["full"]["kl"], LEAST_KL), row["full"]["probability"][0], "o", color=COLOURS[method], ms=6)
        best = f"{CONTRANS} from {each['best_source']}"
        vector = [each["vectors"][best][label] for label in LABELS]
        at_matched = [(row["kl"][1], row["vector"][0]) for row in each["matched"].values()]
        points = sorted([*at_matched, *((row["kl"], row["probability"][0]) for row in vector)])
        axis.plot(
            [max(x, LEAST_KL) for x, _ in points],
            [y for _, y in points],
            "x-",
            color=COLOURS[CONTRANS],
            lw=1,
            ms=4,
            label=CONTRANS,
        )
        _path(axis, [each["vectors"]["native mean difference"][label] for label in LABELS], "#882255", "native vector")
        words = each["references"]["words"]
        axis.plot(words["kl"], words["probability"][0], "*", color="black", label="words (p+)")
        axis.axhline(each["references"]["base"]["probability"][0], color="black", lw=0.6, ls=":")
        axis.set_xscale("log")
        axis.set_xlim(1e-3, 2)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("KL on neutral text, nats a token", fontsize=8)
    axes[0].set_ylabel("P(chosen)", fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, frameon=False, loc="outside lower center", ncols=len(labels))
    return figure


def _path(axis: Axes, rows: list[Numbers], colour: str, label: str) -> None:
    points = sorted((max(row["kl"], LEAST_KL), row["probability"][0]) for row in rows)
    axis.plot([x for x, _ in points], [y for _, y in points], ".-", color=colour, lw=1, ms=4, label=label)


def cost_figure(setups: Numbers) -> Figure:
    """P(chosen) within the main budget against processor time, all steps together."""
    figure = Figure(figsize=(3.4 * len(setups), 3.3), layout="constrained")
    axes = figure.subplots(1, len(setups), sharey=True, squeeze=False)[0]
    for axis, (name, each) in zip(axes, setups.items(), strict=True):
        for method in TRAINED:
            row = each["methods"][method][f"within {MAIN}"]
            _cross(axis, each["costs"][method]["cpu_seconds"], row["probability"], COLOURS[method], method)
        best = each["vectors"][f"{CONTRANS} from {each['best_source']}"][MAIN]
        _cross(axis, each["costs"][CONTRANS]["cpu_seconds"], best["probability"], COLOURS[CONTRANS], CONTRANS)
        native = each["vectors"]["native mean difference"][MAIN]
        cost = each["costs"]["native mean difference"]["cpu_seconds"]
        _cross(axis, cost, native["probability"], COLOURS["native vector"], "native vector")
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("CPU seconds, all steps", fontsize=8)
        axis.set_xlim(left=0)
    axes[0].set_ylabel(f"P(chosen), KL at most {MAIN}", fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, frameon=False, loc="outside lower center", ncols=len(labels))
    return figure


def _cross(axis: Axes, x: float, interval: list[float], colour: str, label: str) -> None:
    value, low, high = interval
    axis.plot([x, x], [low, high], color=colour, lw=1)
    axis.plot(x, value, "o", color=colour, ms=5, label=label)
