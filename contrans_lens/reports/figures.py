"""Figures of one transplant. Each panel is a function on an ``Axes``; the figures put panels together."""

from collections.abc import Callable
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contrans_lens.models import layer_of
from contrans_lens.pipeline.result import CurvePoint, Row, TransplantResult

# Colour-blind safe (Okabe and Ito); controls share one grey so that the eye goes to what is claimed.
COLOURS = {"transplanted": "#0072B2", "native": "#D55E00", "random": "#8C8C8C"}
LABELS = {
    "unsteered": "unsteered",
    "prompt": "prompt only",
    "random": "random direction",
    "random_covariance": "random, target covariance",
    "random_source": "random source direction, mapped",
    "shuffled_map": "map from shuffled pairs",
    "identity": "zero-padded identity",
    "last_layer": "written at the last layer",
    "native": "target's own vector",
    "transplanted": "transplanted",
}

Panel = Callable[[Axes, TransplantResult], None]


def strength_figure(result: TransplantResult) -> Figure:
    """Effect against strength: transplanted and native, with the band of random directions of equal norm."""
    return _single(strength_panel, result)


def damage_figure(result: TransplantResult) -> Figure:
    """Effect against damage (KL on neutral text), one point a strength."""
    return _single(damage_panel, result)


def rows_figure(result: TransplantResult) -> Figure:
    """Every row's effect with its interval, and every control draw as a dot."""
    return _single(rows_panel, result)


def layer_figure(result: TransplantResult) -> Figure:
    """The validation sweep as a heat map, with the chosen pair and the three-quarters prior marked."""
    return _single(layer_panel, result)


def overview_figure(result: TransplantResult) -> Figure:
    """The four panels in one figure."""
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    axes = figure.subplots(2, 2)
    panels: tuple[Panel, ...] = (rows_panel, strength_panel, damage_panel, layer_panel)
    for axis, panel in zip(axes.flat, panels, strict=True):
        panel(axis, result)
    figure.suptitle(_title(result), fontsize=11)
    return figure


def strength_panel(axis: Axes, result: TransplantResult) -> None:
    """Draw effect against strength."""
    for name, points in _curves(result):
        strengths = [p.strength for p in points]
        axis.plot(strengths, [p.effect for p in points], marker="o", ms=3.5, **_style(name))
        spread = [p.spread for p in points]
        if all(spread):
            low, high = zip(*(s for s in spread if s), strict=True)
            axis.fill_between(strengths, low, high, color=COLOURS["random"], alpha=0.25, lw=0)
    strength = result.row("transplanted").strength
    if strength:
        axis.axvline(strength, color="black", lw=0.8, ls=":", label="scored strength")
    axis.axhline(0, color="black", lw=0.6)
    axis.set_xlabel("strength (norm of the vector / mean residual norm)")
    axis.set_ylabel("effect: score(+) − score(−)")
    axis.set_title("Effect by strength", fontsize=10)
    axis.legend(fontsize=8, frameon=False)


def damage_panel(axis: Axes, result: TransplantResult) -> None:
    """Draw effect against the damage it costs."""
    for name, points in _curves(result):
        real = [p for p in points if p.kl > 0]
        axis.plot([p.kl for p in real], [p.effect for p in real], marker="o", ms=3.5, **_style(name))
    axis.axhline(0, color="black", lw=0.6)
    axis.set_xscale("log")
    axis.set_xlabel("KL(unsteered || steered) on neutral text, nats per token")
    axis.set_ylabel("effect: score(+) − score(−)")
    axis.set_title("Damage beside effect", fontsize=10)
    axis.legend(fontsize=8, frameon=False)


def rows_panel(axis: Axes, result: TransplantResult) -> None:
    """Draw each row's effect with its interval; control draws as dots."""
    rows = [row for row in result.rows if row.name != "unsteered"]
    for height, row in enumerate(reversed(rows)):
        colour = COLOURS.get(row.name, COLOURS["random"])
        axis.plot(row.draws, [height] * len(row.draws), ".", color=colour, alpha=0.35, ms=5)
        axis.plot(row.effect_ci, [height, height], color=colour, lw=2)
        axis.plot(row.effect, height, "o", color=colour, ms=6)
    axis.set_yticks(range(len(rows)), [_row_label(row) for row in reversed(rows)], fontsize=8)
    axis.axvline(0, color="black", lw=0.6)
    axis.set_xlabel("effect: score(+) − score(−)")
    axis.set_title("Rows with 95 % intervals; dots are control draws", fontsize=10)


def layer_panel(axis: Axes, result: TransplantResult) -> None:
    """Draw the validation effect of every hook-point pair that was tried."""
    table = result.layer_table
    if not table:
        axis.text(0.5, 0.5, "no sweep: the hook points were given", ha="center", va="center")
        axis.set_axis_off()
        return
    sources = sorted({entry["source"] for entry in table}, key=layer_of)
    targets = sorted({entry["target"] for entry in table}, key=layer_of)
    effects: dict[tuple[str, str], float] = {(e["source"], e["target"]): e["effect"] for e in table}
    grid = [[effects.get((s, t), float("nan")) for t in targets] for s in sources]
    limit = max(abs(value) for value in effects.values()) or 1.0
    image = axis.imshow(grid, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    axis.set_xticks(range(len(targets)), [str(layer_of(t)) for t in targets])
    axis.set_yticks(range(len(sources)), [str(layer_of(s)) for s in sources])
    _mark(axis, result.hook_points, sources, targets, marker="s", label="chosen")
    prior = result.diagnostics.get("three_quarters")
    if prior:
        _mark(axis, prior, sources, targets, marker="x", label="three-quarters prior")
    axis.set_xlabel("target block (resid_post)")
    axis.set_ylabel("source block (resid_post)")
    axis.set_title("Effect on validation items, by pair of layers", fontsize=10)
    axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.06), ncols=2, frameon=False, borderaxespad=0)
    axis.figure.colorbar(image, ax=axis, shrink=0.85)


def _mark(axis: Axes, pair: dict[str, str], sources: list[str], targets: list[str], *, marker: str, label: str) -> None:
    if pair["source"] in sources and pair["target"] in targets:
        filled: dict[str, Any] = {"facecolors": "none"} if marker == "s" else {}
        place = targets.index(pair["target"]), sources.index(pair["source"])
        axis.scatter(
            *place,
            marker=marker,
            s=140,
            edgecolors="black" if filled else None,
            c=None if filled else "black",
            linewidths=1.8,
            label=label,
            **filled,
        )


def _curves(result: TransplantResult) -> list[tuple[str, list[CurvePoint]]]:
    """Curve points by name, each sorted by strength."""
    points = sorted(result.curves, key=lambda p: (p.name, p.strength))
    return [(name, list(group)) for name, group in groupby(points, key=lambda p: p.name)]


def _style(name: str) -> dict[str, Any]:
    return {"color": COLOURS.get(name, COLOURS["random"]), "label": LABELS.get(name, name), "lw": 1.6}


def _row_label(row: Row) -> str:
    draws = f" (×{len(row.draws)})" if row.draws else ""
    return LABELS.get(row.name, row.name) + draws


def _title(result: TransplantResult) -> str:
    share = result.recovered_share.value
    recovered = "" if share is None else f", {share:.0%} of the native effect"
    return f"{result.concept}: {result.source['name']} → {result.target['name']}: {result.verdict}{recovered}"


def _single(panel: Panel, result: TransplantResult) -> Figure:
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    panel(figure.subplots(), result)
    return figure
