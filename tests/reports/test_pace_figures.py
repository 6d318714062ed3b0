import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from contrans_lens.errors import PaceError
from contrans_lens.evaluation import Interval
from contrans_lens.pace.partition import ConceptScore, Partition
from contrans_lens.pace.paths import PathPoint, SparsityPath
from contrans_lens.reports import audit_figure, decomposition_figure, partition_figure, sparsity_path_figure
from contrans_lens.reports.html import png_bytes
from contrans_lens.reports.pace_figures import BENIGN, UNDESIRABLE
from tests.reports.pace_runs import FINDINGS, POINTS, decomposition, finding, partition, run


def bars(axis: Axes) -> dict[str, tuple[float, str, bool]]:
    """Length, colour of the edge and whether hatched, of each bar by its label, from the top downwards."""
    labels = [label.get_text() for label in axis.get_yticklabels()]
    shown = zip(labels, axis.patches, strict=True)
    return {
        name: (patch.get_width(), to_hex(patch.get_edgecolor()), bool(patch.get_hatch()))
        for name, patch in reversed(list(shown))
    }


def parts(axis: Axes) -> dict[str, list[tuple[float, str, bool]]]:
    """The same for bars that may have two parts."""
    labels = [label.get_text() for label in axis.get_yticklabels()]
    found: dict[str, list[tuple[float, str, bool]]] = {name: [] for name in reversed(labels)}
    for patch in axis.patches:
        name = labels[round(patch.get_y() + patch.get_height() / 2)]
        found[name].append((pytest.approx(patch.get_width()), to_hex(patch.get_edgecolor()), bool(patch.get_hatch())))
    return found


def near(length: float) -> object:
    return pytest.approx(length)


def test_bars_of_a_decomposition_are_its_largest_coefficients():
    [axis] = decomposition_figure(decomposition(("Some text $x",) * 3), 0, k=3).axes
    assert bars(axis) == {
        "kind": (4.0, to_hex(BENIGN), False),
        "rude": (3.0, to_hex(BENIGN), False),
        "<b>harsh</b>": (-1.0, to_hex(BENIGN), False),
    }
    title = axis.get_title()
    assert "3 of 4 concepts" in title
    assert "75%" in title  # 1 - (5 / 10)^2
    assert "Some text $x" in title
    assert axis.get_legend() is None


def test_undesirable_bars_are_coloured_and_negative_ones_hatched():
    [axis] = decomposition_figure(decomposition(), 0, undesirable={"rude", "<b>harsh</b>"}).axes
    shown = bars(axis)
    assert list(shown) == ["kind", "rude", "<b>harsh</b>", "hat"]
    assert [shown[name][1:] for name in shown] == [
        (to_hex(BENIGN), False),
        (to_hex(UNDESIRABLE), False),
        (to_hex(UNDESIRABLE), True),
        (to_hex(BENIGN), False),  # negative, but nobody removes it
    ]
    assert "negative: removal adds it" in [text.get_text() for text in axis.get_legend().get_texts()]
    [axis] = decomposition_figure(decomposition(), 0, undesirable={"rude"}).axes
    assert len(axis.get_legend().get_texts()) == 2


def test_a_decomposition_without_concepts_says_so_and_missing_rows_are_refused():
    [axis] = decomposition_figure(decomposition(), 2).axes
    assert [text.get_text() for text in axis.texts] == ["no concept was found"]
    for index, k in ((3, 5), (-1, 5), (0, 0)):
        with pytest.raises(PaceError):
            decomposition_figure(decomposition(), index, k)


def test_names_with_signs_of_formulas_are_drawn():
    assert png_bytes(decomposition_figure(decomposition(("a $ and \\frac{ $",) * 3), 1, undesirable={"$5 bill"}))
    assert png_bytes(audit_figure(run([finding(POINTS[0], (("$\\bad$", 1.0),))])))


def test_the_audit_shows_what_was_found_and_removed_at_each_hook_point():
    first, second = audit_figure(run()).axes
    assert first.get_title() == POINTS[0]
    assert bars(first) == {
        "kind (2)": (near(3.0), to_hex(BENIGN), False),
        "rude (2)": (near(2.0), to_hex(UNDESIRABLE), False),
        "<b>harsh</b> (1)": (near(-1.0), to_hex(UNDESIRABLE), True),
        "hat (1)": (near(-0.5), to_hex(BENIGN), False),
    }
    assert list(bars(second)) == ["hat (1)"]


def test_a_concept_with_either_sign_has_a_bar_to_both_sides_that_add_up_to_its_mean():
    mixed = [finding(POINTS[0], (("rude", value), ("kind", value))) for value in (4.0, -1.0, 3.0)]
    shown = parts(audit_figure(run(mixed)).axes[0])
    assert shown == {
        "rude (3)": [(7 / 3, to_hex(UNDESIRABLE), False), (-1 / 3, to_hex(UNDESIRABLE), True)],
        "kind (3)": [(7 / 3, to_hex(BENIGN), False), (-1 / 3, to_hex(BENIGN), False)],
    }


def test_removed_concepts_are_not_crowded_out_of_the_audit():
    assert list(bars(audit_figure(run(), 2).axes[0])) == ["rude (2)", "<b>harsh</b> (1)"]
    assert list(bars(audit_figure(run(), 3).axes[0])) == ["kind (2)", "rude (2)", "<b>harsh</b> (1)"]
    with pytest.raises(PaceError):
        audit_figure(run(), 0)


@pytest.mark.parametrize("findings", [None, (), FINDINGS[:2]])
def test_hook_points_where_nothing_was_found_say_so(findings):
    axes = audit_figure(run(findings)).axes
    assert [text.get_text() for text in axes[1].texts] == ["no concept was found"]
    assert len(axes[0].texts) == (0 if findings else 1)


def test_the_audit_legend_explains_the_hatching():
    [legend] = audit_figure(run()).legends
    assert [text.get_text() for text in legend.get_texts()] == ["benign", "undesirable", "negative: removal adds it"]


def test_the_partition_shows_the_undesirable_above_the_cut():
    left, right = partition_figure(partition()).axes
    shown = bars(left)
    assert list(shown) == ["rude", "<b>harsh</b>", "cup", "$5 bill", "hat", "kind"]
    assert [value[0] for value in shown.values()] == [near(each) for each in (1.0, 0.9, 0.2, 0.1, 0.0, -0.8)]
    assert [value[1] == to_hex(UNDESIRABLE) for value in shown.values()] == [True, True, False, False, False, False]
    [cut] = [line for line in left.lines if line.get_linestyle() == ":"]
    assert cut.get_ydata()[0] == 3.5  # four benign concepts lie below it
    drawn = {line.get_label(): line for line in right.lines}
    assert list(drawn["undesirable"].get_xdata()) == [1, 2]
    assert list(drawn["benign"].get_ydata()) == [0.2, 0.1, 0.0, -0.8]


def test_a_large_partition_is_named_around_its_cut():
    scores = tuple(ConceptScore(f"c{place:04d}", 1 - place / 1000) for place in range(2000))
    many = Partition("task", scores, tuple(each.name for each in scores[:200]), "the 200 highest", "x")
    left, right = partition_figure(many).axes
    assert list(bars(left)) == [f"c{place:04d}" for place in range(175, 205)]
    assert sum(len(line.get_xdata()) for line in right.lines if line.get_label() in ("benign", "undesirable")) == 2000


def path_point(solver: str, parameter: float, count: float, error: float) -> PathPoint:
    counted = Interval(count, 0.5 * count, 1.5 * count, 0.95, 9, 9)
    return PathPoint(solver, parameter, counted, Interval(error, error - 0.1, error + 0.2, 0.95, 9, 9))


@pytest.mark.parametrize(("least", "scale"), [(0.0, "symlog"), (2.0, "log")])
def test_the_sparsity_path_has_a_line_for_each_solver_with_its_numbers(least, scale):
    points = (
        path_point("elastic net", 0.3, least, 0.9),
        path_point("elastic net", 0.05, 8.0, 0.4),
        path_point("OMP", 4.0, 4.0, 0.5),
    )
    [axis] = sparsity_path_figure(SparsityPath(POINTS[0], 9, points)).axes
    drawn = {container.get_label(): container for container in axis.containers}
    line, _, reaches = drawn["elastic net"].lines
    assert list(line.get_xdata()) == [least, 8.0]
    assert list(line.get_ydata()) == [0.9, 0.4]
    sides, heights = (reach.get_segments() for reach in reaches)
    assert [segment[:, 0].tolist() for segment in sides] == [[0.5 * least, 1.5 * least], [4.0, 12.0]]
    assert [segment[:, 1].tolist() for segment in heights] == [near([0.8, 1.1]), near([0.3, 0.6])]
    assert list(drawn["OMP"].lines[0].get_xdata()) == [4.0]
    assert [text.get_text() for text in axis.texts] == ["α = 0.3", "α = 0.05", "k = 4"]
    assert axis.get_xscale() == scale
