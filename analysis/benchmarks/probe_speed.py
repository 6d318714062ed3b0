"""Probes of all layers in one batch against scikit-learn layer by layer: the same folds, strengths and controls.

All sides do, for every layer and five grouped folds: choose the strength on the inner folds of each training
part, decide the test fold, do so again on folds where groups straddle, and decide ten control labelings there
at the chosen strengths. scikit-learn's side is written twice: with ``GridSearchCV`` on predefined folds, as is
usual, and as bare loops over fits, the tightest that its estimators allow. All control labels of a fold go into
one multi-output fit where the estimator has that (ridge); solver and tolerance are the defaults. The batched
side is the public call, which also computes intervals and calibration.

scikit-learn runs on ``--timed`` layers, spread over the depth, and its time is multiplied up to all of them.
``RidgeCV`` with its own leave-one-out is given as well: it is fast, but it chooses strengths on examples whose
group is in the training part, so it answers another question.

    python analysis/benchmarks/probe_speed.py --out probe_speed.json
"""

import argparse
import importlib
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from torch import Tensor

from contrans_lens.layers.probes import ProbeCurve, control_labels, grouped_folds, probe_layers
from contrans_lens.layers.probes.folds import group_codes, straddling_folds

FOLDS = 5
CLOCK = {"kind": "wall"}
EXPONENTS = {"ridge": range(-4, 4), "logistic": range(-4, 2)}
Decide = Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]
"""Training states, training labels (one or more columns), tested states, strength: decision values."""
Choose = Callable[[str, Decide, np.ndarray, np.ndarray, np.ndarray, list[float]], tuple[np.ndarray, list[float]]]
"""Nested choice: decisions and chosen strengths."""


def make_states(n: int, layers: int, width: int, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """Contrast pairs with a power-law spectrum, a part that the pair shares, and a concept that grows with depth."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, width + 1) ** -0.5
    labels = torch.arange(n) % 2 == 0
    states = torch.randn(n, layers, width, generator=generator) * spectrum
    states += (torch.randn(n // 2, layers, width, generator=generator) * spectrum).repeat_interleave(2, 0)
    direction = torch.nn.functional.normalize(torch.randn(layers, width, generator=generator), dim=1)
    strength = torch.linspace(0, 0.6, layers)[:, None]
    states += (labels * 2.0 - 1)[:, None, None] * strength * direction
    return states + 1, labels, [f"pair{i // 2}" for i in range(n)]


def decide_ridge(x: np.ndarray, y: np.ndarray, test: np.ndarray, alpha: float) -> np.ndarray:
    """Least squares on -1 and +1; several columns share one factorisation."""
    return Ridge(alpha=alpha).fit(x, y * 2.0 - 1).predict(test)


def decide_logistic(x: np.ndarray, y: np.ndarray, test: np.ndarray, alpha: float) -> np.ndarray:
    """One fit a column: scikit-learn has no multi-output logistic regression."""
    columns = y[:, None] if y.ndim == 1 else y
    found = [
        LogisticRegression(C=1 / alpha, max_iter=5000).fit(x, columns[:, k]).decision_function(test)
        for k in range(columns.shape[1])
    ]
    return found[0] if y.ndim == 1 else np.stack(found, 1)


def loss_of(method: str, y: np.ndarray, f: np.ndarray) -> float:
    """What the probe minimises, summed."""
    sign = y * 2.0 - 1
    return float(((f - sign) ** 2).sum() if method == "ridge" else np.logaddexp(0, -sign * f).sum())


def nested(
    method: str, decide: Decide, x: np.ndarray, y: np.ndarray, folds: np.ndarray, strengths: list[float]
) -> tuple[np.ndarray, list[float]]:
    """Out-of-fold decisions with the strength chosen on the other folds."""
    decisions, chosen = np.empty(len(y)), []
    for fold in range(FOLDS):
        losses = np.zeros(len(strengths))
        for inner in range(FOLDS):
            if inner != fold:
                train, judged = (folds != fold) & (folds != inner), folds == inner
                for k, alpha in enumerate(strengths):
                    losses[k] += loss_of(method, y[judged], decide(x[train], y[train], x[judged], alpha))
        chosen.append(strengths[int(losses.argmin())])
        decisions[folds == fold] = decide(x[folds != fold], y[folds != fold], x[folds == fold], chosen[-1])
    return decisions, chosen


def grid_search(
    method: str, decide: Decide, x: np.ndarray, y: np.ndarray, folds: np.ndarray, strengths: list[float]
) -> tuple[np.ndarray, list[float]]:
    """The same with ``GridSearchCV``; inner folds are of equal size, so its mean over folds orders strengths alike."""
    decisions, chosen = np.empty(len(y)), []
    for fold in range(FOLDS):
        train = folds != fold
        inner = PredefinedSplit(folds[train])
        if method == "ridge":
            search = GridSearchCV(Ridge(), {"alpha": strengths}, cv=inner, scoring="neg_mean_squared_error")
            decisions[~train] = search.fit(x[train], y[train] * 2.0 - 1).predict(x[~train])
            chosen.append(float(search.best_params_["alpha"]))
        else:
            costs = {"C": [1 / alpha for alpha in strengths]}
            search = GridSearchCV(LogisticRegression(max_iter=5000), costs, cv=inner, scoring="neg_log_loss")
            decisions[~train] = search.fit(x[train], y[train]).decision_function(x[~train])
            chosen.append(1 / float(search.best_params_["C"]))
    return decisions, chosen


def per_layer(
    method: str, states: Tensor, plan: dict[str, np.ndarray], strengths: list[float], choose: Choose
) -> dict[str, float]:
    """Everything for one layer with scikit-learn."""
    decide = decide_ridge if method == "ridge" else decide_logistic
    x = states.double().numpy()
    x = x - x.mean(0)
    x /= np.sqrt((x**2).mean())
    y, controls = plan["labels"], plan["controls"]
    decisions, _ = choose(method, decide, x, y, plan["folds"], strengths)
    straddling, chosen = choose(method, decide, x, y, plan["straddling"], strengths)
    right = np.empty(controls.shape, dtype=bool)
    for fold, alpha in enumerate(chosen):
        test = plan["straddling"] == fold
        right[test] = (decide(x[~test], controls[~test], x[test], alpha) > 0) == controls[test]
    return {
        "accuracy": float(((decisions > 0) == y).mean()),
        "straddling_accuracy": float(((straddling > 0) == y).mean()),
        "control_accuracy": float(right.mean()),
    }


def ridge_cv(states: Tensor, plan: dict[str, np.ndarray], strengths: list[float]) -> float:
    """Accuracy with scikit-learn's own leave-one-out choice: grouped folds and controls as above."""
    x = states.double().numpy()
    x = x - x.mean(0)
    x /= np.sqrt((x**2).mean())
    y = plan["labels"] * 2.0 - 1
    decisions = np.empty(len(y))
    for folds in (plan["straddling"], plan["folds"]):
        for fold in range(FOLDS):
            test = folds == fold
            fit = RidgeCV(alphas=strengths).fit(x[~test], y[~test])
            decisions[test] = fit.predict(x[test])
            if folds is plan["straddling"]:
                Ridge(alpha=fit.alpha_).fit(x[~test], plan["controls"][~test] * 2.0 - 1).predict(x[test])
    return float(((decisions > 0) == plan["labels"]).mean())


def compare(method: str, n: int, width: int, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides on the same states."""
    states, labels, groups = make_states(n, options.layers, width, options.seed)
    codes = group_codes(groups, n)
    plan = {
        "labels": labels.numpy(),
        "folds": grouped_folds(labels, groups, FOLDS, options.seed).numpy(),
        "straddling": straddling_folds(codes, FOLDS, options.seed + 1).numpy(),
        "controls": control_labels(labels, codes, options.controls, options.seed + 2).numpy(),
    }
    strengths = [width * 10.0**exponent for exponent in EXPONENTS[method]]
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(options.layers)]

    def batched(n_permutations: int) -> ProbeCurve:
        return probe_layers(
            states,
            labels,
            names,
            groups=groups,
            method=method,
            strengths=strengths,
            n_controls=options.controls,
            n_permutations=n_permutations,
            seed=options.seed,
        )

    torch.set_num_threads(threads)
    timed = np.linspace(0, options.layers - 1, min(options.timed, options.layers)).round().astype(int).tolist()
    limits = importlib.import_module("threadpoolctl").threadpool_limits(limits=threads)  # scikit-learn depends on it
    with limits, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        batched(0)  # warm-up
        own, curve = min((_time(lambda: batched(0)) for _ in range(options.repeats)), key=lambda pair: pair[0])
        with_null = _time(lambda: batched(200))[0] if method == "ridge" else None
        scale = options.layers / len(timed)
        loop_time, found = _time(lambda: [per_layer(method, states[:, k], plan, strengths, nested) for k in timed])
        grid_time, searched = _time(
            lambda: [per_layer(method, states[:, k], plan, strengths, grid_search) for k in timed]
        )
        own_choice = None
        if method == "ridge":
            own_choice = _time(lambda: [ridge_cv(states[:, k], plan, strengths) for k in timed])[0]
            own_choice *= scale
    gaps = {"accuracy": 0.0, "straddling_accuracy": 0.0, "control_accuracy": 0.0}
    for k, *sides in zip(timed, found, searched, strict=True):
        layer = curve.layers[k]
        for side in sides:
            for name in gaps:
                own_value = getattr(layer, name)
                own_value = own_value if isinstance(own_value, float) else own_value.value
                gaps[name] = max(gaps[name], abs(own_value - side[name]))
    return {
        "method": method,
        "n": n,
        "d_model": width,
        "threads": threads,
        "strengths": len(strengths),
        "timed_layers": len(timed),
        "seconds": {
            "batched": own,
            "batched_with_200_permutations": with_null,
            "sklearn_grid_search_scaled": grid_time * scale,
            "sklearn_loops_scaled": loop_time * scale,
            "ridgecv_leave_one_out_scaled": own_choice,
        },
        "ratio_to_grid_search": grid_time * scale / own,
        "ratio_to_loops": loop_time * scale / own,
        "ratio_to_ridgecv": own_choice / own if own_choice else None,
        "largest_gap": gaps,
        "accuracies": [row["accuracy"] for row in found],
    }


def _time(work: Callable[[], Any]) -> tuple[float, Any]:
    start = _clock()
    result = work()
    return _clock() - start, result


def _clock() -> float:
    """Seconds on the clock that was asked for."""
    return time.process_time() if CLOCK["kind"] == "cpu" else time.perf_counter()


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(title=result["setting"])
    for name in (
        "probe",
        "n x d",
        "threads",
        "batched",
        "+200 perms",
        "GridSearchCV",
        "",
        "loops",
        "",
        "RidgeCV",
        "gap",
    ):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        seconds = row["seconds"]
        null, leave_one_out = seconds["batched_with_200_permutations"], row["ratio_to_ridgecv"]
        table.add_row(
            row["method"],
            f"{row['n']} x {row['d_model']}",
            str(row["threads"]),
            f"{seconds['batched']:.2f} s",
            f"{null:.2f} s" if null else "",
            f"{seconds['sklearn_grid_search_scaled']:.0f} s",
            f"{row['ratio_to_grid_search']:.1f} x",
            f"{seconds['sklearn_loops_scaled']:.0f} s",
            f"{row['ratio_to_loops']:.1f} x",
            f"{leave_one_out:.1f} x" if leave_one_out else "",
            f"{max(row['largest_gap'].values()):.4f}",
        )
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--controls", type=int, default=10)
    parser.add_argument("--timed", type=int, default=3, help="layers that scikit-learn runs on; scaled to all")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sizes", nargs="+", default=["400x768", "1000x2048"], help="examples x d_model")
    parser.add_argument("--methods", nargs="+", choices=sorted(EXPONENTS), default=["ridge", "logistic"])
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu counts this process alone")
    parser.add_argument("--small", action="store_true", help="a quick run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.small:
        options.layers, options.timed, options.sizes, options.threads = 6, 2, ["120x160"], [1]
    CLOCK["kind"] = options.clock
    rows = []
    for method in options.methods:
        for size in options.sizes:
            n, width = map(int, size.split("x"))
            rows += [compare(method, n, width, threads, options) for threads in options.threads]
    setting = (
        f"{options.layers} layers x {FOLDS} folds + {options.controls} controls, scikit-learn timed on "
        f"{options.timed}, {options.clock} clock"
    )
    result = {
        "setting": setting,
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "torch": torch.__version__,
        "sklearn": sklearn.__version__,
        "rows": rows,
    }
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
