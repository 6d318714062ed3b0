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


def _range(ci: list[float | None], spec: str) -> str:
    low, high = ci
    return "" if low is None or high is None else f"{low:{spec}}, {high:{spec}}"
