"""Figure of what a run of RAHF scored: what each model prefers, and what it costs on neutral text."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contrans_lens.rahf.result import RahfResult
from contrans_lens.reports.figures import COLOURS

_KINDS = {"aligned": COLOURS["transplanted"], "prompt": COLOURS["native"], "step 1": COLOURS["native"]}


def scores_figure(result: RahfResult) -> Figure:
    """P(chosen) of every row with its 95 % interval, and beside it the damage of each that was measured."""
    figure = Figure(figsize=(11, 1.6 + 0.34 * len(result.rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    preference_panel(left, result)
    cost_panel(right, result)
    return figure


def preference_panel(axis: Axes, result: RahfResult) -> None:
    """Draw P(chosen) of each row with its interval; the base's is a dotted line."""
    for height, row in enumerate(reversed(result.rows)):
        colour = _KINDS.get(row.kind, COLOURS["random"])
        axis.plot([row.probability.low, row.probability.high], [height, height], color=colour, lw=2)
        axis.plot(row.probability.value, height, "o", color=colour, ms=6)
    axis.axvline(result.row("base").probability.value, color="black", lw=0.8, ls=":")
    axis.set_yticks(range(len(result.rows)), [row.name for row in reversed(result.rows)], fontsize=8)
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel("P(chosen) on held-out pairs")
    name = result.preferences["name"].replace("$", r"\$")
    axis.set_title(f"{name}, with 95 % intervals", fontsize=10)


def cost_panel(axis: Axes, result: RahfResult) -> None:
    """Draw the KL of each row's model from the base on neutral text, with its interval where there is one."""
    for height, row in enumerate(reversed(result.rows)):
        if row.damage is None or row.kind == "base":
            continue
        colour = _KINDS.get(row.kind, COLOURS["random"])
        if row.damage["kl_ci"] is not None:
            axis.plot(row.damage["kl_ci"], [height, height], color=colour, lw=2)
        axis.plot(row.damage["kl"], height, "o", color=colour, ms=6)
    axis.set_xlim(left=0)
    axis.set_xlabel("KL(base || model) on neutral text, nats per token")
    axis.set_title("What it costs", fontsize=10)
