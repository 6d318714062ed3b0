"""Figures of concept dictionaries and of what PaCE finds and removes. Each panel is a function on an ``Axes``.

One colour means one thing in all of them: benign concepts are blue, undesirable ones orange, and hatched bars are
negative coefficients of undesirable concepts, whose removal adds the concept.
"""

import math
from collections.abc import Collection, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from contrans_lens.errors import PaceError
from contrans_lens.evaluation import Interval
from contrans_lens.pace.cautions import audit_rows
from contrans_lens.pace.decomposition import Decomposition
from contrans_lens.pace.partition import Partition
from contrans_lens.pace.paths import PathPoint, SparsityPath
from contrans_lens.pace.run import PaceRun
from contrans_lens.reports.figures import COLOURS
from contrans_lens.reports.tradeoff_panels import PALETTE

BENIGN, UNDESIRABLE = COLOURS["transplanted"], COLOURS["native"]
ADDED = "//"
"""Hatch of bars whose removal adds the concept."""

_PARAMETERS = {"elastic net": "α", "OMP": "k"}
_BELOW_CUT = 5  # benign concepts shown beside the undesirable ones of a partition
_MOST_NAMED = 30  # concepts of a partition shown by name
_COLUMNS = 3  # panels in a row
_LONGEST = 40  # characters of a text in a title


def decomposition_figure(
    decomposition: Decomposition, index: int = 0, k: int = 15, undesirable: Collection[str] = ()
) -> Figure:
    """The largest coefficients of one activation, and how much of it all its concepts explain.

    Args:
        decomposition: activations on concepts.
        index: which activation.
        k: at most so many concepts, the largest ``|c|`` first.
        undesirable: names that get the other colour.

    Raises:
        PaceError: there is no such activation, or ``k`` is less than 1.
    """
    n_rows = len(decomposition.norms)
    if not 0 <= index < n_rows:
        raise PaceError(f"there is no activation {index}; they are numbered from 0 to {n_rows - 1}.")
    _check_k(k)
    figure = Figure(figsize=(6.4, 1.5 + 0.27 * max(1, len(decomposition.row(index, k)))), layout="constrained")
    decomposition_panel(figure.subplots(), decomposition, index, k, undesirable)
    return figure


def sparsity_path_figure(path: SparsityPath) -> Figure:
    """Relative error against the number of concepts, a line a solver."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    sparsity_path_panel(figure.subplots(), path)
    return figure


def audit_figure(run: PaceRun, k: int = 15) -> Figure:
    """What was found and removed, a panel a hook point.

    Args:
        run: a run with an audit.
        k: at most so many concepts at each hook point; those that were removed come first.

    Raises:
        PaceError: ``k`` is less than 1.
    """
    _check_k(k)
    points = [each.hook_point for each in run.removals]
    columns = min(_COLUMNS, len(points))
    rows = math.ceil(len(points) / columns)
    tallest = max(len(audit_rows(run, point, k)) for point in points)
    figure = Figure(
        figsize=(max(5.2, 4.2 * columns), rows * (1.3 + 0.24 * max(2, tallest)) + 0.6), layout="constrained"
    )
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, point in zip(axes, points, strict=False):
        audit_panel(axis, run, point, k)
    for axis in axes[len(points) :]:
        axis.set_axis_off()
    figure.suptitle(f"{run.model['name']}: {run.partition.task}", fontsize=10, parse_math=False)
    figure.legend(handles=_legend(hatched=True), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def partition_figure(partition: Partition) -> Figure:
    """The scores of a partition: the undesirable concepts by name with those next to them, and all scores by rank."""
    shown = min(_MOST_NAMED, len(partition.undesirable) + _BELOW_CUT, len(partition.scores))
    figure = Figure(figsize=(9.6, max(3.2, 1.2 + 0.22 * shown)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    partition_panel(left, partition)
    rank_panel(right, partition)
    counts = f"{len(partition.undesirable)} of {len(partition.scores)} concepts"
    figure.suptitle(f"{partition.task}: {counts}", fontsize=10, parse_math=False)
    return figure


def decomposition_panel(
    axis: Axes, decomposition: Decomposition, index: int = 0, k: int = 15, undesirable: Collection[str] = ()
) -> None:
    """Draw the largest coefficients of one activation as bars."""
    rows = decomposition.row(index, k)
    if not rows:
        _nothing(axis, "no concept was found")
    for height, (name, value) in enumerate(reversed(rows)):
        _bar(axis, height, value, undesirable=name in undesirable)
    if rows:
        _names(axis, [name for name, _ in rows])
        axis.set_xlabel("coefficient, in units of the residual stream", fontsize=8)
    if undesirable and rows:
        hatched = any(value < 0 and name in undesirable for name, value in rows)
        axis.legend(handles=_legend(hatched=hatched), fontsize=8, frameon=False)
    n_found = int(decomposition.codes.counts()[index])
    of = f"{n_found} concepts" if n_found == len(rows) else f"{len(rows)} of {n_found} concepts"
    explained = f"all explain {float(decomposition.explained[index]):.0%} of the squared norm"
    text = f"\n{_short(decomposition.texts[index])}" if decomposition.texts else ""
    axis.set_title(f"{decomposition.hook_point}: {of}, {explained}{text}", fontsize=9, parse_math=False)


def sparsity_path_panel(axis: Axes, path: SparsityPath) -> None:
    """Draw relative error against the number of concepts with intervals of both, the solver's number at each point."""
    solvers = list(dict.fromkeys(point.solver for point in path.points))
    for place, (colour, solver) in enumerate(zip(PALETTE, solvers, strict=False)):
        points = sorted((p for p in path.points if p.solver == solver), key=lambda p: p.count.value)
        axis.errorbar(
            [p.count.value for p in points],
            [p.error.value for p in points],
            xerr=_reach([p.count for p in points]),
            yerr=_reach([p.error for p in points]),
            color=colour,
            marker="o",
            ms=4,
            lw=1.6,
            elinewidth=1,
            label=solver,
        )
        for point in points:
            axis.annotate(
                _parameter(point),
                (point.count.value, point.error.value),
                xytext=(4, -10 if place % 2 else 5),  # the lines of two solvers often run beside each other
                textcoords="offset points",
                fontsize=7,
                color=colour,
            )
    # A penalty can be so large that hardly a concept is left, which has no place on a logarithmic axis.
    if min(point.count.low for point in path.points) < 1:
        axis.set_xscale("symlog", linthresh=1)
    else:
        axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.margins(x=0.12)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("concepts with a coefficient, mean over activations")
    axis.set_ylabel("relative error ||z − D c|| / ||z||")
    axis.set_title(f"{path.hook_point}: {path.n_rows} activations", fontsize=10)
    axis.legend(fontsize=8, frameon=False)


def audit_panel(axis: Axes, run: PaceRun, hook_point: str, k: int = 15) -> None:
    """Draw the mean coefficients found at one hook point, with the number of tokens; removed ones in their colour.

    Where a concept has either sign at different tokens, the bar reaches to both sides: its two parts add up to the
    mean, so that a negative part is seen even where the mean is positive.
    """
    rows = audit_rows(run, hook_point, k)
    axis.set_title(hook_point, fontsize=9)
    if not rows:
        _nothing(axis, "no concept was found")
        return
    for height, row in enumerate(reversed(rows)):
        for part in (row.positive, row.negative):
            if part:
                _bar(axis, height, part, undesirable=row.removed)
    _names(axis, [f"{row.concept} ({row.tokens})" for row in rows])
    axis.set_xlabel("mean coefficient (tokens where it was found)", fontsize=8)


def partition_panel(axis: Axes, partition: Partition) -> None:
    """Draw the scores of the undesirable concepts and of those next to the cut as bars."""
    shown = _around_cut(partition)
    for height, (_, score, undesirable) in enumerate(reversed(shown)):
        colour = UNDESIRABLE if undesirable else BENIGN
        axis.barh(height, score, height=0.7, color=colour, edgecolor=colour)
    _names(axis, [name for name, _, _ in shown])
    cut = sum(not undesirable for _, _, undesirable in shown) - 0.5
    axis.axhline(cut, color="black", lw=0.8, ls=":")
    axis.set_xlabel("score", fontsize=8)
    axis.set_title("Above the line: undesirable", fontsize=9)


def rank_panel(axis: Axes, partition: Partition) -> None:
    """Draw all scores by rank; a cut in a steep place is a clear one."""
    scores = partition.to_frame().sort_values("score", ascending=False, kind="stable", ignore_index=True)
    for marked, colour, label in ((False, BENIGN, "benign"), (True, UNDESIRABLE, "undesirable")):
        part = scores[scores["undesirable"] == marked]
        axis.plot(list(part.index + 1), list(part["score"]), ".", color=colour, ms=5, label=label)
    axis.axhline(0, color="black", lw=0.6)
    axis.set_ylim(-1.05, 1.05)
    axis.set_xlabel("rank", fontsize=8)
    axis.set_ylabel("score", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.set_title("All concepts", fontsize=9)
    axis.legend(fontsize=8, frameon=False)


def _around_cut(partition: Partition) -> list[tuple[str, float, bool]]:
    """Concept, score, whether undesirable: as many undesirable ones as there is room for, and some below them."""
    frame = partition.to_frame()
    n_undesirable = len(partition.undesirable)
    begin = max(0, n_undesirable + _BELOW_CUT - _MOST_NAMED)
    part = frame.iloc[begin : n_undesirable + _BELOW_CUT]
    return list(zip(part["concept"], part["score"], part["undesirable"], strict=True))


def _bar(axis: Axes, height: int, value: float, *, undesirable: bool) -> None:
    added = undesirable and value < 0
    axis.barh(
        height,
        value,
        height=0.7,
        color="white" if added else UNDESIRABLE if undesirable else BENIGN,
        edgecolor=UNDESIRABLE if undesirable else BENIGN,
        hatch=ADDED if added else None,
    )


def _names(axis: Axes, names: Sequence[str]) -> None:
    """Names from the top downwards, and a line at zero."""
    # A name is a text from anywhere: a dollar sign in it begins no formula.
    axis.set_yticks(range(len(names)), list(reversed(names)), fontsize=8, parse_math=False)
    axis.set_ylim(-0.7, len(names) - 0.3)
    axis.axvline(0, color="black", lw=0.6)
    axis.tick_params(axis="x", labelsize=8)
    axis.locator_params(axis="x", nbins=6)


def _legend(*, hatched: bool) -> list[Patch]:
    patches = [Patch(color=BENIGN, label="benign"), Patch(color=UNDESIRABLE, label="undesirable")]
    if hatched:
        added = "negative: removal adds it"
        patches.append(Patch(facecolor="white", edgecolor=UNDESIRABLE, hatch=ADDED, label=added))
    return patches


def _nothing(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])


def _parameter(point: PathPoint) -> str:
    return f"{_PARAMETERS.get(point.solver, point.solver)} = {point.parameter:g}"


def _reach(intervals: Sequence[Interval]) -> list[list[float]]:
    """Lengths of the bars below and above each value."""
    below = [max(0.0, each.value - each.low) for each in intervals]
    return [below, [max(0.0, each.high - each.value) for each in intervals]]


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else f"... {flat[-_LONGEST:]}"


def _check_k(k: int) -> None:
    if k < 1:
        raise PaceError(f"at least one concept must be shown; k={k} was given.")
