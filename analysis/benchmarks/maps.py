"""All-pairs maps against one lstsq per pair and one Adam fit per pair; the leave-one-out path against refits.

Every side works on the same synthetic states in this one process: source states with a power-law spectrum and a large
mean, target states linear in them plus noise. Times are the best of ``--repeats`` after a warm-up, except the slow
sides, which run once, on as many pairs (Adam) or refits (leave-one-out) as asked, and are scaled to all of them; the
table says so. On a shared machine ``--threads 1 --clock cpu`` counts the processor time of this process alone.

Carrying a concept needs no map to be formed, and the grid's lead over lstsq is largest there. Forming every map needs
the product ``U^T Y`` of every pair, which bounds any method that writes the maps down.

    python analysis/benchmarks/maps.py --out maps.json
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from contrans_lens.maps import MapGrid, factor_source, fit_map_grid, leave_one_out_path, r2_score

CLOCK = {"kind": "wall"}


def clock() -> float:
    """Seconds on the clock that was asked for."""
    return time.process_time() if CLOCK["kind"] == "cpu" else time.perf_counter()


def make_states(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Paired states ``[n + held out, layer, d]`` of every source and target layer, float32."""
    generator = torch.Generator().manual_seed(options.seed)
    n, layers = options.n + options.held_out, options.layers
    shared = torch.randn(n, options.d_source, generator=generator)
    spectrum = torch.arange(1, options.d_source + 1).float() ** -0.5
    sources, targets = [], []
    for _ in range(layers):
        own = torch.randn(n, options.d_source, generator=generator)
        turn = torch.linalg.qr(torch.randn(options.d_source, options.d_source, generator=generator)).Q
        sources.append((0.8 * shared + 0.6 * own) * spectrum @ turn + 3)
        mix = torch.randn(options.d_source, options.d_target, generator=generator)
        noise = torch.randn(n, options.d_target, generator=generator)
        targets.append(shared * spectrum @ mix + options.noise * noise - 1)
    return torch.stack(sources, 1), torch.stack(targets, 1)


def best_time(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Shortest of ``repeats`` runs in seconds, after one warm-up, and the last result."""
    result = work()
    times = []
    for _ in range(repeats):
        start = clock()
        result = work()
        times.append(clock() - start)
    return min(times), result


def lstsq_per_pair(x: Tensor, y: Tensor) -> Tensor:
    """One ``torch.linalg.lstsq`` with an intercept column per pair: ``[source, target, d_source + 1, d_target]``."""
    ones = torch.ones(len(x), 1)
    return torch.stack(
        [
            torch.stack(
                [torch.linalg.lstsq(torch.cat([x[:, s], ones], 1), y[:, t]).solution for t in range(y.shape[1])]
            )
            for s in range(x.shape[1])
        ]
    )


def adam_fit(x: Tensor, y: Tensor, epochs: int, batch: int, rate: float) -> torch.nn.Linear:
    """An affine map by Adam on the mean squared error, the way one such fit per pair is usually written."""
    layer = torch.nn.Linear(x.shape[1], y.shape[1])
    optimiser = torch.optim.Adam(layer.parameters(), lr=rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(layer(x[rows]), y[rows]).backward()
            optimiser.step()
    return layer


def grid_of(x: Tensor, y: Tensor, ridge: float | str) -> MapGrid:
    """The grid of all pairs; hook points are numbered."""
    names = tuple(f"blocks.{layer}.hook_resid_post" for layer in range(x.shape[1]))
    return fit_map_grid(x, y, names, names, ridge=ridge)


def compare_grids(options: argparse.Namespace, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Times and held-out R2 of all sides over all pairs."""
    x, x_test = x[: options.n], x[options.n :]
    y, y_test = y[: options.n], y[options.n :]
    pairs = options.layers**2
    vectors = torch.randn(options.layers, options.d_source)
    lstsq_time, solutions = best_time(lambda: lstsq_per_pair(x, y), options.repeats)
    # The weakest ridge of the default path: least squares in all but name, so the two sides do the same work.
    weak = float(factor_source(x[:, :1]).default_ridges()[0])
    carry_time, carried = best_time(lambda: grid_of(x, y, weak).concepts(vectors), options.repeats)
    form_time, _ = best_time(lambda: grid_of(x, y, weak).weights(), options.repeats)
    loo_time, _ = best_time(lambda: grid_of(x, y, "loo").concepts(vectors), options.repeats)
    loo_r2 = grid_of(x, y, "loo").held_out_r2(x_test, y_test)
    weak_r2 = grid_of(x, y, weak).held_out_r2(x_test, y_test)
    lstsq_r2 = torch.zeros(options.layers, options.layers, dtype=torch.float64)
    adam_r2, adam_times = [], []
    for s in range(options.layers):
        for t in range(options.layers):
            weight, bias = solutions[s, t, :-1], solutions[s, t, -1]
            lstsq_r2[s, t] = r2_score(y_test[:, t], x_test[:, s] @ weight + bias)
    agreement = torch.cosine_similarity(torch.einsum("stdk,sd->stk", solutions[:, :, :-1], vectors), carried, dim=-1)
    torch.manual_seed(options.seed)
    adam_fit(x[:, 0], y[:, 0], 1, options.adam_batch, options.adam_rate)  # warm-up: the optimiser imports on first use
    for k in range(options.adam_pairs):
        s, t = k % options.layers, (3 * k) % options.layers
        start = clock()
        layer = adam_fit(x[:, s], y[:, t], options.adam_epochs, options.adam_batch, options.adam_rate)
        adam_times.append(clock() - start)
        with torch.no_grad():
            predicted = layer(x_test[:, s])
        adam_r2.append((r2_score(y_test[:, t], predicted), float(loo_r2[s, t])))
    adam_time = sum(adam_times) / len(adam_times) * pairs
    return {
        "pairs": pairs,
        "seconds": {
            "lstsq_per_pair": lstsq_time,
            "adam_per_pair_scaled": adam_time,
            "grid_carry_concept": carry_time,
            "grid_form_all_maps": form_time,
            "grid_loo_ridge_carry_concept": loo_time,
        },
        "adam": {"pairs_timed": options.adam_pairs, "epochs": options.adam_epochs, "seconds_each": adam_times},
        "held_out_r2": {
            "lstsq_mean": float(lstsq_r2.mean()),
            "grid_weak_ridge_mean": float(weak_r2.mean()),
            "grid_loo_mean": float(loo_r2.mean()),
            "grid_loo_minus_lstsq_worst_pair": float((loo_r2 - lstsq_r2).min()),
            "adam_mean_on_its_pairs": sum(a for a, _ in adam_r2) / len(adam_r2),
            "grid_loo_mean_on_the_same_pairs": sum(b for _, b in adam_r2) / len(adam_r2),
        },
        "least_cosine_of_carried_concepts_with_lstsq": float(agreement.min()),
    }


def compare_leave_one_out(options: argparse.Namespace, x: Tensor, y: Tensor) -> dict[str, Any]:
    """The PRESS path of one pair against refits without each text, for the same strengths."""
    source, target = x[: options.n, 0], y[: options.n, 0].double()
    target = target - target.mean(0)
    ridges = factor_source(source[:, None]).default_ridges()

    def path() -> Tensor:
        factor = factor_source(source[:, None])
        return leave_one_out_path(factor.left(source), factor.singular[0], target[None], ridges).press[0]

    path_time, press = best_time(path, options.repeats)
    texts = torch.randperm(options.n, generator=torch.Generator().manual_seed(options.seed))[: options.refits]
    strength = ridges[len(ridges) // 2]
    start = clock()
    squared = [_left_out_error(source.double(), target, int(i), strength) for i in texts]
    refit_time = (clock() - start) / options.refits * options.n * len(ridges)
    estimate = sum(squared) / options.refits * options.n
    return {
        "strengths": len(ridges),
        "path_seconds": path_time,
        "refits_seconds_scaled": refit_time,
        "refits_timed": options.refits,
        "refits_needed": options.n * len(ridges),
        "press": float(press[len(ridges) // 2]),
        "press_estimated_from_timed_refits": estimate,
        "largest_difference_on_all_texts_of_a_small_problem": _exactness(options),
    }


def _left_out_error(x: Tensor, y: Tensor, i: int, ridge: Tensor) -> float:
    kept = torch.arange(len(x)) != i
    x_mean, y_mean = x[kept].mean(0), y[kept].mean(0)
    centred = x[kept] - x_mean
    gram = centred.T @ centred + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(gram, centred.T @ (y[kept] - y_mean))
    return float((y[i] - y_mean - (x[i] - x_mean) @ weight).square().sum())


def _exactness(options: argparse.Namespace) -> float:
    """Relative difference of PRESS and the sum of real refits on 60 texts of 20 dimensions, over all strengths."""
    generator = torch.Generator().manual_seed(options.seed)
    x = torch.randn(60, 20, generator=generator, dtype=torch.float64)
    y = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    factor = factor_source(x[:, None])
    ridges = factor.default_ridges()
    press = leave_one_out_path(factor.left(x), factor.singular[0], (y - y.mean(0))[None], ridges).press[0]
    direct = torch.tensor([sum(_left_out_error(x, y, i, ridge) for i in range(60)) for ridge in ridges]).double()
    return float(((press - direct) / direct).abs().max())


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console()
    grid = result["grid"]
    seconds = grid["seconds"]
    lstsq, adam = seconds["lstsq_per_pair"], seconds["adam_per_pair_scaled"]
    table = Table(title=f"All {grid['pairs']} layer pairs: {result['setting']}")
    for name in ("side", "seconds", "lstsq per pair takes", "Adam per pair takes"):
        table.add_column(name, justify="left" if name == "side" else "right")
    rows = {
        "grid: fit, carry one concept over every pair": "grid_carry_concept",
        "grid: fit, form every map": "grid_form_all_maps",
        "grid: fit, leave-one-out ridge of every pair, carry": "grid_loo_ridge_carry_concept",
    }
    for label, key in rows.items():
        own = seconds[key]
        table.add_row(label, f"{own:.3f}", f"{lstsq / own:.1f} x", f"{adam / own:.0f} x")
    table.add_row("one lstsq per pair", f"{lstsq:.3f}", "1 x", f"{adam / lstsq:.0f} x")
    timed = f"one Adam fit per pair ({grid['adam']['pairs_timed']} timed, scaled)"
    table.add_row(timed, f"{adam:.1f}", "", "1 x")
    console.print(table)
    for name, value in grid["held_out_r2"].items():
        console.print(f"held-out R2, {name.replace('_', ' ')}: {value:.4f}")
    loo = result["leave_one_out"]
    console.print(
        f"leave-one-out path of {loo['strengths']} strengths: {loo['path_seconds']:.3f} s; "
        f"{loo['refits_needed']} refits: {loo['refits_seconds_scaled']:.1f} s ({loo['refits_timed']} timed, scaled): "
        f"{loo['refits_seconds_scaled'] / loo['path_seconds']:.0f} x; largest relative difference on a small problem "
        f"{loo['largest_difference_on_all_texts_of_a_small_problem']:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("n", 2000),
        ("held-out", 500),
        ("layers", 12),
        ("d-source", 256),
        ("d-target", 384),
        ("repeats", 3),
        ("adam-pairs", 4),
        ("adam-epochs", 50),
        ("adam-batch", 64),
        ("refits", 40),
        ("seed", 0),
        ("threads", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--adam-rate", type=float, default=1e-3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    CLOCK["kind"] = options.clock
    if options.threads:
        torch.set_num_threads(options.threads)
    x, y = make_states(options)
    setting = (
        f"n = {options.n}, {options.layers} x {options.layers} layers, d = {options.d_source} -> {options.d_target}, "
        f"{torch.get_num_threads()} threads, {options.clock} clock"
    )
    result = {
        "setting": setting,
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "torch": torch.__version__,
        "grid": compare_grids(options, x, y),
        "leave_one_out": compare_leave_one_out(options, x, y),
    }
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
