"""Sparse decompositions of activations on a concept dictionary: ours against spams, scikit-learn and dense algebra.

Two dictionaries: one like real ones, whose atoms share a mean direction and lie in topics (the top eigenvalue of
``D^T D`` is about 0.13 of the number of atoms), and one of random directions. Activations are sums of 50 atoms
with noise of half their norm, at unit length. All sides get the same activations and the same dictionary, each in
the layout it is at its best with, and are checked against ours on the rows that they solved:

* ``omp``: 50 atoms by orthogonal matching pursuit; scikit-learn's ``orthogonal_mp_gram`` with the Gram matrix
  ready made, at its defaults; ``spams.omp``, whose rule is another one (it takes the atom that lowers the residual
  most once orthogonalised), so it is compared only on rows where it chose the same atoms.
* ``elastic net``: alpha 0.05, tau 0.95; ``spams.lasso(mode=2)`` (LARS); scikit-learn's ``ElasticNet``
  (coordinate descent, at the tolerance 1e-10 that brings it to the same solution).
* ``dense``: least squares on the whole dictionary for one activation, by the SVD in LAPACK's ``gelsd``; another
  problem, with all coefficients non-zero. Its ratios are to both of our solvers.

Slow sides run on a sample of the batch (the column "rows"), all times are per activation. What it takes to prepare
a dictionary once (checks, search for copies, Gram matrix) stands in rows of its own. Where the machine is shared,
read the CPU seconds: they count all threads of this process and nothing else, though threads that wait for a core
that somebody else has spin and are counted too.

    python analysis/benchmarks/pace_speed.py --out pace_speed.json
"""

import argparse
import importlib
import json
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet as ReferenceElasticNet
from sklearn.linear_model import orthogonal_mp_gram
from torch import Tensor
from torch.nn.functional import normalize

from contrans_lens.pace.solvers import OMP, ElasticNet, PreparedAtoms, kkt_certificate
from contrans_lens.pace.solvers.solver import Solver

PLANTED = 50
MEAN_SQUARE, TOPIC_SQUARE, PER_TOPIC = 0.13, 0.25, 30
NET = ElasticNet()


@dataclass
class Side:
    """One side's work on the first rows of the batch."""

    side: str
    rows: int
    wall: float
    """Seconds per activation."""
    cpu: float
    """Seconds per activation, all threads."""
    difference: float | None = None
    """Largest difference of a coefficient from ours."""
    remark: str = ""


@dataclass
class Problem:
    """A dictionary and a batch of unit activations."""

    kind: str
    atoms: Tensor
    activations: Tensor

    @classmethod
    def make(cls, kind: str, n: int, width: int, rows: int, seed: int) -> "Problem":
        """Random directions, or ones with a shared mean direction and topics of thirty."""
        generator = torch.Generator().manual_seed(seed)
        atoms = normalize(torch.randn(n, width, generator=generator), dim=1)
        if kind == "concept":
            mean = normalize(torch.randn(width, generator=generator), dim=0)
            topics = normalize(torch.randn(n // PER_TOPIC + 1, width, generator=generator), dim=1)
            atoms *= (1 - MEAN_SQUARE - TOPIC_SQUARE) ** 0.5
            atoms += MEAN_SQUARE**0.5 * mean + TOPIC_SQUARE**0.5 * topics[torch.arange(n) // PER_TOPIC]
            atoms = normalize(atoms, dim=1)
        signals = []
        for _ in range(rows):
            chosen = torch.randperm(n, generator=generator)[:PLANTED]
            signals.append((torch.rand(len(chosen), generator=generator) + 0.2) @ atoms[chosen])
        noise = normalize(torch.randn(rows, width, generator=generator), dim=1)
        return cls(kind, atoms, normalize(normalize(torch.stack(signals), dim=1) + 0.5 * noise, dim=1))

    @cached_property
    def columns(self) -> np.ndarray:
        """``[d_model, atom]`` in float64 and column order, as the other packages want it."""
        return np.asfortranarray(self.atoms.double().numpy().T)

    def targets(self, rows: int) -> np.ndarray:
        """``[d_model, row]``, as ``columns``."""
        return np.asfortranarray(self.activations[:rows].double().numpy().T)

    def top_eigenvalue(self) -> float:
        """Of ``D^T D``, by power iteration."""
        vector = normalize(self.atoms.sum(0), dim=0)
        for _ in range(30):
            vector = normalize((self.atoms @ vector) @ self.atoms, dim=0)
        return float((self.atoms @ vector).square().sum())


def timed(name: str, rows: int, work: Callable[[], Any]) -> tuple[Side, Any]:
    """Run once."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Side(name, rows, (time.perf_counter() - wall) / rows, (time.process_time() - cpu) / rows), result


def ours(problem: Problem, options: argparse.Namespace) -> tuple[list[Side], dict[str, np.ndarray]]:
    """Both solvers, with the Gram matrix and without, a batch at a time and one by one; dense codes."""
    sides: list[Side] = []
    codes: dict[str, np.ndarray] = {}
    solvers: dict[str, Solver] = {"omp": OMP(options.k), "elastic net": NET}
    for gram in (True, False):
        label = "" if gram else ", no Gram"
        side, atoms = timed(f"prepare{label}", 1, partial(PreparedAtoms.of, problem.atoms, gram=gram))
        sides.append(side)
        for name, solver in solvers.items():
            for rows in (len(problem.activations), 1):
                some = problem.activations[:rows]
                what = f"{name}{label}" if rows > 1 else f"{name}{label}, batch of 1"
                runs = [timed(what, rows, partial(solver.decompose, atoms, some)) for _ in range(options.repeats)]
                side, found = min(runs, key=lambda run: run[0].cpu)
                dense = found.dense().double().numpy()
                side.difference = float(np.abs(dense - codes.setdefault(name, dense)[:rows]).max())
                side.remark = f"{float(found.counts().double().mean()):.0f} atoms a row"
                if name == "elastic net":
                    certificate = kkt_certificate(atoms, some, found, NET.l1, NET.l2)
                    breach = float(torch.maximum(certificate.on_support, certificate.off_support).max())
                    side.remark += f", largest KKT breach {breach:.0e}"
                sides.append(side)
    return sides, codes


def others(problem: Problem, codes: dict[str, np.ndarray], options: argparse.Namespace) -> list[Side]:
    """The other packages on a sample, compared with our codes."""
    gram = problem.columns.T @ problem.columns
    products = problem.columns.T @ problem.targets(options.sample)
    side, found = timed(
        "omp: scikit-learn",
        options.sample,
        lambda: orthogonal_mp_gram(gram, products, n_nonzero_coefs=options.k).T,
    )
    del gram
    sides = [compared(side, found, codes["omp"])]
    rows = options.slow_sample
    side, found = timed("elastic net: scikit-learn", rows, lambda: coordinate_descent(problem, rows))
    sides.append(compared(side, found, codes["elastic net"]))
    try:
        spams = importlib.import_module("spams")
    except ImportError:
        return sides
    targets, threads = problem.targets(options.sample), options.threads
    omp = partial(spams.omp, targets, D=problem.columns, L=options.k, eps=0.0, numThreads=threads)
    lasso = partial(spams.lasso, targets, D=problem.columns, mode=2, lambda1=NET.l1, lambda2=NET.l2, numThreads=threads)
    side, sparse = timed("omp: spams", options.sample, omp)
    sides.append(compared(side, sparse.toarray().T, codes["omp"]))
    side, sparse = timed("elastic net: spams", options.sample, lasso)
    sides.append(compared(side, sparse.toarray().T, codes["elastic net"]))
    return sides


def compared(side: Side, found: np.ndarray, own: np.ndarray) -> Side:
    """With the largest difference from our codes; for OMP on the rows where the same atoms were chosen."""
    own = own[: len(found)]
    same = np.ones(len(found), dtype=bool)
    if side.side.startswith("omp"):
        same = ((found != 0) == (own != 0)).all(1)
        side.remark = f"same atoms in {same.sum()} of {len(same)} rows"
    side.difference = float(np.abs(found - own)[same].max()) if same.any() else None
    return side


def coordinate_descent(problem: Problem, rows: int) -> np.ndarray:
    """scikit-learn's elastic net, a fit per activation."""
    width = problem.atoms.shape[1]
    model = ReferenceElasticNet(
        alpha=NET.alpha / width, l1_ratio=NET.tau, fit_intercept=False, tol=1e-10, max_iter=10_000, copy_X=False
    )
    return np.stack([model.fit(problem.columns, target).coef_ for target in problem.targets(rows).T])


def dense(problem: Problem) -> Side:
    """Least squares on all atoms for one activation, the norm least: what a decomposition costs without sparsity."""
    dictionary, target = problem.atoms.T, problem.activations[0]

    solve = partial(torch.linalg.lstsq, dictionary, target[:, None], driver="gelsd")
    side, solution = timed("dense", 1, solve)
    found = solution.solution[:, 0]
    residual = float((target - dictionary @ found).norm())
    side.remark = f"{int((found != 0).sum())} atoms a row, residual {residual:.0e}"
    return side


def measure(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """All sides on one dictionary."""
    problem = Problem.make(kind, options.atoms, options.width, options.batch, options.seed)
    sides, codes = ours(problem, options)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        sides += others(problem, codes, options)
    sides.append(dense(problem))
    base = {side.side: side for side in sides}
    ratios: dict[str, dict[str, float]] = {}
    for side in sides:
        for name in ("omp", "elastic net"):
            if side.side.startswith((f"{name}:", "dense")):
                ratio = {"wall": side.wall / base[name].wall, "cpu": side.cpu / base[name].cpu}
                ratios[f"{side.side} / {name}" if side.side == "dense" else side.side] = ratio
    return {
        "dictionary": kind,
        "top_eigenvalue": problem.top_eigenvalue(),
        "peak_memory_gib_after_ours": memory,
        "gram_gib": 4 * options.atoms**2 / 2**30,
        "sides": [vars(side) for side in sides],
        "times_ours": ratios,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print one dictionary's tables."""
    title = (
        f"{result['dictionary']} dictionary: top eigenvalue {result['top_eigenvalue']:.0f}, Gram matrix "
        f"{result['gram_gib']:.2f} GiB, peak memory after our sides {result['peak_memory_gib_after_ours']:.1f} GiB"
    )
    table = Table("side", title=title)
    for name in ("rows", "wall s", "CPU s", "difference"):
        table.add_column(name, justify="right")
    table.add_column("remark")
    for side in result["sides"]:
        difference = "" if side["difference"] is None else f"{side['difference']:.0e}"
        numbers = (str(side["rows"]), f"{side['wall']:.4f}", f"{side['cpu']:.4f}", difference)
        table.add_row(side["side"], *numbers, side["remark"])
    console.print(table)
    ratios = Table("per activation, times ours (batch, Gram)", "wall", "CPU")
    for name, ratio in result["times_ours"].items():
        ratios.add_row(name, f"{ratio['wall']:.0f} x", f"{ratio['cpu']:.0f} x")
    console.print(ratios)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dictionaries", nargs="+", choices=("concept", "random"), default=["concept", "random"])
    parser.add_argument("--atoms", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--k", type=int, default=50, help="atoms of OMP")
    parser.add_argument("--sample", type=int, default=8, help="rows for spams and scikit-learn's OMP")
    parser.add_argument("--slow-sample", type=int, default=2, help="rows for scikit-learn's elastic net")
    parser.add_argument("--repeats", type=int, default=3, help="runs of our sides; the one of least CPU time counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a quick run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.small:
        options.atoms, options.width, options.batch = 1500, 512, 32
    torch.set_num_threads(options.threads)
    console = Console(width=120)
    results = []
    with importlib.import_module("threadpoolctl").threadpool_limits(limits=options.threads):
        for kind in options.dictionaries:
            results.append(measure(kind, options))
            show(results[-1], console)
    if options.out:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        body = {"settings": settings, "torch": torch.__version__, "sklearn": sklearn.__version__, "results": results}
        options.out.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
