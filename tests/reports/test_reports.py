from html.parser import HTMLParser
from pathlib import Path

from contrans_lens.pipeline import TransplantResult
from contrans_lens.reports import overview_figure, result_html, rows_figure, runs_report, strength_figure, write_report
from contrans_lens.reports.html import png_bytes


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.cells: list[str] = []
        self._in_cell = False

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.sources += [values[key] for key in ("src", "href") if key in values]
        self._in_cell = tag == "td"

    def handle_data(self, data):
        if self._in_cell and data.strip():
            self.cells.append(data.strip())


def _parse(text: str) -> _Links:
    parser = _Links()
    parser.feed(text)
    return parser


def test_the_report_stands_alone_and_shows_the_numbers(tiny_result: TransplantResult, tmp_path: Path):
    write_report(tiny_result, tmp_path)
    page = _parse((tmp_path / "report.html").read_text())
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert f"{tiny_result.row('native').effect:+.3f}" in page.cells
    assert "target's own vector" in page.cells


def test_names_are_escaped(tiny_result: TransplantResult, tmp_path: Path):
    from dataclasses import replace

    write_report(replace(tiny_result, concept="<script>alert(1)</script>"), tmp_path)
    assert "<script>" not in (tmp_path / "report.html").read_text()


def test_equal_results_give_equal_pictures(tiny_result: TransplantResult):
    assert png_bytes(rows_figure(tiny_result)) == png_bytes(rows_figure(tiny_result))


def test_the_strength_figure_draws_the_curve_points(tiny_result: TransplantResult):
    [axis] = strength_figure(tiny_result).axes
    lines = {line.get_label(): line for line in axis.lines}
    expected = [p.effect for p in sorted(tiny_result.curves, key=lambda p: p.strength) if p.name == "native"]
    assert list(lines["target's own vector"].get_ydata()) == expected


def test_the_overview_has_four_panels(tiny_result: TransplantResult):
    titles = [axis.get_title() for axis in overview_figure(tiny_result).axes]
    assert len([title for title in titles if title]) == 4


def test_a_notebook_gets_table_and_picture(tiny_result: TransplantResult):
    page = _parse(result_html(tiny_result))
    assert len(page.sources) == 1
    assert "transplanted" in page.cells


def test_the_page_over_runs_links_to_each(tiny_result: TransplantResult, tmp_path: Path):
    path = runs_report([("a", tiny_result), ("b", tiny_result)], tmp_path / "index.html", title="t")
    links = [source for source in _parse(path.read_text()).sources if not source.startswith("data:")]
    assert links == ["a/report.html", "b/report.html"]
