"""All-pairs debiased CKA and mutual k-NN against a loop over the pairs, on the same states, with equal results.

Three loops stand for what is in use. Each takes one pair of layers at a time and knows nothing of the others:

* ``loop``: a competent one: centre both layers, their Gram or distance matrices, then HSIC in its cheapest closed form
  (no matrix product between Grams) or ``topk`` and a vectorised count of common neighbours.
* ``published``: the steps of the code that came with the Platonic representation hypothesis: the two cross terms of
  HSIC through ``K @ L``, neighbours by sorting every row whole, overlap through ``[n, n]`` masks.
* ``loop, layers kept``: the competent loop when the Grams or neighbours of each layer are kept, which asks for memory
  and is what remains to be gained by doing the pairs together.

The loops run in float32, as such code does. Both sides are also compared with float64: k-NN overlaps of float32 loops
differ from it where two neighbours are nearly as far, those of the package do not. Loops are timed on as many pairs as
asked and scaled to all. Times are the best of ``--repeats`` after a warm-up. On a shared machine ``--threads 1 --clock
cpu`` counts the processor time of this process alone.

What the loops do again and again is the work of a single layer: with L x L layers every Gram, and every search for
neighbours, is computed L times. That factor is all that sharing can give where the Grams are the cost (n and d large);
against a loop that already keeps its layers the gain is small, and shuffles are where the package is then ahead.

    python analysis/benchmarks/similarity_speed.py --threads 1 --out similarity.json
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from contrans_lens.layers.similarity import similarity_grid

CLOCK = {"kind": "wall"}


def clock() -> float:
    """Seconds on the clock that was asked for."""
    return time.process_time() if CLOCK["kind"] == "cpu" else time.perf_counter()


Measure = Callable[[Tensor, Tensor], float]


def make_states(n: int, layers: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two models' states ``[n, layer, d]``: power-law spectra, a large mean, a part that both share."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, width + 1).float() ** -0.5
    shared = torch.randn(n, width, generator=generator)
    sides = []
    for _ in range(2):
        side = []
        for layer in range(layers):
            weight = layer / layers
            own = torch.randn(n, width, generator=generator)
            turn = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
            side.append((weight * shared + (1 - weight) * own) * spectrum @ turn + 3)
        sides.append(torch.stack(side, 1))
    return sides[0], sides[1]


def centred_gram(x: Tensor) -> Tensor:
    x = x - x.mean(0)
    return x @ x.T


def hsic(k: Tensor, other: Tensor) -> Tensor:
    """The U-statistic of Song et al. 2012 from Grams with zero diagonal, without a product of matrices."""
    n = len(k)
    rows, columns = k.sum(1), other.sum(1)
    return ((k * other).sum() + rows.sum() * columns.sum() / ((n - 1) * (n - 2)) - 2 * (rows @ columns) / (n - 2)) / (
        n * (n - 3)
    )


def cka_of_grams(k: Tensor, other: Tensor) -> float:
    return float(hsic(k, other) / (hsic(k, k) * hsic(other, other)).sqrt())


def zero_diagonal(k: Tensor) -> Tensor:
    return k.fill_diagonal_(0)


def loop_cka(x: Tensor, y: Tensor) -> float:
    return cka_of_grams(zero_diagonal(centred_gram(x)), zero_diagonal(centred_gram(y)))


def published_cka(x: Tensor, y: Tensor) -> float:
    def term(k: Tensor, other: Tensor) -> Tensor:
        n = len(k)
        k, other = k.clone().fill_diagonal_(0), other.clone().fill_diagonal_(0)
        product = (k * other.T).sum() + k.sum() * other.sum() / ((n - 1) * (n - 2))
        return (product - 2 * (k @ other).sum() / (n - 2)) / (n * (n - 3))

    k, other = centred_gram(x), centred_gram(y)
    return float(term(k, other) / (term(k, k) * term(other, other)).sqrt())


def neighbours(x: Tensor, k: int) -> Tensor:
    x = x - x.mean(0)
    square = x.square().sum(1)
    far = square[:, None] + square - 2 * (x @ x.T)
    return far.fill_diagonal_(torch.inf).topk(k, largest=False, sorted=False).indices


def overlap(a: Tensor, b: Tensor) -> float:
    return float((a[:, :, None] == b[:, None]).sum() / a.numel())


def loop_knn(k: int) -> Measure:
    return lambda x, y: overlap(neighbours(x, k), neighbours(y, k))


def published_knn(k: int) -> Measure:
    def sorted_neighbours(x: Tensor) -> Tensor:
        x = x - x.mean(0)
        square = x.square().sum(1)
        far = square[:, None] + square - 2 * (x @ x.T)
        return far.fill_diagonal_(torch.inf).argsort(dim=1)[:, :k]

    def measure(x: Tensor, y: Tensor) -> float:
        masks = []
        for states in (x, y):
            mask = torch.zeros(len(states), len(states))
            masks.append(mask.scatter_(1, sorted_neighbours(states), 1.0))
        return float((masks[0] * masks[1]).sum(1).mean() / k)

    return measure


def kept_cka(x: Tensor, y: Tensor) -> Tensor:
    grams = [[zero_diagonal(centred_gram(side[:, layer])) for layer in range(side.shape[1])] for side in (x, y)]
    return torch.tensor([[cka_of_grams(k, other) for other in grams[1]] for k in grams[0]])


def kept_knn(x: Tensor, y: Tensor, k: int) -> Tensor:
    lists = [[neighbours(side[:, layer], k) for layer in range(side.shape[1])] for side in (x, y)]
    return torch.tensor([[overlap(a, b) for b in lists[1]] for a in lists[0]])


def best_time(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Shortest of ``repeats`` runs in seconds, after one warm-up, and the last result."""
    result = work()
    times = []
    for _ in range(repeats):
        start = clock()
        result = work()
        times.append(clock() - start)
    return min(times), result


def loop_time(measure: Measure, x: Tensor, y: Tensor, pairs: int, repeats: int) -> tuple[float, dict[str, float]]:
    """Seconds for all pairs, from ``pairs`` of them spread over the grid; and their values."""
    count = x.shape[1] * y.shape[1]
    chosen = sorted({int(i * count / pairs) for i in range(min(pairs, count))})
    places = [divmod(i, y.shape[1]) for i in chosen]
    seconds, values = best_time(lambda: {f"{s},{t}": measure(x[:, s], y[:, t]) for s, t in places}, repeats)
    return seconds / len(places) * count, values


def compare(n: int, layers: int, width: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, ratios and differences of all sides at one size."""
    x, y = make_states(n, layers, width, options.seed)
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(layers)]

    def grid(metrics: list[str], shuffles: int = 0, subsets: int = 0, other: Tensor = y) -> dict[str, Tensor]:
        found = similarity_grid(
            x, other, names, names, metrics=metrics, n_permutations=shuffles, n_subsamples=subsets, seed=options.seed
        )
        return {name: each.values for name, each in found.items()}

    def one_grid(metric: str, shuffles: int = 0, subsets: int = 0, other: Tensor = y) -> Tensor:
        return grid([metric], shuffles, subsets, other)[metric]

    result: dict[str, Any] = {"n": n, "layers": [layers, layers], "width": width}
    sides: dict[str, tuple[Measure, Measure, Callable[[], Tensor]]] = {
        "cka": (loop_cka, published_cka, lambda: kept_cka(x, y)),
        "mutual_knn": (loop_knn(10), published_knn(10), lambda: kept_knn(x, y, 10)),
    }
    for metric, (loop, published, kept) in sides.items():
        own, values = best_time(partial(one_grid, metric), options.repeats)
        within, _ = best_time(partial(one_grid, metric, other=x), options.repeats)
        seconds = {"grid": own, "grid, one model with itself": within}
        differences = {}
        for name, measure in (("loop", loop), ("published", published)):
            seconds[name], found = loop_time(measure, x, y, options.pairs, options.repeats)
            own_values = {key: float(values[tuple(map(int, key.split(",")))]) for key in found}
            differences[f"{name}, float32"] = max(abs(found[key] - own_values[key]) for key in found)
            exact = {key: measure(x[:, s].double(), y[:, t].double()) for key, s, t in _some(found, 6)}
            differences[f"{name}, float64"] = max(abs(exact[key] - own_values[key]) for key in exact)
        seconds["loop, layers kept"], _ = best_time(kept, 1)
        seconds[f"grid with {options.shuffles} shuffles"], _ = best_time(partial(one_grid, metric, options.shuffles), 1)
        seconds[f"grid with {options.subsets} subsamples"], _ = best_time(
            partial(one_grid, metric, 0, options.subsets), 1
        )
        result[metric] = {
            "seconds": seconds,
            "times_faster_than": {name: seconds[name] / own for name in ("loop", "published", "loop, layers kept")}
            | {f"{name}, one model with itself": seconds[name] / within for name in ("loop", "published")},
            "shuffles_over_point_estimate": seconds[f"grid with {options.shuffles} shuffles"] / own,
            "shuffles_of_the_loop_over_ours": options.shuffles
            * seconds["loop"]
            / seconds[f"grid with {options.shuffles} shuffles"],
            "largest_difference": differences,
        }
    both, _ = best_time(lambda: grid(["cka", "mutual_knn"]), options.repeats)
    loops = result["cka"]["seconds"]["loop"] + result["mutual_knn"]["seconds"]["loop"]
    result["both"] = {"seconds": both, "times_faster_than_loops": loops / both}
    return result


def _some(found: dict[str, float], count: int) -> list[tuple[str, int, int]]:
    places = ((key, key.split(",")) for key in list(found)[:: max(1, len(found) // count)])
    return [(key, int(s), int(t)) for key, (s, t) in places]


def show(results: list[dict[str, Any]], setting: str) -> None:
    """Print the tables."""
    console = Console()
    for result in results:
        size = f"n = {result['n']}, {result['layers'][0]} x {result['layers'][1]} layers, d = {result['width']}"
        table = Table(title=f"{size}, {setting}")
        for name in ("metric", "side", "seconds", "grid is faster"):
            table.add_column(name, justify="left" if name in ("metric", "side") else "right")
        for metric in ("cka", "mutual_knn"):
            for side, seconds in result[metric]["seconds"].items():
                table.add_row(metric, side, f"{seconds:.3f}", f"{seconds / result[metric]['seconds']['grid']:.1f} x")
        table.add_row("both", "grid", f"{result['both']['seconds']:.3f}", "")
        console.print(table)
        for metric in ("cka", "mutual_knn"):
            differences = result[metric]["largest_difference"]
            console.print(metric, ", ".join(f"{name}: {value:.1e}" for name, value in differences.items()))
        console.print(f"both metrics together against both loops: {result['both']['times_faster_than_loops']:.1f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("layers", 12),
        ("pairs", 144),
        ("repeats", 3),
        ("shuffles", 200),
        ("subsets", 100),
        ("seed", 0),
        ("threads", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--small", action="store_true", help="a quick run on 300 texts only")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    CLOCK["kind"] = options.clock
    if options.threads:
        torch.set_num_threads(options.threads)
    sizes = [(300, 128)] if options.small else [(300, 128), (1000, 768)]
    results = [compare(n, options.layers, width, options) for n, width in sizes]
    setting = f"{torch.get_num_threads()} threads, {options.clock} clock"
    show(results, setting)
    if options.out:
        body = {
            "setting": setting,
            "options": {name: value for name, value in vars(options).items() if name != "out"},
            "torch": torch.__version__,
            "results": results,
        }
        options.out.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
