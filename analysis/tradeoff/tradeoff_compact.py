"""The numbers of the study as they are kept beside it: estimates as [value, low, high], draws as lists, no repeats."""

from collections.abc import Mapping, Sequence
from typing import Any

Numbers = dict[str, Any]
WITH_INTERVALS = ("expectation", "p_restricted")
KEPT = (*WITH_INTERVALS, "p_mean", "kl")
"""Columns of which the curves are kept; with intervals those of the target's own vector only."""
_ESTIMATE = {"value", "low", "high", "level", "reason"}


def compact(numbers: Mapping[str, Any]) -> Numbers:
    """One setup, shortened."""
    kept = {name: each for name, each in numbers.items() if name not in ("directions", "families", "bands")}
    kept["directions"] = {name: _direction(each, full=name == "native") for name, each in numbers["directions"].items()}
    kept["families"] = {name: _family(draws) for name, draws in numbers["families"].items()}
    return short(kept)


def short(value: Any) -> Any:
    """The same with estimates as [value, low, high], or the reason why there is none."""
    if isinstance(value, dict):
        if set(value) == _ESTIMATE:
            return value["reason"] if value["value"] is None else short([value["value"], value["low"], value["high"]])
        return {key: short(each) for key, each in value.items()}
    if isinstance(value, float):
        return float(f"{value:.3g}")
    return [short(each) for each in value] if isinstance(value, list) else value


def _direction(found: Mapping[str, Any], full: bool) -> Numbers:
    kept = dict(found)
    kept["by_reach: reach, R2 of tanh, its criterion above the best, a, best"] = [
        [row["reach"], row["r_squared"]["tanh"], row["delta"]["tanh"], row["a"], row["best"]]
        for row in kept.pop("by_reach")
    ]
    kept["extrapolated"] = _extrapolated(found["extrapolated"])
    kept["odds_linearity"] = [[row["reach"], row["r_squared"]] for row in found["odds_linearity"]]
    kept["kl_powers"] = [[row["from"], row["to"], row["power"]] for row in found["kl_powers"]]
    kept["curves"] = {
        behaviour: {
            column: each if full and column in WITH_INTERVALS else each["value"]
            for column, each in columns.items()
            if column in KEPT
        }
        for behaviour, columns in found["curves"].items()
    }
    kept["helpfulness"] = {name: _cost(each) for name, each in found["helpfulness"].items()}
    return kept


def _cost(found: Mapping[str, Any]) -> Numbers:
    kept = {name: each for name, each in found.items() if name != "flags"}
    for name in ("top", "near", "p_mean"):
        kept[name] = {key: each for key, each in kept[name].items() if key not in ("gaussian", "delta", "criterion")}
    kept["regime"] = {key: each for key, each in found["regime"].items() if key not in ("warnings", "level")}
    if "extrapolated" in found:
        kept["extrapolated"] = _extrapolated(found["extrapolated"])
    return kept


def _extrapolated(laws: Mapping[str, Any]) -> Numbers:
    return {
        name: {
            **{key: each for key, each in law.items() if key not in ("predicted", "by_reach")},
            "off": [[row["reach"], row["off"]] for row in law["by_reach"]],
        }
        for name, law in laws.items()
    }


def _family(draws: Sequence[Mapping[str, Any]]) -> Numbers:
    kept: Numbers = {
        name: [draw[name] for draw in draws] for name in ("slope0", "predicted_slope0", "swing", "range", "best")
    }
    kept["r_squared_tanh"] = [draw["r_squared"]["tanh"] for draw in draws]
    costly = [draw for draw in draws if "at_budget" in draw]
    kept["at_budget"] = [[draw["at_budget"]["strength"], draw["at_budget"]["effect"]] for draw in costly]
    for cost in ("capability", "cloze"):
        if costly and cost in costly[0]:
            kept[cost] = {
                "k": [draw[cost]["k"] for draw in costly],
                "net_gain": [draw[cost]["net_gain"]["gain"] for draw in costly],
            }
    return kept
