"""The tables of the README, from ``result.json``: what stands there was measured, and nothing is copied by hand."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from removal_choice import BUDGETS

Numbers = Mapping[str, Any]
LABELS = tuple(f"{budget:g}" for budget in BUDGETS)
MIDDLE = LABELS[1]
METHODS = ("paper", "elastic net", "OMP", "projection", "addition", "mean difference")
FAR = 0.5
"""Share of a method's effect from which a control draw counts as large."""


def tables(result: Numbers) -> dict[str, str]:
    """Every table by name."""
    setups = {name: each for name, each in result["setups"].items() if "check" in each}
    by_setup: dict[str, Callable[[Numbers], str]] = {
        "values": _values,
        "differences": _differences,
        "controls": _controls,
        "else": _elsewhere,
        "chosen": _chosen,
        "scorer": _scorer,
        "tokens": _tokens,
        "check": _check,
    }
    made = {name: make(setups) for name, make in by_setup.items()}
    quality, explained = result["quality"], result["explained"]
    made |= {"planted": _planted(quality), "topics": _topics(quality), "paths": _paths(quality)}
    return made | {"signs": _signs(quality), "left": _left(explained), "flags": _flags(explained)}


def number(value: float, digits: int = 2) -> str:
    """Short: no zero before the point."""
    text = f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"
    return text.replace("-", "−")


def interval(values: Sequence[float], digits: int = 2) -> str:
    """Value with its interval, signed."""
    value, low, high = (number(each, digits) for each in values)
    sign = "" if values[0] < 0 else "+"
    return f"{sign}{value} [{low}, {high}]"


def small(value: float) -> str:
    """A KL: two significant digits."""
    if value < 5e-6:
        return "0"
    return number(float(f"{value:.2g}"), 5).rstrip("0").rstrip(".")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _p(found: Numbers, behaviour: str = "unwanted") -> float:
    column = found[behaviour]
    value: float = column["probability" if "probability" in column else "p_restricted"]["value"][0]
    return value


def _values(setups: Numbers) -> str:
    rows = []
    for name, setup in setups.items():
        by_label = setup["methods"]
        plain = _p(by_label["strength 1"]["methods"]["unsteered"])
        for method in METHODS:
            one = by_label["strength 1"]["methods"][method]
            cells = [f"{number(_p(one))} at {small(one['kl'])}"]
            for label in LABELS:
                found = by_label[label]["methods"][method]
                cells.append(_solved(found))
            cells.append(_solved(setup["cued"]["methods"][method]))
            title = f"**{name}**, unsteered {number(plain, 3)}" if method == METHODS[0] else ""
            rows.append([title, method, *cells])
    head = ["setup", "method", "strength 1: P, KL", *(f"KL {label}" for label in LABELS), f"cued KL {MIDDLE}"]
    return table(head, rows)


def _solved(found: Numbers) -> str:
    """P at a solved strength, with the damage where the budget was not reached."""
    short = "" if found["reached"] else f", only {small(found['kl'])}"
    return f"{number(_p(found))} (× {found['strength']:.2g}{short})"


def _differences(setups: Numbers) -> str:
    rows = []
    for name, setup in setups.items():
        for first in ("elastic net", "OMP"):
            for second in ("projection", "mean difference"):
                pair = f"{first} - {second}"
                cells = [interval(setup["methods"][label]["differences"][pair]["probability"]) for label in LABELS]
                cells.append(interval(setup["cued"]["differences"][pair]["probability"]))
                odds = setup["methods"][MIDDLE]["differences"][pair]["log_odds"]
                rows.append([name, pair.replace(" - ", " − "), *cells, interval(odds, 1)])
    head = ["setup", "difference of P", *(f"KL {label}" for label in LABELS), f"cued KL {MIDDLE}", f"nats at {MIDDLE}"]
    return table(head, rows)


def _controls(setups: Numbers) -> str:
    rows = []
    for name, setup in setups.items():
        cells = []
        for family in ("shuffled partition", "random vector"):
            found = setup["controls"][family]
            large = sum(abs(draw) > FAR * abs(found["method_effect"][0]) for draw in found["draws"])
            cells.append(
                f"{number(found['method_effect'][0])} / {number(found['effect'][0])}, "
                f"{number(max(found['draws'], key=abs))}, {large} ({found['p_value']:.3f})"
            )
        hit = setup["partitions"]["topic_atoms_in_draws"]
        draws = setup["controls"]["shuffled partition"]["draws"]
        clean = [draw for draw, n_own in zip(draws, hit, strict=True) if n_own == 0]
        cells.insert(1, f"{len(clean)}: {number(max(clean, key=abs))}" if clean else "0")
        words = setup["words"]
        rows.append([name, *cells, f"{interval(words['effect']['probability'])} at {small(words['kl'])}"])
    head = [
        "setup",
        "elastic net / shuffled partitions",
        "draws without a topic atom: largest",
        "mean difference / random vectors",
        "good cue after the bad",
    ]
    return table(head, rows)


def _elsewhere(setups: Numbers) -> str:
    rows = []
    for name, setup in setups.items():
        methods = setup["methods"][MIDDLE]["methods"]
        for method in METHODS:
            found = methods[method]
            things = [key for key in found if isinstance(found[key], Mapping) and key not in ("unwanted", "cued text")]
            leaks = [thing for thing in things if thing.startswith("leak")]
            cells = []
            for thing in ("wanted", "no cue", *leaks, "capability", "knowledge"):
                column = found[thing]["probability" if "probability" in found[thing] else "p_restricted"]
                text = number(column["effect"][0])
                cells.append(text if text.startswith("−") else f"+{text}")
            cells[2] = f"{leaks[0].removeprefix('leak into ')} {cells[2]}"
            cells[3] = f"{leaks[1].removeprefix('leak into ')} {cells[3]}"
            rows.append(
                [name if method == METHODS[0] else "", method, *cells, small(found["cued text"]["kl"]["value"][0])]
            )
    head = ["setup", "method", "good cue", "no cue", "leak", "leak", "capability", "knowledge", "KL on cued text"]
    return table(head, rows)


def _chosen(setups: Numbers) -> str:
    rows = []
    for name, setup in setups.items():
        chosen = setup["chosen"]["chosen"]
        cells = []
        for method in METHODS[1:]:
            solver = chosen[method]["solver"] or {}
            extra = "".join(f", {key.replace('alpha', 'α')} {solver[key]:g}" for key in ("alpha", "k") if key in solver)
            blocks = chosen[method]["blocks"]
            span = str(blocks[0]) if len(blocks) == 1 else f"{blocks[0]}–{blocks[-1]}"
            cells.append(f"{span}{extra} ({number(chosen[method]['probability'])})")
        rows.append([name, *cells])
    return table(["setup", *METHODS[1:]], rows)


def _scorer(setups: Numbers) -> str:
    rows = []
    for name, setup in setups.items():
        found, methods = setup["partitions"], setup["methods"][MIDDLE]["methods"]
        both = f"{found['n_both']} of {found['n_topic']}, {found['n_scored'] - found['n_both']} others"
        same = found["n_both"] == found["n_scored"] == found["n_topic"]
        values = [
            number(_p(methods[method])) + (", the same" if same else f" / {number(_p(methods[f'{method}, scorer']))}")
            for method in ("elastic net", "projection")
        ]
        rows.append([name, ", ".join(found["examples"]), both, *values])
    head = ["setup", "two words", "topic's atoms found", "elastic net: topic / scorer", "projection: topic / scorer"]
    return table(head, rows)


def _tokens(setups: Numbers) -> str:
    rows = []
    for name, setup in setups.items():
        cells = []
        for method in METHODS[1:]:
            one, same = (setup["tokens"][label]["methods"].get(method) for label in ("strength 1", MIDDLE))
            cells.append(f"{number(_p(one))} at {small(one['kl'])}; {number(_p(same)) if same else 'not solved'}")
        rows.append([name, *cells])
    return table(["setup", *METHODS[1:]], rows)


def _check(setups: Numbers) -> str:
    rows = []
    for name, setup in setups.items():
        found = setup["check"][MIDDLE]
        cells = [f"{small(found[m][0])} [{small(max(found[m][1], 0))}, {small(found[m][2])}]" for m in METHODS]
        rows.append([name, *cells])
    return table(["setup", *METHODS], rows)


def _planted(quality: Numbers) -> str:
    rows = []
    for target, found in quality.items():
        for name, each in found["planted"].items():
            for solver in dict.fromkeys(row["solver"] for row in each):
                own = [row for row in each if row["solver"] == solver]
                cells = []
                for row in own:
                    support = f"{number(row['recall'])} / {number(row['precision'])}, " if "recall" in row else ""
                    cells.append(f"{support}{number(row['removal_error'])}")
                rows.append([target.removesuffix("-target"), name, solver, *cells, number(own[-1]["spurious"])])
    counts = [row["planted"] for row in next(iter(quality.values()))["planted"]["concepts"]]
    head = ["target", "dictionary", "solver", *(f"{n} planted" for n in dict.fromkeys(counts)), "spurious"]
    return table(head, rows)


def _topics(quality: Numbers) -> str:
    rows = []
    for target, found in quality.items():
        for model, each in found["topics"].items():
            for pairs in ("all", "one form"):
                for measure in ("|cos|", "centred cosine"):
                    own = [row for row in each if row["pairs"] == pairs and row["measure"] == measure]
                    cells = [f"{number(row['auc'])}" for row in own]
                    highest = number(max(row["null_highest"] for row in own))
                    mean = number(sum(row["null_mean"] for row in own) / len(own))
                    worst = max(row["p_value"] for row in own)
                    title = f"{target.removesuffix('-target')}, {model}"
                    rows.append([title, pairs, measure.replace("|", "\\|"), *cells, mean, highest, f"{worst:.3f}"])
    head = [
        "model",
        "pairs",
        "measure",
        *(f"block {i}" for i in range(len(own))),
        "null mean",
        "null most",
        "largest p",
    ]
    return table(head, rows)


def _paths(quality: Numbers) -> str:
    rows = []
    for target, found in quality.items():
        for name, each in found["paths"].items():
            omp = {row["count"]: row["error"] for row in each if row["solver"] == "OMP"}
            net = next(row for row in each if row["solver"] == "elastic net" and row["parameter"] == 0.05)
            cells = [number(omp[count][0]) for count in (1, 4, 8, 16, 32)]
            alike = found["coherence"][name]
            nearest = f"{number(alike['nearest'])}, {number(alike['mean'])}"
            rows.append(
                [
                    target.removesuffix("-target"),
                    name,
                    *cells,
                    f"{net['count']:.0f}: {number(net['error'][0])}",
                    nearest,
                ]
            )
    head = [
        "target",
        "dictionary",
        *(f"OMP {k}" for k in (1, 4, 8, 16, 32)),
        "elastic net .05",
        "\\|cos\\|: nearest, mean",
    ]
    return table(head, rows)


def _signs(quality: Numbers) -> str:
    rows = []
    for target, found in quality.items():
        for name, each in found["signs"].items():
            cells = []
            for blocks in each["by_block"].values():
                sums, masses = ([row[key] for row in blocks[:5]] for key in ("sum", "negative_mass"))
                cells.append(f"{number(sum(sums) / 5)}, {number(sum(masses) / 5)}")
            opposite = [row["opposite"] for row in each["by_block"]["elastic net 0.05"][:5]]
            rows.append([f"{target} {name}", *cells, number(sum(opposite) / 5)])
    solvers = list(next(iter(next(iter(quality.values()))["signs"].values()))["by_block"])
    return table(["setup", *solvers, "opposite topic, elastic net 0.05"], rows)


def _left(explained: Numbers) -> str:
    rows = []
    for target, found in explained.items():
        for name, each in found.items():
            for method in ("elastic net 0.05", "projection", "whole difference"):
                own = [r for r in each["left"] if r["method"] == method and r["mode"] == "per_prompt"]
                cells = [f"{number(r['value'])} ({number(r['left_here'])}, {number(r['left_at_end'])})" for r in own]
                rows.append([f"{target} {name}", method, *cells, *[""] * (6 - len(cells))])
    return table(["setup", "edit", *(f"block {i}" for i in range(5)), "blocks 0–4"], rows)


def _flags(explained: Numbers) -> str:
    rows = []
    for target, found in explained.items():
        for name, each in found.items():
            for flagged in ("own", "own and opposite"):
                cells = []
                for blocks in ([2], [0, 1, 2, 3, 4]):
                    own = [r for r in each["flags"] if r["flagged"] == flagged and r["blocks"] == blocks]
                    cells += [f"{number(r['value'])} at {small(r['kl'])}" for r in own]
                rows.append([f"{target} {name}", flagged, *cells])
    head = ["setup", "flagged", *(f"{where}, × {s}" for where in ("block 2", "blocks 0–4") for s in (1, 2, 4))]
    return table(head, rows)
