"""The stand-alone HTML report: figures are embedded, nothing is loaded from elsewhere."""

import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from contrans_lens.artifacts import atomic_write
from contrans_lens.pipeline.result import TransplantResult
from contrans_lens.reports import figures

FIGURES = {
    "rows": figures.rows_figure,
    "strength": figures.strength_figure,
    "damage": figures.damage_figure,
    "layers": figures.layer_figure,
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
        written.append(_write_bytes(folder / f"{name}.png", images[name]))
    page = _render("report.html.j2", result=result, body=_body(result, images))
    written.append(_write_bytes(folder / "report.html", page.encode()))
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
    page = _render("runs.html.j2", runs=results, title=title, headline=base64.b64encode(overview).decode())
    return _write_bytes(path, page.encode())


def png_bytes(figure: Figure, dpi: int = 130) -> bytes:
    """A figure as PNG. No timestamp goes in, so equal results give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _body(result: TransplantResult, images: dict[str, bytes]) -> str:
    encoded = {name: base64.b64encode(image).decode() for name, image in images.items()}
    return _render("body.html.j2", result=result, images=encoded, labels=figures.LABELS)


def _render(template: str, **values: object) -> str:
    source = (files("contrans_lens.reports") / "templates" / template).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["percent"] = lambda value: "undefined" if value is None else f"{value:.0%}"
    return environment.from_string(source).render(**values)


def _write_bytes(path: Path, data: bytes) -> Path:
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return path
