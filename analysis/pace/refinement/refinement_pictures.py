"""Figures of the study, from its numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from refinement_methods import KEEP, ORTHOGONAL, OTHERS, REST, UNREFINED
from refinement_texts import MAIN

from contrans_lens.reports.html import png_bytes

Numbers = Mapping[str, Any]
COLOURS = {
    UNREFINED: "black",
    KEEP: "#D55E00",
    REST: "#E69F00",
    OTHERS: "#CC79A7",
    ORTHOGONAL: "#0072B2",
    "native": "#009E73",
}
MARKERS = dict(zip(MAIN, ("o", "s", "^"), strict=True))
SETTINGS = {
    "full": "all contrasts",
    "mixed": "half the contrasts about another concept",
    "8 pairs": "8 pairs",
    "4 pairs": "4 pairs",
}
DPI = 80


def write_pictures(numbers: Numbers, out: Path) -> None:
    """Two figures into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "specificity.png").write_bytes(png_bytes(_specificity(numbers), DPI))
    (out / "changes.png").write_bytes(png_bytes(_changes(numbers), DPI))


def _specificity(numbers: Numbers) -> Figure:
    """Own effect against leak, a panel a setting, a marker a concept (mean over pairs)."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, len(SETTINGS), sharey=True)
    for axis, (setting, title) in zip(axes, SETTINGS.items(), strict=True):
        for name in MAIN:
            rows = numbers["pooled"].get(name, {}).get(setting, {})
            for method, colour in COLOURS.items():
                if method in rows:
                    _cross(axis, rows[method]["own"], rows[method]["leak"], colour, MARKERS[name])
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("own effect, nats", fontsize=8)
        axis.set_xlim(left=0)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel("leak into other concepts, nats", fontsize=8)
    axes[0].set_ylim(bottom=0)
    for method, colour in COLOURS.items():
        axes[0].plot([], [], "-", color=colour, lw=3, label=method)
    for name, marker in MARKERS.items():
        axes[0].plot([], [], marker, color="grey", ms=5, label=name)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, frameon=False, loc="outside lower center", ncols=9)
    return figure


def _cross(axis: Axes, x: Sequence[float], y: Sequence[float], colour: str, marker: str) -> None:
    axis.plot([x[1], x[2]], [y[0], y[0]], color=colour, lw=0.7, alpha=0.7)
    axis.plot([x[0], x[0]], [y[1], y[2]], color=colour, lw=0.7, alpha=0.7)
    axis.plot(x[0], y[0], marker, color=colour, ms=5, alpha=0.85)


def _changes(numbers: Numbers) -> Figure:
    """Change of the leak's share by refinement, part by part."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, setting in zip(axes, ("full", "mixed"), strict=True):
        rows = [
            (f"{part}{'' if name == setting else ', ' + name.removeprefix('mixed ')}", found[name])
            for part, found in numbers["parts"].items()
            for name in found
            if (name == setting or (setting == "mixed" and name.startswith("mixed")))
            and part.rsplit(", ", 1)[1] in MAIN
        ]
        for place, (_, found) in enumerate(rows):
            for shift, method in enumerate((KEEP, REST, OTHERS, ORTHOGONAL)):
                value, low, high = found[method]["share_change"]
                y = place + 0.18 * (shift - 1.5)
                axis.plot([low, high], [y, y], color=COLOURS[method], lw=0.8)
                axis.plot(value, y, ".", color=COLOURS[method], ms=4, label=method if place == 0 else None)
        axis.axvline(0, color="black", lw=0.6)
        axis.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=5 if len(rows) > 12 else 6)
        axis.invert_yaxis()
        axis.set_title(SETTINGS[setting], fontsize=9)
        axis.set_xlabel("leak / (leak + own effect), refined less unrefined", fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
    axes[0].legend(fontsize=7, frameon=False)
    return figure
