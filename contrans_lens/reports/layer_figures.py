"""Figures of a layer selection. Each panel is a function on an ``Axes``; the figures put panels together."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from contrans_lens.evaluation import Interval
from contrans_lens.layers import METRICS, ProbeCurve, SimilarityGrid
from contrans_lens.models import layer_of
from contrans_lens.reports.figures import COLOURS
from contrans_lens.selection import LayerReport

_SOURCE, _TARGET = "#009E73", COLOURS["transplanted"]
_COLUMNS = 4


def probe_figure(report: LayerReport) -> Figure:
    """Probe curves of both models: AUROC, accuracy and selectivity by layer, with intervals."""
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    probe_panel(left, report.source_probes, f"source: {report.source['name']}")
    probe_panel(right, report.target_probes, f"target: {report.target['name']}")
    return figure


def similarity_figure(report: LayerReport) -> Figure:
    """Every similarity as a heat map, significant cells marked."""
    grids = list(report.similarity.values())
    rows = math.ceil(len(grids) / _COLUMNS)
    figure = Figure(figsize=(3.3 * _COLUMNS, 3.0 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    alpha = float(report.settings["alpha"])
    for axis in list(axes.flat)[len(grids) :]:
        axis.set_axis_off()
    for axis, grid in zip(axes.flat, grids, strict=False):
        similarity_panel(axis, grid, alpha)
    figure.suptitle(f"Cells with a dot: p ≤ {alpha:g}, corrected for all pairs", fontsize=10)
    return figure


def effect_figure(report: LayerReport) -> Figure:
    """The measured effects by pair of layers, with the chosen pair and the paper's prior."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    effect_panel(figure.subplots(), report)
    return figure


def predictor_figure(report: LayerReport) -> Figure:
    """How well each evidence foretold the effect, and the scatter of each: predicted beside measured."""
    shown = [each for each in report.predictors if each.rho is not None]
    rows = math.ceil(len(shown) / _COLUMNS) or 1
    figure = Figure(figsize=(3.1 * _COLUMNS, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axis in list(axes.flat)[len(shown) :]:
        axis.set_axis_off()
    named = {each.name: each for each in report.evidence}
    effects = report.effects
    for axis, predictor in zip(axes.flat, shown, strict=False):
        values = named[predictor.name].values
        both = effects.isfinite() & values.isfinite()
        depth = torch.arange(effects.shape[1])[None].expand_as(effects)[both]
        axis.scatter(values[both].tolist(), effects[both].tolist(), c=depth.tolist(), cmap="viridis", s=18)
        interval = "" if predictor.ci is None else f" [{predictor.ci[0]:+.2f}, {predictor.ci[1]:+.2f}]"
        labels = " (target labels)" if predictor.needs_target_labels else ""
        axis.set_title(f"{predictor.name}{labels}\nρ = {predictor.rho:+.2f}{interval}", fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in axes[:, 0]:
        axis.set_ylabel("effect, validation", fontsize=8)
    figure.suptitle("Evidence beside the measured effect; darker: earlier target layer", fontsize=10)
    return figure


def layers_overview_figure(report: LayerReport) -> Figure:
    """Probes of both models, the effects, and the rank correlations, in one figure."""
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    axes = figure.subplots(2, 2)
    probe_panel(axes[0, 0], report.source_probes, f"source: {report.source['name']}")
    probe_panel(axes[0, 1], report.target_probes, f"target: {report.target['name']}")
    effect_panel(axes[1, 0], report)
    predictor_panel(axes[1, 1], report)
    figure.suptitle(_title(report), fontsize=11)
    return figure


def probe_panel(axis: Axes, curve: ProbeCurve, title: str) -> None:
    """Draw a probe curve: AUROC and accuracy out of fold, and what is left of the accuracy beside control labels."""
    layers = [layer_of(layer.hook_point) for layer in curve.layers]
    lines: list[tuple[str, str, list[Interval | None]]] = [
        ("AUROC", _TARGET, [layer.auroc for layer in curve.layers]),
        ("accuracy", _SOURCE, [layer.accuracy for layer in curve.layers]),
        ("selectivity", COLOURS["native"], [layer.selectivity for layer in curve.layers]),
    ]
    for name, colour, intervals in lines:
        kept = [(x, i) for x, i in zip(layers, intervals, strict=True) if i is not None]
        if kept:
            places = [x for x, _ in kept]
            axis.plot(places, [i.value for _, i in kept], marker="o", ms=4, color=colour, label=name)
            axis.fill_between(
                places, [i.low for _, i in kept], [i.high for _, i in kept], color=colour, alpha=0.18, lw=0
            )
    axis.axhline(0.5, color="black", lw=0.6, ls=":")
    axis.set_ylim(-0.25, 1.05)
    axis.set_xticks(layers)
    axis.set_xlabel("block (resid_post)")
    found = "" if curve.best_p is None else f", best layer p = {curve.best_p:.3f}"
    axis.set_title(title + found, fontsize=10)
    axis.legend(fontsize=8, frameon=False, loc="lower right")


def similarity_panel(axis: Axes, grid: SimilarityGrid, alpha: float) -> None:
    """Draw one similarity as a heat map and mark the cells that are significant after correction."""
    reverse = "" if METRICS[grid.metric].higher_is_closer else "_r"
    image = axis.imshow(grid.values.tolist(), cmap="viridis" + reverse, aspect="auto", origin="lower")
    if grid.p_corrected is not None:
        _dots(axis, grid.p_corrected <= alpha)
    _ticks(axis, grid.source_hook_points, grid.target_hook_points)
    closer = "" if METRICS[grid.metric].higher_is_closer else " (lower is closer)"
    axis.set_title(f"{grid.metric}{closer}", fontsize=9)
    axis.figure.colorbar(image, ax=axis, shrink=0.85).ax.tick_params(labelsize=7)


def effect_panel(axis: Axes, report: LayerReport) -> None:
    """Draw the effect of every pair that was written, on validation items."""
    effects = report.effects
    measured = effects[effects.isfinite()]
    limit = float(measured.abs().max()) or 1.0
    image = axis.imshow(effects.tolist(), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    axis.set_facecolor("#e6e6e6")
    _ticks(axis, report.source_hook_points, report.target_hook_points)
    _ring(axis, report, report.best, "s", "best" if report.works else "best, but does not work")
    _ring(axis, report, report.prior, "x", "three-quarters prior")
    axis.set_title("Effect on validation items at equal damage; grey: not written", fontsize=10, pad=22)
    axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, borderaxespad=0)
    axis.figure.colorbar(image, ax=axis, shrink=0.85)


def predictor_panel(axis: Axes, report: LayerReport) -> None:
    """Draw the rank correlation of each evidence with the effect, with its interval."""
    shown = [each for each in report.predictors if each.rho is not None and each.ci is not None]
    for height, each in enumerate(reversed(shown)):
        colour = COLOURS["native"] if each.needs_target_labels else _TARGET
        if each.ci is not None:
            axis.plot(each.ci, [height, height], color=colour, lw=2)
        axis.plot(each.rho or 0.0, height, "o", color=colour, ms=6)
    axis.set_yticks(range(len(shown)), [each.name for each in reversed(shown)], fontsize=8)
    axis.axvline(0, color="black", lw=0.6)
    axis.set_xlim(-1.05, 1.05)
    axis.set_xlabel("rank correlation with the effect")
    axis.set_title("What foretold the effect (orange: needs labels in the target)", fontsize=10)


def _dots(axis: Axes, marked: Bool[Tensor, "source_layer target_layer"]) -> None:
    rows, columns = marked.nonzero(as_tuple=True)
    axis.scatter(columns.tolist(), rows.tolist(), s=10, c="white", edgecolors="black", linewidths=0.5)


def _ticks(axis: Axes, sources: Sequence[str], targets: Sequence[str]) -> None:
    for names, setter in ((targets, axis.set_xticks), (sources, axis.set_yticks)):
        step = max(1, len(names) // 12)
        places = list(range(0, len(names), step))
        setter(places, [str(layer_of(names[i])) for i in places], fontsize=7)
    axis.set_xlabel("target block", fontsize=8)
    axis.set_ylabel("source block", fontsize=8)


def _ring(axis: Axes, report: LayerReport, pair: tuple[str, str], marker: str, label: str) -> None:
    place = report.target_hook_points.index(pair[1]), report.source_hook_points.index(pair[0])
    if marker == "s":
        axis.scatter(*place, marker=marker, s=160, facecolors="none", edgecolors="black", linewidths=1.8, label=label)
    else:
        axis.scatter(*place, marker=marker, s=80, c="black", linewidths=1.8, label=label)


def _title(report: LayerReport) -> str:
    answer = "no pair works" if report.pair is None else f"{report.pair[0]} → {report.pair[1]}"
    return f"{report.concept}: {report.source['name']} → {report.target['name']}: {answer}"
