import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from contrans_lens.rahf.verdict import ALPHA_RULE
from contrans_lens.reports.rahf_html import rahf_html, write_rahf_report
from contrans_lens.reports.rahf_scores import scores_figure
from contrans_lens.tables import rahf_tables
from tests.rahf.made_results import norms, result, rows, trials

TRIALS = trials((1.0, 0.8, False), (2.0, 0.95, True), (5.0, 0.9, False))


def test_the_report_holds_scores_costs_and_words_escaped(tmp_path: Path):
    written = write_rahf_report(result(trials=TRIALS), tmp_path)
    assert {path.name for path in written} == {"scores.png", "norms.png", "tuning.png", "fit.png", "report.html"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written if path.suffix == ".png")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in (
        "tiny &lt;b&gt;model&lt;/b&gt;",
        "good &amp; kind",
        "Be &lt;kind&gt;.",
        "contrans-lens rahf --base &#39;&lt;x&gt;&#39;",
        "aligns",
        "+0.400",
        "[0.880, 0.920]",
        "&times; 0.25",
        "step 1: scit",
        "taken",
        "6,600",
    ):
        assert text in page
    assert not re.search("<b>model|<kind>|<x>", page)
    assert page.count(ALPHA_RULE) == 1
    assert "the one that is <i>taken</i>" in page
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # nothing is loaded from elsewhere


def test_the_fragment_names_what_to_beware_of():
    shown = rahf_html(result(rows=rows()[:4]))
    assert shown == result(rows=rows()[:4])._repr_html_()
    assert shown.startswith('<div class="rahf">')
    assert "What to beware of" in shown
    assert "No controls were run" in shown
    assert "What to beware of" not in rahf_html(result())


def test_what_was_not_measured_is_left_out(tmp_path: Path):
    bare = tuple(replace(row, damage=None, matched=None) for row in rows())
    made = result(rows=bare, norms=replace(norms(), residual_norms=None), validation_relative_error=None)
    made = replace(made, curves={"fit": made.curves["fit"]}, validation_curves={})
    assert "tuning.png" not in {path.name for path in write_rahf_report(made, tmp_path)}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "0.125" not in page
    assert ALPHA_RULE not in page
    assert "<i>taken</i>" not in page
    assert "on validation answers)" not in page


def test_the_figure_has_a_line_for_each_row():
    left, right = scores_figure(result()).axes
    assert [label.get_text() for label in left.get_yticklabels()][::-1] == [row.name for row in rows()]
    points = [line.get_xdata()[0] for line in left.lines if line.get_marker() == "o"]
    assert points[::-1] == [row.probability.value for row in rows()]
    costs = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "o"]
    assert costs[::-1] == [0.01, 0.05, 0.01, 0.5, 0.05]  # neither the base nor words without a measure


@pytest.mark.parametrize("tried", [(), TRIALS])
def test_tables_fit_a_terminal(tried: tuple):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rahf_tables(result(trials=tried).summary()))
    lines = console.export_text().splitlines()
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert "tiny <b>model</b>: scit on good & kind" in text
    aligned = next(line.split() for line in lines if line.strip().startswith("aligned"))
    assert aligned == ["aligned", "0.900", "0.880,", "0.920", "+0.400", "0.90", "+3.20", "0.0500", "2.75"]
    assert ("taken" in text.split()) == bool(tried)
    assert (ALPHA_RULE in " ".join(text.split())) == bool(tried)
    assert "equal KL (x0.25)" in text
    assert text.count("(x") == 1  # the others were not scaled
    assert "change" in text
    assert "6,600" in text
    assert "…" not in text
