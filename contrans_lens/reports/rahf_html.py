"""Page about a run of RAHF: figures are embedded, nothing is loaded from elsewhere."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from contrans_lens.rahf.result import FIT, RahfResult
from contrans_lens.rahf.verdict import ALPHA_RULE, RULE
from contrans_lens.reports.html import encoded, png_bytes, render, write_bytes
from contrans_lens.reports.rahf_figures import curves_figure, norms_figure
from contrans_lens.reports.rahf_scores import scores_figure


def write_rahf_report(result: RahfResult, folder: Path) -> list[Path]:
    """Write the figures as PNG and ``report.html`` into ``folder``; return the paths.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    images = {name: png_bytes(draw(result)) for name, draw in _figures(result).items()}
    written = [write_bytes(folder / f"{name}.png", image) for name, image in images.items()]
    page = render("rahf.html.j2", result=result, body=_body(result, images), rule=RULE)
    written.append(write_bytes(folder / "report.html", page.encode()))
    return written


def rahf_html(result: RahfResult) -> str:
    """The run as an HTML fragment for a notebook cell: verdict, scores, cost, and the figure of scores."""
    return _body(result, {"scores": png_bytes(scores_figure(result))})


def _figures(result: RahfResult) -> dict[str, Callable[[RahfResult], Figure]]:
    """What there is to draw, by the names of the files; norms in units of the residual's where that is known."""
    drawn: dict[str, Callable[[RahfResult], Figure]] = {
        "scores": scores_figure,
        "norms": lambda run: norms_figure(run.norms if run.norms.residual_norms is None else run.norms.relative()),
    }
    # Losses of different kinds: those of step 1 and of the fit have no axis in common.
    if len(result.curves) > 1:
        drawn["tuning"] = lambda run: _curves(run, [name for name in run.curves if name != FIT])
    return drawn | {"fit": lambda run: _curves(run, [FIT])}


def _curves(result: RahfResult, names: list[str]) -> Figure:
    held_out = {name: curve for name, curve in result.validation_curves.items() if name in names}
    curves = {name: result.curves[name] for name in names}
    return curves_figure({**curves, **{f"{name}, validation": curve for name, curve in held_out.items()}})


def _body(result: RahfResult, images: dict[str, bytes]) -> str:
    return render(
        "rahf_body.html.j2",
        result=result,
        images=encoded(images),
        costs={**result.costs, "together": result.total_cost},
        instructions=result.instructions,
        alpha_rule=ALPHA_RULE,
    )
