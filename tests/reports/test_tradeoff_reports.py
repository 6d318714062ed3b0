import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes

from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation.behaviours import NeutralText, PairedAnswers
from contrans_lens.interventions import Intervention
from contrans_lens.reports import (
    alignment_figure,
    change_figure,
    comparison_figure,
    comparison_html,
    difference_figure,
    helpfulness_figure,
    pareto_figure,
    prediction_figure,
    readings_figure,
    sign_figure,
    tradeoff_damage_figure,
    tradeoff_figure,
    tradeoff_html,
    write_comparison_report,
    write_tradeoff_report,
)
from contrans_lens.reports.html import png_bytes
from contrans_lens.texts import EvaluationItem, PromptCue
from contrans_lens.tradeoff import TradeoffResult
from contrans_lens.tradeoff.comparison import compare
from contrans_lens.tradeoff.comparison_result import Comparison
from tests.reports.tradeoffs import STRENGTHS, simulated_result
from tests.tiny_models import D_MODEL, open_tiny

_VOID = {"meta", "img", "br", "hr", "link", "input"}


class _Page(HTMLParser):
    """Reads a page, and keeps what is open: a well-formed one closes everything in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.sources += [values[key] for key in ("src", "href") if key in values]
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self._open:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def result() -> TradeoffResult:
    return simulated_result()


@pytest.fixture(scope="module")
def two() -> TradeoffResult:
    return simulated_result(directions=("first", "second"))


@pytest.fixture(scope="module")
def bare() -> TradeoffResult:
    return simulated_result(helpfulness=False, damage=False)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    model = open_tiny("llama")
    hook_point = "blocks.1.hook_resid_post"
    vectors = torch.randn(4, D_MODEL, generator=torch.Generator().manual_seed(0))
    cells = [(Intervention(hook_point, vector, residual_norm=2.0),) for vector in vectors]
    items = [EvaluationItem(f"we saw the {animal} and it was", " good", " bad") for animal in ("cat", "dog", "bird")]
    behaviours = [PairedAnswers(tuple(items), name) for name in ("goodness", "again")]
    methods = {"mine": cells[0], "other": cells[1], "random": cells[2:], "words": PromptCue("all is good. ", "no. ")}
    found = compare(model, methods, behaviours, NeutralText(("one two three four", "a house and a tree")), budget=None)
    return found.with_command("contrans-lens evaluate --model tiny")


def by_label(axis: Axes) -> dict[str, object]:
    return {str(line.get_label()): line for line in axis.lines}


def test_dots_are_means_and_the_line_is_the_fitted_law(result: TradeoffResult):
    [axis] = alignment_figure(result).axes
    lines = by_label(axis)
    assert list(lines["vector"].get_xdata()) == STRENGTHS.tolist()
    assert list(lines["vector"].get_ydata()) == result.sweep.curve("vector", "honesty").mean.tolist()
    law = lines["tanh law"]
    expected = result.directions["vector"].alignment.fits["tanh"].predict(torch.tensor(law.get_xdata()))
    assert torch.allclose(torch.tensor(law.get_ydata()), expected)
    assert f"r½ = {result.directions['vector'].alignment.r_half.value:.3g}" in lines


def test_controls_are_a_band_from_the_least_to_the_greatest_draw(result: TradeoffResult):
    [axis] = alignment_figure(result).axes
    means = torch.stack([result.sweep.curve(f"random/{n}", "honesty").mean for n in range(3)])
    assert list(by_label(axis)["random (×3)"].get_ydata()) == pytest.approx(means.mean(0).tolist())
    edges = [path.vertices for band in axis.collections for path in band.get_paths()]
    assert any(
        sorted(edge[:, 1])[-1] == pytest.approx(float(means.max()))
        and sorted(edge[:, 1])[0] == pytest.approx(float(means.min()))
        for edge in edges
    )


def test_saturation_is_marked_where_the_curve_comes_near_it(result: TradeoffResult):
    def labels(shown: TradeoffResult) -> list[str]:
        return [str(patch.get_label()) for patch in alignment_figure(shown).axes[0].patches]

    assert any("saturated" in label for label in labels(result)) == (
        float(result.sweep.curve("vector", "honesty").mean.abs().max()) > 0.8
    )
    weak = replace(
        result.sweep,
        measured={
            k: replace(m, columns={n: v / 4 for n, v in m.columns.items()}) for k, m in result.sweep.measured.items()
        },
    )
    assert not labels(replace(result, sweep=weak))


def test_the_parabola_is_drawn_over_its_window_and_the_budget_below_the_top(result: TradeoffResult):
    upper, lower = helpfulness_figure(result).axes
    lines = by_label(upper)
    window = result.directions["vector"].helpfulness.window
    drawn = lines["parabola over its window"].get_xdata()
    assert (drawn[0], drawn[-1]) == pytest.approx(window)
    start = result.sweep.curve("vector", "facts").at_zero
    assert set(lines["budget: 95% of H(0)"].get_ydata()) == {0.95 * start}
    assert [text.get_text() for text in lower.get_yticklabels()] == ["budget, −", "budget, +", "break-even", "r*"]


def test_the_strengths_of_the_regime_lie_where_they_were_found(result: TradeoffResult):
    lower = helpfulness_figure(result).axes[1]
    regime = result.directions["vector"].regime
    dots = {float(line.get_xdata()[0]) for line in lower.lines if line.get_marker() == "o"}
    inside = [regime.optimum.value, regime.budget_up.value, regime.budget_down.value]
    assert dots >= {value for value in inside if value is not None and abs(value) <= 1.5}


def test_what_lies_beyond_the_grid_is_an_arrow_at_its_end(result: TradeoffResult):
    regime = result.directions["vector"].regime
    far = replace(regime, break_even=replace(regime.optimum, value=9.0, low=None, high=None))
    moved = replace(result, directions={"vector": replace(result.directions["vector"], regime=far)})
    arrows = [line for line in helpfulness_figure(moved).axes[1].lines if line.get_marker() == ">"]
    assert 1.5 in [float(line.get_xdata()[0]) for line in arrows]


def test_filled_points_are_the_front(result: TradeoffResult):
    [axis] = pareto_figure(result).axes
    filled = by_label(axis)["vector: on the front"]
    front = [p for p in result.directions["vector"].regime.front if p.on_front]
    assert sorted(filled.get_xdata()) == sorted(point.behaviour for point in front)
    labelled = {text.get_text() for text in axis.texts}
    assert labelled <= {f"{r:.2g}" for r in STRENGTHS.tolist()}
    assert f"{max(front, key=lambda point: point.strength).strength:.2g}" in labelled


def test_labels_of_points_do_not_lie_on_each_other(two: TradeoffResult):
    figure = pareto_figure(two)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) > 2
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_damage_is_logarithmic_and_leaves_the_unsteered_model_out(result: TradeoffResult):
    kl, perplexity, *written = tradeoff_damage_figure(result).axes
    assert kl.get_yscale() == "log"
    assert 0.0 not in list(by_label(kl)["vector"].get_xdata())
    nll = result.sweep.curve("vector", "neutral", "nll").mean.tolist()
    assert list(by_label(perplexity)["vector"].get_ydata()) == pytest.approx([math.exp(value) for value in nll])
    titles = [axis.get_title() for axis in written]
    assert titles[:3] == ["written: repetition", "written: loop", "written: compression"]


def test_prediction_stands_beside_fit(result: TradeoffResult):
    axes = prediction_figure(result).axes
    each = result.directions["vector"]
    fitted = [each.alignment.a, each.alignment.slope0, each.helpfulness.linear, each.helpfulness.k]
    predicted = [each.mechanism.constants["a"], each.mechanism.constants["slope0"]]
    predicted += [each.cost_mechanism.constants["l"], each.cost_mechanism.constants["k"]]
    near = [None, each.mechanism.measured["slope0"], *(each.cost_mechanism.measured[name] for name in ("l", "k"))]
    for axis, *found in zip(axes, fitted, near, predicted, strict=True):
        for estimate, marker in zip(found, ("o", "D", "s"), strict=True):
            shown = [x for line in axis.lines if line.get_marker() == marker for x in line.get_xdata()]
            assert shown == ([] if estimate is None else [estimate.value])


def test_other_readings_have_a_panel_each(result: TradeoffResult):
    titles = {axis.get_title() for axis in readings_figure(result).axes}
    assert titles == {"honesty: accuracy", "facts: p mean", "written: score"}


def test_the_overview_has_a_panel_for_what_was_measured(result: TradeoffResult, bare: TradeoffResult):
    assert len([axis for axis in tradeoff_figure(result).axes if axis.get_title()]) == 4
    assert len(tradeoff_figure(bare).axes) == 1


@pytest.mark.parametrize("draw", [helpfulness_figure, pareto_figure, tradeoff_damage_figure])
def test_what_was_not_measured_is_not_drawn(bare: TradeoffResult, draw):
    with pytest.raises(TradeoffError):
        draw(bare)


def test_the_report_stands_alone_and_shows_the_numbers(result: TradeoffResult, tmp_path: Path):
    written = write_tradeoff_report(result, tmp_path)
    assert {path.name for path in written} >= {"alignment.png", "helpfulness.png", "damage.png", "report.html"}
    page = _Page((tmp_path / "report.html").read_text())
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    each = result.directions["vector"]
    assert {str(each.alignment.a), str(each.helpfulness.k), str(each.mechanism.constants["a"])} <= set(page.cells)
    assert str(each.cost_mechanism.measured["k"]) in page.cells
    assert f"{result.families['random'].p_slope['vector']:.3f}" in page.cells
    assert {flag.text for flag in each.flags} <= set(page.cells)
    assert each.claim in page.text
    assert "contrans-lens sweep --model toy" in page.text


def test_the_report_of_a_bare_sweep_has_what_there_is(bare: TradeoffResult, tmp_path: Path):
    names = {path.name for path in write_tradeoff_report(bare, tmp_path)}
    assert names == {"alignment.png", "prediction.png", "readings.png", "report.html"}
    assert "useful regime" not in _Page((tmp_path / "report.html").read_text()).cells


def test_names_are_escaped(result: TradeoffResult):
    named = {"<script>alert(1)</script>": result.directions["vector"]}
    sweep = replace(
        result.sweep,
        plan={**result.sweep.plan, "directions": {next(iter(named)): [], **result.sweep.plan["directions"]}},
        measured={
            **result.sweep.measured,
            **{(next(iter(named)), b): m for (d, b), m in result.sweep.measured.items() if d == "vector"},
        },
    )
    assert "<script>" not in tradeoff_html(replace(result, sweep=sweep, directions=named, families={}))


def test_equal_results_give_equal_bytes(two: TradeoffResult, tmp_path: Path):
    again = simulated_result(directions=("first", "second"))
    for folder, each in (("one", two), ("two", again)):
        each.save(tmp_path / folder)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) > 8
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_a_notebook_gets_claims_and_one_picture(result: TradeoffResult):
    page = _Page(result._repr_html_())
    assert len(page.sources) == 1
    assert result.directions["vector"].claim in page.text


def test_every_method_is_a_row_of_the_comparison(comparison: Comparison):
    axes = comparison_figure(comparison).axes
    assert [axis.get_title() for axis in axes] == [
        "goodness (expectation)",
        "again (expectation)",
        "Damage on neutral text",
    ]
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["words", "random (×2)", "other", "mine"]
    dots = {float(x) for line in axes[0].lines if line.get_marker() == "o" for x in line.get_xdata()}
    methods = ("mine", "other", "random", "words")
    assert dots == {comparison.row(method, "goodness").effect.value for method in methods}
    draws = [x for line in axes[0].lines if line.get_marker() == "." for x in line.get_xdata()]
    assert draws == list(comparison.row("random", "goodness").draws)


def test_differences_changes_and_signs_are_those_of_the_rows(comparison: Comparison):
    axis = difference_figure(comparison).axes[0]
    dots = {float(x) for line in axis.lines if line.get_marker() == "o" for x in line.get_xdata()}
    assert dots == {comparison.row(m, "goodness").difference.value for m in ("other", "random", "words")}
    axis = change_figure(comparison).axes[0]
    dots = {float(x) for line in axis.lines if line.get_marker() == "o" for x in line.get_xdata()}
    assert dots == {comparison.row(m, "goodness").change.value for m in ("mine", "other", "random", "words")}
    axis = sign_figure(comparison).axes[0]
    plus = {float(x) for line in axis.lines if line.get_marker() == ">" for x in line.get_xdata()}
    assert plus == {comparison.row(m, "goodness").plus.value for m in ("mine", "other", "random", "words")}


def test_the_page_of_a_comparison_stands_alone(comparison: Comparison, tmp_path: Path):
    written = write_comparison_report(comparison, tmp_path)
    assert [path.name for path in written] == [
        *("effects.png", "changes.png", "differences.png", "signs.png", "report.html")
    ]
    page = _Page((tmp_path / "report.html").read_text())
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    row = comparison.row("other", "goodness")
    assert f"{row.effect.value:+.3f}" in page.cells
    assert f"{row.change.value:+.3f}" in page.cells
    assert f"[{row.difference.low:+.3f}, {row.difference.high:+.3f}]" in page.cells
    assert "contrans-lens evaluate --model tiny" in page.text
    assert "log_odds" in page.cells


def test_equal_comparisons_give_equal_pictures(comparison: Comparison):
    assert png_bytes(comparison_figure(comparison)) == png_bytes(comparison_figure(comparison))
    assert len(_Page(comparison_html(comparison)).sources) == 1
