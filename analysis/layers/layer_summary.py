"""The runs of the layer study put together: numbers with their intervals, two figures, one table of runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from contrans_lens.artifacts import write_json
from contrans_lens.evaluation import bootstrap_mean_ci, wilson_ci
from contrans_lens.models import resid_post
from contrans_lens.reports.html import png_bytes

Run = dict[str, Any]
ORANGE, BLUE = "#D55E00", "#0072B2"


def write(parts: Mapping[str, Sequence[Run]], shuffled: Mapping[str, Any], out: Path) -> None:
    """Summarise the finished runs of every part into ``out``.

    Args:
        parts: the runs of ``embedded``, ``real``, ``negative`` and ``planted``.
        shuffled: how often shuffled labels passed the first gate, by concept.
        out: folder of ``result.json`` and the figures.
    """
    embedded = parts["embedded"]
    forth = [run for run in embedded if run["task"]["target"].endswith("-target")]
    summary = {
        "embedded": _described(forth),
        "embedded, from large to small": _described([run for run in embedded if run not in forth]),
        "real": _described(parts["real"]),
        "negative": _counted(parts["negative"], "kind"),
        "shuffled labels, first gate": dict(shuffled),
        "planted": _counted(parts["planted"], "source"),
    }
    write_json(out / "result.json", summary)
    if embedded:
        working = [run for run in forth if run["works"]]
        (out / "predictors.png").write_bytes(png_bytes(predictor_figure(working)))
        (out / "depth.png").write_bytes(png_bytes(depth_figure(embedded)))


def _described(runs: Sequence[Run]) -> dict[str, Any]:
    """All runs, and the averages over those in which a pair works: without an effect there is nothing to foretell."""
    found = [run for run in runs if run["works"]]
    described: dict[str, Any] = {"n": len(runs), "works": len(found), "runs": [_row(run) for run in runs]}
    if found:
        groups = _pairs(found)
        described |= {
            "target_layer_share": _mean([_variance_share(run) for run in found], groups),
            "regret": _mean([regret(run) for run in found], groups),
            "prior_share": _mean([_over(run, "test_three_quarters", "test") for run in found], groups),
            "native_share": _mean([_over(run, "test", "test_native") for run in found], groups),
            "predictors": predictors(found),
            "picks": picks(found),
        }
    return described


def _row(run: Run) -> dict[str, Any]:
    task = run["task"]
    row = {name: task[name] for name in ("source", "target", "concept", "kind", "seed")}
    row |= {"works": run["works"], "best": run["best"], "reason": run["reason"], "regret": regret(run)}
    row |= {name: run[name] for name in ("test", "test_native", "test_three_quarters")}
    row["rho"] = {each["name"]: each["rho"] for each in run["predictors"]}
    row["seconds"] = run["seconds"]
    return row


def predictors(runs: Sequence[Run]) -> dict[str, Any]:
    """Mean rank correlation of each evidence with the effect over runs; the interval resamples model pairs."""
    names = list(dict.fromkeys(each["name"] for run in runs for each in run["predictors"]))
    found = {}
    for name in names:
        kept = [(run, each) for run in runs for each in run["predictors"] if each["name"] == name]
        defined = [(run, each["rho"]) for run, each in kept if each["rho"] is not None]
        if not defined:
            continue
        value = _mean([rho for _, rho in defined], _pairs([run for run, _ in defined]))
        value["needs_target_labels"] = kept[0][1]["needs_target_labels"]
        value["undefined"] = len(kept) - len(defined)
        found[name] = value
    return dict(sorted(found.items(), key=lambda item: -item[1]["mean"]))


def picks(runs: Sequence[Run]) -> dict[str, Any]:
    """What the pair with the best value of each evidence does, as a share of the best effect of all pairs."""
    shares: dict[str, list[tuple[Run, float]]] = {}
    for run in runs:
        effects = {(cell["source"], cell["target"]): cell["effect"] for cell in run["cells"]}
        best = max(effects.values())
        if best <= 0:
            continue
        sources, targets = _layers(run)
        for name, values in run["evidence"].items():
            lower_is_better = name == "procrustes"
            known = {
                (s, t): values[i][j]
                for i, s in enumerate(sources)
                for j, t in enumerate(targets)
                if (s, t) in effects and values[i][j] is not None
            }
            if known:
                chosen = (min if lower_is_better else max)(known, key=lambda pair: known[pair])
                shares.setdefault(name, []).append((run, effects[chosen] / best))
    found = {name: _mean([v for _, v in kept], _pairs([r for r, _ in kept])) for name, kept in shares.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]["mean"]))


def regret(run: Run) -> float | None:
    """What the shortlist cost: the best effect of all pairs less the best of the shortlist, as a share, validation."""
    effects = {(cell["source"], cell["target"]): cell["effect"] for cell in run["cells"]}
    best = max(effects.values())
    return None if best <= 0 else 1 - effects[run["best"]["source"], run["best"]["target"]] / best


def _variance_share(run: Run) -> float:
    """Share of the variance of the effects over pairs that lies between target layers."""
    effects = torch.tensor([cell["effect"] for cell in run["cells"]])
    targets = [cell["target"] for cell in run["cells"]]
    means = {t: effects[torch.tensor([u == t for u in targets])].mean() for t in set(targets)}
    between = torch.stack([means[t] for t in targets])
    return float((between - effects.mean()).square().sum() / (effects - effects.mean()).square().sum())


def _over(run: Run, one: str, other: str) -> float | None:
    if run[one] is None or run[other] is None or run[other]["effect_ci"][0] <= 0:
        return None
    return run[one]["effect"] / run[other]["effect"]


def _layers(run: Run) -> tuple[list[str], list[str]]:
    """Names of the rows and columns of the evidence tables."""
    values = next(iter(run["evidence"].values()))
    return [resid_post(i) for i in range(len(values))], [resid_post(i) for i in range(len(values[0]))]


def _pairs(runs: Sequence[Run]) -> list[str]:
    return [f"{run['task']['source']} {run['task']['target']}" for run in runs]


def _mean(values: Sequence[float | None], groups: Sequence[str]) -> dict[str, Any]:
    """Mean with an interval that resamples groups (model pairs), where there are two or more."""
    kept = [(value, group) for value, group in zip(values, groups, strict=True) if value is not None]
    numbers = torch.tensor([value for value, _ in kept], dtype=torch.float64)
    if not kept:
        return {"mean": None, "ci": None, "n": 0}
    names = [group for _, group in kept]
    result: dict[str, Any] = {
        "mean": float(numbers.mean()),
        "median": float(numbers.median()),
        "ci": None,
        "n": len(kept),
    }
    result |= {"least": float(numbers.min()), "most": float(numbers.max())}
    if len(set(names)) > 1:
        interval = bootstrap_mean_ci(numbers, names)
        result["ci"] = [interval.low, interval.high]
    return result


def _counted(runs: Sequence[Run], by: str) -> dict[str, Any]:
    """How often a pair was said to work, by kind and concept, and which gate stopped the others."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(run["task"][by] for run in runs):
        chosen = [run for run in runs if run["task"][by] == name]
        found[name] = _count(chosen)
        found[name]["by_concept"] = {
            concept: _count([run for run in chosen if run["task"]["concept"] == concept])
            for concept in dict.fromkeys(run["task"]["concept"] for run in chosen)
        }
    return found


def _count(runs: Sequence[Run]) -> dict[str, Any]:
    works = sum(run["works"] for run in runs)
    interval = wilson_ci(works, len(runs))
    stopped = Counter(
        next(gate["name"] for gate in run["gates"] if not gate["passed"]) for run in runs if not run["works"]
    )
    passed = Counter(gate["name"] for run in runs for gate in run["gates"] if gate["passed"])
    shares = [share for run in runs if (share := _over(run, "test", "test_native")) is not None]
    return {
        "runs": len(runs),
        "works": works,
        "rate": works / len(runs),
        "ci": [interval.low, interval.high],
        "stopped_by": dict(stopped),
        "gates_passed": dict(passed),
        "share_of_native": sum(shares) / len(shares) if shares else None,
    }


def predictor_figure(runs: Sequence[Run]) -> Figure:
    """Mean rank correlation of each evidence with the effect; every run a dot."""
    found = predictors(runs)
    figure = Figure(figsize=(7.2, 0.32 * len(found) + 1.4), layout="constrained")
    axis = figure.subplots()
    for height, (name, value) in enumerate(reversed(found.items())):
        colour = ORANGE if value["needs_target_labels"] else BLUE
        dots = [each["rho"] for run in runs for each in run["predictors"] if each["name"] == name]
        axis.plot(
            [d for d in dots if d is not None],
            [height] * sum(d is not None for d in dots),
            ".",
            color=colour,
            alpha=0.2,
        )
        if value["ci"] is not None:
            axis.plot(value["ci"], [height, height], color=colour, lw=2.5)
        axis.plot(value["mean"], height, "o", color=colour, ms=6)
    axis.set_yticks(range(len(found)), list(reversed(found)), fontsize=8)
    axis.axvline(0, color="black", lw=0.6)
    axis.set_xlim(-1.05, 1.05)
    axis.set_xlabel("rank correlation with the effect over pairs of layers; dots are runs")
    axis.set_title(f"What foretells the effect? {len(runs)} runs. Orange needs labels in the target", fontsize=10)
    return figure


def depth_figure(runs: Sequence[Run]) -> Figure:
    """Effect by target layer, mean over source layers, one line a concept, one panel a pair of models."""
    pairs = list(dict.fromkeys(_pairs(runs)))
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(run["task"]["concept"] for run in runs))}
    figure = Figure(figsize=(3.4 * 4, 3.0 * ((len(pairs) + 3) // 4)), layout="constrained")
    axes = figure.subplots((len(pairs) + 3) // 4, 4, squeeze=False, sharey=True)
    for axis, pair in zip(axes.flat, pairs, strict=False):
        for run in runs:
            if _pairs([run])[0] == pair:
                targets = list(dict.fromkeys(cell["target"] for cell in run["cells"]))
                means = []
                for target in targets:
                    effects = [cell["effect"] for cell in run["cells"] if cell["target"] == target]
                    means.append(sum(effects) / len(effects))
                name = run["task"]["concept"]
                axis.plot(range(len(targets)), means, marker="o", ms=3, color=colours[name], label=name)
                axis.set_xticks(range(len(targets)))
        axis.set_title(pair.replace(" ", " → "), fontsize=9)
        axis.axhline(0, color="black", lw=0.6)
        axis.set_xlabel("target block")
    for axis in axes[:, 0]:
        axis.set_ylabel("effect, mean over source layers")
    axes[0, -1].legend(fontsize=6, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
