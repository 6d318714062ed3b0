"""The tables of the README, from ``result.json``: nothing is copied by hand."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from preference_numbers import CONTRANS, LABELS
from preference_setups import SOURCES
from preference_transfer import CONTROLS
from preference_units import TRAINED

Numbers = Mapping[str, Any]
MAIN = LABELS[-1]


def tables(setups: Numbers) -> dict[str, str]:
    """Every table by name."""
    by_name: dict[str, Callable[[Numbers], str]] = {
        "methods": _methods,
        "matched": _matched,
        "within": _within,
        "between": _between,
        "means": _means,
        "against": _against,
        "costs": _costs,
        "controls": _controls,
        "vectors": _vectors,
        "transfer": _transfer,
        "else": _elsewhere,
        "rates": _rates,
        "chosen": _chosen,
        "time": _time,
    }
    return {name: make(setups) for name, make in by_name.items()}


def number(value: float, digits: int = 2) -> str:
    """Short: no zero before the point."""
    text = f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"
    return text.replace("-", "−")


def small(value: float) -> str:
    """A damage in two significant digits."""
    if value < 5e-6:
        return "0"
    return number(value, 1) if value >= 1 else number(float(f"{value:.2g}"), 5).rstrip("0")


def interval(values: Sequence[float], digits: int = 2, *, signed: bool = False) -> str:
    """Value with its interval."""
    value, low, high = (number(each, digits) for each in values)
    sign = "+" if signed and values[0] >= 0 else ""
    return f"{sign}{value} [{low}, {high}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _point(row: Numbers, *, scale: bool = True) -> str:
    short = "" if row["reached"] == len(row["seeds"]["kl"]) else f", only {small(row['kl'])}"
    return f"{number(row['probability'][0], 3)}" + (f" (× {row['scale']:.2g}{short})" if scale else "")


def _methods(setups: Numbers) -> str:
    head = ["setup", "method", "P(chosen), full", "accuracy", "margin, nats", "KL, full", f"P within {LABELS[0]}"]
    head += [f"P within {MAIN}", f"P at exactly {MAIN}"]
    rows = []
    for name, each in setups.items():
        base = each["references"]["base"]
        rows.append([f"**{name}**", "base", interval(base["probability"]), number(base["accuracy"][0])])
        rows[-1] += [number(base["log_odds"][0], 1), "0", "", "", ""]
        words = each["references"]["words"]
        rows.append(["", "words (p+)", interval(words["probability"], 3), number(words["accuracy"][0])])
        rows[-1] += [number(words["log_odds"][0], 1), small(words["kl"]), "", "", ""]
        aligned = next(key for key in each["references"] if key.endswith("aligned"))
        found = each["references"][aligned]
        rows.append(["", aligned, interval(found["probability"], 3), number(found["accuracy"][0])])
        rows[-1] += [number(found["log_odds"][0], 1), small(found["kl"]), "", "", ""]
        for method in TRAINED:
            row = each["methods"][method]
            full = row["full"]
            rows.append(["", method, interval(full["probability"], 3), number(full["accuracy"][0])])
            rows[-1] += [number(full["log_odds"][0], 1), small(full["kl"])]
            rows[-1] += [_point(row[f"within {label}"]) for label in LABELS] + [_point(row[MAIN])]
        for kind in ("native mean difference", *(f"{CONTRANS} from {source}" for source in SOURCES)):
            row = each["vectors"][kind]
            star = " *" if kind.endswith(each["best_source"]) else ""
            rows.append(["", kind + star, "", "", "", ""])
            rows[-1] += [_point(row[label]) for label in LABELS] + [_point(row[MAIN])]
    return table(head, rows)


def _matched(setups: Numbers) -> str:
    rows = []
    for name, each in setups.items():
        for method in TRAINED:
            row = each["matched"][method]
            values = [small(row["kl"][0]), number(row["method"][0], 3), number(row["vector"][0], 3)]
            differences = [interval(row["probability"], signed=True), interval(row["log_odds"], 1, signed=True)]
            other = " / ".join(small(value) for value in row["kl_other"])
            rows.append([f"**{name}**" if method == TRAINED[0] else "", method, *values, *differences, other])
    head = ["setup", "method", "its KL", "P", f"P of {CONTRANS}", "difference of P", "of margins, nats"]
    return table([*head, "KL on the other topic's text: method / vector"], rows)


def _within(setups: Numbers) -> str:
    rows = []
    for name, each in setups.items():
        for method in TRAINED:
            cells = []
            for label in LABELS:
                row = each["within"][label][method]
                cells += [interval(row["probability"], signed=True), small(row["kl"][0])]
            rows.append([f"**{name}**" if method == TRAINED[0] else "", method, *cells])
    head = ["setup", f"method − {CONTRANS}"]
    for label in LABELS:
        head += [f"difference of P within {label}", "KL that the method uses"]
    return table(head, rows)


def _between(setups: Numbers) -> str:
    rows = []
    for label in LABELS:
        for pair in next(iter(setups.values()))["between"][label]:
            cells = []
            for each in setups.values():
                row = each["between"][label][pair]
                cells.append(interval(row["probability"], 3, signed=True))
            rows.append([label, pair.replace(" - ", " − "), *cells])
    return table(["within KL", "difference of P", *setups], rows)


def _means(setups: Numbers) -> str:
    rows = []
    for pair in next(iter(setups.values()))["means"]:
        cells = [interval(each["means"][pair][MAIN]["probability"], signed=True) for each in setups.values()]
        rows.append([pair.replace(" - ", " − "), *cells])
    return table([f"difference of P at KL {MAIN}", *setups], rows)


def _against(setups: Numbers) -> str:
    rows = []
    for source in SOURCES:
        for other, label in (("own v", "the target's own v, fitted"), ("vector", f"{CONTRANS}'s vector")):
            cells = []
            for each in setups.values():
                row = each["transfer_against"][source][MAIN][other]
                cells.append(interval(row["probability"], signed=True))
            rows.append([f"carried from {source} − {label}", *cells])
    return table([f"difference of P within KL {MAIN}", *setups], rows)


def _costs(setups: Numbers) -> str:
    names = list(next(iter(setups.values()))["costs"])
    rows = []
    for method in names:
        cells = []
        for each in setups.values():
            cost = each["costs"][method]
            cells.append(f"{cost['cpu_seconds']:.1f} s, {cost['block_tokens'] / 1e6:.2f}")
        rows.append([method, *cells])
    return table(["CPU seconds, million block-tokens", *setups], rows)


def _controls(setups: Numbers) -> str:
    names = list(next(iter(setups.values()))["controls"])
    rows = []
    for control in names:
        cells = []
        for each in setups.values():
            row = each["controls"][control]
            drawn = ", ".join(number(value) for value in row["full"]["seeds"]["probability"])
            up = ", ".join(number(value) for value in row[MAIN]["seeds"]["probability"])
            cells.append(f"{drawn} / {up}")
        rows.append([control, *cells])
    return table(["control, P by seed: full / scaled towards KL .05", *setups], rows)


def _vectors(setups: Numbers) -> str:
    rows = []
    for name, each in setups.items():
        for number_, (kind, row) in enumerate(each["vectors"].items()):
            ranked = each["random"]["ranked"][kind]
            draws = each["random"]["draws"][ranked["draws"]]
            place = row["place"]
            where = re.findall(r"\d+", place["source"])[0] + " → " + re.findall(r"\d+", place["target"])[0]
            cells = [interval(row[label]["probability"]) for label in LABELS]
            random = f"{number(min(draws))} – {number(max(draws))}, p = {number(ranked['p_value'], 3)}"
            cosine = number(sum(row["cosine"]) / len(row["cosine"]))
            rows.append([f"**{name}**" if number_ == 0 else "", kind, where, cosine, *cells, random])
    head = ["setup", "vector", "block", "cosine with native", *(f"P at KL {label}" for label in LABELS)]
    return table([*head, f"random draws at {MAIN}"], rows)


def _transfer(setups: Numbers) -> str:
    rows = []
    for name, each in setups.items():
        own = each["methods"]["RAHF-cues"]
        lines = [("own v (RAHF-cues)", own)]
        lines += [(f"carried from {source}", each["transfer"][f"{source} carried"]) for source in SOURCES]
        lines += [(f"{control}, {SOURCES[0]}", each["transfer"][f"{SOURCES[0]} {control}"]) for control in CONTROLS]
        for place, (label, row) in enumerate(lines):
            seeds = ", ".join(number(value) for value in row["full"]["seeds"]["probability"])
            error = number(sum(row["relative_error"]) / len(row["relative_error"]))
            cells = [interval(row["full"]["probability"]), seeds, small(row["full"]["kl"])]
            cells += [_point(row[f"within {MAIN}"]), _point(row[MAIN]), error]
            rows.append([f"**{name}**" if place == 0 else "", label, *cells])
        best = each["vectors"][f"{CONTRANS} from {each['best_source']}"][MAIN]
        rows.append(["", f"{CONTRANS} from {each['best_source']}", "", "", "", _point(best), _point(best), ""])
    head = ["setup", "v", "P, full", "by seed", "KL, full", f"P within {MAIN}", f"P at exactly {MAIN}"]
    return table([*head, "relative error of the fit"], rows)


def _elsewhere(setups: Numbers) -> str:
    rows = []
    for name, each in setups.items():
        words, base = each["references"]["words"], each["references"]["base"]
        lines: list[tuple[str, Numbers]] = [("base", base), ("words (p+)", words)]
        lines += [(key, row) for key, row in each["references"].items() if key.endswith("aligned")]
        lines += [(method, each["methods"][method][f"within {MAIN}"]) for method in TRAINED]
        kinds = ("native mean difference", *(f"{CONTRANS} from {source}" for source in SOURCES))
        lines += [(kind, each["vectors"][kind][MAIN]) for kind in kinds]
        own, other = name.split(" ")[1], "honesty" if name.endswith("kindness") else "kindness"
        for place, (label, row) in enumerate(lines):
            obeys = row["obedience"]
            cells = [
                small(row["kl"]),
                number(row["nll"], 3),
                small(row["kl_other"]) if "kl_other" in row else "",
                f"{small(row['kl_positive_cue'])} / {small(row['kl_negative_cue'])}" if "kl_other" in row else "",
                number(_first(row["other"])),
                f"{number(obeys[f'{own} positive'])} / {number(obeys[f'{own} negative'])}",
                f"{number(obeys[f'{other} positive'])} / {number(obeys[f'{other} negative'])}",
                number(_first(row["capability"])),
            ]
            rows.append([f"**{name}**" if place == 0 else "", label, *cells])
    head = ["setup", f"within KL {MAIN}", "KL", "NLL", "KL, other topic's text", "KL, neutral text after p+ / p−"]
    head += ["other topic's P(chosen)", "obeys own p+ / p−", "obeys the other's p+ / p−", "capability"]
    return table(head, rows)


def _rates(setups: Numbers) -> str:
    rows = []
    for name, each in setups.items():
        lines = [(label, each["references"][label]) for label in ("base", "words")]
        lines += [(method, each["methods"][method][f"within {MAIN}"]) for method in TRAINED]
        kinds = ("native mean difference", *(f"{CONTRANS} from {source}" for source in SOURCES))
        lines += [(kind, each["vectors"][kind][MAIN]) for kind in kinds]
        for place, (label, row) in enumerate(lines):
            shares = ", ".join(f"{key} {number(_first(value))}" for key, value in row["rates"].items())
            rows.append([f"**{name}**" if place == 0 else "", label, shares])
    return table(["setup", f"within KL {MAIN}", "greedy answers"], rows)


def _chosen(setups: Numbers) -> str:
    rows = []
    for name, each in setups.items():
        chosen = each["chosen"]
        cells = []
        for method in TRAINED:
            row = chosen[method]
            told = f"α {row['alpha']:g}, {row['where']}" if method.startswith("RAHF") else f"rate {row['rate']:g}"
            cells.append(told + (f", rate {row['rate']:g}" if method == "RAHF-Dual" else ""))
        cells.append(", ".join(f"α {chosen[f'transfer from {source}']['alpha']:g}" for source in SOURCES))
        rows.append([name, *cells])
    return table(["setup", *TRAINED, "transfer (gpt2-, rotary-source)"], rows)


def _time(setups: Numbers) -> str:
    rows = [[name, *(f"{value:.0f} s" for value in each["seconds"].values())] for name, each in setups.items()]
    return table(["CPU seconds", *next(iter(setups.values()))["seconds"]], rows)


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, list) else value)
