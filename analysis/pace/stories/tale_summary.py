"""The finished parts as result.json, with a verdict each, and figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tale_lab import MODELS
from tale_methods import METHODS, MODES, REFERENCE
from tale_pictures import write_pictures
from tale_search import MAIN_BUDGET
from tale_stimuli import UNWANTED

from contrans_lens.artifacts import read_json, write_json

P_VALUE = 0.05
WRECKED = 1.0
"""Nats a token: beyond it what is written after the beginnings has little to do with the unedited model."""
DIGITS = 4
Numbers = dict[str, Any]


def summarise(out: Path, folder: Path) -> None:
    """Put the finished parts under ``out`` together into ``folder``; parts that are not finished are left out."""
    models, seconds = {}, 0.0
    for name in MODELS:
        parts = {path.stem: read_json(path) for path in sorted(out.glob(f"{name}-*.json"))}
        seconds += sum(part["cpu_s"] for part in parts.values())
        if parts:
            models[name] = _model(name, parts)
    folder.mkdir(parents=True, exist_ok=True)
    result = _rounded({"main_budget": MAIN_BUDGET, "cpu_s": seconds, "models": models})
    write_json(folder / "result.json", result)
    write_pictures(result, folder)


def _model(name: str, parts: Mapping[str, Numbers]) -> Numbers:
    gates = {topic: parts[f"{name}-{topic}-gate"] for topic in UNWANTED if f"{name}-{topic}-gate" in parts}
    setups = {}
    for topic in UNWANTED:
        for mode in MODES:
            stem = f"{name}-{topic}-{mode}"
            if f"{stem}-score" in parts:
                scored = parts[f"{stem}-score"]
                if f"{stem}-elastic" in parts:
                    scored["controls"]["elastic net"] = parts[f"{stem}-elastic"]
                setups[f"{topic} {mode}"] = {
                    "search": _searched(parts[f"{stem}-search"]),
                    **{key: value for key, value in scored.items() if key != "recipes"},
                    "verdicts": verdicts(scored, parts.get(f"{stem}-local"), parts.get(f"{stem}-prompted")),
                    **{
                        key: parts[f"{stem}-{key}"]
                        for key in ("local", "grounded", "prompted", "writing")
                        if f"{stem}-{key}" in parts
                    },
                }
    return {
        "quality": parts.get(f"{name}-quality"),
        "background": parts.get(f"{name}-background"),
        "gates": gates,
        "setups": setups,
    }


def _searched(found: Numbers) -> Numbers:
    """What was chosen, of how many."""
    counts = {method: sum(row["method"] == method for row in found["tried"]) for method in METHODS}
    return {"chosen": found["chosen"], "tried": counts}


def verdicts(scored: Numbers, local: Numbers | None, prompted: Numbers | None) -> Numbers:
    """What can be said of PaCE at the main budget, for each solver that has controls.

    ``works``: the unwanted continuations fall, and by more than under 95 % of every control (one-sided rank).
    ``erases``: the same of the context effect. Neither holds where the text after the beginnings is wrecked. On the
    beginning: the same where the continuation is not edited. Methods it beats or loses to: the paired difference leaves
    0 out (measured for the reference alone).
    """
    rows = scored["budgets"][f"{MAIN_BUDGET:g}"]
    found: Numbers = {}
    for method, controls in scored["controls"].items():
        families = [controls[name] for name in ("shuffled", "random") if name in controls]
        drift = None if local is None else local[method]["unwanted"][0]
        intact = drift is None or drift <= WRECKED
        effect, shrink = rows[method]["effect"], rows[method]["shrink"]
        found[method] = {
            "works": intact and effect[2] < 0 and all(each["p_one_sided"] <= P_VALUE for each in families),
            "erases": intact and shrink[1] > 0 and all(each["shrink_p"] <= P_VALUE for each in families),
            "wrecked": not intact,
        }
        begun = {} if prompted is None else prompted[method]
        if "shuffled" in begun:
            control = begun["shuffled"]
            found[method] |= {
                "works on the beginning": begun["effect"][2] < 0 and control["p_one_sided"] <= P_VALUE,
                "erases on the beginning": begun["shrink"][1] > 0 and control["shrink_p"] <= P_VALUE,
            }
    others = [method for method in METHODS if method != REFERENCE]
    found[REFERENCE] |= {
        "stronger than": [method for method in others if rows[method]["difference"][1] > 0],
        "weaker than": [method for method in others if rows[method]["difference"][2] < 0],
        "erases more than": [method for method in others if rows[method]["shrink_difference"][2] < 0],
        "erases less than": [method for method in others if rows[method]["shrink_difference"][1] > 0],
    }
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
