"""Tables of results for a terminal of 80 columns."""

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table


def runs_tables(runs: list[dict[str, Any]]) -> Group:
    """A table for each pair of models, one line a concept."""
    tables: dict[str, Table] = {}
    for run in runs:
        pair = f"{run['source']['name']} -> {run['target']['name']}"
        if pair not in tables:
            columns = ("concept", "effect", "95 %", "native", "recovered", "95 %", "verdict")
            tables[pair] = Table(*columns, title=pair, title_justify="left", box=box.SIMPLE_HEAD)
        rows = {row["name"]: row for row in run["rows"]}
        moved, native, share = rows["transplanted"], rows["native"], run["recovered_share"]
        tables[pair].add_row(
            run["concept"],
            f"{moved['effect']:+.2f}",
            _range(moved["effect_ci"], ".2f"),
            f"{native['effect']:+.2f}",
            "-" if share["value"] is None else f"{share['value']:.0%}",
            _range(share["ci"], ".0%"),
            run["verdict"],
        )
    return Group(*tables.values())


def layers_table(summary: dict[str, Any]) -> Table:
    """The scored pairs of a layer selection, on test items."""
    title = f"{summary['concept']}: {summary['source']['name']} -> {summary['target']['name']}"
    table = Table("", "read at", "written at", "effect", "95 %", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    name = "chosen" if summary["works"] else "best (does not work)"
    for label, key in ((name, "test"), ("three quarters", "test_three_quarters"), ("target's own", "test_native")):
        cell = summary[key]
        if cell is not None:
            span = _range(cell["effect_ci"], ".2f")
            table.add_row(label, cell["source"], cell["target"], f"{cell['effect']:+.3f}", span)
    return table


def rows_table(run: dict[str, Any]) -> Table:
    """One line a row of a single run (the headline of a demo). Fits 80 columns."""
    title = f"{run['concept']}: {run['source']['name']} -> {run['target']['name']}"
    columns = ("row", "score", "effect", "95 %", "KL", "ppl", "norm", "n", "p")
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in run["rows"]:
        optional = [(row["kl"], ".3f"), (row["perplexity"], ".2f"), (row["strength"], ".2f")]
        table.add_row(
            row["name"],
            f"{row['score']:.3f}",
            f"{row['effect']:+.3f}",
            _range(row["effect_ci"], ".2f"),
            *("" if value is None else f"{value:{spec}}" for value, spec in optional),
            str(row["n"]),
            "" if row["p_value"] is None else f"{row['p_value']:.3f}",
        )
    return table


def tradeoff_table(summary: dict[str, Any]) -> Table:
    """One line a direction of a tradeoff: the laws' constants, the optimum and the controls. Fits 80 columns."""
    title = f"{summary['plan']['roles']['alignment']} on {summary['model']['name']}, and its cost"
    columns = ("direction", "slope at 0", "95 %", "cost k", "95 %", "r*", "p of slope")
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name, each in summary["directions"].items():
        cost, regime = each["helpfulness"], each["regime"]
        nothing = {"value": None, "low": None, "high": None}
        slope, k = each["alignment"]["slope0"], nothing if cost is None else cost["k"]
        optimum = nothing if regime is None else regime["optimum"]
        reached = [f"{family['p_slope'][name]:.3f}" for family in summary["families"].values()]
        table.add_row(
            name,
            _number(slope["value"], "+.3f"),
            _range([slope["low"], slope["high"]], ".2f"),
            _number(k["value"], "+.4f"),
            _range([k["low"], k["high"]], ".3f"),
            _number(optimum["value"], ".2f"),
            ", ".join(reached),
        )
    return table


def comparison_tables(summary: dict[str, Any]) -> Group:
    """A table for each behaviour of a comparison, one line a method, by its primary column. They fit 80 columns."""
    damage = {row["method"]: row["kl"] for row in summary["damages"]}
    columns = ("method", "effect", "95 %", "change", "95 %", "less ref.", "KL", "p")
    tables: dict[str, Table] = {}
    for row in summary["rows"]:
        if not row["is_primary"]:
            continue
        name = row["behaviour"]
        if name not in tables:
            # The first row of a behaviour is the unsteered model's, which is told by its value and not by effects.
            base = f"unsteered {row['plus']['value']:.3f}"
            title = f"{name} ({row['column']}), {base}, compared with {summary['reference']}"
            tables[name] = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        effect, change, apart = (row[name] for name in ("effect", "change", "difference"))
        tables[name].add_row(
            row["method"],
            f"{effect['value']:+.3f}",
            _range([effect["low"], effect["high"]], ".2f"),
            f"{change['value']:+.3f}",
            _range([change["low"], change["high"]], ".2f"),
            "" if apart is None else f"{apart['value']:+.3f}",
            f"{damage[row['method']]:.3f}",
            _number(row["p_value"], ".3f"),
        )
    return Group(*tables.values())


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else f"{value:{spec}}"


def _range(ci: list[float | None], spec: str) -> str:
    low, high = ci
    return "" if low is None or high is None else f"{low:{spec}}, {high:{spec}}"
