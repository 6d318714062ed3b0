"""What removing concepts costs while generating: per prompt and per token, against plain generation.

    python analysis/benchmarks/removal_overhead.py [--size small|full] [--repeats 7] [--out removal_overhead.json]

A random model, made here, no network, and dictionaries whose atoms share a mean direction, as real ones do. Removal and
plain generation run in turn in one process, in alternating order; what counts is the median of the ratios. Atoms are
prepared beforehand, once for all runs, as a user would.
"""

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from steering import CLOCKS, N_WORDS, alternate, open_kinds
from torch import Tensor

from contrans_lens.interventions import ALL, Edit, steer
from contrans_lens.models import HookedModel, generate_tokens, resid_post, tokenize
from contrans_lens.pace import OMP, ConceptDictionary, ElasticNet, OrthogonalProjection, Solver, prepare, removals

ATOMS = {"small": (200, 1000), "full": (200, 2000, 10_000)}
SHARED = 0.35  # part of the common direction in every atom: the top eigenvalue is about n / 9
N_UNWANTED = 50
MODES = ("per_prompt", "per_token")


def make_dictionary(model: HookedModel, n_atoms: int) -> ConceptDictionary:
    """Random unit atoms around a common direction at the middle blocks."""
    generator = torch.Generator().manual_seed(n_atoms)
    middle = model.cfg.n_layers // 2
    points = [resid_post(layer) for layer in (middle - 1, middle, middle + 1)]
    atoms = {}
    for point in points:
        own = torch.nn.functional.normalize(torch.randn(n_atoms, model.cfg.d_model, generator=generator), dim=1)
        common = torch.nn.functional.normalize(torch.randn(model.cfg.d_model, generator=generator), dim=0)
        atoms[point] = torch.nn.functional.normalize(own + SHARED * common, dim=1)
    names = tuple(f"concept {number}" for number in range(n_atoms))
    return ConceptDictionary(names, ("",) * n_atoms, tuple(points), atoms)


def ways(dictionary: ConceptDictionary) -> dict[str, tuple[Edit, ...]]:
    """What is timed, by name."""
    ready = prepare(dictionary)
    unwanted = dictionary.names[:N_UNWANTED]
    solvers: dict[str, Solver] = {"elastic net": ElasticNet(), "OMP 20": OMP(20), "projection": OrthogonalProjection()}
    made: dict[str, tuple[Edit, ...]] = {}
    for points in (dictionary.hook_points[1:2], dictionary.hook_points):
        for name, solver in solvers.items():
            for mode in MODES:
                cell = removals(
                    dictionary,
                    unwanted,
                    points,
                    solver=solver,
                    mode="per_prompt" if mode == "per_prompt" else "per_token",
                    positions=None if mode == "per_prompt" else ALL,
                    prepared=ready,
                )
                made[f"{name}, {mode}, {len(points)} hook point{'s' * (len(points) > 1)}"] = cell
    return made


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every row."""
    clock: Callable[[], float] = CLOCKS[options.clock]
    _, opened = open_kinds("gpt2", options.size)
    model = opened.get("hooked", opened["bridge"])
    prompt = " ".join(f"w{number % N_WORDS}" for number in range(options.prompt_tokens))
    batch = tokenize(model, [prompt] * options.batch, padding_side="left")

    def generate(chosen: tuple[Edit, ...]) -> Tensor:
        with steer(model, chosen) if chosen else nullcontext():
            return generate_tokens(model, batch, max_new_tokens=options.new_tokens, stop_at_eos=False)

    rows = []
    for n_atoms in ATOMS[options.size]:
        for name, cell in ways(make_dictionary(model, n_atoms)).items():

            def edited(cell: tuple[Edit, ...] = cell) -> Tensor:
                return generate(cell)

            timed = alternate(edited, lambda: generate(()), options.repeats, clock)
            rows.append({"atoms": n_atoms, "removal": name} | timed)
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(ATOMS), default="full")
    parser.add_argument("--batch", type=int, default=4, help="rows generated at once")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="cpu", help="cpu where the machine is shared")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    rows = measure(options)
    table = Table(title=f"generation of {options.batch} x {options.new_tokens} tokens after {options.prompt_tokens}")
    for name in ("atoms", "removal", "ms", "plain ms", "ratio", "quartiles"):
        table.add_column(name, justify="left" if name == "removal" else "right")
    for row in rows:
        table.add_row(
            str(row["atoms"]),
            row["removal"],
            f"{1000 * row['seconds']:.1f}",
            f"{1000 * row['baseline_seconds']:.1f}",
            f"{row['ratio']:.3f}",
            f"{row['ratio_q1']:.3f} - {row['ratio_q3']:.3f}",
        )
    Console(width=110).print(table)
    if options.out is not None:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        options.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
