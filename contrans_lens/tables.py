"""Tables of results for a terminal of 80 columns."""

from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_MOST_NAMES = 6  # concepts named in a line
_MOST_TOPICS, _MOST_DROPPED = 40, 12  # lines of a dictionary's tables
_MOST_REMOVED = 8  # concepts listed of each hook point


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


def dictionary_tables(summary: dict[str, Any]) -> Group:
    """What a concept dictionary is, its concepts by topic, the weakest ones and the duplicates. They fit 80 columns."""
    model = summary["model"]
    points = summary["hook_points"]
    where = points[0] if len(points) == 1 else f"{len(points)}: {points[0]} to {points[-1]}"
    facts = {
        "atoms": f"{summary['n_atoms']:,} of width {summary['d_model']}",
        "hook points": where,
        "model": "not recorded" if model is None else model["name"],
        "template": repr(summary["template"]) if summary["template"] else "none",
        "quality": ", ".join(f"{value:.3f}" for value in summary["quality"] or []) or "not measured",
        "duplicates dropped": str(len(summary["dropped"])),
    }
    about = Table("", "", show_header=False, box=box.SIMPLE_HEAD)
    for name, value in facts.items():
        about.add_row(name, escape(value))
    topics = Table("topic", "concepts", "quality", "", box=box.SIMPLE_HEAD)
    for row in summary["topics"][:_MOST_TOPICS]:
        names = row["concepts"]
        topics.add_row(
            escape(row["topic"] or "(none)"), str(len(names)), _number(row["quality"], ".3f"), _listed(names)
        )
    if len(summary["topics"]) > _MOST_TOPICS:
        topics.add_row(f"... and {len(summary['topics']) - _MOST_TOPICS} more", "", "", "")
    tables = [about, topics]
    if summary["weakest"]:
        weak = Table("weakest concept", "quality", box=box.SIMPLE_HEAD)
        for row in summary["weakest"]:
            weak.add_row(escape(row["name"]), _number(row["quality"], ".3f"))
        tables.append(weak)
    if summary["dropped"]:
        dropped = Table("dropped", "as a duplicate of", "cosine", "at", box=box.SIMPLE_HEAD)
        for row in summary["dropped"][:_MOST_DROPPED]:
            cosine = "equal names" if row["cosine"] is None else f"{row['cosine']:+.4f}"
            dropped.add_row(escape(row["name"]), escape(row["of"]), cosine, row["hook_point"])
        if len(summary["dropped"]) > _MOST_DROPPED:
            dropped.add_row(f"... and {len(summary['dropped']) - _MOST_DROPPED} more", "", "", "")
        tables.append(dropped)
    return Group(*tables)


def neighbours_table(found: dict[str, Any]) -> Table:
    """The concepts nearest to each that was asked for, with cosines."""
    table = Table("concept", "at", "nearest", box=box.SIMPLE_HEAD)
    for row in found["neighbours"]:
        near = ", ".join(f"{each['concept']} {each['cosine']:+.2f}" for each in row["concepts"])
        table.add_row(escape(row["query"]), row["hook_point"], escape(near))
    return table


def decompositions_table(found: dict[str, Any]) -> Table:
    """What the last token of each text is made of, with coefficients in units of the residual stream."""
    table = Table("text", "at", "explained", "concepts", box=box.SIMPLE_HEAD)
    for row in found["texts"]:
        parts = ", ".join(f"{each['concept']} {each['coefficient']:+.3g}" for each in row["concepts"])
        left = row["n_concepts"] - len(row["concepts"])
        more = f", and {left} more" if left else ""
        table.add_row(escape(repr(row["text"])), row["hook_point"], f"{row['explained']:.0%}", escape(parts) + more)
    return table


def pace_tables(summary: dict[str, Any]) -> Group:
    """What was removed at each hook point, and the damage of it and of the controls. They fit 80 columns."""
    removed = Table("hook point", "removed", "mean c", "tokens", "negative", box=box.SIMPLE_HEAD)
    for point in summary["points"]:
        for name, mean, tokens, negative in point["concepts"][:_MOST_REMOVED]:
            removed.add_row(point["hook_point"], escape(name), f"{mean:+.3g}", str(tokens), str(negative or ""))
        if len(point["concepts"]) > _MOST_REMOVED:
            removed.add_row(point["hook_point"], f"... and {len(point['concepts']) - _MOST_REMOVED} more", "", "", "")
    if not removed.rows:
        removed.add_row("", "none of the undesirable concepts was found", "", "", "")
    tables = [removed]
    if summary["damages"]:
        damage = Table("damage of", "KL", "95 %", "other top token", "95 %", box=box.SIMPLE_HEAD)
        for row in summary["damages"]:
            kl, top = row["kl"], row["top_changed"]
            spans = _range([kl["low"], kl["high"]], ".2g"), _range([top["low"], top["high"]], ".1%")
            damage.add_row(escape(row["name"]), f"{kl['value']:.3g}", spans[0], f"{top['value']:.1%}", spans[1])
        tables.append(damage)
    return Group(*tables)


def rahf_tables(summary: dict[str, Any]) -> Group:
    """What each model of a run of RAHF prefers and costs, the alphas that were tried, and the compute of its steps.

    They fit 80 columns. An adapter that was scaled has its factor after its name.
    """
    from contrans_lens.rahf.verdict import ALPHA_RULE

    title = f"{summary['model']['name']}: {summary['settings']['method']} on {summary['preferences']['name']}"
    columns = ("model", "P(chosen)", "95 %", "change", "acc.", "margin", "KL", "ppl")
    scores = Table(*columns, title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in summary["rows"]:
        span, change, damage = row["probability"], row["change"], row["damage"] or {}
        scores.add_row(
            row["name"] if row["scale"] == 1 else f"{row['name']} (x{row['scale']:.2f})",
            f"{span['value']:.3f}",
            _range([span["low"], span["high"]], ".3f"),
            "" if change is None else f"{change['value']:+.3f}",
            f"{row['accuracy']['value']:.2f}",
            f"{row['margin']['value']:+.2f}",
            _number(damage.get("kl"), ".4f"),
            _number(damage.get("perplexity"), ".2f"),
        )
    tables: list[Table | Text] = [scores]
    if summary["trials"]:
        trials = Table("alpha", "P(chosen), validation", "95 %", "KL", "", box=box.SIMPLE_HEAD)
        for trial in summary["trials"]:
            span = trial["probability"]
            reach = _range([span["low"], span["high"]], ".3f")
            taken = "taken" if trial["chosen"] else ""
            trials.add_row(f"{trial['alpha']:g}", f"{span['value']:.3f}", reach, _number(trial["kl"], ".4f"), taken)
        tables += [trials, Text(ALPHA_RULE)]
    costs = Table("step", "seconds", "updates", "tokens", "block tokens", box=box.SIMPLE_HEAD)
    for name, cost in {**summary["costs"], "together": summary["total_cost"]}.items():
        costs.add_row(
            name,
            f"{cost['seconds']:.1f}",
            f"{cost['n_steps']:,}",
            f"{cost['n_tokens']:,}",
            f"{cost['block_tokens']:,}",
        )
    return Group(*tables, costs)


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return escape(", ".join(names[:_MOST_NAMES])) + more


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else f"{value:{spec}}"


def _range(ci: list[float | None], spec: str) -> str:
    low, high = ci
    return "" if low is None or high is None else f"{low:{spec}}, {high:{spec}}"
