"""A causal sweep of (pair, strength) cells against a full forward pass per cell.

    python analysis/benchmarks/causal_sweep.py [--small] [--clock cpu] [--out causal_sweep.json]

One hundred cells: source hook points times target hook points spread evenly over the depth (the last block left out, as
the pipeline does) times strengths; every cell adds its own vector. Three sides score the same items in this process:

- ``restart``: each cell is one batched forward pass over all items with an additive hook, all logits;
- ``restart, sliced``: the same with only the positions that are read unembedded, so that the rest of the ratio is due
  to what the sweep shares and stacks;
- ``sweep``: ``score_cells``.

The embedded targets are scored on items of their concepts, which share the beginnings of their prompts as items made
from templates do; the random model of GPT-2-small's size, made here, on prompts that share nothing. ``--share`` runs
every so-manieth cell of the restarting sides only (all of their passes are alike) and counts their time so many times.
Log-odds of the cells that were run both ways are compared, and so are their logits at the positions read.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
import transformers
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from contrans_lens.evaluation import score_cells
from contrans_lens.evaluation.continuations import TokenRow, plan_items
from contrans_lens.evaluation.norms import mean_norms
from contrans_lens.evaluation.stacked import StackedRuns
from contrans_lens.models import HookedModel, TokenBatch, hooks, open_model, resid_post, run, tokenize
from contrans_lens.testbed import concept, model_path
from contrans_lens.texts import ContrastSet, EvaluationItem

AIM = 2.0
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
Cells = dict[str, Tensor]
Kind = Literal["bridge", "hooked"]
EMBEDDED = (
    ("gpt2-target", "honesty"),
    ("gpt2-target", "honesty-hard"),  # continuations of several tokens: two rows an item
    ("gpt2-target", "happiness"),
    ("rotary-target", "honesty"),
)
RANDOM = {False: {"n_layer": 12, "n_embd": 768, "n_head": 12}, True: {"n_layer": 4, "n_embd": 128, "n_head": 4}}
N_WORDS = 1900
N_STRENGTHS = 5
N_SOURCES = 4
N_TARGETS = 5


def random_model(kind: Kind, small: bool) -> HookedModel:
    """A random GPT-2 with a tokenizer of one token a word."""
    vocabulary = {"<eos>": 0, **{f"w{number}": number + 1 for number in range(N_WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<eos>", eos_token="<eos>", pad_token="<eos>"
    )
    torch.manual_seed(0)
    config: Any = transformers.GPT2Config(
        vocab_size=2000 if small else 50257, n_positions=64, bos_token_id=0, eos_token_id=0, **RANDOM[small]
    )
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoModelForCausalLM.from_config(config).eval().save_pretrained(folder)
        fast.save_pretrained(folder)
        return open_model(folder, kind=kind, tokenizer=fast)


def random_items(n: int, length: int) -> list[EvaluationItem]:
    """Prompts of random words that share nothing, each with two continuations of one token."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(N_WORDS, (n, length + 2), generator=generator).tolist()
    prompts = [" ".join(f"w{word}" for word in row[:length]) for row in words]
    return [EvaluationItem(text, f" w{row[-2]}", f" w{row[-1]}") for text, row in zip(prompts, words, strict=True)]


def make_cells(model: HookedModel, items: list[EvaluationItem]) -> Cells:
    """By target hook point, a vector per source hook point and strength, up to one mean residual norm long."""
    layers = torch.linspace(0, model.cfg.n_layers - 2, min(N_TARGETS, model.cfg.n_layers - 1)).round().long().tolist()
    names = [resid_post(layer) for layer in layers]
    norms = mean_norms(model, [tokenize(model, [item.prompt for item in items])], names)
    generator = torch.Generator().manual_seed(0)
    strengths = torch.linspace(0.2, 1.0, N_STRENGTHS)
    cells = {}
    for name in names:
        units = torch.nn.functional.normalize(torch.randn(N_SOURCES, model.cfg.d_model, generator=generator), dim=1)
        cells[name] = (strengths[:, None, None] * units * norms[name]).flatten(0, 1)
    return cells


def padded(rows: list[TokenRow]) -> TokenBatch:
    """All rows in one batch, padded on the right."""
    width = max(len(row.tokens) for row in rows)
    tokens = torch.tensor([row.tokens + [0] * (width - len(row.tokens)) for row in rows])
    mask = torch.tensor([[place < len(row.tokens) for place in range(width)] for row in rows])
    return TokenBatch(tokens, mask, rows[0].bos, "right", tuple(row.offsets for row in rows), (0,) * len(rows))


class Restart:
    """One forward pass per cell over all items."""

    def __init__(self, model: HookedModel, items: list[EvaluationItem], sliced: bool) -> None:
        rows = plan_items(model, items)
        self.model, self.batch, self.sliced, self.n_items = model, padded(rows), sliced, len(items)
        reads = [(number, read) for number, row in enumerate(rows) for read in row.reads]
        self.row = torch.tensor([number for number, _ in reads])
        self.position = torch.tensor([read.position for _, read in reads])
        self.token = torch.tensor([read.token for _, read in reads])
        self.item = torch.tensor([read.item for _, read in reads])
        self.sign = torch.tensor([read.sign for _, read in reads])

    @torch.no_grad()
    def logits(self, hook_point: str, addition: Tensor) -> Tensor:
        """``[read, vocab]`` of one cell."""

        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][self.row, self.position][None],)

        unembed: nn.Module = cast(Any, self.model).unembed
        handle = unembed.register_forward_pre_hook(keep) if self.sliced else None
        with hooks(self.model, {hook_point: lambda activation: activation + addition}):
            found = run(self.model, self.batch)
        assert found is not None
        if handle is None:
            return found[self.row, self.position]
        handle.remove()
        return found[0]

    def score(self, hook_point: str, addition: Tensor) -> Tensor:
        """Log-odds ``[item]`` of one cell."""
        log_p = self.logits(hook_point, addition).log_softmax(-1)
        values = log_p[torch.arange(len(self.token)), self.token].double() * self.sign
        return torch.zeros(self.n_items, dtype=torch.float64).index_add(0, self.item, values)

    def scores(self, cells: Cells, share: int) -> Cells:
        """Log-odds ``[cell, item]`` by hook point, of every ``share``-th cell."""
        return {name: torch.stack([self.score(name, each) for each in some[::share]]) for name, some in cells.items()}


def largest_logit_difference(restart: Restart, items: list[EvaluationItem], cells: Cells, share: int) -> float:
    """Between the sweep and restarting, at every position read, relative to the largest logit."""
    rows = plan_items(restart.model, items)
    runs = StackedRuns(restart.model, rows, list(cells))
    worst = 0.0
    for name, added in cells.items():
        expected = [restart.logits(name, each) for each in added[::share]]
        for group in runs.groups(len(added)):
            for part, found in runs.logits(group, added, name):
                for place, cell in enumerate(range(part.start, part.stop)):
                    if cell % share:
                        continue
                    for row, index in enumerate(group):
                        positions = {position: at for at, position in enumerate(runs.positions(index))}
                        for read in (restart.row == index).nonzero()[:, 0].tolist():
                            own = found[place, row, positions[int(restart.position[read])]]
                            other = expected[cell // share][read]
                            worst = max(worst, float((own - other).abs().max() / other.abs().max()))
    return worst


def alternate(
    sides: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float], scale: dict[str, int]
) -> dict[str, float]:
    """Run all sides in turn; the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    for repeat in range(repeats):
        order = list(sides) if repeat % 2 == 0 else list(sides)[::-1]
        for name in order:
            begin = clock()
            sides[name]()
            times[name].append((clock() - begin) * scale.get(name, 1))
    return {name: statistics.median(found) for name, found in times.items()}


def measure(
    label: str, kind: Kind, model: HookedModel, items: list[EvaluationItem], share: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One row of the table."""
    cells = make_cells(model, items)
    restart, sliced = Restart(model, items, False), Restart(model, items, True)
    sides: dict[str, Callable[[], Any]] = {
        "restart": lambda: restart.scores(cells, share),
        "sliced": lambda: sliced.scores(cells, share),
        "sweep": lambda: score_cells(model, items, cells, measure="log_odds"),
    }
    expected, found = sides["restart"](), sides["sweep"]()
    odds = max(float((found[name][::share] - expected[name]).abs().max()) for name in cells)
    seconds = alternate(sides, options.repeats, CLOCKS[options.clock], {"restart": share, "sliced": share})
    return {
        "model": label,
        "kind": kind,
        "cells": sum(len(each) for each in cells.values()),
        "hook_points": list(cells),
        "items": len(items),
        "restarted_cells_timed": sum(len(each[::share]) for each in cells.values()),
        "seconds": seconds,
        "restart_over_sweep": seconds["restart"] / seconds["sweep"],
        "sliced_restart_over_sweep": seconds["sliced"] / seconds["sweep"],
        "largest_log_odds_difference": odds,
        "largest_relative_logit_difference": largest_logit_difference(restart, items, cells, share),
    }


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Print the rows as a table."""
    table = Table(title=title)
    names = ("model", "class", "cells x items", "restart s", "sliced s", "sweep s", "restart /", "sliced /", "logits")
    for name in names:
        table.add_column(name, justify="left" if name in ("model", "class") else "right")
    for row in rows:
        seconds = row["seconds"]
        table.add_row(
            row["model"],
            row["kind"],
            f"{row['cells']} x {row['items']}",
            *(f"{seconds[name]:.2f}" for name in ("restart", "sliced", "sweep")),
            f"{row['restart_over_sweep']:.2f}",
            f"{row['sliced_restart_over_sweep']:.2f}",
            f"{row['largest_relative_logit_difference']:.1e}",
        )
    Console(width=130).print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a quick run: few items, and a small random model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--share", type=int, default=5, help="restarting sides of the random model: every so-manieth")
    parser.add_argument("--only", choices=("embedded", "random"))
    parser.add_argument("--kinds", nargs="+", choices=("bridge", "hooked"), default=["bridge", "hooked"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu where the machine is shared")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    rows = []
    for kind in options.kinds:
        for name, about in EMBEDDED if options.only != "random" else ():
            items = list(ContrastSet.from_dict(concept(about, seed=0)).evaluation[: 12 if options.small else 60])
            model = open_model(model_path(name), kind=kind)
            rows.append(measure(f"{name}, {about}", kind, model, items, 1, options))
        if options.only != "embedded":
            items, model = random_items(8 if options.small else 16, 14), random_model(kind, options.small)
            rows.append(
                measure(
                    f"random GPT-2, {model.cfg.n_layers} x {model.cfg.d_model}",
                    kind,
                    model,
                    items,
                    options.share,
                    options,
                )
            )
    show(
        rows,
        f"(pair, strength) cells, {options.threads} thread(s), {options.clock} clock: aim restart / sweep >= {AIM:g}",
    )
    if options.out:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        result = {"settings": settings, "aim": AIM, "torch": torch.__version__, "rows": rows}
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
