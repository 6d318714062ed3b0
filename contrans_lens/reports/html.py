"""The stand-alone HTML report: figures are embedded, nothing is loaded from elsewhere."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from contrans_lens.artifacts import atomic_write
from contrans_lens.pipeline.result import TransplantResult
from contrans_lens.reports import figures, layer_figures
from contrans_lens.selection import LayerReport

FIGURES = {
    "rows": figures.rows_figure,
    "strength": figures.strength_figure,
    "damage": figures.damage_figure,
    "layers": figures.layer_figure,
}
LAYER_FIGURES = {
    "probes": layer_figures.probe_figure,
    "effects": layer_figures.effect_figure,
    "similarity": layer_figures.similarity_figure,
    "predictors": layer_figures.predictor_figure,
}


def write_report(result: TransplantResult, folder: Path) -> list[Path]:
    """Write each figure as PNG and ``report.html`` into ``folder``; return the paths.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    written = []
    images = {}
    for name, draw in FIGURES.items():
        images[name] = png_bytes(draw(result))
        written.append(write_bytes(folder / f"{name}.png", images[name]))
    page = render("report.html.j2", result=result, body=_body(result, images))
    written.append(write_bytes(folder / "report.html", page.encode()))
    return written


def result_html(result: TransplantResult) -> str:
    """The result as an HTML fragment for a notebook cell: table, verdict and the overview figure."""
    return _body(result, {"overview": png_bytes(figures.overview_figure(result))})


def runs_report(results: Sequence[tuple[str, TransplantResult]], path: Path, *, title: str) -> Path:
    """Write one page over several runs, linking to each run's own report.

    Args:
        results: pairs of (folder of the run relative to the page, result).
        path: the page.
        title: its heading.
    """
    overview = png_bytes(figures.overview_figure(results[0][1]))
    page = render("runs.html.j2", runs=results, title=title, headline=base64.b64encode(overview).decode())
    return write_bytes(path, page.encode())


def write_layer_report(report: LayerReport, folder: Path) -> list[Path]:
    """Write each figure as PNG, ``pairs.csv`` and ``report.html`` into ``folder``; return the paths.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    images = {name: png_bytes(draw(report)) for name, draw in LAYER_FIGURES.items()}
    written = [write_bytes(folder / f"{name}.png", image) for name, image in images.items()]
    table = report.table().reset_index()
    written.append(write_bytes(folder / "pairs.csv", table.to_csv(index=False).encode()))
    rows = table.to_dict("records")
    columns = [name for name in table.columns if name not in ("source", "target")]
    page = render("layers.html.j2", report=report, body=_layer_body(report, images), rows=rows, columns=columns)
    written.append(write_bytes(folder / "report.html", page.encode()))
    return written


def layer_report_html(report: LayerReport) -> str:
    """The report as an HTML fragment for a notebook cell: answer, gates, scores and the overview figure."""
    return _layer_body(report, {"overview": png_bytes(layer_figures.layers_overview_figure(report))})


def png_bytes(figure: Figure, dpi: int = 130) -> bytes:
    """A figure as PNG. No timestamp goes in, so equal results give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _body(result: TransplantResult, images: dict[str, bytes]) -> str:
    return render("body.html.j2", result=result, images=encoded(images), labels=figures.LABELS)


def _layer_body(report: LayerReport, images: dict[str, bytes]) -> str:
    named = (
        ("best pair", report.test),
        ("three-quarters prior", report.test_prior),
        ("target's own", report.test_native),
    )
    scored = [(name, cell) for name, cell in named if cell is not None]
    return render("layers_body.html.j2", report=report, images=encoded(images), scored=scored)


def _cell(value: object) -> str:
    """A table cell: three digits for numbers, yes or nothing for flags, nothing for what was not measured."""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return "" if value != value else f"{value:.3f}"
    return "" if value is None else str(value)


def render(template: str, **values: object) -> str:
    """A template of this room filled in; texts are escaped."""
    source = (files("contrans_lens.reports") / "templates" / template).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["percent"] = lambda value: "undefined" if value is None else f"{value:.0%}"
    environment.filters["cell"] = _cell
    return environment.from_string(source).render(**values)


def encoded(images: Mapping[str, bytes]) -> dict[str, str]:
    """Pictures in base64, as they stand in a page."""
    return {name: base64.b64encode(image).decode() for name, image in images.items()}


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all; gives its path.

    Raises:
        ArtifactError: it cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return path
