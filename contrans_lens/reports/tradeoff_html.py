"""Pages about tradeoffs and comparisons: figures are embedded, nothing is loaded from elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from contrans_lens.reports import comparison_figures, tradeoff_figures
from contrans_lens.reports.html import encoded, png_bytes, render, write_bytes
from contrans_lens.reports.tradeoff_panels import REGIME
from contrans_lens.tradeoff import DirectionAnalysis, TradeoffResult
from contrans_lens.tradeoff.comparison_result import Comparison
from contrans_lens.tradeoff.estimates import Estimate
from contrans_lens.tradeoff.fits import CurveFit

COMPARISON_FIGURES: dict[str, Callable[[Comparison], Figure]] = {
    "effects": comparison_figures.comparison_figure,
    "changes": comparison_figures.change_figure,
    "differences": comparison_figures.difference_figure,
    "signs": comparison_figures.sign_figure,
}


def write_tradeoff_report(result: TradeoffResult, folder: Path) -> list[Path]:
    """Write each figure as PNG and ``report.html`` into ``folder``; return the paths.

    Figures of what was not measured are left out.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    images = {name: png_bytes(draw(result)) for name, draw in _tradeoff_figures(result).items()}
    written = [write_bytes(folder / f"{name}.png", image) for name, image in images.items()]
    page = render("tradeoff.html.j2", result=result, body=_tradeoff_body(result, images), flags=_flags(result))
    written.append(write_bytes(folder / "report.html", page.encode()))
    return written


def tradeoff_html(result: TradeoffResult) -> str:
    """The result as an HTML fragment for a notebook cell: claims, constants, regime, controls and the overview."""
    return _tradeoff_body(result, {"overview": png_bytes(tradeoff_figures.tradeoff_figure(result))})


def write_comparison_report(comparison: Comparison, folder: Path) -> list[Path]:
    """Write each figure as PNG and ``report.html`` into ``folder``; return the paths.

    Figures of what was not measured are left out.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    images = {name: png_bytes(draw(comparison)) for name, draw in _comparison_figures(comparison).items()}
    written = [write_bytes(folder / f"{name}.png", image) for name, image in images.items()]
    others = [row for row in comparison.rows if not row.is_primary]
    page = render("comparison.html.j2", comparison=comparison, body=_comparison_body(comparison, images), others=others)
    written.append(write_bytes(folder / "report.html", page.encode()))
    return written


def comparison_html(comparison: Comparison) -> str:
    """The comparison as an HTML fragment for a notebook cell: rows, damage and the overview figure."""
    overview = {name: draw for name, draw in _comparison_figures(comparison).items() if name == "effects"}
    return _comparison_body(comparison, {name: png_bytes(draw(comparison)) for name, draw in overview.items()})


def shown(estimate: Estimate | None) -> str:
    """An estimate for a table cell: a dash where it is undefined, nothing where it was not looked for."""
    if estimate is None:
        return ""
    return str(estimate) if estimate.defined else "–"


def _comparison_figures(comparison: Comparison) -> dict[str, Callable[[Comparison], Figure]]:
    """The figures for which there is something to draw, by file name; none of the unsteered model alone."""
    if not comparison_figures.methods(comparison):
        return {}
    compared = any(row.difference is not None for row in comparison.rows)
    left_out = set() if compared else {"differences"}
    # With one sign there is nothing that both do alike.
    left_out |= set() if comparison.signs == "both" else {"changes"}
    return {name: draw for name, draw in COMPARISON_FIGURES.items() if name not in left_out}


def _tradeoff_figures(result: TradeoffResult) -> dict[str, Callable[[TradeoffResult], Figure]]:
    """The figures for which there is something to draw, by file name."""
    drawn: dict[str, Callable[[TradeoffResult], Figure]] = {"alignment": tradeoff_figures.alignment_figure}
    if result.sweep.role("helpfulness") is not None:
        drawn |= {"helpfulness": tradeoff_figures.helpfulness_figure, "pareto": tradeoff_figures.pareto_figure}
    if tradeoff_figures.damage_measures(result):
        drawn["damage"] = tradeoff_figures.damage_figure
    if any(list(tradeoff_figures.predictions(each)) for each in result.directions.values()):
        drawn["prediction"] = tradeoff_figures.prediction_figure
    if tradeoff_figures.reading_columns(result):
        drawn["readings"] = tradeoff_figures.readings_figure
    return drawn


def _tradeoff_body(result: TradeoffResult, images: dict[str, bytes]) -> str:
    return render(
        "tradeoff_body.html.j2",
        result=result,
        images=encoded(images),
        constants=[row for each in result.directions.values() for row in _constants(each)],
        laws=[row for each in result.directions.values() for row in _laws(each)],
        regimes=[row for each in result.directions.values() for row in _regime(each)],
        reasons=_reasons(result),
    )


def _constants(each: DirectionAnalysis) -> list[dict[str, str]]:
    """Fitted constants with their predictions, a line each."""
    fit, cost = each.alignment, each.helpfulness
    named: list[tuple[str, str, Estimate]] = [
        ("a", "gain of behaviour, per unit of strength", fit.a),
        ("B0", "behaviour of the unsteered model, by the fit", fit.B0),
        ("slope0", "slope of behaviour at r = 0", fit.slope0),
        ("r½", "strength at which behaviour crosses zero", fit.r_half),
    ]
    if cost is not None:
        named += [
            ("H0", "helpfulness of the unsteered model, by the fit", cost.H0),
            ("l", "linear change of helpfulness", cost.linear),
            ("k", "curvature of helpfulness: the cost", cost.k),
        ]
    known = {constant.name: constant for constant in tradeoff_figures.predictions(each)}
    rows = [
        {
            "direction": each.direction,
            "name": name,
            "what": what,
            "fit": shown(value),
            "near": shown(known[name].near) if name in known else "",
            "predicted": shown(known[name].predicted) if name in known else "",
        }
        for name, what, value in named
    ]
    if each.cost_mechanism is not None:
        even = shown(each.cost_mechanism.constants["k_even"])
        what = "the same with what both signs do alike to the logits"
        rows.append(
            {"direction": each.direction, "name": "k_even", "what": what, "fit": "", "near": "", "predicted": even}
        )
    return rows


def _laws(each: DirectionAnalysis) -> list[dict[str, Any]]:
    """Every law that was fitted to a direction's curves, the best first."""
    curves: list[tuple[str, CurveFit | None]] = [("behaviour", each.alignment), ("helpfulness", each.helpfulness)]
    return [
        {
            "direction": each.direction,
            "curve": what,
            "window": f"[{fits.window[0]:.3g}, {fits.window[1]:.3g}]",
            "law": fit.equation,
            "r_squared": fit.r_squared,
            "delta": fit.delta,
            "criterion": fits.criterion.upper().replace("AICC", "AICc"),
        }
        for what, fits in curves
        if fits is not None
        for fit in sorted(fits.fits.values(), key=lambda fit: fit.delta)
    ]


def _regime(each: DirectionAnalysis) -> list[dict[str, str]]:
    """Strengths of the useful regime, by the laws and by the measured curves."""
    if each.regime is None:
        return []
    return [
        {
            "direction": each.direction,
            "name": name,
            "laws": shown(getattr(each.regime, key)),
            "curves": shown(getattr(each.regime, f"raw_{key}")),
        }
        for key, name in REGIME.items()
    ] + [
        {
            "direction": each.direction,
            "name": "optimum of tanh and parabola",
            "laws": shown(each.regime.law_optimum),
            "curves": "",
        }
    ]


def _reasons(result: TradeoffResult) -> list[str]:
    """Why dashes stand in the tables, each reason once for a direction."""
    lines = []
    for name, each in result.directions.items():
        fit, cost, regime = each.alignment, each.helpfulness, each.regime
        estimates = {"a": fit.a, "B0": fit.B0, "slope0": fit.slope0, "r½": fit.r_half}
        if cost is not None:
            estimates |= {"H0": cost.H0, "l": cost.linear, "k": cost.k}
        if regime is not None:
            for way, prefix in (("by the laws", ""), ("off the curves", "raw_")):
                estimates |= {f"{label} {way}": getattr(regime, prefix + key) for key, label in REGIME.items()}
        found: dict[str, list[str]] = {}
        for label, estimate in estimates.items():
            if not estimate.defined:
                found.setdefault(estimate.reason, []).append(label)
        lines += [f"{name}, {'; '.join(labels)}: {reason}" for reason, labels in found.items()]
    return lines


def _flags(result: TradeoffResult) -> list[dict[str, Any]]:
    """Everything that was looked for, fired flags first."""
    rows = [
        {"direction": name, "name": flag.name, "fired": flag.fired, "text": flag.text}
        for name, each in result.directions.items()
        for flag in each.flags
    ]
    return sorted(rows, key=lambda row: not row["fired"])


def _comparison_body(comparison: Comparison, images: dict[str, bytes]) -> str:
    return render(
        "comparison_body.html.j2",
        comparison=comparison,
        images=encoded(images),
        title=comparison_figures.title(comparison),
        rows=[row for row in comparison.rows if row.is_primary],
        labels={row.method: comparison_figures.label(comparison, row.method) for row in comparison.damages},
    )
